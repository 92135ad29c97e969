//! The oracle by itself: policies and packets of which the outcome is plain.

use DropReason as R;
use Verdict::{Drop, Pass, Redirect};

use super::*;
use crate::policy::{DnsPolicy, Egress, Gate, Host, Limits, Ports, Runtime, Subnet, Unnamed};

/// Slots 1 and 2 of runtime `agents`, slot 3 of `builds`, which isolates; the gate is slot 3's guest
/// 10.3.0.9. 100.64.0.0/10 manages, and the host is 198.51.100.1 too.
pub(in crate::policy) fn policy() -> Policy {
    let slot = |id: u16, runtime| Slot {
        name: format!("slot{id}"),
        id,
        bridge: format!("br-slot{id}"),
        ports: Ports::One(format!("vm-slot{id}")),
        subnets: [format!("10.{id}.0."), format!("fd00:10:{id}::")]
            .into_iter()
            .map(|start| Subnet {
                prefix: if start.contains(':') {
                    format!("{start}/64")
                } else {
                    start.clone() + "0/24"
                }
                .parse()
                .expect("a prefix"),
                gateway: (start + "1").parse().expect("an address"),
            })
            .collect(),
        mac: None,
        runtime,
        lockdown: false,
        audit: false,
        rejects: false,
        egress: Egress { unnamed: Unnamed::Open, allow: Vec::new(), deny: Vec::new() },
        host_services: HostServices::Listed(Vec::new()),
        metadata: false,
        manage_links: false,
        limits: Limits::default(),
    };
    let runtime = |name: &str, isolate| Runtime { name: name.to_owned(), isolate };
    Policy {
        slots: vec![slot(1, 0), slot(2, 0), slot(3, 1)],
        runtimes: vec![runtime("agents", false), runtime("builds", true)],
        gate: Some(Gate {
            addresses: vec![address("10.3.0.9")],
            services: vec!["tcp/443".parse().expect("a service")],
        }),
        host: Host {
            management: vec!["100.64.0.0/10".parse().expect("a prefix")],
            ..Host::default()
        },
        flows_max: 1 << 16,
        dns: DnsPolicy::default(),
    }
}

pub(in crate::policy) fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn facts() -> Facts {
    Facts::new(Vec::new(), [(2, address("198.51.100.1"))].into())
}

/// An IPv4 frame from a MAC that is no group's.
fn frame(src: &str, dst: &str, protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let octets = |text: &str| text.parse::<std::net::Ipv4Addr>().expect("an address").octets();
    let total = u16::try_from(20 + payload.len()).expect("a short packet");
    let mut frame = vec![2; 12];
    frame.extend([8, 0, 0x45, 0]);
    frame.extend(total.to_be_bytes());
    frame.extend([0, 7]);
    frame.extend(fragment.to_be_bytes());
    frame.extend([64, protocol, 0, 0]);
    frame.extend(octets(src));
    frame.extend(octets(dst));
    frame.extend(payload);
    frame
}

fn tcp(src: &str, src_port: u16, dst: &str, dst_port: u16, flags: u8) -> Vec<u8> {
    let mut header = vec![0; 20];
    header[..2].copy_from_slice(&src_port.to_be_bytes());
    header[2..4].copy_from_slice(&dst_port.to_be_bytes());
    header[12] = 0x50;
    header[13] = flags;
    frame(src, dst, 6, 0, &header)
}

fn udp(src: &str, src_port: u16, dst: &str, dst_port: u16) -> Vec<u8> {
    let [a, b] = src_port.to_be_bytes();
    let [c, d] = dst_port.to_be_bytes();
    frame(src, dst, 17, 0, &[a, b, c, d, 0, 8, 0, 0])
}

fn icmp(src: &str, dst: &str, kind: u8, rest: &[u8]) -> Vec<u8> {
    frame(src, dst, 1, 0, &[&[kind, 0, 0, 0], rest].concat())
}

const SYN: u8 = packet::SYN;
const ACK: u8 = packet::ACK;
const WEB: &str = "203.0.113.9";
const PING: &[u8] = &[0, 7, 0, 1];

#[test]
fn what_a_slot_may_send() {
    let mut policy = policy();
    policy.slots[0].egress.deny = vec!["203.0.113.0/24 tcp/80".parse().expect("a rule")];
    policy.slots[0].egress.allow = vec![
        "203.0.113.7 tcp".parse().expect("a rule"),
        "192.168.1.0/24".parse().expect("a rule"),
        "0.0.0.0/0".parse().expect("a rule"),
    ];
    let (guest, facts) = ("10.1.0.2", facts());
    let syn = |dst: &str, port| tcp(guest, 4000, dst, port, SYN);
    let cases = [
        ("to the internet", syn(WEB, 443), Pass),
        ("a denied port", syn(WEB, 80), Drop(R::EgressDenied)),
        ("a longer prefix allows it", syn("203.0.113.7", 80), Pass),
        ("no handshake", tcp(guest, 1, WEB, 443, ACK), Drop(R::TcpState)),
        ("a query", udp(guest, 4000, "10.2.0.2", 53), Redirect),
        ("DNS over TLS", syn(WEB, 853), Drop(R::DnsOverTls)),
        ("a private network by its rule", syn("192.168.1.7", 22), Pass),
        ("a wide rule opens none", syn("192.168.2.7", 22), Drop(R::PrivateDestination)),
        ("metadata", syn("169.254.169.254", 80), Drop(R::Metadata)),
        ("management", syn("100.64.0.2", 22), Drop(R::Management)),
        ("a sibling", syn("10.2.0.2", 22), Pass),
        ("a sibling's gateway", syn("10.2.0.1", 22), Drop(R::CrossSlot)),
        ("another runtime", syn("10.3.0.2", 443), Drop(R::CrossRuntime)),
        ("the gate", syn("10.3.0.9", 443), Pass),
        ("another port of it", syn("10.3.0.9", 22), Drop(R::CrossRuntime)),
        ("the own gateway", syn("10.1.0.1", 22), Drop(R::Host)),
        ("pinged", icmp(guest, "10.1.0.1", 8, PING), Pass),
        ("the host", syn("198.51.100.1", 22), Drop(R::Host)),
        ("its broadcast, by routing", udp(guest, 1, "198.51.100.255", 9), Drop(R::Host)),
        ("another's source", tcp("10.2.0.2", 1, WEB, 443, SYN), Drop(R::SpoofedSource)),
        ("a timestamp", icmp(guest, WEB, 13, PING), Drop(R::IcmpType)),
        ("a long ping", icmp(guest, WEB, 8, &[0; 300]), Drop(R::IcmpSize)),
        ("IGMP to its link", frame(guest, "224.0.0.22", 2, 0, &[0; 8]), Pass),
        ("IGMP abroad", frame(guest, WEB, 2, 0, &[0; 8]), Drop(R::Protocol)),
        ("DHCP that is not offered", udp("0.0.0.0", 68, "255.255.255.255", 67), {
            Drop(R::SpoofedSource)
        }),
    ];
    for (name, frame, expected) in cases {
        let mut evaluator = Evaluator::new(&policy, &facts);
        let is_local = |_, dst| dst == address("198.51.100.255");
        assert_eq!(evaluator.egress(&policy.slots[0], &frame, &is_local), expected, "{name}");
    }
}

#[test]
fn what_a_slot_may_send_by_a_pin() {
    let mut policy = policy();
    policy.slots[0].egress.unnamed = Unnamed::Pinned;
    policy.slots[0].egress.deny = vec!["203.0.113.66".parse().expect("a rule")];
    policy.slots[0].egress.allow = vec!["203.0.113.7 tcp/80".parse().expect("a rule")];
    const NOW: u64 = 1000;
    let pin = |slot, at: &str, ports, until_ns| Pin { slot, address: address(at), ports, until_ns };
    let pins = vec![
        pin(1, WEB, 22..=22, NOW + 1),
        pin(1, WEB, 443..=444, NOW + 1),
        pin(1, WEB, 80..=80, NOW),
        pin(1, "203.0.113.10", 0..=u16::MAX, NOW + 1),
        pin(1, "203.0.113.66", 0..=u16::MAX, NOW + 1),
        pin(1, "192.168.1.7", 0..=u16::MAX, NOW + 1),
        pin(1, "1.1.1.1", 0..=u16::MAX, NOW + 1),
        pin(2, "203.0.113.11", 0..=u16::MAX, NOW + 1),
    ];
    let (guest, facts) = ("10.1.0.2", facts());
    let syn = |dst: &str, port| tcp(guest, 4000, dst, port, SYN);
    let cases = [
        ("a pinned port", syn(WEB, 22), Pass),
        ("the last of a range", syn(WEB, 444), Pass),
        ("by UDP", udp(guest, 4000, WEB, 443), Pass),
        ("another port", syn(WEB, 23), Drop(R::NotPinned)),
        ("a port whose time is over", syn(WEB, 80), Drop(R::NotPinned)),
        ("a ping of what has ports", icmp(guest, WEB, 8, PING), Drop(R::NotPinned)),
        ("a ping of what has none", icmp(guest, "203.0.113.10", 8, PING), Pass),
        ("never resolved", syn("203.0.113.12", 443), Drop(R::NotPinned)),
        ("another slot's", syn("203.0.113.11", 443), Drop(R::NotPinned)),
        ("denied by a rule", syn("203.0.113.66", 443), Drop(R::EgressDenied)),
        ("allowed by a rule", syn("203.0.113.7", 80), Pass),
        ("a private place", syn("192.168.1.7", 443), Drop(R::PrivateDestination)),
        ("a resolver", syn("1.1.1.1", 443), Drop(R::DnsOverHttps)),
        ("a resolver, pinged", icmp(guest, "1.1.1.1", 8, PING), Pass),
    ];
    for (name, frame, expected) in cases {
        let mut evaluator = Evaluator::new(&policy, &facts).with_pins(pins.clone(), NOW);
        assert_eq!(evaluator.egress(&policy.slots[0], &frame, &|_, _| false), expected, "{name}");
    }
}

#[test]
fn what_may_enter_a_slot() {
    let (policy, facts) = (policy(), facts());
    let syn = |src: &str| tcp(src, 4000, "10.1.0.2", 22, SYN);
    let cases = [
        ("the host", syn("10.1.0.1"), None, false, Pass),
        ("management", syn("100.64.0.2"), None, false, Pass),
        ("by an uplink", syn("100.64.0.2"), None, true, Drop(R::SpoofedSource)),
        ("the internet", syn(WEB), None, true, Drop(R::Unsolicited)),
        ("a sibling", syn("10.2.0.2"), Some(2), false, Pass),
        ("another runtime", syn("10.3.0.2"), Some(3), false, Drop(R::CrossRuntime)),
        ("its gate", syn("10.3.0.9"), Some(3), false, Pass),
        ("one who claims the gate", syn("10.3.0.9"), Some(2), false, Pass), // its own egress stops that
        ("the resolver", udp("10.1.0.1", 53, "10.1.0.2", 4000), None, false, {
            Drop(R::DnsUnsolicited)
        }),
        ("to another", tcp("10.1.0.1", 1, "10.2.0.2", 22, SYN), None, false, {
            Drop(R::UnknownAddress)
        }),
    ];
    for (name, frame, sender, by_uplink, expected) in cases {
        let mut evaluator = Evaluator::new(&policy, &facts);
        let found = evaluator.ingress(&policy.slots[0], &frame, sender, by_uplink);
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn replies_errors_and_fragments_follow_what_was_opened() {
    let (policy, facts, guest) = (policy(), facts(), "10.1.0.2");
    let mut model = Evaluator::new(&policy, &facts);
    let slot = &policy.slots[0];
    let first = frame(guest, WEB, 17, 0x2000, &[0, 9, 0, 9, 0, 40, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    let fragment = |offset: u16, more: u16| frame(guest, WEB, 17, more | offset, &[0; 8]);
    let error = |dst: &str| {
        let quoted = frame(WEB, guest, 17, 0, &[0, 9, 0, 9, 0, 8, 0, 0]);
        icmp(guest, dst, 3, &[&[0; 4], &quoted[14..]].concat())
    };
    let steps = [
        (Egress, fragment(2, 0), Drop(R::Fragment)),
        (Egress, error(WEB), Drop(R::IcmpError)),
        (Ingress, udp(WEB, 9, guest, 9), Drop(R::Unsolicited)),
        (Egress, first, Pass),
        (Egress, fragment(3, 0), Drop(R::Fragment)),
        (Egress, fragment(2, 0x2000), Pass),
        (Egress, fragment(3, 0), Pass),
        (Egress, fragment(4, 0), Drop(R::Fragment)),
        (Ingress, udp(WEB, 9, guest, 9), Pass),
        (Egress, error(WEB), Pass),
        (Egress, error("203.0.113.10"), Drop(R::IcmpError)),
        (Ingress, icmp(WEB, guest, 0, PING), Drop(R::Unsolicited)),
        (Egress, icmp(guest, WEB, 8, PING), Pass),
        (Ingress, icmp(WEB, guest, 0, PING), Pass),
        (Ingress, icmp(WEB, guest, 8, PING), Drop(R::Unsolicited)),
        (Egress, icmp(guest, WEB, 0, PING), Drop(R::IcmpType)),
    ];
    for (index, (direction, frame, expected)) in steps.iter().enumerate() {
        let found = match direction {
            Egress => model.egress(slot, frame, &|_, _| false),
            Ingress => model.ingress(slot, frame, None, false),
        };
        assert_eq!(found, *expected, "step {index}");
    }
}
