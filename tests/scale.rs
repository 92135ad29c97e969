//! A thousand slots: loaded, listed, reloaded and locked, on a host whose links netguard makes itself. And what is too
//! much is an error.

use std::{fs, path::Path};

use netguard_tests::{
    binary::{Ended, netguard, path},
    can_use_kernel,
    lab::Lab,
    until,
};

const SLOTS: usize = 1000;

fn config(rules: usize) -> String {
    let rules: Vec<_> = (0..rules).map(|rule| format!("\"198.51.100.{rule} tcp/443\"")).collect();
    format!(
        "[host]\nuplinks = [\"eth0\"]\n[dns]\nupstreams = [\"1.1.1.1\"]\n[[slot]]\ncount = {SLOTS}\nname = \"s{{n}}\"\n\
         subnet = \"10.{{hi}}.{{lo}}.0/24\"\nmanage_links = true\negress = \"listed\"\nallow = [{}]\n",
        rules.join(", ")
    )
}

#[test]
fn a_thousand_slots_load_list_reload_and_lock() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::unguarded("veth");
    let directory = tempfile::tempdir().expect("a directory");
    let (file, log) = (directory.path().join("netguard.toml"), directory.path().join("log"));
    fs::write(&file, config(20)).expect("the configuration");
    let instance = format!("scale-{}", lab.name());
    let (netguard_path, file_path) = (path(), file.display());
    let script = format!(
        "exec {} run --instance {instance} --config {file_path} >{} 2>&1",
        netguard_path.display(),
        log.display()
    );
    let mut daemon = lab.start("hv", &script);
    let read = || fs::read_to_string(&log).unwrap_or_default();
    until("the daemon guards", || {
        assert!(daemon.child().try_wait().expect("the daemon").is_none(), "{}", read());
        read().contains(&format!("guarding {SLOTS} slots"))
    });
    let run = |arguments: &[&str]| {
        Ended::of(&mut netguard(&[arguments, &["--instance", &instance]].concat()))
    };
    let list = || run(&["slot", "list"]).success().lines().count();
    assert_eq!(list(), SLOTS + 1);
    let status: serde_json::Value =
        serde_json::from_str(run(&["status", "--json"]).success()).expect("JSON");
    assert_eq!(status["slots"].as_array().map(Vec::len), Some(SLOTS));
    let text = run(&["status"]);
    assert!(text.success().contains("\ndaemon running since "), "{text:?}");
    assert_eq!(run(&["lock", "s500"]).success(), "s500 is locked\n");
    let state = run(&["state", "export", "s500"]);
    assert!(state.success().contains("\"subnet\": \"10.1.244.0/24\""), "{state:?}");

    let verified = run(&["verify"]);
    println!("{}", verified.success());
    assert!(verified.stdout.contains(": 1000 slots, "), "{verified:?}");

    fs::write(&file, config(21)).expect("the configuration");
    let reloaded = run(&["reload"]);
    let allowed = reloaded.success().lines().filter(|line| line.contains("+ slot s"));
    assert_eq!(allowed.filter(|line| line.contains(": allow 198.51.100.20/32")).count(), SLOTS);
    assert_eq!(list(), SLOTS + 1);
    // One slot more is a number beyond the tables that the start has made.
    let entry = directory.path().join("more.toml");
    fs::write(
        &entry,
        "name = \"more\"\nid = 3000\nsubnet = \"10.200.0.0/24\"\nmanage_links = true\n",
    )
    .expect("the entry");
    let more = run(&["slot", "add", entry.to_str().expect("its path")]);
    assert_eq!(more.success(), "slot more is made, number 3000\n");
    assert_eq!(list(), SLOTS + 2);
    assert_eq!(run(&["slot", "remove", "more"]).success(), "slot more is removed\n");
    assert!(!read().contains("the worker "), "it has died: {}", read());

    let pid = daemon.child().id().to_string();
    let _ = Ended::of(std::process::Command::new("kill").args(["-TERM", &pid])).success();
    assert_eq!(daemon.child().wait().expect("the daemon ends").code(), Some(0), "{}", read());
    // Its links go with the lab.
    let _ = run(&["unload"]).success();
    let _ = fs::remove_dir_all(Path::new("/var/lib/netguard").join(&instance));
}

#[test]
fn what_is_too_much_is_an_error_and_not_a_wait() {
    let directory = tempfile::tempdir().expect("a directory");
    let check = |name: &str| {
        let file = directory.path().join(name);
        Ended::of(&mut netguard(&["check", file.to_str().expect("its path")]))
    };
    let small = config(1).replace("upstreams", "lists = [\"names\"]\nupstreams");
    fs::write(directory.path().join("netguard.toml"), &small).expect("a file");
    fs::write(directory.path().join("names"), "abcdefg.example\n".repeat(10_000_000))
        .expect("a file");
    let refused = check("netguard.toml");
    assert_eq!(refused.code, 2);
    assert!(
        refused.stderr.contains("names cannot be read: it has more than 64 MiB"),
        "{refused:?}"
    );
    assert_eq!(refused.stderr.lines().count(), 1, "{refused:?}");
    fs::write(directory.path().join("large.toml"), "# nothing\n".repeat(10_000_000))
        .expect("a file");
    let refused = check("large.toml");
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains("it has more than 64 MiB"), "{refused:?}");
    // What is wrong with a template is wrong with each of its slots, and told once.
    fs::write(directory.path().join("each.toml"), config(0)).expect("a file");
    let refused = check("each.toml");
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains("and 999 more of this kind here"), "{refused:?}");
    assert_eq!(refused.stderr.lines().count(), 1, "{refused:?}");
}
