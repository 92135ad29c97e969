//! Which programs an interface has, and the watch: programs that somebody takes off, maps that somebody writes into. Each is
//! told once and put right.

use netguard::datapath::{self, PinDirectory};
use netguard_common::Hook;
use netguard_tests::{
    binary::Ended,
    can_use_kernel,
    daemon::{self, is_note},
    lab::Lab,
    until,
};
use serde_json::json;

fn alarms(lab: &Lab, words: &str) -> usize {
    lab.events().iter().filter(|event| is_note(event, "ALARM") && is_note(event, words)).count()
}

fn pins(lab: &Lab) -> PinDirectory {
    PinDirectory::of(&lab.instance().parse().expect("an instance"))
}

fn resolves(lab: &Lab) -> bool {
    let query = lab.exec("slot1", "dig +short +time=5 +tries=1 github.com @8.8.8.8");
    query.code == 0 && query.stdout == "203.0.113.10\n"
}

#[test]
fn a_program_that_is_taken_off_is_put_back_and_told() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::up("veth");
    let links = || -> Vec<_> {
        let status = lab.status();
        let programs = status["programs"].as_array().expect("programs").clone();
        programs.iter().map(|it| (it["name"].clone(), it["interfaces"].clone())).collect()
    };
    let before = links();
    for (hook, interface) in [
        (Hook::PortEgress, "vm-slot1"),
        (Hook::PortIngress, "vm-slot1"),
        (Hook::BridgeEgress, "br-slot1"),
        (Hook::BridgeIngress, "br-slot1"),
    ] {
        let told = format!("{} was taken off {interface}: put back", hook.program());
        for round in 1..=2 {
            datapath::detach_pinned(&pins(&lab).link(interface, hook)).expect("it is detached");
            until("it is told", || alarms(&lab, &told) == round);
            assert!(resolves(&lab), "{told}");
        }
        // Its pin goes, and with it the link.
        std::fs::remove_file(pins(&lab).link(interface, hook)).expect("the pin");
        until("it is told", || alarms(&lab, &told) == 3);
        assert!(resolves(&lab), "{told}");
    }
    assert_eq!(links(), before);
    assert!(!lab.events().iter().any(|event| is_note(event, "cannot be put")));
}

#[test]
fn a_map_that_somebody_writes_into_is_written_anew() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::up("veth");
    let map = |name: &str| pins(&lab).map(name).display().to_string();
    let bpftool = |words: &str| {
        let command = format!("bpftool {words}");
        let _ = Ended::of(std::process::Command::new("sh").args(["-c", &command])).success();
    };
    // All of IPv6, and so of IPv4, is the internet: on whichever side.
    for (round, side) in [(1, "00"), (2, "01")] {
        bpftool(&format!(
            "map update pinned {} key hex 21 00 00 00 00 00 00 {side} {} value hex 01 00 ff ff 00 00 00 00 00 00 00 00",
            map("PLACES"),
            "00 ".repeat(16),
        ));
        until("it is told", || alarms(&lab, "written into the map PLACES: written anew") == round);
    }
    // Neither side counts: nothing passes, until it is told.
    bpftool(&format!("map update pinned {} key 0 0 0 0 value 2 0 0 0", map("ACTIVE")));
    until("it is told", || alarms(&lab, "written into the map ACTIVE: written anew") == 1);
    let links = lab.exec("hv", "ip -j link show vm-slot1");
    let links: serde_json::Value = serde_json::from_str(links.success()).expect("ip prints JSON");
    let index = u32::try_from(links[0]["ifindex"].as_u64().expect("a number")).expect("a number");
    let [a, b, c, d] = index.to_le_bytes();
    for side in [0, 1] {
        bpftool(&format!(
            "map delete pinned {} key {a} {b} {c} {d} {side} 0 0 0 || true",
            map("PORTS")
        ));
    }
    until("it is told", || alarms(&lab, "written into the map PORTS: written anew") > 0);
    assert!(resolves(&lab));
}

#[test]
fn a_port_has_xdp_where_it_costs_no_bulk_traffic() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::up("veth");
    let with_xdp = || {
        let status = lab.status();
        let programs = status["programs"].as_array().expect("programs").clone();
        let xdp = programs.iter().find(|it| it["name"] == "ng_xdp").expect("the program");
        xdp["interfaces"].clone()
    };
    let is_good = || assert_eq!(lab.run(&["verify"]).code, 0, "{:?}", lab.run(&["verify"]));
    assert_eq!(with_xdp(), json!([]));
    is_good();

    let _ = lab.exec("hv", "ip link del vm-slot1").success();
    let _ = lab.event("gone", |event| is_note(event, "gone: vm-slot1"));
    let plug = |kind: &str| {
        let script =
            format!("ip link add vm-slot1 type {kind} && ip link set vm-slot1 master br-slot1 up");
        let _ = lab.shell("hv", &script).success();
    };
    plug("vxlan id 5 dstport 4789");
    until("it is guarded", || lab.run(&["verify"]).code == 0);
    assert_eq!(with_xdp(), json!(["vm-slot1"]), "of a kind that nobody has measured");

    // What an earlier daemon has put where this one has none is taken off.
    daemon::kill(&lab, "TERM");
    let _ = lab.exec("hv", "ip link set vm-slot1 nomaster name other").success();
    plug("veth peer name end");
    let _daemon = daemon::start(&lab);
    assert_eq!(with_xdp(), json!([]));
    is_good();
}
