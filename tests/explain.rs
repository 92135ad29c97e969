//! Questions leave no trace, and their answers are what then really happens.

#[path = "explain/lines.rs"]
mod lines;

use std::collections::BTreeMap;

use netguard::datapath::{Asked, PinnedProgram};
use netguard_common::{
    Hook,
    maps::{ACTIVE, DENIALS, DROPS, NAMES, PLACES, PORTS, RULES, SERVICES, STATE_MAPS},
};
use netguard_tests::{
    binary::{Ended, netguard},
    can_use_kernel,
    control::Stream,
    hosts::shell,
    kernel::{FROM_HOST, Kernel, Outcome, SLOTS},
    lab::{Lab, Packets},
    packet::{BRIDGE_MAC, GUEST_MAC, ip},
    until,
    wire::Wire,
};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng, seq::IndexedRandom as _};
use serde_json::Value;

const WEB: &str = "203.0.113.9";
const GUEST: &str = "10.1.0.2";

/// Every entry of every map that is pinned, but for the ring buffers, which have no entries.
fn maps(kernel: &Kernel) -> BTreeMap<&'static str, String> {
    let names = STATE_MAPS
        .into_iter()
        .chain([ACTIVE, PORTS, PLACES, RULES, SERVICES, NAMES])
        .filter(|name| ![DROPS, DENIALS].contains(name));
    let dump = |name| {
        let pin = kernel.pins().map(name);
        shell(&format!("bpftool map dump pinned {}", pin.display())).success().to_owned()
    };
    names.map(|name| (name, dump(name))).collect()
}

#[test]
fn a_dry_run_leaves_no_trace_and_says_what_a_packet_meets() {
    if !can_use_kernel() {
        return;
    }
    let more = "id = 1\negress = \"open\"\nlimits = { packets_per_second = 1000, flows_per_second = 1000 }\n";
    let slots = format!("[limits]\nflows = 2048\n{}", SLOTS.replace("id = 1\n", more));
    let mut kernel = Kernel::with(&slots);
    let open =
        |kernel: &Kernel, hook| PinnedProgram::open(kernel.pins(), hook).expect("it is pinned");
    let leaving = open(&kernel, Hook::PortEgress);
    let entering = open(&kernel, Hook::PortIngress);
    let syn = ip(GUEST, WEB).tcp_syn(40000, 443);
    let query = ip(GUEST, "8.8.8.8").udp(40001, 53, b"query");
    let question = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x01a\x06nobody\x07invalid\0\0\x01\0\x01";
    let denied = ip(GUEST, "8.8.8.8").udp(40002, 53, question);
    let first =
        ip(GUEST, WEB).fragment(17, 7, 0, true, &ip(GUEST, WEB).udp(1, 2, &[0; 16])[34..58]);
    // In this order each meets what the ones before have left.
    let steps: Vec<(&str, Hook, Vec<u8>, u32)> = vec![
        ("a new flow", Hook::PortEgress, syn.clone(), 0),
        ("the same again", Hook::PortEgress, syn, 0),
        ("its answer", Hook::PortIngress, ip(WEB, GUEST).tcp_flags(443, 40000, 0x12), FROM_HOST),
        ("a segment", Hook::PortEgress, ip(GUEST, WEB).tcp_ack(40000, 443, b"hello"), 0),
        ("a stray segment", Hook::PortEgress, ip(GUEST, WEB).tcp_ack(40009, 443, b"hello"), 0),
        ("a query", Hook::PortEgress, query.clone(), 0),
        ("the query again", Hook::PortEgress, query, 0),
        ("a query for what no list has", Hook::PortEgress, denied, 0),
        ("a ping", Hook::PortEgress, ip(GUEST, WEB).ping(9), 0),
        ("to another slot", Hook::PortEgress, ip(GUEST, "10.2.0.2").tcp_syn(1, 80), 0),
        ("first fragment", Hook::PortEgress, first, 0),
        ("last fragment", Hook::PortEgress, ip(GUEST, WEB).fragment(17, 7, 3, false, &[0; 8]), 0),
        ("unasked", Hook::PortIngress, ip(WEB, GUEST).tcp_syn(80, 80), FROM_HOST),
        ("from management", Hook::PortIngress, ip("100.64.0.9", GUEST).tcp_syn(80, 22), FROM_HOST),
        ("unguarded", Hook::PortIngress, ip(WEB, GUEST).tcp_syn(80, 81), 0),
    ];
    let mut before = maps(&kernel);
    for (what, hook, frame, mark) in steps {
        let program = if hook == Hook::PortEgress { &leaving } else { &entering };
        let asked = program.ask(&frame, 1, mark).expect("an answer");
        let after = maps(&kernel);
        for (name, entries) in &before {
            assert!(after.get(name) == Some(entries), "{what}: the map {name} has changed");
        }
        assert_eq!(kernel.records().len(), 0, "{what}: a record was written");
        let (outcome, _) = kernel.probe(hook, &frame, mark);
        let met = match outcome {
            Outcome::Pass => Asked::Pass,
            Outcome::Redirect => Asked::Redirect,
            Outcome::Answer => Asked::Answer,
            Outcome::Drop(reason) => Asked::Drop(reason),
            Outcome::Continue => panic!("{what}: nobody has decided"),
        };
        assert_eq!(asked, met, "{what}");
        let left = maps(&kernel);
        assert!(left != before, "{what}: a real packet leaves something");
        before = left;
    }
}

/// What an answer says, as counters have it: `pass`, `redirect`, or the reason.
fn outcome(answer: &Value) -> String {
    let verdict = answer["verdict"].as_str().expect("a verdict");
    answer["reason"].as_str().unwrap_or(verdict).to_owned()
}

fn drops(counters: &Packets) -> Packets {
    let is_drop = |outcome: &str| !["pass", "redirect", "answer"].contains(&outcome);
    counters.iter().filter(|((_, it), _)| is_drop(it)).map(|(key, it)| (key.clone(), *it)).collect()
}

#[test]
fn two_hundred_packets_meet_what_explain_says() {
    if !can_use_kernel() {
        return;
    }
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let lab = Lab::open("veth");
    let slots = ["slot1", "slot2", "slot3", "slot4", "slot5"];
    let mut wires: BTreeMap<_, _> =
        slots.iter().map(|slot| (*slot, Wire::on(&lab, slot, "eth0"))).collect();
    let macs: BTreeMap<_, _> = slots.iter().map(|slot| (*slot, lab.mac(slot, "eth0"))).collect();
    let destinations = [
        "10.1.0.2",
        "10.2.0.2",
        "10.3.0.9",
        "10.4.0.1",
        "203.0.113.10",
        "203.0.113.77",
        "198.51.100.7",
        "192.168.1.1",
        "172.16.9.9",
        "169.254.169.254",
        "169.254.3.3",
        "8.8.8.8",
        "1.1.1.1",
        "100.64.0.2",
        "192.0.2.2",
        "192.0.2.255",
        "224.0.0.9",
        "127.0.0.1",
        "240.0.0.1",
    ];
    let mut met: BTreeMap<String, u32> = BTreeMap::new();
    for number in 0..200_u16 {
        let slot = *slots.choose(&mut random).expect("a slot");
        let destination = *destinations.choose(&mut random).expect("a destination");
        let port = *[22_u16, 53, 80, 443, 853, 5353].choose(&mut random).expect("a port");
        let protocol = *["tcp", "udp", "icmp"].choose(&mut random).expect("a protocol");
        let source = format!("10.{}.0.{}", &slot[4..], random.random_range(2..250_u8));
        let source =
            if source == destination { format!("10.{}.0.251", &slot[4..]) } else { source };
        let path = ip(&source, destination).from_mac(macs[slot]);
        let sender = 20_000 + number;
        let frame = match protocol {
            "tcp" => path.tcp_syn(sender, port),
            "udp" => path.udp(sender, port, b"netguard"),
            _ => path.ping(sender),
        };
        let ended = Ended::of(&mut netguard(&[
            "explain",
            slot,
            &format!("{destination}:{port}"),
            "--proto",
            protocol,
            "-o",
            "json",
            "--instance",
            &lab.instance(),
        ]));
        let answer: Value = ended.stdout.parse().unwrap_or_else(|_| panic!("{ended:?}"));
        let what = format!("{number}: {protocol} from {source} of {slot} to {destination}:{port}");
        let expected = outcome(&answer);
        assert_eq!(ended.code, if answer["reason"].is_null() { 0 } else { 3 }, "{what}");
        let before = lab.counters(slot);
        let key = ("egress".to_owned(), expected.clone());
        wires.get_mut(slot).expect("its wire").send(&frame);
        let count = |counters: &Packets| counters.get(&key).copied().unwrap_or_default();
        until(&format!("{what} is counted as {expected}"), || {
            count(&lab.counters(slot)) > count(&before)
        });
        let (mut old, mut new) = (drops(&before), drops(&lab.counters(slot)));
        old.retain(|other, _| *other != key && other.0 == "egress");
        new.retain(|other, _| *other != key && other.0 == "egress");
        assert_eq!(old, new, "{what}: expected {expected}");
        if !answer["reason"].is_null() {
            let is_it = |it: &Value| it["src"] == source.as_str() && it["dst"] == destination;
            let record = record(&lab, &format!("slot={slot}&reason={expected}"), is_it);
            assert_same(&answer, &record);
        }
        *met.entry(expected).or_default() += 1;
    }
    println!("{met:?}");
    assert!(met.len() > 8, "packets that are all alike prove nothing: {met:?}");
}

fn explain(lab: &Lab, words: &[&str]) -> Ended {
    let _instance = lab.instance();
    lab.run(&[&["explain"], words].concat())
}

fn answer(lab: &Lab, words: &[&str]) -> (i32, Value) {
    let ended = explain(lab, &[words, &["-o", "json"]].concat());
    let answer = ended.stdout.parse().unwrap_or_else(|_| panic!("{ended:?}"));
    (ended.code, answer)
}

/// The daemon's latest record that fits.
fn record(lab: &Lab, query: &str, fits: impl Fn(&Value) -> bool) -> Value {
    let mut found = None;
    until(&format!("a record of {query}"), || {
        found = Stream::get(lab, &format!("/v1/drops?{query}")).filter(&fits).last();
        found.is_some()
    });
    found.expect("it was there")
}

/// What was said before and what the record says then are the same, down to the line.
fn assert_same(answer: &Value, record: &Value) {
    for key in ["reason", "code", "line", "because", "name"] {
        assert_eq!(answer[key], record[key], "{key} of {answer} and {record}");
        assert!(key == "name" || !record[key].is_null(), "{key} of {record}");
    }
}

#[test]
fn names_come_first_and_say_why() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::up("veth");
    let explain = |words: &[&str]| explain(&lab, words);
    let denied = explain(&["slot1", "evil.example"]);
    assert_eq!(
        (denied.code, denied.stdout.trim()),
        (3, "name evil.example: denied, unlisted (the lab's configuration (default of names))")
    );
    let unasked = explain(&["slot1", "github.com"]);
    assert_eq!(unasked.code, 1, "{unasked:?}");
    assert!(
        unasked.stdout.starts_with(
            "name github.com: allowed by \"github.com\" of code-hosting (the shipped allowlist:"
        ),
        "{unasked:?}"
    );
    assert!(unasked.stderr.contains("no address of it is pinned for slot1"), "{unasked:?}");
    let address = "203.0.113.10";
    let early = explain(&["slot1", address, "--name", "github.com"]);
    assert_eq!(early.code, 3, "{early:?}");
    assert!(early.stdout.contains("would be dropped: not-pinned (540047)"), "{early:?}");
    assert_eq!(lab.exec("slot1", "dig +short github.com @8.8.8.8").success().trim(), address);
    let asked = explain(&["slot1", "github.com:443"]);
    assert_eq!(asked.code, 0, "{asked:?}");
    assert!(asked.stdout.contains("pinned now: 203.0.113.10"), "{asked:?}");
    assert!(asked.stdout.contains(": would pass\n"), "{asked:?}");
    let other = explain(&["slot2", address]);
    assert_eq!(other.code, 3, "{other:?}");
    let _ = lab.run(&["deny", "slot1", "github.com"]).success();
    let said = explain(&["slot1", "github.com"]);
    assert_eq!(said.code, 3, "{said:?}");
    assert!(said.stdout.contains("denied, denied-at-run-time by \"github.com\""), "{said:?}");
    // Both directions between slots, and what nobody can ask about.
    let into = explain(&["slot1", "10.2.0.2", "--in"]);
    assert_eq!(into.code, 3, "{into:?}");
    assert!(into.stdout.contains("cross-slot (540017)"), "{into:?}");
    assert_eq!(explain(&["slot1", "100.64.0.2", "--in"]).code, 0);
    for bad in [&["slot9", "10.2.0.2"][..], &["slot1", "a:b:c"]] {
        assert_eq!(explain(bad).code, 2, "{bad:?}");
    }
}

/// The frames of this file's tests are those of the fixture's slot.
#[test]
fn the_builder_makes_what_the_tests_builder_makes() {
    use netguard::explain::{Carried, Packet};
    let packet = |carried| Packet {
        from_mac: GUEST_MAC,
        to_mac: BRIDGE_MAC,
        src: GUEST.parse().expect("an address"),
        dst: WEB.parse().expect("an address"),
        carried,
    };
    let build = |carried| packet(carried).build().expect("a frame");
    assert_eq!(build(Carried::Tcp(7, 80)), ip(GUEST, WEB).tcp_syn(7, 80));
    assert_eq!(build(Carried::Udp(7, 80)), ip(GUEST, WEB).udp(7, 80, b"netguard"));
    let other =
        Packet { dst: "2001:db8::1".parse().expect("an address"), ..packet(Carried::Ping(1)) };
    assert!(other.build().is_err());
}
