//! `netguard doctor`: a host as it should be has nothing to complain of; what is broken there is named, and so is who drops
//! packets. All of it in a lab's own hypervisor.

#[path = "doctor/table.rs"]
mod table;
#[path = "doctor/watch.rs"]
mod watch;

use std::path::Path;

use aya::programs::{
    LinkOrder, SchedClassifier, TcAttachType,
    tc::{SchedClassifierLink, TcAttachOptions},
};
use netguard::{
    config::Config,
    datapath::Tc,
    doctor::{Machine, examine},
};
use netguard_common::Hook;
use netguard_tests::{
    binary::Ended, can_use_kernel, daemon::kill, kernel::Kernel, lab::Lab, until,
};
use serde_json::Value;
use table::BROKEN;

/// What is the machine's own and no lab's.
const OF_MACHINE: [&str; 4] = ["kernel-config", "bpf-jit", "unprivileged-bpf", "network"];

fn doctor(lab: &Lab, words: &[&str]) -> Ended {
    let _instance = lab.instance();
    lab.run(&[&["doctor"], words].concat())
}

/// What was found about the lab: severity, check, and the finding itself.
fn findings(lab: &Lab) -> Vec<(String, String, Value)> {
    let ended = doctor(lab, &["--json"]);
    let answer: Value = serde_json::from_str(ended.stdout.trim()).expect("JSON");
    let all = answer["findings"].as_array().expect("findings").clone();
    let has_fault = all.iter().any(|it| it["severity"] != "note");
    assert_eq!(ended.code, if has_fault { 3 } else { 0 }, "{ended:?}");
    assert_eq!(answer["good"], !has_fault);
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let of_lab = all.into_iter().filter(|it| !OF_MACHINE.contains(&text(&it["check"]).as_str()));
    of_lab.map(|it| (text(&it["severity"]), text(&it["check"]), it)).collect()
}

fn faults(lab: &Lab) -> Vec<(String, String, Value)> {
    findings(lab).into_iter().filter(|(severity, ..)| severity != "note").collect()
}

#[test]
fn a_host_as_it_should_be_has_nothing_broken_or_weak() {
    if !can_use_kernel() {
        return;
    }
    for lab in
        [Lab::up("veth"), Lab::up("tap"), Lab::of("mixed", "veth"), Lab::of("lockdown", "tap")]
    {
        assert_eq!(faults(&lab), []);
    }
}

#[test]
fn what_is_broken_on_the_host_is_named_and_nothing_else() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::up("veth");
    let before = findings(&lab);
    for [done, undone, severity, check, words] in BROKEN {
        let _ = lab.shell("hv", done).success();
        let mut found = findings(&lab);
        found.retain(|it| !before.contains(it));
        assert!(!found.is_empty(), "{done}: nothing was found");
        for (its_severity, its_check, finding) in &found {
            assert_eq!((its_severity.as_str(), its_check.as_str()), (severity, check), "{finding}");
            assert!(finding["what"].as_str().is_some_and(|it| it.contains(words)), "{finding}");
        }
        let _ = lab.shell("hv", undone).success();
        assert_eq!(findings(&lab), before, "after {undone}");
    }
    let text = doctor(&lab, &[]);
    assert_eq!(text.code, 0, "{text:?}");
    assert!(text.stdout.contains("32 checks: ") && !text.stdout.contains('\u{1b}'), "{text:?}");
}

#[test]
fn a_listener_in_the_resolvers_place_is_named_with_its_process() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::up("veth");
    kill(&lab, "TERM");
    assert_eq!(faults(&lab), []);
    for address in ["10.3.0.1", "0.0.0.0"] {
        let script = format!(
            "import socket, time\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.bind(('{address}', 53))\n\
             time.sleep(600)"
        );
        let mut server = lab.start("hv", &format!("exec python3 -c \"{script}\""));
        let pid = server.child().id();
        let found = || faults(&lab);
        until("it is found", || !found().is_empty());
        let found = found();
        let [(severity, check, finding)] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((severity.as_str(), check.as_str()), ("broken", "resolver-port"));
        let what = finding["what"].as_str().expect("a text");
        assert!(what.contains(&format!("(process {pid}) listens on udp {address}:53")), "{what}");
        drop(server);
        assert_eq!(faults(&lab), []);
    }
}

#[test]
fn programs_of_others_are_named_before_netguards_and_behind() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::up("veth");
    let before = findings(&lab);
    let other = std::thread::spawn(Kernel::new).join().expect("other programs");
    let pin = other.pins().program(Hook::BridgeIngress);
    let mut program = SchedClassifier::from_pin(&pin).expect("its program");
    let name = format!("program {} (ng_br_ingress)", program.info().expect("the program").id());
    let new = || {
        let mut found = findings(&lab);
        found.retain(|it| !before.contains(it));
        let [(severity, check, finding)] = found.as_slice() else { panic!("{found:?}") };
        (severity.clone(), check.clone(), finding["what"].as_str().expect("a text").to_owned())
    };
    let filter = format!(
        "tc qdisc add dev br-slot1 clsact 2>/dev/null; \
         tc filter add dev br-slot1 ingress protocol all prio 7 bpf da object-pinned {}",
        pin.display()
    );
    let _ = lab.shell("hv", &filter).success();
    let behind =
        ("note".into(), "program-behind".into(), format!("{name} is on br-slot1 too (ingress)"));
    assert_eq!(new(), behind);
    let _ = lab.exec("hv", "tc filter del dev br-slot1 ingress protocol all prio 7").success();
    assert_eq!(findings(&lab), before);
    if Tc::of_kernel() != Tc::Tcx {
        return; // nothing comes before netguard's filters there
    }
    let link: SchedClassifierLink = lab.within("hv", || {
        let first = TcAttachOptions::TcxOrder(LinkOrder::first());
        let id = program.attach_with_options("vm-slot2", TcAttachType::Ingress, first);
        program.take_link(id.expect("it is attached")).expect("the link")
    });
    let what = format!("{name} runs before netguard's on vm-slot2 (ingress)");
    assert_eq!(new(), ("weak".into(), "program-before".into(), what));
    drop(link);
    assert_eq!(findings(&lab), before);
}

#[test]
fn a_configuration_is_enough_before_anything_is_loaded() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::unguarded("veth");
    let config = Config::parse(netguard::lab::CONFIG, Path::new("netguard.toml")).expect("good");
    let machine = Machine::read();
    let broken = |lab: &Lab| {
        let found = lab.within("hv", || examine(None, &config, &machine)).expect("a diagnosis");
        assert!(found.text(false).contains("\nno instance, netguard.toml, kernel "));
        let found = found.json();
        let all = found["findings"].as_array().expect("findings").iter();
        let broken = all.filter(|it| it["severity"] == "broken" && it["check"] != "kernel-config");
        broken.map(|it| it["check"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(broken(&lab), Vec::<Value>::new());
    let _ = lab.exec("hv", "ip addr add 10.5.0.9/32 dev lo").success();
    assert_eq!(broken(&lab), ["address"]);
    assert_eq!(doctor(&lab, &[]).code, 1, "nothing guards it");
    assert_eq!(doctor(&lab, &["--for", "1s"]).code, 2, "only with --watch");
}
