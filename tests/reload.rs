//! Another policy takes one's place: every packet sees the one or the other, never something of both.

use std::{
    net::IpAddr,
    num::NonZero,
    ops::Range,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use DropReason as R;
use ipnet::IpNet;
use netguard::{
    datapath::{Error, PinnedAddresses, PinnedProgram, View, counters},
    policy::{Plan, Prefix},
};
use netguard_common::{
    DropReason, Hook, NO_SLOT,
    maps::{Place, PlaceEntry, PortEntry, PortKind, read_name, write_name},
};
use netguard_tests::{
    can_use_kernel,
    kernel::{FROM_HOST, Kernel, Outcome},
    packet::ip,
};

/// The packet was dropped.
const TC_SHOT: u32 = 2;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const GUEST: &str = "10.1.0.2";
/// Each in a network that is the internet under one policy and the management network under the other.
const P: &str = "203.0.113.9";
const Q: &str = "203.0.112.9";

/// `lo` is slot 1's, and reaches what is listed.
const FIRST: &str = r#"
[host]
management = ["203.0.112.0/24"]
[dns]
upstreams = ["1.1.1.1"]
[[slot]]
name = "one"
id = 1
bridge = "br-slot1"
port = "lo"
subnet = "10.1.0.0/24"
egress = "listed"
allow = ["203.0.112.0/24 tcp/22", "203.0.113.0/24 tcp/443"]
[[slot]]
name = "other"
id = 3
bridge = "br-slot3"
port = "vm-slot3"
subnet = "10.3.0.0/24"
"#;

/// `lo` is slot 2's, and reaches what is not denied.
const SECOND: &str = r#"
[host]
management = ["203.0.113.0/24"]
[dns]
upstreams = ["1.1.1.1"]
[[slot]]
name = "two"
id = 2
bridge = "br-slot1"
port = "lo"
subnet = "10.1.0.0/24"
egress = "open"
allow = ["203.0.114.0/24 tcp/80"]
deny = ["203.0.112.0/24 tcp/22"]
[[slot]]
name = "three"
id = 3
bridge = "br-slot3"
port = "vm-slot3"
subnet = "10.3.0.0/24"
"#;

/// What the verdict stage says of a SYN to P's port 80, then to Q's port 22. Where one policy's places meet the other's
/// slots and rules, one of the two passes; where slots meet ports, there is no slot.
fn verdicts(kernel: &mut Kernel) -> [Outcome; 2] {
    [ip(GUEST, P).tcp_syn(40_000, 80), ip(GUEST, Q).tcp_syn(40_000, 22)]
        .map(|frame| kernel.verdict(Hook::PortEgress, &frame, 0).0)
}

const OF_FIRST: [Outcome; 2] = [Outcome::Drop(R::EgressDenied), Outcome::Drop(R::Management)];
const OF_SECOND: [Outcome; 2] = [Outcome::Drop(R::Management), Outcome::Drop(R::EgressDenied)];

/// Loads the programs so that either policy fits, for both have as many slots by number, with the first one in force.
fn kernel() -> Kernel {
    let mut kernel = Kernel::with(SECOND);
    kernel.apply(FIRST);
    kernel
}

/// The plans of the two policies.
fn plans(kernel: &mut Kernel) -> [Plan; 2] {
    [SECOND, FIRST].map(|toml| {
        kernel.apply(toml);
        kernel.plan()
    })
}

/// Ends what runs beside a test, also when that fails.
struct Until<'a>(&'a AtomicBool);

impl Drop for Until<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

const SWAPS: Range<usize> = 0..150;

#[test]
fn no_packet_sees_something_of_two_policies() {
    if !can_use_kernel() {
        return;
    }
    let mut kernel = kernel();
    let plans = plans(&mut kernel);
    let pins = kernel.pins().clone();
    let (is_over, passed, judged) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let frames = [ip(GUEST, P).tcp_syn(40_000, 80), ip(GUEST, Q).tcp_syn(40_000, 22)];
    let put = || {
        let program = PinnedProgram::open(&pins, Hook::PortEgress).expect("the pinned program");
        for frame in frames.iter().cycle().take_while(|_| !is_over.load(Ordering::Relaxed)) {
            let probed = program.probe(frame, 0).expect("the program runs");
            passed.fetch_add((probed.mark != 0).into(), Ordering::Relaxed);
            judged.fetch_add(1, Ordering::Relaxed);
        }
    };
    // One processor is for the swaps.
    let processors = thread::available_parallelism().map_or(2, NonZero::get);
    thread::scope(|scope| {
        let _until = Until(&is_over);
        for _ in 1..processors.max(2) {
            scope.spawn(put);
        }
        for swap in SWAPS {
            let _ = kernel.datapath().apply(plans[swap % 2].clone()).expect("the maps take it");
            if swap % 3 == 0 {
                let _ = kernel.datapath().settle().expect("the maps take it again");
            }
        }
    });
    let judged = judged.into_inner();
    println!("{judged} packets while the policy changed {} times", SWAPS.len());
    assert_eq!(passed.into_inner(), 0, "of {judged} packets passed, which neither policy lets");
    let rows = counters(&pins, [NO_SLOT, 1, 2].into_iter()).expect("the counters");
    let good = [R::EgressDenied as u8, R::Management as u8];
    let torn: Vec<_> = rows.iter().filter(|row| !good.contains(&row.outcome)).collect();
    assert!(torn.is_empty(), "of {judged} packets some met {torn:?}");
    // Both were in force.
    for slot in [1, 2] {
        let count = rows.iter().filter(|row| row.slot_id == slot).map(|row| row.counter.packets);
        assert!(count.sum::<u64>() > 0, "no packet met slot {slot}");
    }
}

#[test]
fn an_apply_that_fails_changes_nothing_and_leaves_nothing_behind() {
    if !can_use_kernel() {
        return;
    }
    let mut kernel = kernel();
    let [second, first] = plans(&mut kernel);
    assert_eq!(verdicts(&mut kernel), OF_FIRST);
    // It fails at its last entry, a slot for which the map has no room. What else it says would open P.
    let mut bad = second.clone();
    let host = Prefix::from(P.parse::<IpAddr>().map(IpNet::from).expect("an address"));
    let internet = PlaceEntry {
        place: Place::Internet as u8,
        prefix_length: 128,
        slot_id: NO_SLOT,
        runtime: 0,
        _reserved: 0,
        services: 0,
    };
    bad.places.insert(host, internet);
    bad.slots.insert(4000, bad.slots[&2]);
    for _ in 0..3 {
        let refused = kernel.datapath().apply(bad.clone()).expect_err("no such entry");
        assert!(matches!(refused, Error::Map { name: "SLOTS", .. }), "{refused}");
        assert_eq!(verdicts(&mut kernel), OF_FIRST);
    }
    // One that is too large is refused before it is begun.
    let mut large = second.clone();
    let port =
        PortEntry { slot_id: 3, kind: PortKind::Uplink as u8, link: 0, name: write_name("x") };
    large.ports.extend((1000..80_000).map(|index| (index, port)));
    let refused = kernel.datapath().apply(large).expect_err("too many");
    assert!(matches!(refused, Error::Room { name: "PORTS", .. }), "{refused}");
    assert_eq!(verdicts(&mut kernel), OF_FIRST);
    // So is one whose flows have no room.
    let more = Plan { flow_entries: second.flow_entries * 2, ..second.clone() };
    let refused = kernel.datapath().apply(more).expect_err("too many flows");
    assert!(matches!(refused, Error::Resized), "{refused}");
    assert_eq!(verdicts(&mut kernel), OF_FIRST);
    // The next one finds nothing of it.
    let _ = kernel.datapath().apply(second).expect("the maps take it");
    assert_eq!(verdicts(&mut kernel), OF_SECOND);
    let _ = kernel.datapath().apply(first).expect("the maps take it");
    assert_eq!(verdicts(&mut kernel), OF_FIRST);
}

/// A listed slot that may open TCP connections to port 443 of P, and to what else is said.
fn listed(more: &str) -> String {
    let two = "\"203.0.112.0/24 tcp/22\", \"203.0.113.0/24 tcp/443\"";
    let management = "[\"203.0.112.0/24\"]";
    FIRST.replace(two, &format!("\"203.0.113.0/24 tcp/443\"{more}")).replace(management, "[]")
}

#[test]
fn flows_that_the_next_policy_allows_lose_no_packet_and_others_end_at_once() {
    if !can_use_kernel() {
        return;
    }
    let (wide, narrow) = (listed(", \"203.0.112.0/24 tcp/22\""), listed(""));
    let mut kernel = Kernel::with(&wide);
    let pins = kernel.pins().clone();
    let plans = [&narrow, &wide].map(|toml| {
        kernel.apply(toml);
        kernel.plan()
    });
    for (peer, port) in [(P, 443), (Q, 22)] {
        let (out, back) = (ip(GUEST, peer), ip(peer, GUEST));
        assert_eq!(kernel.egress(&out.tcp_syn(40_000, port)), Outcome::Pass);
        assert_eq!(kernel.ingress(&back.tcp_flags(port, 40_000, SYN | ACK)), Outcome::Pass);
        assert_eq!(kernel.egress(&out.tcp_ack(40_000, port, b"")), Outcome::Pass);
    }
    let kept = [
        (Hook::PortEgress, ip(GUEST, P).tcp_ack(40_000, 443, b"data"), 0),
        (Hook::PortIngress, ip(P, GUEST).tcp_ack(443, 40_000, b"data"), FROM_HOST),
    ];
    let leaves = ip(GUEST, Q).tcp_ack(40_000, 22, b"data");
    let enters = ip(Q, GUEST).tcp_ack(22, 40_000, b"data");
    let (is_over, lost) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let _until = Until(&is_over);
        scope.spawn(|| {
            let kept = kept.map(|(hook, frame, mark)| {
                (PinnedProgram::open(&pins, hook).expect("the pinned program"), frame, mark)
            });
            while !is_over.load(Ordering::Relaxed) {
                for (program, frame, mark) in &kept {
                    let probed = program.probe(frame, *mark).expect("the program runs");
                    lost.fetch_add((probed.action == TC_SHOT).into(), Ordering::Relaxed);
                }
            }
        });
        let ended = [
            PinnedProgram::open(&pins, Hook::PortEgress),
            PinnedProgram::open(&pins, Hook::PortIngress),
        ];
        let [egress, ingress] = ended.map(|program| program.expect("the pinned program"));
        for swap in 0..200 {
            let _ = kernel.datapath().apply(plans[swap % 2].clone()).expect("the maps take it");
            let actions = [egress.probe(&leaves, 0), ingress.probe(&enters, FROM_HOST)]
                .map(|probed| probed.expect("the program runs").action == TC_SHOT);
            assert_eq!(actions, [swap % 2 == 0; 2], "the flow to Q after {swap} changes");
        }
    });
    assert_eq!(lost.into_inner(), 0, "packets of the flow to P were dropped");
}

#[test]
fn status_shows_the_policy_that_counts() {
    if !can_use_kernel() {
        return;
    }
    let mut kernel = kernel();
    let plans = plans(&mut kernel);
    let pins = kernel.pins().clone();
    for (number, name) in [(0, "two three"), (1, "one other"), (0, "two three"), (1, "one other")] {
        let _ = kernel.datapath().apply(plans[number].clone()).expect("the maps take it");
        for is_settled in [false, true] {
            if is_settled {
                let _ = kernel.datapath().settle().expect("the maps take it again");
            }
            let view = View::open(&pins).expect("the pins");
            let names: Vec<_> = view.slots.values().map(|slot| read_name(&slot.name)).collect();
            assert_eq!(names.join(" "), name, "settled: {is_settled}");
            assert_eq!(view.ports, plans[number].ports, "settled: {is_settled}");
            let pinned = PinnedAddresses::open(&pins).expect("the pins");
            assert!(pinned.slots.keys().eq(plans[number].slots.keys()));
        }
    }
}
