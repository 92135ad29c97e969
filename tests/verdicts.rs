//! The packet's verdict, case by case, by the programs that the kernel has loaded.

use std::ops::RangeInclusive;

use netguard::policy::Pin;
use netguard_common::{DropReason, Hook};
use netguard_tests::{
    can_use_kernel,
    kernel::{FROM_HOST, FROM_SLOT1, Kernel, Outcome, SLOTS, now_ns},
    packet::{BRIDGE_MAC, GUEST_MAC, arp, ip, tagged, with_byte, with_ip_options},
};

const GUEST: &str = "10.1.0.2";
const GUEST6: &str = "fd00:10:1::2";
const WEB: &str = "203.0.113.9";
const WEB6: &str = "2001:db8:113::9";

/// One case: a name, a frame, and what must become of it.
type Case = (&'static str, Vec<u8>, Outcome);

fn check(cases: Vec<Case>, verdict: impl Fn(&mut Kernel, &[u8]) -> Outcome) {
    check_with(Kernel::new(), cases, verdict);
}

fn check_with(
    mut kernel: Kernel,
    cases: Vec<Case>,
    verdict: impl Fn(&mut Kernel, &[u8]) -> Outcome,
) {
    let failed: Vec<_> = cases
        .into_iter()
        .filter_map(|(name, frame, expected)| {
            let found = verdict(&mut kernel, &frame);
            (found != expected).then(|| format!("{name}: {found:?}, not {expected:?}"))
        })
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

fn dropped(reason: DropReason) -> Outcome {
    Outcome::Drop(reason)
}

#[test]
fn what_leaves_a_slot_by_a_pin() {
    use DropReason as R;
    const HOUR_NS: u64 = 3_600_000_000_000;
    if !can_use_kernel() {
        return;
    }
    let id = "id = 1";
    let rules = "allow = [\"203.0.113.7 tcp/80\"]\ndeny = [\"203.0.113.66\"]";
    let kernel = Kernel::with(&SLOTS.replace(id, &format!("{id}\negress = \"pinned\"\n{rules}")));
    let later = now_ns() + HOUR_NS;
    let pin = |slot, address: &str, ports: RangeInclusive<u16>, until_ns| {
        let address = address.parse().expect("an address");
        Pin { slot, address, ports, until_ns }
    };
    let any = || 0..=u16::MAX;
    // Eight ranges, of which the last counts as the first does.
    let mut pins: Vec<_> = (1..=5).map(|port| pin(1, WEB, port..=port, later)).collect();
    pins.extend([
        pin(1, WEB, 80..=80, now_ns()),
        pin(1, WEB, 22..=22, later),
        pin(1, WEB, 443..=444, later),
        pin(1, WEB6, any(), later),
        pin(1, "203.0.113.8", any(), now_ns()),
        pin(2, "203.0.113.11", any(), later),
    ]);
    for closed in ["203.0.113.66", "203.0.113.7", "1.1.1.1", "192.168.1.7", "169.254.169.254"] {
        pins.push(pin(1, closed, any(), later));
    }
    for closed in ["10.1.0.1", "10.2.0.2", "198.51.100.1", "100.64.0.2", "fd00:10:2::2", "fe80::1"]
    {
        pins.push(pin(1, closed, any(), later));
    }
    kernel.pin(&pins);
    let syn = |dst: &str, port| ip(GUEST, dst).tcp_syn(40000, port);
    let syn6 = |dst: &str, port| ip(GUEST6, dst).tcp_syn(40000, port);
    let cases = vec![
        ("a pinned port", syn(WEB, 22), Outcome::Pass),
        ("the first range", syn(WEB, 1), Outcome::Pass),
        ("the end of the last range", syn(WEB, 444), Outcome::Pass),
        ("the same by UDP", ip(GUEST, WEB).udp(40000, 443, b""), Outcome::Pass),
        ("a port below", syn(WEB, 442), dropped(R::NotPinned)),
        ("a port above", syn(WEB, 445), dropped(R::NotPinned)),
        ("a port whose time is over", syn(WEB, 80), dropped(R::NotPinned)),
        ("a ping of what has ports", ip(GUEST, WEB).ping(1), dropped(R::NotPinned)),
        ("a ping of what has none", ip(GUEST6, WEB6).ping(1), Outcome::Pass),
        ("any port", syn6(WEB6, 65535), Outcome::Pass),
        ("never resolved", syn("203.0.113.12", 443), dropped(R::NotPinned)),
        ("never resolved, IPv6", syn6("2001:db8:113::a", 443), dropped(R::NotPinned)),
        ("another slot's", syn("203.0.113.11", 443), dropped(R::NotPinned)),
        ("all over", syn("203.0.113.8", 443), dropped(R::NotPinned)),
        ("denied by a rule", syn("203.0.113.66", 443), dropped(R::EgressDenied)),
        ("allowed by a rule", syn("203.0.113.7", 80), Outcome::Pass),
        ("pinned where a rule names another port", syn("203.0.113.7", 443), Outcome::Pass),
        // Names that point inwards open nothing.
        ("a resolver", syn("1.1.1.1", 443), dropped(R::DnsOverHttps)),
        ("a private network", syn("192.168.1.7", 80), dropped(R::PrivateDestination)),
        ("metadata", syn("169.254.169.254", 80), dropped(R::Metadata)),
        ("the own gateway", syn("10.1.0.1", 22), dropped(R::Host)),
        ("the host", syn("198.51.100.1", 22), dropped(R::Host)),
        ("management", syn("100.64.0.2", 22), dropped(R::Management)),
        ("a neighbour", syn("10.2.0.2", 22), dropped(R::CrossSlot)),
        ("a neighbour's IPv6", syn6("fd00:10:2::2", 22), dropped(R::CrossSlot)),
        ("the link", syn6("fe80::1", 22), dropped(R::LinkLocal)),
        // And what needs no pin needs none.
        ("a query", ip(GUEST, "8.8.8.8").udp(40000, 53, b"query"), Outcome::Redirect),
        ("DNS over TLS", syn6(WEB6, 853), dropped(R::DnsOverTls)),
        ("no handshake", ip(GUEST, WEB).tcp_ack(1, 22, b""), dropped(R::TcpState)),
    ];
    check_with(kernel, cases, Kernel::egress);
}

#[test]
fn what_leaves_a_slot() {
    use DropReason as R;
    if !can_use_kernel() {
        return;
    }
    let query = || ip(GUEST, "8.8.8.8").udp(40000, 53, b"query");
    let to_web = || ip(GUEST, WEB).tcp_syn(40000, 443);
    let cases = vec![
        // Stage 1: frame.
        ("IPv4 to the internet", to_web(), Outcome::Pass),
        ("IPv6 to the internet", ip(GUEST6, WEB6).tcp_syn(40000, 443), Outcome::Pass),
        ("802.1Q", tagged(&to_web(), 0x8100, 5), dropped(R::VlanTag)),
        ("802.1ad", tagged(&to_web(), 0x88a8, 5), dropped(R::VlanTag)),
        ("a priority tag", tagged(&to_web(), 0x8100, 0xe000), dropped(R::VlanTag)),
        (
            "two tags of id 0 around a query",
            tagged(&tagged(&query(), 0x8100, 0), 0x88a8, 0),
            dropped(R::VlanTag),
        ),
        ("the old QinQ type", tagged(&query(), 0x9100, 0), dropped(R::VlanTag)),
        ("LLC", with_byte(with_byte(to_web(), 12, 0), 13, 40), dropped(R::EtherType)),
        ("LLDP", with_byte(with_byte(to_web(), 12, 0x88), 13, 0xcc), dropped(R::EtherType)),
        // Stage 3: identity.
        ("a neighbour's source", ip("10.2.0.2", WEB).tcp_syn(1, 443), dropped(R::SpoofedSource)),
        ("the gateway's source", ip("10.1.0.1", WEB).tcp_syn(1, 443), dropped(R::SpoofedSource)),
        ("an outsider's source", ip("8.8.8.8", WEB).tcp_syn(1, 443), dropped(R::SpoofedSource)),
        ("no source", ip("0.0.0.0", WEB).udp(68, 67, b""), dropped(R::SpoofedSource)),
        ("a spoofed query", ip("10.2.0.2", "1.1.1.1").udp(1, 53, b""), dropped(R::SpoofedSource)),
        ("a neighbour's IPv6", ip("fd00:10:2::2", WEB6).ping(1), dropped(R::SpoofedSource)),
        ("`::` with a ping", ip("::", "ff02::1").ping(1), dropped(R::SpoofedSource)),
        ("an ARP request", arp(1, GUEST_MAC, [10, 1, 0, 2], [10, 1, 0, 1]), Outcome::Pass),
        ("an ARP probe", arp(1, GUEST_MAC, [0; 4], [10, 1, 0, 2]), Outcome::Pass),
        (
            "ARP for the gateway",
            arp(2, GUEST_MAC, [10, 1, 0, 1], [10, 1, 0, 9]),
            dropped(R::ArpSpoof),
        ),
        (
            "ARP for a neighbour",
            arp(2, GUEST_MAC, [10, 2, 0, 2], [10, 1, 0, 9]),
            dropped(R::ArpSpoof),
        ),
        (
            "ARP with another's MAC",
            arp(2, BRIDGE_MAC, [10, 1, 0, 2], [10, 1, 0, 9]),
            dropped(R::ArpSpoof),
        ),
        (
            "ARP for token ring",
            with_byte(arp(1, GUEST_MAC, [10, 1, 0, 2], [10, 1, 0, 1]), 15, 6),
            dropped(R::BadHeader),
        ),
        // Stage 4: header sanity.
        ("version 5", with_byte(to_web(), 14, 0x55), dropped(R::BadHeader)),
        ("IHL of 4", with_byte(to_web(), 14, 0x44), dropped(R::BadHeader)),
        ("a total length above the frame", with_byte(to_web(), 17, 200), dropped(R::BadHeader)),
        ("a total length below the header", with_byte(to_web(), 17, 19), dropped(R::BadHeader)),
        ("source routing", with_ip_options(&to_web(), &[131, 7, 4, 10, 2, 0, 2, 0]), {
            dropped(R::IpOptions)
        }),
        ("router alert on TCP", with_ip_options(&to_web(), &[0x94, 4, 0, 0]), {
            dropped(R::IpOptions)
        }),
        ("a first fragment", with_byte(query(), 20, 0x20), dropped(R::Fragment)),
        ("a later fragment", with_byte(query(), 21, 1), dropped(R::Fragment)),
        ("do not fragment", with_byte(to_web(), 20, 0x40), Outcome::Pass),
        ("a TCP offset of 4", with_byte(to_web(), 46, 0x40), dropped(R::BadHeader)),
        ("a TCP offset behind the end", with_byte(to_web(), 46, 0xf0), dropped(R::BadHeader)),
        ("a UDP length of 7", with_byte(query(), 39, 7), dropped(R::BadHeader)),
        ("a UDP length above the packet", with_byte(query(), 39, 14), dropped(R::BadHeader)),
        ("IPv6 of version 4", with_byte(ip(GUEST6, WEB6).ping(1), 14, 0x45), {
            dropped(R::BadHeader)
        }),
        ("an IPv6 length above the frame", with_byte(ip(GUEST6, WEB6).ping(1), 19, 200), {
            dropped(R::BadHeader)
        }),
        (
            "an IPv4-mapped destination",
            ip(GUEST6, "::ffff:10.2.0.2").tcp_syn(1, 22),
            dropped(R::BadHeader),
        ),
        ("routing header", ip(GUEST6, WEB6).protocol(43, &[6, 0, 0, 0, 0, 0, 0, 0]), {
            dropped(R::Ipv6Extension)
        }),
        ("destination options", ip(GUEST6, WEB6).protocol(60, &[6; 24]), {
            dropped(R::Ipv6Extension)
        }),
        ("hop-by-hop before TCP", ip(GUEST6, WEB6).protocol(0, &[6, 0, 5, 2, 0, 0, 1, 0]), {
            dropped(R::Ipv6Extension)
        }),
        ("an IPv6 fragment", ip(GUEST6, WEB6).protocol(44, &[17; 24]), dropped(R::Fragment)),
        ("GRE", ip(GUEST, WEB).protocol(47, &[0; 24]), dropped(R::Protocol)),
        ("IPIP", ip(GUEST, WEB).protocol(4, &[0x45; 40]), dropped(R::Protocol)),
        ("SCTP", ip(GUEST, WEB).protocol(132, &[0; 24]), dropped(R::Protocol)),
        ("ICMPv6 over IPv4", ip(GUEST, WEB).protocol(58, &[128; 8]), dropped(R::Protocol)),
        ("ICMP over IPv6", ip(GUEST6, WEB6).protocol(1, &[8; 8]), dropped(R::Protocol)),
        // Stage 5: DNS to any address whatsoever.
        ("a query to a public resolver", query(), Outcome::Redirect),
        ("to the gateway", ip(GUEST, "10.1.0.1").udp(40001, 53, b""), Outcome::Redirect),
        ("over TCP", ip(GUEST, "8.8.8.8").tcp_syn(40000, 53), Outcome::Redirect),
        ("over IPv6", ip(GUEST6, "2001:4860:4860::8888").udp(4, 53, b""), Outcome::Redirect),
        ("to a neighbour", ip(GUEST, "10.2.0.2").udp(40002, 53, b""), Outcome::Redirect),
        ("to the metadata service", ip(GUEST, "169.254.169.254").udp(5, 53, b""), {
            Outcome::Redirect
        }),
        ("to a multicast group", ip(GUEST, "224.0.0.251").udp(6, 53, b""), Outcome::Redirect),
        // Stage 6: encrypted DNS.
        ("DNS over TLS", ip(GUEST, "1.1.1.1").tcp_syn(40000, 853), dropped(R::DnsOverTls)),
        ("DNS over QUIC", ip(GUEST, "1.1.1.1").udp(4, 853, b"q"), dropped(R::DnsOverQuic)),
        ("over IPv6", ip(GUEST6, WEB6).tcp_syn(40000, 853), dropped(R::DnsOverTls)),
        // Stage 7: where to.
        ("ping to a neighbour", ip(GUEST, "10.2.0.2").ping(7), dropped(R::CrossSlot)),
        ("TCP to a neighbour", ip(GUEST, "10.2.0.2").tcp_syn(1, 22), dropped(R::CrossSlot)),
        ("UDP to a neighbour", ip(GUEST, "10.2.0.2").udp(1, 9, b""), dropped(R::CrossSlot)),
        ("its gateway", ip(GUEST, "10.2.0.1").ping(7), dropped(R::CrossSlot)),
        ("its broadcast", ip(GUEST, "10.2.0.255").udp(1, 9, b""), dropped(R::CrossSlot)),
        ("its IPv6", ip(GUEST6, "fd00:10:2::2").ping(7), dropped(R::CrossSlot)),
        ("ping to the own gateway", ip(GUEST, "10.1.0.1").ping(7), Outcome::Pass),
        ("and over IPv6", ip(GUEST6, "fd00:10:1::1").ping(7), Outcome::Pass),
        ("SSH to the own gateway", ip(GUEST, "10.1.0.1").tcp_syn(1, 22), dropped(R::Host)),
        ("the host's uplink", ip(GUEST, "198.51.100.1").tcp_syn(1, 22), dropped(R::Host)),
        ("metadata", ip(GUEST, "169.254.169.254").tcp_syn(1, 80), dropped(R::Metadata)),
        ("metadata over IPv6", ip(GUEST6, "fd00:ec2::254").tcp_syn(1, 80), dropped(R::Metadata)),
        ("a private address", ip(GUEST, "192.168.1.1").ping(1), dropped(R::PrivateDestination)),
        ("loopback", ip(GUEST, "127.0.0.1").tcp_syn(1, 22), dropped(R::PrivateDestination)),
        ("NAT64", ip(GUEST6, "64:ff9b::a02:2").ping(1), dropped(R::PrivateDestination)),
        ("link-local", ip(GUEST, "169.254.1.1").ping(1), dropped(R::LinkLocal)),
        ("multicast", ip(GUEST, "239.1.1.1").udp(1, 9, b""), dropped(R::Multicast)),
        ("broadcast", ip(GUEST, "255.255.255.255").udp(1, 9, b""), dropped(R::Multicast)),
        ("management", ip(GUEST, "100.64.0.2").tcp_syn(1, 22), dropped(R::Management)),
        ("unassigned IPv6", ip(GUEST6, "4000::1").ping(1), dropped(R::UnknownAddress)),
        ("the own subnet", ip(GUEST, "10.1.0.77").ping(1), dropped(R::Isolated)),
        ("an ICMP redirect", ip(GUEST, WEB).icmp(5, 1), dropped(R::IcmpType)),
        ("an ICMP timestamp", ip(GUEST, WEB).icmp(13, 1), dropped(R::IcmpType)),
        ("an error about nothing", ip(GUEST, WEB).icmp(3, 1), dropped(R::IcmpError)),
        ("and over IPv6", ip(GUEST6, WEB6).icmp(2, 1), dropped(R::IcmpError)),
        // The link's own upkeep.
        (
            "neighbour solicitation",
            ip(GUEST6, "ff02::1:ff00:1").neighbour(135, "fd00:10:1::1"),
            Outcome::Pass,
        ),
        (
            "duplicate address detection",
            ip("::", "ff02::1:ff00:2").neighbour(135, GUEST6),
            Outcome::Pass,
        ),
        (
            "detection that claims the gateway",
            ip("::", "ff02::1:ff00:1").neighbour(135, "fd00:10:1::1"),
            dropped(R::NdSpoof),
        ),
        (
            "an advertisement of its own",
            ip("fe80::2", "fd00:10:1::1").neighbour(136, GUEST6),
            Outcome::Pass,
        ),
        (
            "an advertisement of the gateway",
            ip("fe80::2", "ff02::1").neighbour(136, "fd00:10:1::1"),
            dropped(R::NdSpoof),
        ),
        (
            "an advertisement of a neighbour",
            ip("fe80::2", "ff02::1").neighbour(136, "fd00:10:2::2"),
            dropped(R::NdSpoof),
        ),
        ("a solicitation of nothing", ip(GUEST6, "ff02::1:ff00:1").icmp(135, 0), {
            dropped(R::BadHeader)
        }),
        // The host by addresses that are on no list: broadcast (v4), anycast (v6).
        ("its own broadcast", ip(GUEST, "10.1.0.255").udp(1, 9, b""), dropped(R::Isolated)),
        ("its subnet's anycast", ip(GUEST6, "fd00:10:1::").udp(1, 9, b""), dropped(R::Isolated)),
        ("the uplink's broadcast", ip(GUEST, "198.51.100.255").udp(1, 9, b""), dropped(R::Host)),
        ("the uplink's anycast", ip(GUEST6, "2001:db8:ffff::").udp(1, 9, b""), dropped(R::Host)),
        ("an address the plan does not know", ip(GUEST6, "2001:db8:ffff::2").ping(1), {
            dropped(R::Host)
        }),
        ("an MLD report", ip("fe80::2", "ff02::16").behind_hop_by_hop(143), Outcome::Pass),
        ("IGMP", ip(GUEST, "224.0.0.22").protocol(2, &[0x22; 16]), Outcome::Pass),
        (
            "IGMP with router alert",
            {
                with_ip_options(&ip(GUEST, "224.0.0.22").protocol(2, &[0x22; 16]), &[0x94, 4, 0, 0])
            },
            Outcome::Pass,
        ),
        ("IGMP to the internet", ip(GUEST, WEB).protocol(2, &[0x22; 16]), dropped(R::Protocol)),
        ("a router advertisement", ip("fe80::2", "ff02::1").icmp(134, 0), dropped(R::RogueRa)),
        ("an MLD report abroad", ip(GUEST6, WEB6).behind_hop_by_hop(143), dropped(R::IcmpType)),
        (
            "an MLD report to the gateway",
            { ip(GUEST6, "fd00:10:1::1").behind_hop_by_hop(143) },
            dropped(R::Host),
        ),
        ("an MLD query", ip("fe80::2", "ff02::1").behind_hop_by_hop(130), dropped(R::Multicast)),
        ("hop-by-hop before a ping", ip(GUEST6, WEB6).behind_hop_by_hop(128), {
            dropped(R::Ipv6Extension)
        }),
        ("IGMP to the gateway", ip(GUEST, "10.1.0.1").protocol(2, &[0x22; 16]), dropped(R::Host)),
    ];
    check(cases, Kernel::egress);
}

#[test]
fn what_enters_a_slot() {
    use DropReason as R;
    if !can_use_kernel() {
        return;
    }
    let cases = vec![
        ("from the host", ip("10.1.0.1", GUEST).ping(1), Outcome::Pass),
        ("from management", ip("100.64.0.2", GUEST).tcp_syn(1, 22), Outcome::Pass),
        ("a reply to nothing", ip(WEB, GUEST).tcp_ack(443, 40000, b""), dropped(R::Unsolicited)),
        ("ARP", arp(1, BRIDGE_MAC, [10, 1, 0, 1], [10, 1, 0, 2]), Outcome::Pass),
        ("from a neighbour", ip("10.2.0.2", GUEST).ping(1), dropped(R::CrossSlot)),
        ("from its gateway", ip("10.2.0.1", GUEST).ping(1), dropped(R::CrossSlot)),
        ("from its IPv6", ip("fd00:10:2::2", GUEST6).ping(1), dropped(R::CrossSlot)),
        ("DNS nobody asked for", ip("10.1.0.1", GUEST).udp(53, 40000, b""), {
            dropped(R::DnsUnsolicited)
        }),
        (
            "from a private address",
            ip("192.168.1.1", GUEST).tcp_syn(1, 22),
            dropped(R::Unsolicited),
        ),
        ("from the metadata service", ip("169.254.169.254", GUEST).tcp_ack(80, 9, b""), {
            dropped(R::Unsolicited)
        }),
        ("from multicast", ip("224.0.0.5", GUEST).udp(1, 9, b""), dropped(R::Unsolicited)),
        ("from nowhere known", ip("4000::1", GUEST6).ping(1), dropped(R::UnknownAddress)),
        ("a duplicate's question", ip("::", "ff02::1:ff00:2").neighbour(135, GUEST6), {
            Outcome::Pass
        }),
        ("with a tag", tagged(&ip("10.1.0.1", GUEST).ping(1), 0x8100, 1), dropped(R::VlanTag)),
    ];
    check(cases, Kernel::ingress);
}

#[test]
fn replies_leave_only_where_the_host_or_management_asked() {
    if !can_use_kernel() {
        return;
    }
    let mut kernel = Kernel::new();
    let answer = ip(GUEST, "100.64.0.2").tcp_ack(22, 50000, b"SSH-2.0");
    assert_eq!(kernel.egress(&answer), dropped(DropReason::Management));
    assert_eq!(kernel.ingress(&ip("100.64.0.2", GUEST).tcp_syn(50000, 22)), Outcome::Pass);
    assert_eq!(kernel.egress(&answer), Outcome::Pass);
    // Nothing but the very connection, and no new one in its place.
    let syn = ip(GUEST, "100.64.0.2").tcp_syn(22, 50000);
    assert_eq!(kernel.egress(&syn), dropped(DropReason::TcpState));
    for other in [
        ip(GUEST, "100.64.0.2").tcp_ack(22, 50001, b""),
        ip(GUEST, "100.64.0.3").tcp_ack(22, 50000, b""),
        ip("10.1.0.3", "100.64.0.2").tcp_ack(22, 50000, b""),
        ip(GUEST, "100.64.0.2").udp(22, 50000, b""),
    ] {
        assert_eq!(kernel.egress(&other), dropped(DropReason::Management));
    }
    let pong = ip(GUEST, "100.64.0.2").pong(99);
    assert_eq!(kernel.egress(&pong), dropped(DropReason::Management));
    assert_eq!(kernel.ingress(&ip("100.64.0.2", GUEST).ping(99)), Outcome::Pass);
    assert_eq!(kernel.egress(&pong), Outcome::Pass);
    let to_host = ip(GUEST, "10.1.0.1").tcp_ack(8080, 41000, b"");
    assert_eq!(kernel.egress(&to_host), dropped(DropReason::Host));
    assert_eq!(kernel.ingress(&ip("10.1.0.1", GUEST).tcp_syn(41000, 8080)), Outcome::Pass);
    assert_eq!(kernel.egress(&to_host), Outcome::Pass);
}

#[test]
fn no_prefix_of_a_good_packet_passes() {
    if !can_use_kernel() {
        return;
    }
    let mut kernel = Kernel::new();
    let good = [
        arp(1, GUEST_MAC, [10, 1, 0, 2], [10, 1, 0, 1]),
        ip(GUEST, WEB).tcp_syn(40000, 443),
        ip(GUEST, WEB).udp(40000, 443, b"payload"),
        ip(GUEST, WEB).ping(1),
        ip(GUEST, "8.8.8.8").udp(40000, 53, b"query"),
        ip(GUEST6, WEB6).tcp_syn(40000, 443),
        ip(GUEST6, WEB6).udp(40000, 443, b"payload"),
        ip(GUEST6, WEB6).ping(1),
        ip("fe80::2", "ff02::16").behind_hop_by_hop(143),
        ip(GUEST6, "ff02::1:ff00:1").neighbour(135, "fd00:10:1::1"),
    ];
    let mut tried = 0;
    for frame in &good {
        assert!(!matches!(kernel.egress(frame), Outcome::Drop(_)), "a good packet: {frame:02x?}");
        for length in 14..frame.len() {
            // BPF_PROG_TEST_RUN refuses an skb that ends within its IP header; XDP takes all.
            let outcome = if length < 54 {
                kernel.probe(Hook::Xdp, &frame[..length], 0).0
            } else {
                kernel.egress(&frame[..length])
            };
            let as_it_should = [DropReason::Truncated, DropReason::BadHeader].map(dropped);
            assert!(as_it_should.contains(&outcome), "{length} bytes of {frame:02x?}: {outcome:?}");
            tried += 1;
        }
    }
    assert!(tried > 350, "only {tried} prefixes");
}

#[test]
fn a_bridge_takes_only_what_a_port_has_let_through() {
    if !can_use_kernel() {
        return;
    }
    let on_bridge = SLOTS.replace("\"br-slot1\"", "\"vm-other\"").replace("\"lo\"", "\"vm-slot1\"");
    let mut kernel = Kernel::with(&on_bridge.replace("\"vm-other\"", "\"lo\""));
    let frame = ip(GUEST, WEB).tcp_syn(40000, 443);
    let (outcome, probed) = kernel.probe(Hook::BridgeEgress, &frame, FROM_SLOT1);
    assert_eq!((outcome, probed.mark), (Outcome::Continue, 0));
    for stranger in [0, 1, u32::MAX, u32::from_be_bytes(*b"ngrd")] {
        let (outcome, _) = kernel.probe(Hook::BridgeEgress, &frame, stranger);
        assert_eq!(outcome, dropped(DropReason::UnguardedPort), "mark {stranger:#x}");
    }
    let (outcome, probed) = kernel.probe(Hook::BridgeIngress, &frame, 0xdead_beef);
    assert_eq!((outcome, probed.mark), (Outcome::Continue, FROM_HOST));
}

#[test]
fn a_port_takes_only_what_the_bridge_or_a_sibling_vouches_for() {
    if !can_use_kernel() {
        return;
    }
    let mut kernel = Kernel::new();
    let frame = ip("10.1.0.1", GUEST).ping(1);
    let (outcome, probed) = kernel.probe(Hook::PortIngress, &frame, FROM_HOST);
    assert_eq!((outcome, probed.mark), (Outcome::Pass, 0));
    let (outcome, _) = kernel.probe(Hook::PortIngress, &frame, 0);
    assert_eq!(outcome, dropped(DropReason::UnguardedPort));
    // A snooping bridge asks its ports by itself, past its own programs, and nobody else may.
    let query = ip("fe80::1", "ff02::1").behind_hop_by_hop(130);
    let (outcome, _) = kernel.probe(Hook::PortIngress, &query, 0);
    assert_eq!(outcome, dropped(DropReason::UnguardedPort));
    let mut from_bridge = query;
    from_bridge[6..12].copy_from_slice(&BRIDGE_MAC);
    let (outcome, _) = kernel.probe(Hook::PortIngress, &from_bridge, 0);
    assert_eq!(outcome, Outcome::Pass);
    let mut abroad = ip("10.1.0.1", GUEST).protocol(2, &[0x11; 16]);
    abroad[6..12].copy_from_slice(&BRIDGE_MAC);
    let (outcome, _) = kernel.probe(Hook::PortIngress, &abroad, 0);
    assert_eq!(outcome, dropped(DropReason::UnguardedPort));
}

#[test]
fn an_interface_without_a_slot_is_closed_both_ways() {
    if !can_use_kernel() {
        return;
    }
    let mut kernel = Kernel::with(&SLOTS.replace("\"lo\"", "\"vm-slot1\""));
    let frame = ip(GUEST, WEB).tcp_syn(40000, 443);
    assert_eq!(kernel.egress(&frame), dropped(DropReason::UnknownPort));
    assert_eq!(kernel.ingress(&frame), dropped(DropReason::UnknownPort));
    let (outcome, _) = kernel.probe(Hook::BridgeEgress, &frame, FROM_SLOT1);
    assert_eq!(outcome, dropped(DropReason::UnknownPort));
}
