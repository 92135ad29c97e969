//! What stays closed when the daemon, a port or the operator comes and goes.

use std::{path::Path, process::Stdio};

use netguard::sandbox::Privileges;
use netguard_tests::{
    binary::{Ended, netguard},
    can_use_kernel,
    daemon::{self, is_note},
    lab::{Background, Lab},
    until,
};
use serde_json::Value;

fn reaches(lab: &Lab, slot: &str, address: &str, patience: &str) -> bool {
    lab.exec(slot, &format!("ping -c 1 -W {patience} {address}")).code == 0
}

/// Asks for the name whose address `reaches` tries, so that it is pinned.
fn resolves(lab: &Lab, slot: &str) {
    let query = lab.exec(slot, "dig +short +time=5 +tries=1 github.com @8.8.8.8");
    assert_eq!(query.success(), "203.0.113.10\n");
}

fn links(lab: &Lab) -> Vec<String> {
    let pins = format!("/sys/fs/bpf/netguard/{}/links", lab.instance());
    let ids = lab.shell(
        "hv",
        &format!("for l in {pins}/*; do [ -e $l ] || continue; bpftool link show pinned $l; done"),
    );
    let out = ids.success().to_owned();
    // "17: tcx  prog 528": the link's number goes on, the program's changes.
    out.lines().filter_map(|line| Some(line.split_once(':')?.0.to_owned())).collect()
}

fn program_ids(lab: &Lab) -> Vec<u64> {
    let status = lab.status();
    let programs = status["programs"].as_array().expect("programs");
    programs.iter().filter_map(|program| program["id"].as_u64()).collect()
}

/// Waits until the daemon has logged a note that contains the words.
fn noted(lab: &Lab, words: &str) {
    let _ = lab.event(words, |event| is_note(event, words));
}

#[test]
fn without_netguard_the_lab_lets_everything_through() {
    if !can_use_kernel() {
        return;
    }
    // The control of every other test: what they see dropped would arrive.
    let lab = Lab::unguarded("veth");
    assert!(reaches(&lab, "slot1", "10.2.0.2", "5"));
    let metadata = lab.exec("slot1", "curl -s --max-time 5 http://169.254.169.254/");
    assert_eq!(metadata.code, 0, "{metadata:?}");
    let tls = lab.exec("slot1", "nc -z -w 5 1.1.1.1 853");
    assert_eq!(tls.code, 0, "{tls:?}");
    let evil = lab.exec("slot1", "dig +short +tries=1 evil.example @8.8.8.8");
    assert_eq!(evil.success(), "203.0.113.66\n");
}

#[test]
fn a_killed_daemon_leaves_everything_enforced_and_the_next_one_adopts_it() {
    if !can_use_kernel() {
        return;
    }
    for signal in ["KILL", "TERM"] {
        let lab = Lab::up("veth");
        assert!(!reaches(&lab, "slot1", "10.2.0.2", "0.05"));
        resolves(&lab, "slot1");
        // Nobody's address yet, and pinned: what is the host's stays closed all the same.
        let query = "dig +short +time=5 +tries=1 192-0-2-99.ip.github.com";
        assert_eq!(lab.exec("slot1", query).success(), "192.0.2.99\n");
        let (links_before, programs_before) = (links(&lab), program_ids(&lab));
        daemon::kill(&lab, signal);

        assert!(!reaches(&lab, "slot1", "10.2.0.2", "0.05"));
        assert_eq!(lab.packets("slot1", "egress", "cross-slot"), 2, "still counted");
        assert!(reaches(&lab, "slot1", "203.0.113.10", "5"), "what is allowed still is");
        let query = lab.exec("slot1", "dig +time=1 +tries=1 github.com @8.8.8.8");
        assert_ne!(query.code, 0, "nobody answers, and nobody else may: {query:?}");
        // An address that the host gets now is the host's too, though no plan knows of it.
        let _ = lab.exec("hv", "ip addr add 192.0.2.99/32 dev eth0").success();
        assert!(!reaches(&lab, "slot1", "192.0.2.99", "0.2"));
        assert_eq!(lab.packets("slot1", "egress", "host"), 1);

        let _daemon = daemon::start(&lab);
        assert_eq!(links(&lab), links_before, "the links were taken over");
        assert_ne!(program_ids(&lab), programs_before, "with new programs");
        assert!(!reaches(&lab, "slot1", "10.2.0.2", "0.05"));
        assert_eq!(lab.packets("slot1", "egress", "cross-slot"), 3, "and the old counters");
        let query = lab.exec("slot1", "dig +short +time=5 +tries=1 github.com @8.8.8.8");
        assert_eq!(query.success(), "203.0.113.10\n");
        // The drop that happened while nobody read is in the log now.
        let drops = lab.events();
        let drops = drops.iter().filter(|event| event["reason"] == "cross-slot");
        assert!(drops.count() >= 2);
    }
}

/// Takes slot 1's port away, as the end of a virtual machine does.
fn unplug(lab: &Lab) {
    let _ = lab.exec("hv", "ip link del vm-slot1").success();
}

/// Gives slot 1 a new port, as the start of a virtual machine does.
fn plug(lab: &Lab) {
    let namespace = format!("{}-slot1", lab.name());
    let script = format!(
        "ip link add vm-slot1 type veth peer name eth0 address 02:6e:67:00:01:02 netns {namespace} &&
         ip link set vm-slot1 master br-slot1 up"
    );
    let _ = lab.shell("hv", &script).success();
    let script = "ip addr add 10.1.0.2/24 dev eth0 && ip link set eth0 up &&
                  ip route add default via 10.1.0.1";
    let _ = lab.shell("slot1", script).success();
}

#[test]
fn a_port_that_comes_back_is_guarded_again() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::up("veth");
    unplug(&lab);
    noted(&lab, "gone: vm-slot1");
    plug(&lab);
    noted(&lab, "guarding vm-slot1");
    assert!(!reaches(&lab, "slot1", "10.2.0.2", "0.05"));
    let event = lab.event("drop", |event| event["reason"] == "cross-slot");
    assert_eq!(event["interface"], "vm-slot1");
    assert_eq!(event["program"], "ng_port_egress");
    resolves(&lab, "slot1");
    assert!(reaches(&lab, "slot1", "203.0.113.10", "5"));
}

#[test]
fn a_port_that_comes_while_no_daemon_runs_is_closed_by_its_bridge() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::up("veth");
    resolves(&lab, "slot1");
    daemon::kill(&lab, "KILL");
    unplug(&lab);
    plug(&lab);
    for address in ["203.0.113.10", "10.2.0.2", "10.1.0.1"] {
        assert!(!reaches(&lab, "slot1", address, "0.2"), "{address}");
    }
    assert!(lab.packets("slot1", "egress", "unguarded-port") > 0);
    assert!(lab.internet().iter().all(|entry| entry["event"] != "web"));
    let _daemon = daemon::start(&lab);
    // The guest may still be giving up on its gateway, and the pings that wait for that with it.
    until("the new daemon guards the new port", || reaches(&lab, "slot1", "203.0.113.10", "5"));
    assert!(!reaches(&lab, "slot1", "10.2.0.2", "0.05"));
}

#[test]
fn a_pin_is_trusted_by_its_device_and_not_by_its_name() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::up("veth");
    resolves(&lab, "slot1");
    daemon::kill(&lab, "KILL");
    // The old port lives on under another name; a new one has its name.
    let script = "ip link set vm-slot1 down && ip link set vm-slot1 nomaster name old-port";
    let _ = lab.shell("hv", script).success();
    // Down first: before Linux 6.2 a name changes only then.
    let _ = lab.shell("slot1", "ip link set eth0 down && ip link set eth0 name old0").success();
    let _ = lab.exec("slot1", "ip addr flush dev old0").success();
    plug(&lab);
    let _daemon = daemon::start(&lab);
    assert!(reaches(&lab, "slot1", "203.0.113.10", "5"), "the new port is guarded");
    assert_eq!(lab.run(&["verify"]).code, 0, "it has its programs");
    assert!(!reaches(&lab, "slot1", "10.2.0.2", "0.05"));
    assert_eq!(lab.packets("slot1", "egress", "cross-slot"), 1);
}

#[test]
fn a_flood_of_drops_keeps_neither_ports_nor_signals_waiting() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::up("veth");
    // Bounded: 20 million datagrams at most, ended with the test long before.
    let flood = "
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(20_000_000):
    s.sendto(b'x', ('10.2.0.2', 9))
";
    let mut senders = [lab.start("slot1", &format!("exec python3 -c \"{flood}\"")), {
        lab.start("slot3", &format!("exec python3 -c \"{flood}\""))
    }];
    until("the flood is on", || {
        lab.packets("slot1", "egress", "cross-slot") + lab.packets("slot3", "egress", "cross-slot")
            > 100_000
    });
    let _ = lab.exec("hv", "ip link del vm-slot5").success();
    noted(&lab, "gone: vm-slot5");
    daemon::kill(&lab, "TERM");
    for sender in &mut senders {
        assert!(sender.child().try_wait().expect("the flood").is_none(), "the flood outlasted it");
    }
}

#[test]
fn a_log_that_nobody_reads_stops_neither_dns_nor_signals() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::up("veth");
    daemon::kill(&lab, "TERM");
    let mut daemon = Background::from(
        netguard(&["run", "--lab", lab.name()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped()) // held open, never read
            .stderr(Stdio::null())
            .spawn()
            .expect("the daemon starts"),
    );
    until("the daemon answers", || {
        assert!(daemon.child().try_wait().expect("the daemon").is_none(), "it ended");
        lab.exec("slot2", "dig +time=1 +tries=1 +short github.com").stdout == "203.0.113.10\n"
    });
    // More lines than a pipe and the queue behind it can hold.
    let queries = "
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
q = bytes.fromhex('0001010000010000000000000a') + b'denied-abc' + bytes.fromhex('0000010001')
for n in range(40_000):
    s.sendto(q, ('10.1.0.1', 53))
    if n % 100 == 99:
        s.settimeout(1)
        try:
            for _ in range(100):
                s.recv(512)
        except TimeoutError:
            pass
";
    let _ = lab.python("slot1", queries, &[]).success();
    let query = lab.exec("slot2", "dig +time=5 +tries=1 +short github.com");
    assert_eq!(query.success(), "203.0.113.10\n");
    daemon::kill(&lab, "TERM");
    let status = daemon.child().wait().expect("the daemon ends");
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_port_with_jumbo_frames_is_guarded_like_any_other() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::unguarded("veth");
    let _ = lab.exec("slot1", "ip link set eth0 mtu 9000").success();
    let _ = lab.exec("hv", "ip link set vm-slot1 mtu 9000").success();
    let _ = lab.exec("hv", "ip link set br-slot1 mtu 9000").success();
    let _daemon = daemon::start(&lab);
    assert_eq!(lab.run(&["verify"]).code, 0, "it has its programs");
    resolves(&lab, "slot1");
    // The hypervisor must see it whole: it answers that its uplink is narrower, and that answer enters.
    let learns = "
import errno, socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER: do not fragment
s.settimeout(5)
s.connect(('203.0.113.10', 9))
s.send(bytes(8900))
try:
    s.recv(1)
except OSError as error:
    print(errno.errorcode[error.errno])
";
    assert_eq!(lab.python("slot1", learns, &[]).success(), "EMSGSIZE\n");
    let crosses = "
import socket
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(bytes(8900), ('10.2.0.2', 9))
";
    let _ = lab.python("slot1", crosses, &[]).success();
    assert_eq!(lab.packets("slot1", "egress", "cross-slot"), 1);
}

#[test]
fn a_bridge_that_changes_its_mac_keeps_its_dns() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::up("veth");
    let _ = lab.exec("hv", "ip link set br-slot1 address 02:00:00:00:99:01").success();
    let slots = format!("/sys/fs/bpf/netguard/{}/maps-v7/SLOTS", lab.instance());
    // 0x99 = 153: the map follows the news of the link.
    until("the map has the new MAC", || {
        lab.exec("hv", &format!("bpftool map dump pinned {slots}")).stdout.contains("153,1")
    });
    resolves(&lab, "slot1");
}

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

#[test]
fn links_that_netguard_manages_come_with_the_daemon_and_go_with_unload() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::unguarded("veth");
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("netguard.toml");
    let config = "[host]\nuplinks = [\"eth0\"]\n[dns]\nupstreams = [\"1.1.1.1\"]\n[[slot]]\n\
                  name = \"own{n}\"\nid = 101\ncount = 2\nmanage_links = true\n";
    std::fs::write(&file, config).expect("a file");
    let binary = netguard_tests::binary::path();
    let instance = lab.name();
    // Whether a link's carrier has been noticed yet is another matter.
    let found = || {
        let links = lab.shell("hv", "ip -br link | awk '{ $2 = \"\"; print }'");
        (links.stdout, lab.exec("hv", "nft list tables").stdout)
    };
    let before = found();
    let (binary, file) = (binary.display(), file.display());
    let mut daemon =
        lab.start("hv", &format!("exec {binary} run --instance {instance} --config {file}"));
    until("the links are there and guarded", || {
        assert!(daemon.child().try_wait().expect("the daemon").is_none(), "it ended");
        lab.exec("hv", &format!("{binary} status --instance {instance}"))
            .stdout
            .contains("vm-own102")
    });
    for link in ["br-own101", "vm-own101", "br-own102", "vm-own102"] {
        let shown = lab.exec("hv", &format!("ip -d link show {link}"));
        assert!(shown.success().contains(&format!("alias netguard {instance}")), "{shown:?}");
    }
    assert!(lab.exec("hv", "ip addr show br-own101").success().contains("10.101.0.1/24"));
    until("the table is there", || {
        lab.exec("hv", "nft list tables").stdout.contains(&format!("netguard-{instance}"))
    });
    let pid = daemon.child().id();
    let _ = lab.exec("hv", &format!("kill -TERM {pid}")).success();
    let _ = daemon.child().wait();
    let unloaded = lab.exec("hv", &format!("{binary} unload --instance {instance}"));
    assert!(
        unloaded.success().contains("removed vm-own101 vm-own102 br-own101 br-own102"),
        "{unloaded:?}"
    );
    assert_eq!(found(), before, "the host is as it was");
}
