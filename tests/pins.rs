//! Pins from the resolver's table to the programs' verdict: what a name opens, until when, and what is left of it
//! after a restart. `netguard pins` is a witness.

use std::{net::IpAddr, time::Duration};

use netguard::datapath::PinWriter;
use netguard_common::{DropReason, SlotId};
use netguard_dns::{DomainName, GRACE, Moment, Pins, Ports};
use netguard_tests::{
    binary::{Ended, netguard},
    can_use_kernel,
    kernel::{Kernel, Outcome, SLOTS},
    packet::ip,
};

const GUEST: &str = "10.1.0.2";
const WEB: &str = "203.0.113.9";
const OTHER: &str = "203.0.113.10";
const PASS: Outcome = Outcome::Pass;
const NEVER: Outcome = Outcome::Drop(DropReason::NotPinned);

/// Both slots with `egress = "pinned"`.
fn kernel() -> Kernel {
    let pinned = |id: u16| (format!("id = {id}\n"), format!("id = {id}\negress = \"pinned\"\n"));
    let ((one, one_pinned), (two, two_pinned)) = (pinned(1), pinned(2));
    Kernel::with(&SLOTS.replace(&one, &one_pinned).replace(&two, &two_pinned))
}

/// The resolver's table, as a daemon would have it.
fn table(kernel: &Kernel) -> Pins {
    let writer = PinWriter::open(kernel.pins()).expect("the map of pins");
    Pins::new(Box::new(writer), [1, 2], 4096)
}

/// An answer that is good for an hour.
fn answer(pins: &Pins, slot: SlotId, name: &str, address: &str, ports: &str) {
    let now = Moment::now();
    let ports: Ports = if ports == "any" { Ports::ANY } else { ports.parse().expect("ports") };
    let until = now.after(Duration::from_secs(3600));
    pins.pin(slot, name, &[address.parse().expect("an address")], &ports, until, now)
        .expect("a pin");
}

fn name(text: &str) -> DomainName {
    text.parse().expect("a name")
}

/// A new connection of slot 1's guest, from a port that no other has had.
fn connect(kernel: &mut Kernel, dst: &str, from: u16, port: u16) -> Outcome {
    kernel.egress(&ip(GUEST, dst).tcp_syn(from, port))
}

#[test]
fn only_what_an_answer_gave_the_slot_opens_and_only_until_it_is_over_or_denied() {
    if !can_use_kernel() {
        return;
    }
    let mut kernel = kernel();
    let pins = table(&kernel);
    let never_resolved = connect(&mut kernel, WEB, 1, 443);
    answer(&pins, 2, "web.example", WEB, "any");
    let anothers = connect(&mut kernel, WEB, 2, 443);
    assert_eq!((never_resolved, anothers), (NEVER, NEVER));

    answer(&pins, 1, "web.example", WEB, "22,443");
    assert_eq!(connect(&mut kernel, WEB, 3, 443), PASS);
    assert_eq!(connect(&mut kernel, WEB, 4, 80), NEVER);
    answer(&pins, 1, "www.web.example", WEB, "80");
    assert_eq!(connect(&mut kernel, WEB, 5, 80), PASS);

    // At run time: what is below the name goes too, and comes back with the next answer only.
    let gone = pins.deny(1, &name("web.example"), None, Moment::now()).expect("the kernel removes");
    assert_eq!(gone, 2);
    assert_eq!(connect(&mut kernel, WEB, 6, 443), NEVER);
    assert_eq!(connect(&mut kernel, WEB, 7, 80), NEVER);
    assert!(pins.allow(1, &name("web.example")));
    assert_eq!(connect(&mut kernel, WEB, 8, 443), NEVER);
    answer(&pins, 1, "web.example", WEB, "any");
    assert_eq!(connect(&mut kernel, WEB, 9, 443), PASS);

    // An answer whose time was over a minute ago, to the nanosecond: the kernel closes it by itself.
    let now = Moment::now();
    let past = Moment::from_ns(now.ns().saturating_sub(2 * GRACE.as_nanos() as u64));
    let other: IpAddr = OTHER.parse().expect("an address");
    pins.pin(1, "other.example", &[other], &Ports::ANY, past, past).expect("a pin");
    assert_eq!(connect(&mut kernel, OTHER, 10, 443), NEVER);
    assert_eq!(pins.expire(now), 1);
    assert_eq!(pins.list(now).len(), 2);
}

#[test]
fn pins_outlive_a_restart_but_for_those_of_names_that_are_no_longer_allowed() {
    if !can_use_kernel() {
        return;
    }
    let mut kernel = kernel();
    let pins = table(&kernel);
    answer(&pins, 1, "kept.example", WEB, "443");
    answer(&pins, 1, "gone.example", OTHER, "any");
    drop(pins);
    kernel.restart();
    assert_eq!(connect(&mut kernel, WEB, 1, 443), PASS, "enforced before the resolver looks");

    let writer = PinWriter::open(kernel.pins()).expect("the map of pins");
    let entries = writer.entries().expect("the entries");
    let pins = Pins::new(Box::new(writer), [1, 2], 4096);
    let kept = pins.adopt(entries, |_, name| name == "kept.example", Moment::now());
    assert_eq!(kept.expect("the kernel removes what is gone"), 1);
    assert_eq!(connect(&mut kernel, WEB, 2, 443), PASS);
    assert_eq!(connect(&mut kernel, WEB, 3, 80), NEVER);
    assert_eq!(connect(&mut kernel, OTHER, 4, 443), NEVER);
    let listed = pins.list(Moment::now());
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].name.as_str(), listed[0].ports.to_string().as_str()), {
        ("kept.example", "443")
    });
}

#[test]
fn netguard_pins_lists_what_the_kernel_holds() {
    if !can_use_kernel() {
        return;
    }
    let kernel = kernel();
    let instance = kernel.pins().path().file_name().expect("a name").to_string_lossy().into_owned();
    let run = |more: &[&str]| {
        Ended::of(&mut netguard(&[&["pins", "--instance", &instance], more].concat()))
    };
    assert_eq!(run(&[]).success().trim(), "no address is pinned");
    let pins = table(&kernel);
    answer(&pins, 2, "b.example", WEB, "any");
    answer(&pins, 1, "web.example", "2001:db8::9", "22,443");
    answer(&pins, 1, "web.example", WEB, "22,443");
    let text = run(&[]);
    let rows: Vec<Vec<_>> =
        text.success().lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["slot", "name", "address", "ports", "age", "left"]);
    assert_eq!(rows[1][..4], ["slot1", "web.example", WEB, "22,443"]);
    assert_eq!(rows[2][..4], ["slot1", "web.example", "2001:db8::9", "22,443"]);
    assert_eq!(rows[3][..4], ["slot2", "b.example", WEB, "any"]);
    assert!(rows[1][5].starts_with("1h"), "{rows:?}");
    let one = run(&["slot2", "--json"]);
    let one: serde_json::Value = serde_json::from_str(one.success()).expect("JSON");
    assert_eq!(one["pins"].as_array().map(Vec::len), Some(1));
    assert_eq!(one["pins"][0]["address"], WEB);
    let unknown = run(&["slot3"]);
    assert_eq!(unknown.code, 2);
    assert!(unknown.stderr.contains("\"slot3\"; there are slot1, slot2"), "{unknown:?}");
    let absent = Ended::of(&mut netguard(&["pins", "--instance", "nobody-is-this"]));
    assert_eq!(absent.code, 1);
    assert!(absent.stderr.contains("no instance nobody-is-this is loaded"), "{absent:?}");
}
