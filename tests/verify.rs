//! A policy that is in force verifies; what somebody changes behind netguard's back is found and named.

use std::{fs, process::Command};

use aya::programs::{
    SchedClassifier,
    links::{FdLink, PinnedLink},
    tc::SchedClassifierLink,
};
use netguard::datapath::{self, PinDirectory};
use netguard_common::Hook;
use netguard_tests::{binary::Ended, can_use_kernel, daemon::kill, kernel::Kernel, lab::Lab};
use serde_json::Value;

fn pins(lab: &Lab) -> PinDirectory {
    PinDirectory::of(&lab.instance().parse().expect("an instance"))
}

fn verify(lab: &Lab, words: &[&str]) -> Ended {
    let _instance = lab.instance();
    lab.run(&[&["verify"], words].concat())
}

/// A lab that nobody watches any more, and that was good until now.
fn unwatched(lab: Lab) -> Lab {
    let good = verify(&lab, &[]);
    assert_eq!(good.code, 0, "{good:?}");
    kill(&lab, "TERM");
    let good = verify(&lab, &[]);
    assert_eq!(good.code, 0, "{good:?}");
    lab
}

fn finds(lab: &Lab, hole: &str) {
    let found = verify(lab, &[]);
    assert_eq!(found.code, 3, "{found:?}");
    assert!(
        found.stdout.lines().any(|line| line.starts_with("HOLE ") && line.contains(hole)),
        "{hole:?} is not in\n{}",
        found.stdout
    );
}

fn bpftool(words: &str) {
    let _ = Ended::of(Command::new("sh").args(["-c", &format!("bpftool {words}")])).success();
}

/// The first key of a map that has these bytes at an offset, in hexadecimal.
fn keys(lab: &Lab, map: &str) -> Vec<Vec<String>> {
    let pin = pins(lab).map(map);
    let dump = Ended::of(Command::new("bpftool").args(["-j", "map", "dump", "pinned"]).arg(pin));
    let entries: Vec<Value> = serde_json::from_str(dump.success()).expect("JSON");
    let bytes = |entry: &Value| {
        let bytes = entry["key"].as_array().expect("a key").iter();
        bytes.map(|byte| byte.as_str().expect("a byte")[2..].to_owned()).collect()
    };
    entries.iter().map(bytes).collect()
}

#[test]
fn a_policy_in_force_verifies_and_a_report_says_so() {
    if !can_use_kernel() {
        return;
    }
    for lab in [Lab::up("veth"), Lab::of("mixed", "veth"), Lab::of("lockdown", "veth")] {
        let good = verify(&lab, &["--json"]);
        assert_eq!(good.code, 0, "{good:?}");
        let answer: Value = serde_json::from_str(good.stdout.trim()).expect("JSON");
        assert_eq!(answer["good"], true);
        assert!(answer["questions"].as_u64() > Some(20), "{answer}");
        assert!(answer["attached"].as_array().is_some_and(|it| it.len() > 4), "{answer}");
    }
    let lab = Lab::up("veth");
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("report.html");
    let good = verify(&lab, &["slot2", "--report", file.to_str().expect("its path")]);
    assert_eq!(good.code, 0, "{good:?}");
    println!("{}", good.stdout);
    let report = fs::read_to_string(&file).expect("the report");
    for words in ["A.8.22", "SC-7", "SHA-256", "slot2", "cross-slot", "what the configuration says"]
    {
        assert!(report.contains(words), "{words:?} is not in the report");
    }
    assert!(!report.contains("http"), "it needs nothing else");
    // What is ordered at run time is part of the policy.
    for order in [&["lock", "slot3"][..], &["allow", "slot1", "203.0.113.0/24 tcp/80"]] {
        let _instance = lab.instance();
        let _ = lab.run(order).success();
        let good = verify(&lab, &[]);
        assert_eq!(good.code, 0, "{good:?}");
    }
    assert_eq!(verify(&lab, &["slot9"]).code, 2);
}

#[test]
fn a_detached_and_a_replaced_program_are_found() {
    if !can_use_kernel() {
        return;
    }
    let lab = unwatched(Lab::up("veth"));
    for (hook, interface) in [(Hook::BridgeEgress, "br-slot2"), (Hook::PortIngress, "vm-slot3")] {
        datapath::detach_pinned(&pins(&lab).link(interface, hook)).expect("it is detached");
        finds(&lab, &format!("{} was taken off {interface}", hook.program()));
    }
    // The same program, but it reads other maps.
    let other = std::thread::spawn(Kernel::new).join().expect("other programs");
    let mut program =
        SchedClassifier::from_pin(other.pins().program(Hook::PortEgress)).expect("its program");
    let link = PinnedLink::from_pin(pins(&lab).link("vm-slot1", Hook::PortEgress)).expect("a link");
    let link = SchedClassifierLink::try_from(FdLink::from(link));
    let id = program.attach_to_link(link.expect("a link of TC")).expect("it takes the place");
    drop(program.take_link(id).expect("the link"));
    finds(&lab, "is on vm-slot1 in the place of ng_port_egress");
}

#[test]
fn a_program_that_was_replaced_everywhere_is_found() {
    if !can_use_kernel() {
        return;
    }
    let lab = unwatched(Lab::up("veth"));
    let pin = pins(&lab).program(Hook::BridgeEgress);
    let other = pins(&lab).program(Hook::BridgeIngress);
    let mut program = SchedClassifier::from_pin(&other).expect("a program");
    for slot in 1..=5 {
        let link = pins(&lab).link(&format!("br-slot{slot}"), Hook::BridgeEgress);
        let link = FdLink::from(PinnedLink::from_pin(link).expect("a link"));
        let link = SchedClassifierLink::try_from(link).expect("a link of TC");
        let id = program.attach_to_link(link).expect("it takes the place");
        drop(program.take_link(id).expect("the link"));
    }
    fs::remove_file(&pin).expect("the pin");
    program.pin(&pin).expect("it is pinned");
    finds(&lab, "the loaded program ng_br_egress answers no questions");
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("report.html");
    let found = verify(&lab, &["--report", file.to_str().expect("its path")]);
    assert_eq!(found.code, 3, "{found:?}");
    assert!(
        found.stdout.contains("HOLE the pinned program ng_br_egress has the tag "),
        "{found:?}"
    );
    let report = fs::read_to_string(&file).expect("the report");
    assert!(report.contains("the pinned program ng_br_egress has the tag "), "{report}");
}

#[test]
fn an_edited_entry_is_found_in_each_map() {
    if !can_use_kernel() {
        return;
    }
    let config = netguard::lab::CONFIG.replace(
        "egress = \"pinned\"",
        "egress = \"listed\"\nallow = [\"203.0.113.0/24 tcp/443\"]",
    );
    let lab = unwatched(Lab::with(&config, "veth"));
    let map = |name: &str| pins(&lab).map(name).display().to_string();
    // All of the internet is slot 1's own, on either side.
    for side in ["00", "01"] {
        bpftool(&format!(
            "map update pinned {} key hex a0 00 00 00 00 00 00 {side} 00 00 00 00 00 00 00 00 00 00 ff ff cb 00 71 09 \
             value hex 01 00 ff ff 00 00 00 00 00 00 00 00",
            map("PLACES"),
        ));
    }
    finds(&lab, "the map PLACES is not what");
    for side in ["00", "01"] {
        bpftool(&format!(
            "map delete pinned {} key hex a0 00 00 00 00 00 00 {side} 00 00 00 00 00 00 00 00 00 00 ff ff cb 00 71 09",
            map("PLACES"),
        ));
    }
    assert_eq!(verify(&lab, &[]).code, 0, "it is as it was");
    for name in ["RULES", "SERVICES", "PORTS"] {
        for key in keys(&lab, name) {
            bpftool(&format!("map delete pinned {} key hex {}", map(name), key.join(" ")));
        }
        finds(&lab, &format!("the map {name} is not what"));
        return_to_good(&lab);
    }
    // Slot 1 is none any more.
    let size = 4;
    let first =
        [2_u32, 3].map(|index| index.to_le_bytes().map(|byte| format!("{byte:02x}")).join(" "));
    for key in first {
        let pin = map("SLOTS");
        let dump = Ended::of(
            Command::new("sh")
                .args(["-c", &format!("bpftool -j map lookup pinned {pin} key hex {key}")]),
        );
        let entry: Value = serde_json::from_str(dump.success()).expect("JSON");
        let zeros = vec!["00"; entry["value"].as_array().expect("bytes").len()].join(" ");
        assert_eq!(key.split(' ').count(), size);
        bpftool(&format!("map update pinned {pin} key hex {key} value hex {zeros}"));
    }
    finds(&lab, "the map SLOTS is not what");
    finds(&lab, "the programs say unknown-port, the policy says");
}

/// A daemon puts everything right, and goes again.
fn return_to_good(lab: &Lab) {
    let daemon = netguard_tests::daemon::start(lab);
    kill(lab, "TERM");
    drop(daemon);
    let good = verify(lab, &[]);
    assert_eq!(good.code, 0, "{good:?}");
}

#[test]
fn a_port_too_many_and_a_port_that_is_not_isolated_are_found() {
    if !can_use_kernel() {
        return;
    }
    let lab = unwatched(Lab::up("veth"));
    let _ = lab.exec("hv", "bridge link set dev vm-slot2 isolated off").success();
    finds(&lab, "vm-slot2 on br-slot2 is not isolated");
    let _ = lab.exec("hv", "bridge link set dev vm-slot2 isolated on").success();
    assert_eq!(verify(&lab, &[]).code, 0);
    let _ = lab
        .shell(
            "hv",
            "ip link add extra0 type veth peer name extra1 && ip link set extra0 master br-slot4",
        )
        .success();
    finds(&lab, "extra0 is a port of br-slot4, and no slot's");
    assert_eq!(verify(&lab, &["slot1"]).code, 0, "another slot's bridge");
}

#[test]
fn a_configuration_that_is_not_in_force_is_found() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::with(netguard::lab::CONFIG, "veth");
    assert_eq!(verify(&lab, &[]).code, 0);
    lab.reconfigure(&netguard::lab::CONFIG.replace("egress = \"pinned\"", "egress = \"open\""));
    finds(&lab, "the map SLOTS is not what");
    finds(&lab, "(internet): the programs say not-pinned, the policy says pass");
}
