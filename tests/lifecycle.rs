//! What stays closed when the daemon, a port or the operator comes and goes, and who may start it (`lifecycle/starts.rs`).

#[path = "lifecycle/starts.rs"]
mod starts;

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
    let slots = lab.map("SLOTS");
    // 0x99 = 153: the map follows the news of the link.
    until("the map has the new MAC", || {
        lab.exec("hv", &format!("bpftool map dump pinned {slots}")).stdout.contains("153,1")
    });
    resolves(&lab, "slot1");
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
