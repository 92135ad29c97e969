//! The command line as an operator meets it: messages, exit codes, shipped files, and what a file must be (`cli/config.rs`).

#[path = "cli/config.rs"]
mod config;

use std::{fs, path::PathBuf, process::Command};

use netguard_tests::{
    binary::{self, Ended, netguard},
    can_use_kernel,
};

fn shipped(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../dist").join(file)
}

/// `netguard check` of a text.
fn check(text: &str) -> Ended {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("netguard.toml");
    fs::write(&file, text).expect("a file");
    let mut ended = Ended::of(&mut netguard(&["check", &file.to_string_lossy()]));
    ended.stderr = ended.stderr.replace(&*directory.path().to_string_lossy(), "DIR");
    ended
}

const GOOD: &str = r#"[dns]
upstreams = ["1.1.1.1"]

[[slot]]
name = "slot1"
id = 1
bridge = "br-slot1"
port = "vm-slot1"
subnet = "10.1.0.0/24"

[[slot]]
name = "slot2"
id = 2
bridge = "br-slot2"
port = "vm-slot2"
subnet = "10.2.0.0/24"
"#;

#[test]
fn every_shipped_example_is_good() {
    let files = fs::read_dir(shipped("examples")).expect("the examples");
    let files: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    assert!(files.len() >= 3, "{files:?}");
    for file in files {
        let ended = Ended::of(&mut netguard(&["check", &file.to_string_lossy()]));
        assert!(ended.success().contains(": good: "), "{ended:?}");
    }
}

#[test]
fn a_policy_is_shown_as_slots_and_as_a_matrix() {
    let file = shipped("examples/mixed.toml").to_string_lossy().into_owned();
    let shown = |arguments: &[&str]| {
        let ended = Ended::of(&mut netguard(&[&["policy", &file], arguments].concat()));
        ended.success().to_owned()
    };
    assert_eq!(shown(&[]), SLOTS_OF_MIXED);
    assert_eq!(shown(&["--matrix"]), MATRIX_OF_MIXED);
    let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
    let slots = json(&shown(&["--json"]));
    assert_eq!(slots["slots"].as_array().expect("slots").len(), 4);
    assert_eq!(slots["slots"][2]["port"], "vm-vm1");
    assert_eq!(slots["slots"][0]["port"], serde_json::Value::Null);
    assert_eq!(slots["slots"][0]["subnets"][0]["gateway"], "10.88.0.1");
    let rows = json(&shown(&["--matrix", "--json"]));
    let rows = rows["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), 5);
    for row in rows.iter().filter(|row| row["runtime"] != "k3s") {
        assert_eq!(row["to"]["k3s"], "dropped 540001", "{row}");
    }
    let bad = Ended::of(&mut netguard(&["policy", "/nowhere/netguard.toml"]));
    assert_eq!(bad.code, 2, "{bad:?}");
}

const SLOTS_OF_MIXED: &str = "\
id   slot         runtime    bridge       port         subnet             mac                reaches
1    podman       podman     podman0      (shared)     10.88.0.0/16       any                what 1 rule allows
2    k3s          k3s        cni0         (shared)     10.42.0.0/24       any                pinned addresses, tcp/6443
3    vm1          qemu       br-vms       vm-vm1       10.5.1.0/24        any                pinned addresses, less 2 rules
4    vm2          qemu       br-vms       vm-vm2       10.5.2.0/24        any                pinned addresses, metadata
";

const MATRIX_OF_MIXED: &str = r"from \ to  podman          k3s             qemu
podman     isolated        dropped 540001  dropped 540001
k3s        dropped 540001  open            dropped 540001
qemu       dropped 540001  dropped 540001  isolated
  vm1      dropped 540001  dropped 540001  isolated
  vm2      dropped 540001  dropped 540001  isolated

from \ to  host                               internet          private         metadata        management
podman     dns, ping, gate tcp/443            listed (1 rule)   dropped 540020  dropped 540019  dropped 540023
k3s        dns, ping, tcp/6443, gate tcp/443  pinned            dropped 540020  dropped 540019  dropped 540023
qemu       dns, ping, gate tcp/443            differs           dropped 540020  differs         dropped 540023
  vm1      dns, ping, gate tcp/443            pinned, 2 denied  dropped 540020  dropped 540019  dropped 540023
  vm2      dns, ping, gate tcp/443            pinned            dropped 540020  open            dropped 540023
";

#[test]
fn a_reader_that_goes_away_is_no_failure_and_a_full_disk_is_one() {
    let run = |redirect: &str| {
        let (program, file) = (binary::path(), shipped("netguard.toml"));
        let script = format!("{} check {} {redirect}", program.display(), file.display());
        Ended::of(Command::new("bash").args(["-c", &script]))
    };
    let gone = run("| true; exit ${PIPESTATUS[0]}");
    assert_eq!((gone.code, gone.stderr.as_str()), (0, ""), "{gone:?}");
    let full = run(">/dev/full");
    assert_eq!(full.code, 1, "{full:?}");
    assert!(full.stderr.contains("No space left"), "{full:?}");
}

#[test]
fn bad_usage_is_2_and_help_is_0() {
    assert_eq!(Ended::of(&mut netguard(&["run", "--nonsense"])).code, 2);
    assert_eq!(Ended::of(&mut netguard(&[])).code, 2);
    let help = Ended::of(&mut netguard(&["--help"]));
    assert!(help.success().contains("Exit codes: 0 done, 1 failed, 2 bad usage"), "{help:?}");
}

#[test]
fn names_that_would_lead_elsewhere_are_refused() {
    for arguments in [
        ["unload", "--instance", "../../x", ""],
        ["status", "--instance", "a/b", "--json"],
        ["lab", "--name", "../x", "down"],
        ["lab", "--name", "a-b", "down"],
    ] {
        let arguments: Vec<_> = arguments.into_iter().filter(|it| !it.is_empty()).collect();
        let ended = Ended::of(&mut netguard(&arguments));
        assert_eq!(ended.code, 2, "{ended:?}");
        assert!(ended.stderr.contains("name"), "{ended:?}");
    }
}

#[test]
fn without_capabilities_the_kernel_is_left_alone_and_the_message_says_what_is_needed() {
    if !can_use_kernel() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("netguard.toml");
    let one_slot = GOOD.rsplit_once("[[slot]]").expect("two slots").0;
    fs::write(&file, one_slot).expect("a file");
    let host =
        "ip link add br-slot1 type bridge && ip addr add 10.1.0.1/24 dev br-slot1 && exec \"$@\"";
    for arguments in [vec!["run", "--config"], vec!["lab", "up"]] {
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", host, "sh"]);
        command.args(["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"]);
        command.arg(binary::path()).args(&arguments);
        if arguments[0] == "run" {
            command.arg(&file).args(["--instance", &format!("test-{}-caps", std::process::id())]);
        } else {
            command.args(["--name", &format!("t{}caps", std::process::id())]);
        }
        let ended = Ended::of(&mut command);
        assert_eq!(ended.code, 4, "{arguments:?}: {ended:?}");
        assert!(ended.stderr.contains("not permitted to"), "{ended:?}");
    }
}

#[test]
fn the_example_hosts_are_good_and_their_matrix_says_who_meets() {
    for (example, slots) in [("microvms", 5), ("mixed", 4), ("lockdown", 2)] {
        let file = shipped(&format!("examples/{example}.toml"));
        let ended = Ended::of(&mut netguard(&["check", &file.to_string_lossy()]));
        assert!(ended.success().contains(&format!("good: {slots} slots")), "{ended:?}");
    }
    let file = shipped("examples/mixed.toml");
    let matrix = Ended::of(&mut netguard(&["policy", "--matrix", &file.to_string_lossy()]));
    let rows: Vec<Vec<_>> =
        matrix.success().lines().map(|line| line.split("  ").map(str::trim).collect()).collect();
    let cell = |from: &str, column: usize| {
        let row = rows.iter().find(|row| row[0] == from).expect("a row");
        row.iter().filter(|cell| !cell.is_empty()).nth(column).copied()
    };
    assert_eq!(cell("podman", 1), Some("isolated"));
    assert_eq!(cell("podman", 2), Some("dropped 540001"));
    assert_eq!(cell("k3s", 2), Some("open"));
    let listing = Ended::of(&mut netguard(&["policy", "--json", &file.to_string_lossy()]));
    let listing: serde_json::Value = serde_json::from_str(listing.success()).expect("JSON");
    assert_eq!(listing["slots"][2]["bridge"], "br-vms");
    assert_eq!(listing["slots"][2]["reaches"], "pinned addresses, less 2 rules");
}

#[test]
fn the_shipped_example_is_good() {
    let path = shipped("netguard.toml");
    let ended = Ended::of(&mut netguard(&["check", &path.to_string_lossy()]));
    assert!(ended.success().contains("good: 5 slots, 2 upstreams"), "{ended:?}");
}

#[test]
fn the_manual_and_the_completions_name_every_command() {
    let directory = tempfile::tempdir().expect("a directory");
    let folder = directory.path().to_string_lossy();
    let _ = Ended::of(&mut netguard(&["man", &folder])).success();
    let help = Ended::of(&mut netguard(&["--help"]));
    let commands = help.success().split("Commands:").nth(1).expect("commands");
    let commands = commands.split("Options:").next().expect("before the options");
    let names = commands.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names: Vec<_> = names.filter_map(|line| line.split_whitespace().next()).collect();
    assert!(names.len() > 10 && names.contains(&"guard"), "{names:?}");
    let scripts = ["bash", "zsh", "fish"]
        .map(|shell| Ended::of(&mut netguard(&["completions", shell])).success().to_owned());
    for name in names.into_iter().filter(|name| *name != "help") {
        let page = directory.path().join(format!("netguard-{name}.1"));
        assert!(page.exists(), "{} is missing", page.display());
        assert!(scripts.iter().all(|script| script.contains(name)), "{name}");
    }
}

#[test]
fn the_default_allowlist_has_its_categories_and_names() {
    let text = fs::read_to_string(shipped("allowlist.toml")).expect("the allowlist");
    let categories = netguard::config::default_categories();
    for category in [
        "package-registries",
        "code-hosting",
        "container-registries",
        "cdns",
        "linux-repositories",
        "ai-services",
        "nixos",
        "cloud-providers",
        "vpn",
    ] {
        assert!(categories.iter().any(|it| it == category), "{category} in {categories:?}");
        assert!(text.contains(&format!("[{category}]")));
    }
    let ended = check(GOOD);
    let names = ended.stdout.split("upstreams, ").nth(1).and_then(|rest| rest.split(' ').next());
    let names: usize = names.and_then(|names| names.parse().ok()).expect("a number of names");
    assert!(names >= 177, "{names}");
}

#[test]
fn a_kernel_is_checked_alone_or_with_a_file_by_whoever_may_load_programs() {
    if !can_use_kernel() {
        return;
    }
    let file = shipped("netguard.toml").to_string_lossy().into_owned();
    let both = Ended::of(&mut netguard(&["check", "--kernel", &file]));
    for words in ["good: 5 slots", "good: takes every program", "ng_xdp ", "ng_port_ingress "] {
        assert!(both.success().contains(words), "{words}: {both:?}");
    }
    let mut weak = Command::new("setpriv");
    weak.args(["--bounding-set=-all", "--inh-caps=-all", "--"]);
    let ended = Ended::of(weak.arg(binary::path()).args(["check", "--kernel"]));
    assert_eq!(ended.code, 4, "{ended:?}");
    assert!(ended.stderr.contains("not permitted to"), "{ended:?}");
}
