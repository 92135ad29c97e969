//! What let a packet pass, stage by stage: a rule, a key, or nothing that somebody has written.

use std::net::IpAddr;

use netguard_common::{Direction, maps::Place};

use super::{Because, Key, managing};
use crate::policy::{HostServices, Policy, Protocol, Slot, Traffic, evaluate::winner};

/// What has passed, or would, as far as what let it depends on it.
#[derive(Clone, Debug)]
pub struct Passed {
    /// Which way it went, seen from the slot.
    pub direction: Direction,
    /// From where.
    pub src: Option<IpAddr>,
    /// Where to.
    pub dst: Option<IpAddr>,
    /// What it is to rules.
    pub traffic: Traffic,
    /// What lies at the other end, as the programs find it.
    pub place: Option<Place>,
}

/// By what each stage let a packet go on; none where no key can say anything else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passing {
    /// The slot has a network.
    pub lockdown: Because,
    /// The sender is who he says.
    pub identity: Option<Because>,
    /// No ICMP that is too long.
    pub encrypted_dns: Option<Because>,
    /// The place is one that may be reached.
    pub place: Option<Because>,
    /// The slot's own rules say yes.
    pub rule: Option<Because>,
}

impl Passing {
    /// What let this pass on its way from or to the slot.
    #[must_use]
    pub fn of(policy: &Policy, slot: &Slot, packet: &Passed) -> Self {
        let is_egress = packet.direction == Direction::Egress;
        let is_icmp = packet.traffic.protocol == Some(Protocol::Icmp);
        let icmp = || Because::Key(Key::IcmpMaxBytes);
        Self {
            lockdown: Because::Guarded,
            identity: is_egress.then(|| Because::Key(Key::subnet_of(packet.src))),
            encrypted_dns: (is_egress && is_icmp).then(icmp),
            place: place(policy, slot, packet),
            rule: packet.dst.filter(|_| is_egress).and_then(|dst| rule(slot, dst, packet)),
        }
    }
}

fn place(policy: &Policy, slot: &Slot, packet: &Passed) -> Option<Because> {
    let is_egress = packet.direction == Direction::Egress;
    let has_gate = |address: Option<IpAddr>| {
        let mut addresses = policy.gate.iter().flat_map(|gate| &gate.addresses);
        addresses.any(|it| Some(*it) == address)
    };
    match packet.place? {
        Place::Slot | Place::Gate if has_gate(packet.src) || has_gate(packet.dst) => {
            Some(Because::Gate)
        }
        Place::Slot => Some(Because::Isolate),
        Place::Management => managing(policy, packet.src).map(|it| Because::Management(Some(it))),
        Place::Metadata => Some(Because::Key(Key::Metadata)),
        Place::Gateway if packet.traffic.is_echo_request => None, // anybody may ping his own
        Place::Gateway | Place::Host | Place::Gate if is_egress => {
            let is_opened = slot.host_services != HostServices::Listed(Vec::new());
            is_opened.then_some(Because::Key(Key::HostServices))
        }
        // The host opens what it wants; of the others rules decide.
        Place::Gateway
        | Place::Host
        | Place::Gate
        | Place::Internet
        | Place::Private
        | Place::LinkLocal
        | Place::Multicast
        | Place::Resolver => None,
    }
}

fn rule(slot: &Slot, dst: IpAddr, packet: &Passed) -> Option<Because> {
    use Place::{Internet, LinkLocal, Multicast, Private, Resolver};
    if ![Internet, Resolver, Private, LinkLocal, Multicast].contains(&packet.place?) {
        return None;
    }
    let allowed = winner(slot, dst, &packet.traffic).filter(|rule| rule.allow);
    Some(match allowed {
        Some(rule) => Because::Rule { allow: true, index: rule.index },
        None => Because::Key(Key::Egress),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Unnamed, evaluate::tests::policy};

    #[test]
    fn what_opens_a_place_is_named_and_what_opens_the_internet() {
        let mut policy = policy();
        policy.host.management = vec!["100.64.0.0/10".parse().unwrap()];
        let slot = &mut policy.slots[0];
        slot.egress.unnamed = Unnamed::Open;
        slot.egress.allow = ["10.9.0.0/16 tcp/80", "203.0.113.0/24 tcp/443"]
            .map(|rule| rule.parse().unwrap())
            .into();
        slot.host_services = HostServices::All;
        let of = |direction, peer: &str, place| {
            let own = Some("10.1.0.2".parse().unwrap());
            let peer = Some(peer.parse().unwrap());
            let (src, dst) = match direction {
                Direction::Egress => (own, peer),
                Direction::Ingress => (peer, own),
            };
            let traffic =
                Traffic { protocol: Some(Protocol::Tcp), port: 443, is_echo_request: false };
            let packet = Passed { direction, src, dst, traffic, place: Some(place) };
            let passing = Passing::of(&policy, &policy.slots[0], &packet);
            (passing.place, passing.rule)
        };
        let key = |key| Some(Because::Key(key));
        let allow = |index| Some(Because::Rule { allow: true, index });
        let (out, into) = (Direction::Egress, Direction::Ingress);
        for (direction, peer, what, expected) in [
            (out, "203.0.113.9", Place::Internet, (None, allow(1))),
            (out, "198.51.100.9", Place::Internet, (None, key(Key::Egress))),
            (out, "10.2.0.2", Place::Slot, (Some(Because::Isolate), None)),
            (out, "10.1.0.1", Place::Gateway, (key(Key::HostServices), None)),
            (out, "192.0.2.2", Place::Host, (key(Key::HostServices), None)),
            (out, "169.254.169.254", Place::Metadata, (key(Key::Metadata), None)),
            (into, "192.0.2.2", Place::Host, (None, None)),
            (into, "100.64.0.9", Place::Management, (Some(Because::Management(Some(0))), None)),
        ] {
            assert_eq!(of(direction, peer, what), expected, "{peer}");
        }
        let said = |because: Because| because.opening_text(&policy, &policy.slots[0]);
        assert_eq!(said(Because::Guarded), "mode = \"guarded\"");
        assert_eq!(said(Because::Isolate), "isolate = false");
        assert_eq!(said(allow(1).unwrap()), "allow = [\"203.0.113.0/24 tcp/443\"]");
        assert_eq!(said(Because::Key(Key::Egress)), "egress = \"open\"");
    }
}
