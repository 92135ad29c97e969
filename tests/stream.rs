//! Drops as they come, at the control socket and by `netguard drops`: what guests really do, told to who follows it.

use std::{
    io::{BufRead as _, BufReader},
    net::{IpAddr, UdpSocket},
    process::Stdio,
};

use netguard_tests::{
    binary::netguard,
    can_use_kernel,
    client::connect_once,
    control::{Stream, request},
    lab::{Background, Lab},
    until,
};
use serde_json::Value;

const METADATA: &str = "169.254.169.254";

/// What a slot must not send, each for another reason.
const FORBIDDEN: [(&str, u16); 8] = [
    (METADATA, 9),
    ("10.2.0.2", 9),
    ("10.1.0.1", 9),
    ("192.168.7.7", 9),
    ("169.254.7.7", 9),
    ("203.0.113.10", 853),
    ("1.1.1.1", 9),
    ("239.1.1.1", 9),
];

/// Two slots of two runtimes.
const CONFIG: &str = "[host]\nuplinks = [\"eth0\"]\n[dns]\nupstreams = [\"1.1.1.1\"]\ncategories = []\n\
     [[runtime]]\nname = \"vm\"\n[[runtime]]\nname = \"some pods\"\n\
     [[slot]]\nname = \"slot1\"\nid = 1\nsubnet = \"10.1.0.0/24\"\nruntime = \"vm\"\n\
     [[slot]]\nname = \"slot2\"\nid = 2\nsubnet = \"10.2.0.0/24\"\nruntime = \"some pods\"\n";

/// One packet that is dropped as `metadata`.
fn knock(lab: &Lab, slot: u8) {
    flood(lab, slot, 1);
}

fn flood(lab: &Lab, slot: u8, packets: u32) {
    lab.within(&format!("slot{slot}"), || {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        for _ in 0..packets {
            // What its own system does not take is not sent.
            let _ = socket.send_to(b"x", (METADATA, 9));
        }
    });
}

/// What the daemon remembers.
fn remembered(lab: &Lab, query: &str) -> Vec<Value> {
    let stream = Stream::get(lab, &format!("/v1/drops?{query}"));
    assert_eq!(stream.status, 200, "{query}");
    stream.collect()
}

#[test]
fn a_drop_is_told_to_who_follows_and_to_who_asks_later() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::with(CONFIG, "veth");
    let mut follower =
        Stream::get(&lab, "/v1/drops?follow=true&last=0&runtime=some%20pods&reason=metadata");
    assert_eq!(follower.status, 200);
    let arguments = ["drops", "-f", "--slot", "slot2", "--reason", "metadata", "--instance"];
    let mut command = netguard(&[&arguments[..], &[&lab.instance()]].concat());
    let mut printed = Background::from(command.stdout(Stdio::piped()).spawn().expect("it starts"));
    let mut printed = BufReader::new(printed.child().stdout.take().expect("its output")).lines();
    knock(&lab, 1);
    let metadata: IpAddr = METADATA.parse().expect("an address");
    assert!(lab.within("slot2", || connect_once(metadata, 80)).is_err());
    let told = follower.next().expect("a drop");
    let is_it =
        [("slot", "slot2"), ("runtime", "some pods"), ("reason", "metadata"), ("dst", METADATA)];
    assert!(is_it.iter().all(|(key, value)| told[key] == *value), "{told}");
    assert_eq!((&told["dst_port"], &told["code"]), (&80.into(), &540_019.into()));
    // The very line of the journal.
    let logged = lab.event("line of the drop", |event| *event == told);
    assert_eq!(logged["event"], "drop");
    // Whether he asked before the drop or after it.
    let line = printed.next().expect("a line").expect("text");
    assert!(
        line.contains("drop  slot2    egress  metadata            540019 tcp 10.2.0.2:"),
        "{line}"
    );

    let last = remembered(&lab, "runtime=some%20pods&reason=metadata&last=1");
    assert_eq!(last, std::slice::from_ref(&told));
    let last = lab.run(&["drops", "--reason", "metadata", "--last", "1", "-o", "json"]);
    assert_eq!(last.success().parse::<Value>().expect("JSON"), told);
    let last = lab.run(&["drops", "--runtime", "vm", "--reason", "metadata"]);
    assert!(last.success().lines().count() == 1 && last.stdout.contains(" slot1 "), "{last:?}");
    for (query, expected, words) in [
        ("slot=slot9", 404, "there are slot1, slot2"),
        ("runtime=pods", 404, "there are vm, some pods"),
        ("reason=none", 400, "there are cross-runtime, truncated"),
        ("last=-1", 400, "last=-1 is no number"),
        ("follow=yes", 400, "follow=true or false"),
        ("since=soon", 400, "since=soon is no time like 10m"),
        ("to=203.0.113", 400, "\"203.0.113\" is no address"),
        ("until=1h", 400, "until=1h is no condition"),
    ] {
        let (status, body) = request(&lab, "GET", &format!("/v1/drops?{query}"), "");
        assert_eq!(status, expected, "{query}: {body}");
        assert!(body["error"].as_str().is_some_and(|error| error.contains(words)), "{body}");
    }
    let refused = lab.run(&["drops", "--slot", "slot9"]);
    assert!(refused.code == 2 && refused.stderr.contains("there are slot1, slot2"), "{refused:?}");
}

#[test]
fn one_slots_flood_does_not_hide_anothers_drop() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::with(CONFIG, "veth");
    knock(&lab, 2);
    until("it is remembered", || remembered(&lab, "slot=slot2&reason=metadata").len() == 1);
    flood(&lab, 1, 3000);
    let of_flood = || remembered(&lab, "slot=slot1");
    until("the flood has filled its share", || of_flood().len() >= 256);
    flood(&lab, 1, 3000);
    let dropped = || lab.packets("slot1", "egress", "metadata");
    assert!(dropped() > 3000);
    assert_eq!(of_flood().len(), 256);
    assert_eq!(remembered(&lab, "slot=slot2&reason=metadata").len(), 1);
    assert!(remembered(&lab, "").iter().any(|drop| drop["slot"] == "slot2"));
}

#[test]
fn a_follower_that_reads_nothing_holds_nobody_up() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::with(CONFIG, "veth");
    let mut deaf = Stream::get(&lab, "/v1/drops?follow=true&last=0&slot=slot1");
    let mut other = Stream::get(&lab, "/v1/drops?follow=true&last=0&slot=slot2&reason=metadata");
    let logged = || lab.events().iter().filter(|event| event["slot"] == "slot1").count();
    // More than his queue and all buffers on the way hold. Of one reason alone a second has too few records.
    while logged() < 8000 {
        lab.within("slot1", || {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
            for target in FORBIDDEN {
                for _ in 0..512 {
                    let _ = socket.send_to(b"x", target);
                }
            }
        });
    }
    knock(&lab, 2);
    assert_eq!(other.next().expect("a drop")["slot"], "slot2");
    assert_eq!(request(&lab, "GET", "/v1/slots", "").0, 200);
    // What he has not got was counted; the last of it is told as soon as he takes what waits.
    let (all, mut drops, mut lost) = (logged() as u64, 0, 0);
    while drops + lost < all {
        let line = deaf.next().expect("a line");
        match line["lost"].as_u64() {
            Some(count) => lost += count,
            None => drops += 1,
        }
    }
    assert!(lost > 0 && drops > 0, "{drops} drops, {lost} lost");
    // What comes meanwhile is what is left to tell of the flood.
    assert!(drops + lost <= logged() as u64, "{drops} drops, {lost} lost");
}

#[test]
fn followers_have_places_of_their_own_and_leave_them() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::with(CONFIG, "veth");
    let follow = || Stream::get(&lab, "/v1/drops?follow=true&last=0");
    let mut followers: Vec<_> = (0..16).map(|_| follow()).collect();
    assert!(followers.iter().all(|follower| follower.status == 200));
    let (status, body) = request(&lab, "GET", "/v1/drops?follow=true", "");
    assert_eq!(status, 503, "{body}");
    assert!(body["error"].as_str().is_some_and(|error| error.contains("16 follow already")));
    assert_eq!(request(&lab, "GET", "/v1/slots", "").0, 200);
    assert_eq!(Stream::get(&lab, "/v1/drops").status, 200);
    // Nothing is dropped meanwhile: that he has gone is noticed all the same.
    followers.pop();
    until("his place is free", || follow().status == 200);
}
