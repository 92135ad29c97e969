//! Starts and ends: by whom, how often, with which rights, and what a refused one leaves as it was.

use super::*;

#[test]
fn one_daemon_per_instance_and_unload_ends_it_all() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::up("veth");
    let second = Ended::of(&mut netguard(&["run", "--lab", lab.name()]));
    assert_eq!(second.code, 1, "{second:?}");
    assert!(second.stderr.contains("another netguard already runs"), "{second:?}");
    assert!(!reaches(&lab, "slot1", "10.2.0.2", "0.05"), "the refused one changed nothing");
    resolves(&lab, "slot1");

    let refused = lab.run(&["unload"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("stop it first"), "{refused:?}");
    daemon::kill(&lab, "TERM");
    let unload = lab.run(&["unload"]);
    assert!(unload.success().contains("nothing is enforced"));
    assert!(!Path::new(&format!("/sys/fs/bpf/netguard/{}", lab.instance())).exists());
    // The kernel lets go of a link a moment after its last pin is removed.
    let open = (0..50).any(|_| reaches(&lab, "slot1", "10.2.0.2", "0.1"));
    assert!(open, "something of netguard is left");
    let again = lab.run(&["unload"]);
    assert_eq!(again.code, 1, "{again:?}");
}

#[test]
fn a_start_that_is_refused_changes_nothing() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::unguarded("veth");
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("netguard.toml");
    let refused = |config: &str, code: i32, words: &str| {
        std::fs::write(&file, config).expect("a file");
        let command = format!(
            "{} run --instance {} --config {}",
            netguard_tests::binary::path().display(),
            lab.name(),
            file.display()
        );
        let ended = lab.exec("hv", &command);
        assert_eq!(ended.code, code, "{ended:?}");
        let words = words.replace("FILE", &file.to_string_lossy());
        assert!(ended.stderr.contains(&words), "{words} in {}", ended.stderr);
        let pins = format!("/sys/fs/bpf/netguard/{}", lab.name());
        assert!(!Path::new(&pins).exists(), "{pins} is left");
        assert!(reaches(&lab, "slot1", "10.2.0.2", "5"), "something is attached");
    };
    // The lab's host without the template, so that one slot can be wrong, and without links of our own.
    let good = "[dns]\nupstreams = [\"1.1.1.1\"]\n[[slot]]\nname = \"slot5\"\nid = 5\n\
                bridge = \"br-slot5\"\nport = \"vm-slot5\"\nsubnet = \"10.5.0.0/24\"\n";
    for (from, to, words) in [
        (
            "\"br-slot5\"",
            "\"br-slot9\"",
            "6:10: slot \"slot5\": bridge br-slot9 does not exist; make it first (ip link add",
        ),
        (
            "\"br-slot5\"",
            "\"eth0\"",
            "6:10: slot \"slot5\": eth0 is no bridge; name the bridge that the port is on",
        ),
        (
            "10.5.0.0/24",
            "10.55.0.0/24",
            "6:10: slot \"slot5\": bridge br-slot5 lacks the gateway address 10.55.0.1; add it: ip addr \
             add 10.55.0.1/24",
        ),
    ] {
        refused(&good.replace(from, to), 2, &format!("FILE:{words}"));
    }
    // A port that is a bridge, and one that is on another slot's.
    let port = |name: &str| good.replace("\"vm-slot5\"", &format!("\"{name}\""));
    let words = "FILE:7:8: slot \"slot5\": port br-spare is a bridge itself; name the TAP or veth";
    let _ = lab.exec("hv", "ip link add br-spare type bridge").success();
    refused(&port("br-spare"), 2, words);
    let words =
        "FILE:7:8: slot \"slot5\": port vm-spare is on another bridge; move it: ip link set";
    let _ = lab.exec("hv", "ip link add vm-spare type veth peer name vm-far").success();
    let _ = lab.exec("hv", "ip link set vm-spare master br-spare").success();
    refused(&port("vm-spare"), 2, words);
    // Something that holds port 53 already.
    let mut other = lab.start("hv", "exec nc -u -l -k 10.5.0.1 53");
    until("something else has port 53", || {
        assert!(other.child().try_wait().expect("nc").is_none(), "nc ended");
        !lab.exec("hv", "ss -Hlun sport = 53").success().is_empty()
    });
    refused(good, 1, "cannot listen for DNS on 10.5.0.1:53");
}

/// A user that is nobody, as the unit's.
const MONITOR: &str = "12346";

#[test]
fn the_capabilities_that_the_unit_grants_are_enough_without_root() {
    if !can_use_kernel() {
        return;
    }
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/../dist/netguard.service");
    let unit = std::fs::read_to_string(unit).expect("the unit");
    let granted = unit.lines().filter_map(|line| line.strip_prefix("AmbientCapabilities="));
    let granted: Vec<_> = granted
        .flat_map(|line| line.split(' '))
        .map(|name| format!("+{}", name.trim_start_matches("CAP_").to_lowercase()))
        .collect();
    assert!(!granted.is_empty() && !granted.contains(&"+sys_admin".to_owned()));
    let granted = granted.join(",");

    let lab = Lab::unguarded("veth");
    let (user, group) = daemon::worker_user();
    // What systemd and the unit before it make.
    for place in ["/run/netguard", "/sys/fs/bpf/netguard"] {
        let place = Path::new(place).join(lab.name());
        std::fs::create_dir_all(&place).expect("a directory");
        let owner = format!("{MONITOR}:{group}");
        let mut chown = std::process::Command::new("chown");
        let _ = Ended::of(chown.arg(owner).arg(place)).success();
    }
    let directory = tempfile::tempdir().expect("a directory");
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(directory.path(), readable).expect("its mode");
    let (file, log) = (directory.path().join("netguard.toml"), directory.path().join("log"));
    std::fs::write(&file, netguard::lab::CONFIG).expect("a file");
    let script = format!(
        "exec setpriv --reuid={MONITOR} --regid={group} --clear-groups --inh-caps=-all,{granted} \
         --ambient-caps=-all,{granted} --bounding-set=-all,{granted} --no-new-privs {} run \
         --await-worker --instance {} --config {} >{} 2>&1",
        netguard_tests::binary::path().display(),
        lab.name(),
        file.display(),
        log.display(),
    );
    let mut daemon = lab.start("hv", &script);
    let read = || std::fs::read_to_string(&log).unwrap_or_default();
    until("its log is there", || log.exists());
    let mut worker = daemon::start_worker(&lab, lab.name(), (&user, &group), &log);
    until("the daemon guards", || {
        assert!(daemon.child().try_wait().expect("the daemon").is_none(), "{}", read());
        read().contains("guarding 5 slots")
    });
    assert!(!reaches(&lab, "slot1", "10.2.0.2", "0.05"));
    let query = lab.exec("slot1", "dig +short +time=5 +tries=1 github.com @8.8.8.8");
    assert_eq!(query.success(), "203.0.113.10\n", "{}", read());
    let monitor = Privileges::of(daemon.child().id()).expect("the monitor");
    let ambient: Vec<_> = monitor.ambient.iter().map(ToString::to_string).collect();
    assert_eq!(ambient, ["CAP_NET_ADMIN"], "what nft needs, and no more");
    let pid = daemon.child().id().to_string();
    let _ = Ended::of(std::process::Command::new("kill").args(["-TERM", &pid])).success();
    assert_eq!(daemon.child().wait().expect("the daemon ends").code(), Some(0), "{}", read());
    assert!(worker.child().wait().expect("the worker ends").success(), "{}", read());
    let unload = Ended::of(&mut netguard(&["unload", "--instance", lab.name()]));
    assert_eq!(unload.code, 0, "{unload:?}");
}

#[test]
fn the_foreground_lab_goes_with_ctrl_c() {
    if !can_use_kernel() {
        return;
    }
    // `netguard run` without a configuration uses the default name, which only this test does.
    let in_use = Path::new("/run/netns/ng-hv").exists();
    assert!(!in_use, "a lab of the default name is up: netguard lab down");
    // Ctrl-C, and the end of the terminal.
    for signal in ["-INT", "-HUP"] {
        foreground_lab_goes_with(signal);
    }
}

fn foreground_lab_goes_with(signal: &str) {
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("log");
    let output = std::fs::File::create(&log).expect("a log");
    let mut run = Background::from(
        netguard(&["run", "--log", "json"])
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a log"))
            .stderr(output)
            .spawn()
            .expect("netguard starts"),
    );
    let read = || std::fs::read_to_string(&log).unwrap_or_default();
    until("the lab is guarded", || {
        assert!(run.child().try_wait().expect("netguard").is_none(), "{}", read());
        read().contains("guarding 5 slots")
    });
    let ping = ["lab", "exec", "slot1", "--", "ping", "-c", "1", "-W", "0.05", "10.2.0.2"];
    assert_ne!(Ended::of(&mut netguard(&ping)).code, 0);
    until("the drop is in the log", || {
        let is_drop =
            |line: &str| line.parse::<Value>().is_ok_and(|event| event["reason"] == "cross-slot");
        read().lines().any(is_drop)
    });
    let pid = run.child().id().to_string();
    let _ = Ended::of(std::process::Command::new("kill").args([signal, &pid])).success();
    let status = run.child().wait().expect("netguard ends");
    assert_eq!(status.code(), Some(0), "{}", read());
    for left in [
        "/run/netns/ng-hv",
        "/run/netns/ng-net",
        "/run/netguard/lab-ng",
        "/sys/fs/bpf/netguard/lab-ng",
    ] {
        assert!(!Path::new(left).exists(), "{left} is left");
    }
}
