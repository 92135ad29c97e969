//! Pins from a guest's question to its connection, in a lab with real clients: what an answer opens, how far and
//! until when, over a restart, and when there is no room for more. `flows.rs` has what the flow table says of them.

use std::net::IpAddr;

use hickory_proto::{
    op::ResponseCode,
    rr::RecordType::{self, A, AAAA},
};
use netguard::datapath::{PinDirectory, PinWriter};
use netguard_common::pin::PinKey;
use netguard_dns::{Moment, PinMap as _};
use netguard_tests::{
    binary::{Ended, netguard},
    can_use_kernel,
    client::{Asker, ask, connect_once},
    daemon,
    lab::Lab,
};

const GITHUB: &str = "203.0.113.10";
const GITLAB: &str = "203.0.113.12";
const EVIL: &str = "203.0.113.66";

/// Two pinned slots, which may ask for these names without limits.
fn config(names: &str) -> String {
    format!(
        "[host]\nuplinks = [\"eth0\"]\n[dns]\nupstreams = [\"1.1.1.1\"]\ncategories = []\nnames = [{names}]\n\
         [[slot]]\ncount = 2\negress = \"pinned\"\n\
         [slot.limits]\nqueries_per_second = 0\nnames_per_minute = 0\nanswer_bytes_per_minute = 0\n"
    )
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The slot is told this address and no other.
fn is_told(lab: &Lab, slot: u8, name: &str, kind: RecordType, address: &str) {
    assert_eq!(ask(lab, slot, name, kind), (ResponseCode::NoError, vec![ip(address)]), "{name}");
}

fn connects(lab: &Lab, slot: u8, address: &str) {
    let connected = lab.within(&format!("slot{slot}"), || connect_once(ip(address), 80));
    connected.unwrap_or_else(|error| panic!("slot {slot} to {address}: {error}"));
}

/// The slot's SYN is dropped as not pinned: counted once, told in the log, and not answered.
fn is_closed(lab: &Lab, slot: u8, address: &str) {
    let name = format!("slot{slot}");
    let is_it = |event: &serde_json::Value| {
        event["event"] == "drop"
            && event["slot"] == name.as_str()
            && event["direction"] == "egress"
            && event["reason"] == "not-pinned"
            && event["dst"] == address
            && event["dst_port"] == 80
    };
    let told = || lab.events().iter().filter(|event| is_it(event)).count();
    let (counted, before) = (lab.packets(&name, "egress", "not-pinned"), told());
    let connected = lab.within(&name, || connect_once(ip(address), 80));
    assert!(connected.is_err(), "slot {slot} reached {address}");
    assert_eq!(lab.packets(&name, "egress", "not-pinned"), counted + 1, "to {address}");
    netguard_tests::until("the log tells of the drop", || told() == before + 1);
}

/// The map of the lab's pins, for a hand that is not the daemon's.
fn map(lab: &Lab) -> PinWriter {
    let instance = lab.instance().parse().expect("an instance");
    PinWriter::open(&PinDirectory::of(&instance)).expect("the map of pins")
}

/// Names and addresses, as `netguard pins` lists them.
fn listed(lab: &Lab) -> Vec<(String, String)> {
    let ended = lab.run(&["pins", "--json"]);
    let listed: serde_json::Value = serde_json::from_str(ended.success()).expect("JSON");
    let pins = listed["pins"].as_array().expect("pins").iter();
    let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
    pins.map(|pin| (text(&pin["name"]), text(&pin["address"]))).collect()
}

#[test]
fn what_nobody_was_told_what_another_was_told_and_what_is_over_is_closed() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::up("veth");
    is_closed(&lab, 1, GITHUB);
    is_closed(&lab, 1, EVIL);
    is_told(&lab, 1, "github.com.", A, GITHUB);
    connects(&lab, 1, GITHUB);
    is_closed(&lab, 1, EVIL);
    is_closed(&lab, 2, GITHUB);
    assert_eq!(ask(&lab, 2, "evil.example.", A).0, ResponseCode::NXDomain);
    is_closed(&lab, 2, EVIL);

    // The pin's age is that of an answer from hours ago; nobody has cleaned up since.
    let map = map(&lab);
    let key = PinKey::new(1, ip(GITHUB).into());
    let entries = map.entries().expect("the entries");
    let mut entry = entries.iter().find(|(it, _)| *it == key).expect("the pin").1;
    let past = Moment::now().ns();
    entry.lanes.iter_mut().for_each(|lane| lane.expires_ns = lane.expires_ns.min(past));
    map.put(&key, &entry).expect("the kernel takes it");
    is_closed(&lab, 1, GITHUB);
    assert_eq!(listed(&lab), []);
}

#[test]
fn what_is_denied_at_run_time_is_closed_at_once_and_allowed_again_with_the_next_answer_only() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::up("veth");
    let order = |order: &str, name: &str| {
        let instance = lab.instance();
        let mut command = netguard(&[order, "slot1", name, "--instance", &instance]);
        Ended::of(&mut command).success().to_owned()
    };
    for slot in [1, 2] {
        is_told(&lab, slot, "github.com.", A, GITHUB);
        connects(&lab, slot, GITHUB);
    }
    order("deny", "github.com");
    is_closed(&lab, 1, GITHUB);
    assert_eq!(ask(&lab, 1, "github.com.", A), (ResponseCode::NXDomain, vec![]));
    assert_eq!(ask(&lab, 1, "api.github.com.", A).0, ResponseCode::NXDomain, "it lies below");
    let denied = lab
        .event("dns event", |event| event["event"] == "dns" && event["name"] == "api.github.com");
    assert_eq!(denied["decision"], "deny");
    assert_eq!(denied["why"], "denied-at-run-time");
    connects(&lab, 2, GITHUB);
    is_told(&lab, 1, "gitlab.com.", A, GITLAB);

    order("allow", "github.com");
    is_closed(&lab, 1, GITHUB);
    is_told(&lab, 1, "github.com.", A, GITHUB);
    connects(&lab, 1, GITHUB);
}

#[test]
fn an_alias_opens_what_it_leads_to_and_each_family_its_own_addresses() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::up("veth");
    is_told(&lab, 1, "alias.github.com.", A, "203.0.113.20");
    connects(&lab, 1, "203.0.113.20");
    is_closed(&lab, 1, "2001:db8:113::20");
    assert_eq!(listed(&lab), [("alias.github.com".to_owned(), "203.0.113.20".to_owned())]);
    // What the alias leads to is on no list: nobody may ask for it.
    assert_eq!(ask(&lab, 1, "edge.cdn.example.", A).0, ResponseCode::NXDomain);
    is_told(&lab, 1, "alias.github.com.", AAAA, "2001:db8:113::20");
    connects(&lab, 1, "2001:db8:113::20");
    is_told(&lab, 1, "github.com.", AAAA, "2001:db8:113::10");
    connects(&lab, 1, "2001:db8:113::10");
    is_closed(&lab, 1, GITHUB);
}

#[test]
fn pins_are_there_when_a_new_daemon_is_but_for_those_of_names_that_are_gone() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::with(&config("\"github.com\", \"gitlab.com\""), "veth");
    is_told(&lab, 1, "github.com.", A, GITHUB);
    is_told(&lab, 1, "gitlab.com.", A, GITLAB);
    daemon::kill(&lab, "TERM");
    for address in [GITHUB, GITLAB] {
        connects(&lab, 1, address);
    }
    let same = daemon::start(&lab);
    for address in [GITHUB, GITLAB] {
        connects(&lab, 1, address);
    }
    is_closed(&lab, 2, GITHUB);
    // The worst end, and a policy without one of the names.
    daemon::kill(&lab, "KILL");
    drop(same);
    lab.reconfigure(&config("\"github.com\""));
    let _other = daemon::start(&lab);
    connects(&lab, 1, GITHUB);
    is_closed(&lab, 1, GITLAB);
    assert_eq!(listed(&lab), [("github.com".to_owned(), GITHUB.to_owned())]);
}

#[test]
fn a_slot_whose_pins_are_full_is_told_so_and_another_is_not() {
    /// As many as a slot may have.
    const FULL: u32 = 4096;
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::with(&config("\"github.com\""), "veth");
    is_told(&lab, 1, "github.com.", A, GITHUB);
    let last = lab.within("slot1", || {
        let mut asker = Asker::of(ip("10.1.0.1"));
        let mut told = None;
        for number in 1..=FULL {
            let [high, low] = u16::try_from(number).expect("a small number").to_be_bytes();
            told = asker.ask(&format!("203-0-{high}-{low}.ip.github.com."), A);
            let is_last = number == FULL;
            let is_refused =
                told != Some((ResponseCode::NoError, vec![[203, 0, high, low].into()]));
            assert_eq!(is_refused, is_last, "{number}: {told:?}");
        }
        told
    });
    assert_eq!(last, Some((ResponseCode::ServFail, Vec::new())));
    let refused =
        lab.event("refusal", |event| event["event"] == "dns" && event["rcode"] == "SERVFAIL");
    assert_eq!(
        (&refused["slot"], &refused["decision"], &refused["why"]),
        (&"slot1".into(), &"refuse".into(), &"pins-full".into()),
        "{refused}"
    );
    is_closed(&lab, 1, "203.0.16.0");
    // What was there stays, and is renewed.
    is_told(&lab, 1, "github.com.", A, GITHUB);
    connects(&lab, 1, GITHUB);
    connects(&lab, 1, "203.0.15.255");
    is_told(&lab, 2, "203-0-16-0.ip.github.com.", A, "203.0.16.0");
    connects(&lab, 2, "203.0.16.0");
}
