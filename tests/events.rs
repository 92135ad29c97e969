//! What happens to netguard itself, told at the control socket, by `netguard events` and in the log: with codes, each once, and none
//! lost with a worker.

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use netguard::datapath::{self, PinDirectory};
use netguard_common::Hook;
use netguard_tests::{
    binary::{Ended, netguard},
    can_use_kernel,
    control::{Stream, request},
    daemon::processes,
    lab::{Background, Lab},
    until,
};
use serde_json::Value;

/// Two slots; names are appended.
const CONFIG: &str = "[dns]\nupstreams = [\"1.1.1.1\"]\ncategories = []\n\
     [[slot]]\nname = \"slot1\"\nid = 1\nsubnet = \"10.1.0.0/24\"\n\
     [[slot]]\nname = \"slot2\"\nid = 2\nsubnet = \"10.2.0.0/24\"\n";

fn remembered(lab: &Lab, query: &str) -> Vec<Value> {
    let stream = Stream::get(lab, &format!("/v1/events?{query}"));
    assert_eq!(stream.status, 200, "{query}");
    stream.collect()
}

fn named<'a>(events: &'a [Value], name: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["event"] == name).collect()
}

#[test]
fn each_order_is_an_event_with_its_code_and_its_slot() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::with(CONFIG, "veth");
    let mut follower = Stream::get(&lab, "/v1/events?follow=true&last=0&slot=slot1");
    for (arguments, name, code) in [
        (&["lock", "slot1"][..], "lock", 541_007),
        (&["unlock", "slot1"], "unlock", 541_008),
        (&["allow", "slot1", "a.example"], "allow-ordered", 541_011),
        (&["deny", "slot1", "a.example"], "deny-ordered", 541_012),
        (&["forget", "slot1", "a.example"], "forget-ordered", 541_013),
    ] {
        let _ = lab.run(&["lock", "slot2"]).success();
        let _ = lab.run(arguments).success();
        // Who has his answer finds it in the stream.
        let found = remembered(&lab, &format!("event={name}&slot=slot1&last=1"));
        let [told] = &found[..] else { panic!("{name}: {found:?}") };
        assert_eq!((&told["code"], &told["slot"]), (&code.into(), &"slot1".into()), "{told}");
        assert_eq!(follower.next().as_ref(), Some(told));
        // The very line of the log, and once.
        let _ = lab.event("line of the event", |event| event == told);
        assert_eq!(lab.events().iter().filter(|event| *event == told).count(), 1);
    }
    let all = remembered(&lab, "");
    let started = named(&all, "started");
    assert!(started.len() == 1 && started[0]["slot"].is_null() && started[0]["version"] == 1);
    assert!(!named(&all, "interface-guarded").is_empty(), "{all:?}");
    for (query, words) in [
        ("event=locked", "there are policy-applied, reload-refused"),
        ("reason=host", "reason=host is no condition; there are slot=NAME, event=NAME"),
        ("since=soon", "since=soon is no time like 10m"),
    ] {
        let (status, body) = request(&lab, "GET", &format!("/v1/events?{query}"), "");
        assert_eq!(status, 400, "{query}: {body}");
        assert!(body["error"].as_str().is_some_and(|error| error.contains(words)), "{body}");
    }
}

#[test]
fn reloads_and_alarms_are_events_and_none_is_lost_with_a_worker() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::with(CONFIG, "veth");
    let pins = PinDirectory::of(&lab.instance().parse().expect("an instance"));
    datapath::detach_pinned(&pins.link("vm-slot2", Hook::PortEgress)).expect("it is detached");
    until("the alarm is told", || !remembered(&lab, "event=detach-alarm").is_empty());
    lab.reconfigure("[[slot]]\nname = 7\n");
    assert_eq!(lab.run(&["reload"]).code, 2);
    lab.reconfigure(&CONFIG.replace("categories = []", "categories = []\nnames = [\"b.example\"]"));
    let _ = lab.run(&["reload", "--confirm", "1"]).success();
    until("it is taken back", || !remembered(&lab, "event=rolled-back").is_empty());
    let _ = lab.run(&["reload", "--confirm", "60"]).success();
    let _ = lab.run(&["confirm"]).success();

    let before = remembered(&lab, "");
    let (_, worker) = processes(&lab);
    let pid = worker.to_string();
    let _ = Ended::of(std::process::Command::new("kill").args(["-KILL", &pid])).success();
    let restarted = || lab.run(&["events", "--event", "worker-restarted"]);
    until("another one tells", || restarted().stdout.contains("541006"));
    let after = remembered(&lab, "");
    assert_eq!(after[..before.len()], before);
    for (name, code, slot) in [
        ("detach-alarm", 541_004, "slot2".into()),
        ("reload-refused", 541_002, Value::Null),
        ("rolled-back", 541_003, Value::Null),
        ("confirmed", 541_019, Value::Null),
        ("worker-ended", 541_020, Value::Null),
        ("worker-restarted", 541_006, Value::Null),
    ] {
        let found = named(&after, name);
        assert!(found.len() == 1, "{name}: {after:?}");
        assert_eq!((&found[0]["code"], &found[0]["slot"]), (&code.into(), &slot), "{name}");
    }
    assert_eq!(named(&after, "policy-applied").len(), 2);
    let counts = request(&lab, "GET", "/v1/status", "").1["daemon"]["events"].clone();
    assert_eq!((&counts["policy-applied"], &counts["detach-alarm"]), (&2.into(), &1.into()));
}

#[test]
fn the_command_line_follows_and_looks_back() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::with(CONFIG, "veth");
    let arguments = ["events", "-f", "--last", "0", "--event", "lock", "--instance"];
    let mut command = netguard(&[&arguments[..], &[&lab.instance()]].concat());
    let mut printed = Background::from(command.stdout(Stdio::piped()).spawn().expect("it starts"));
    let mut printed = BufReader::new(printed.child().stdout.take().expect("its output")).lines();
    // It may ask only after the first of them.
    let (send, lines) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || send.send(printed.next().expect("a line")));
    let mut line = None;
    until("it prints", || {
        let _ = lab.run(&["lock", "slot2"]).success();
        let _ = lab.run(&["unlock", "slot2"]).success();
        line = lines.try_recv().ok();
        line.is_some()
    });
    assert!(reader.join().is_ok());
    let line = line.expect("a line").expect("text");
    assert!(line.ends_with(" lock              541007 slot2    slot slot2 is locked"), "{line}");
    let last = lab.run(&["events", "--slot", "slot2", "--last", "2"]);
    let names: Vec<_> =
        last.success().lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
    assert_eq!(names, ["lock", "unlock"]);
    let json = lab.run(&["events", "--last", "1", "-o", "json"]);
    let event: Value = json.success().parse().expect("JSON");
    assert_eq!((&event["event"], &event["code"]), (&"unlock".into(), &541_008.into()));
    let refused = lab.run(&["events", "--event", "locked"]);
    assert!(
        refused.code == 2 && refused.stderr.contains("there are policy-applied"),
        "{refused:?}"
    );
}
