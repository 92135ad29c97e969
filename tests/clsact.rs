//! TC programs as filters of a clsact qdisc, as kernels without tcx have them (before Linux 6.6): they outlive the
//! daemon, are adopted, live with other people's filters, and leave nothing.

use std::path::Path;

use netguard_tests::{
    binary::{Ended, netguard},
    can_use_kernel,
    daemon::{self, is_note},
    lab::Lab,
    until,
};

/// What `tc` shows of an interface of the hypervisor: its qdiscs, and the filters on both sides.
fn shown(lab: &Lab, interface: &str) -> String {
    let script = format!(
        "tc qdisc show dev {interface}; for side in ingress egress; do tc filter show dev {interface} $side; done"
    );
    lab.shell("hv", &script).success().to_owned()
}

/// The programs' numbers in the instance's filters on an interface.
fn filters(lab: &Lab, interface: &str) -> Vec<String> {
    let own = format!(" netguard {} ng_", lab.instance());
    let shown = shown(lab, interface);
    let lines = shown.lines().filter(|line| line.contains(&own));
    lines
        .map(|line| {
            assert!(
                line.starts_with("filter protocol all pref 1 bpf chain 0 handle 0x1 "),
                "{line}"
            );
            assert!(line.contains(" direct-action "), "{line}");
            line.split_once(" id ").expect("a number").1.split(' ').next().expect("it").to_owned()
        })
        .collect()
}

/// Puts a filter of somebody else's onto an interface: a classic program that returns the action for every packet.
fn foreign(lab: &Lab, interface: &str, side: &str, priority: u16, action: u8) {
    let script = format!(
        "tc qdisc add dev {interface} clsact 2>/dev/null
         tc filter replace dev {interface} {side} pref {priority} bpf da bytecode '1,6 0 0 {action}'"
    );
    let _ = lab.shell("hv", &script).success();
}

const OK: u8 = 0;
const SHOT: u8 = 2;

fn reaches(lab: &Lab, slot: &str, address: &str, patience: &str) -> bool {
    lab.exec(slot, &format!("ping -c 1 -W {patience} {address}")).code == 0
}

fn unload(lab: &Lab) -> Ended {
    lab.run(&["unload"])
}

#[test]
fn a_killed_daemon_leaves_filters_that_the_next_one_adopts_and_its_bridges_close_new_ports() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::without_tcx("veth");
    let _first = daemon::start(&lab);
    let before = filters(&lab, "vm-slot1");
    assert_eq!(before.len(), 2, "{before:?}");
    assert_eq!(filters(&lab, "br-slot1").len(), 2);
    daemon::kill(&lab, "KILL");

    assert_eq!(filters(&lab, "vm-slot1"), before);
    assert!(!reaches(&lab, "slot1", "10.2.0.2", "0.05"));
    assert!(reaches(&lab, "slot1", "10.1.0.1", "5"), "what is allowed still is");
    // A new port of the same name has no filters, so its bridge lets nothing in.
    let namespace = format!("{}-slot2", lab.name());
    let script = format!(
        "ip link del vm-slot2 &&
         ip link add vm-slot2 type veth peer name eth0 address 02:6e:67:00:02:02 netns {namespace} &&
         ip link set vm-slot2 master br-slot2 up"
    );
    let _ = lab.shell("hv", &script).success();
    let script = "ip addr add 10.2.0.2/24 dev eth0 && ip link set eth0 up && ip route add default via 10.2.0.1";
    let _ = lab.shell("slot2", script).success();
    assert_eq!(filters(&lab, "vm-slot2"), Vec::<String>::new());
    assert!(!reaches(&lab, "slot2", "10.2.0.1", "0.2"));
    assert!(lab.packets("slot2", "egress", "unguarded-port") > 0);

    let _second = daemon::start(&lab);
    let after = filters(&lab, "vm-slot1");
    assert_eq!(after.len(), 2, "in place of the old ones: {after:?}");
    assert!(
        after.iter().all(|id| !before.contains(id)),
        "with new programs: {before:?}, {after:?}"
    );
    assert!(!reaches(&lab, "slot1", "10.2.0.2", "0.05"));
    assert_eq!(lab.packets("slot1", "egress", "cross-slot"), 2, "and the old counters");
    // The guest may still be giving up on its gateway, and the pings that wait for that with it.
    until("the new port is guarded", || reaches(&lab, "slot2", "10.2.0.1", "5"));
    let status = lab.status();
    for program in status["programs"].as_array().expect("programs") {
        let count = match program["name"].as_str() {
            Some("ng_xdp") => 0,
            Some("ng_up_egress" | "ng_up_ingress") => 1,
            _ => 5, // on each port or bridge
        };
        assert_eq!(program["interfaces"].as_array().map(Vec::len), Some(count), "{program}");
    }
}

#[test]
fn unload_leaves_the_machine_as_it_was_with_what_others_have_there() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::without_tcx("veth");
    foreign(&lab, "vm-slot2", "ingress", 10, OK);
    let interfaces = ["vm-slot1", "vm-slot2", "br-slot1", "br-slot2"];
    let before = interfaces.map(|it| shown(&lab, it));
    let daemon = daemon::start(&lab);
    // Somebody comes later, and uses the qdisc that netguard made.
    foreign(&lab, "vm-slot3", "egress", 10, OK);
    let refused = unload(&lab);
    assert!(refused.stderr.contains("stop it first"), "{refused:?}");
    assert_eq!(filters(&lab, "vm-slot1").len(), 2);
    daemon::kill(&lab, "TERM");
    drop(daemon);
    assert_eq!(filters(&lab, "vm-slot1").len(), 2, "a stopped daemon opens nothing");

    // From outside of the namespace that it guards.
    assert!(unload(&lab).success().contains("nothing is enforced"));
    assert_eq!(interfaces.map(|it| shown(&lab, it)), before);
    let left = shown(&lab, "vm-slot3");
    assert!(left.contains("qdisc clsact") && left.contains("pref 10 bpf"), "{left}");
    assert!(!left.contains("netguard"), "{left}");
    assert!(!Path::new(&format!("/sys/fs/bpf/netguard/{}", lab.instance())).exists());
    assert!((0..50).any(|_| reaches(&lab, "slot1", "10.2.0.2", "0.1")), "something is left");
}

#[test]
fn other_filters_have_their_say_behind_netguards_and_never_before() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::without_tcx("veth");
    let daemon = daemon::start(&lab);
    assert!(reaches(&lab, "slot1", "10.1.0.1", "5"));
    let passed = lab.packets("slot1", "egress", "pass");
    foreign(&lab, "vm-slot1", "ingress", 2, SHOT);
    assert!(!reaches(&lab, "slot1", "10.1.0.1", "0.2"), "the other filter drops what passes here");
    assert!(lab.packets("slot1", "egress", "pass") > passed, "netguard has judged it before");

    // And what the other one would let through is dropped.
    foreign(&lab, "vm-slot1", "ingress", 2, OK);
    let query = "dig +short +time=5 +tries=1 192-0-2-99.ip.github.com";
    assert_eq!(lab.exec("slot1", query).success(), "192.0.2.99\n");
    daemon::kill(&lab, "KILL");
    drop(daemon);
    let _ = lab.exec("hv", "ip addr add 192.0.2.99/32 dev eth0").success();
    assert!(!reaches(&lab, "slot1", "192.0.2.99", "0.2"));
    assert_eq!(lab.packets("slot1", "egress", "host"), 1);
}

#[test]
fn a_place_that_another_filter_has_is_not_taken_and_a_refused_start_leaves_nothing() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::without_tcx("veth");
    let interfaces = ["vm-slot1", "br-slot1", "br-slot3"];
    let refused = |words: &str| {
        let before = interfaces.map(|it| shown(&lab, it));
        let mut command = netguard(&["run", "--lab", lab.name()]);
        let refused = Ended::of(command.args(lab.tc_options()));
        assert_eq!(refused.code, 1, "{refused:?}");
        assert!(refused.stderr.contains(&format!("to br-slot3: {words}")), "{refused:?}");
        assert_eq!(interfaces.map(|it| shown(&lab, it)), before);
        let pins = format!("/sys/fs/bpf/netguard/{}", lab.instance());
        assert!(!Path::new(&pins).exists(), "{pins} is left");
    };
    foreign(&lab, "br-slot3", "ingress", 1, OK);
    refused(
        "another filter is first there; give it a priority of 2 or more (tc filter show ingress)",
    );
    let script = "tc qdisc del dev br-slot3 clsact && tc qdisc add dev br-slot3 ingress";
    let _ = lab.shell("hv", script).success();
    refused("its qdisc is \"ingress\" and must be clsact (tc qdisc show)");
}

#[test]
fn a_port_of_another_policy_and_one_that_leaves_its_bridge_lose_their_filters() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::without_tcx("veth");
    let daemon = daemon::start(&lab);
    let _ = lab.exec("hv", "ip link set vm-slot1 nomaster").success();
    let _ = lab.event("a port that left", |event| is_note(event, "gone: vm-slot1"));
    assert!(!shown(&lab, "vm-slot1").contains("clsact"));
    daemon::kill(&lab, "KILL");
    drop(daemon);
    // Under another name it is no slot's any more, and the next daemon sees that.
    assert_eq!(filters(&lab, "vm-slot2").len(), 2);
    let script = "ip link set vm-slot2 down && ip link set vm-slot2 nomaster name old-port";
    let _ = lab.shell("hv", script).success();
    let _daemon = daemon::start(&lab);
    assert!(!shown(&lab, "old-port").contains("clsact"), "{}", shown(&lab, "old-port"));
}

#[test]
fn what_is_held_stays_so_and_who_is_waited_for_gets_filters() {
    if !can_use_kernel() {
        return;
    }
    if netguard::datapath::Tc::of_kernel() == netguard::datapath::Tc::Clsact {
        eprintln!("skipped: this kernel has no tcx");
        return;
    }
    let lab = Lab::without_tcx("veth");
    let links = || {
        let pins = format!("/sys/fs/bpf/netguard/{}/links", lab.instance());
        std::fs::read_dir(pins).expect("the pins").count()
    };
    // The first daemon has no better way; the second one takes over what is there.
    for tc in ["clsact", "tcx"] {
        let daemon = daemon::start_with(&lab, &["--tc", tc]);
        assert_eq!((links(), filters(&lab, "vm-slot1").len()), (0, 2), "{tc}");
        let program = &lab.status()["programs"][1];
        assert_eq!(program["interfaces"].as_array().map(Vec::len), Some(5), "{program}");
        assert!(!reaches(&lab, "slot1", "10.2.0.2", "0.05"));
        assert!(reaches(&lab, "slot1", "10.1.0.1", "5"), "{tc}");
        daemon::kill(&lab, "TERM");
        drop(daemon);
    }
    let _ = unload(&lab).success();
    let daemon = daemon::start_with(&lab, &["--tc", "tcx"]);
    assert_eq!((links(), filters(&lab, "vm-slot1").len()), (22, 0));
    // A port that comes while the daemon runs has a filter, unless somebody else is first there.
    let come = |slot: &str, before: &str| {
        let script = format!(
            "ip link set vm-{slot} nomaster && {before} && ip link set vm-{slot} master br-{slot}"
        );
        let _ = lab.shell("hv", &script).success();
    };
    come("slot1", "true");
    until("the port has filters", || filters(&lab, "vm-slot1").len() == 2);
    assert!(reaches(&lab, "slot1", "10.1.0.1", "5"));
    come("slot2", "tc qdisc add dev vm-slot2 ingress");
    let pin = format!("/sys/fs/bpf/netguard/{}/links/vm-slot2:ng_port_egress", lab.instance());
    until("the port has links", || Path::new(&pin).exists());
    assert!(reaches(&lab, "slot2", "10.2.0.1", "5"));
    daemon::kill(&lab, "TERM");
    drop(daemon);
}

#[test]
fn filters_that_somebody_removes_are_put_back() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::without_tcx("veth");
    let _daemon = daemon::start(&lab);
    let _ = lab.shell("hv", "tc qdisc del dev br-slot1 clsact").success();
    let text = "ALARM: ng_br_egress was taken off br-slot1: put back";
    let _ = lab.event("the alarm", |event| is_note(event, text));
    assert_eq!(filters(&lab, "br-slot1").len(), 2);
}
