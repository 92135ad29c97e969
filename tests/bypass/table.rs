//! The known ways around netguard: one line each, with the frames to send and what must become of them.

use std::net::Ipv6Addr;

use netguard_common::DropReason as R;
use netguard_tests::packet::{Path, arp, ip, marked, tagged, with_byte, with_ip_options};

pub const GUEST: &str = "10.1.0.2";
pub const GUEST6: &str = "fd00:10:1::2";
const GUEST_LINK: &str = "fe80::6e:67ff:fe00:102";
const GATEWAY: &str = "10.1.0.1";
const GATEWAY6: &str = "fd00:10:1::1";
pub const NEIGHBOUR: &str = "10.2.0.2";
pub const NEIGHBOUR6: &str = "fd00:10:2::2";
pub const WEB: &str = "203.0.113.10";
pub const WEB6: &str = "2001:db8:113::10";
pub const ELSEWHERE: &str = "203.0.113.66";

const MAC: [u8; 6] = [2, 0x6e, 0x67, 0, 1, 2];
const BRIDGE: [u8; 6] = [2, 0x6e, 0x67, 0, 1, 1];
const NEIGHBOURS_BRIDGE: [u8; 6] = [2, 0x6e, 0x67, 0, 2, 1];

pub const TCP: u8 = 6;
const UDP: u8 = 17;
pub const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// One way around.
pub struct Line {
    pub name: &'static str,
    /// What goes before, and passes as far as the slot's bridge: the first fragment, say.
    pub before: Vec<Vec<u8>>,
    pub frames: Vec<Vec<u8>>,
    pub expected: Expected,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// All of it is dropped.
    Dropped(R),
    /// It is allowed and arrives in the internet: the control.
    Arrives,
}

pub fn dropped(name: &'static str, frame: Vec<u8>, reason: R) -> Line {
    behind(name, Vec::new(), frame, reason)
}

fn behind(name: &'static str, before: Vec<Vec<u8>>, frame: Vec<u8>, reason: R) -> Line {
    Line { name, before, frames: vec![frame], expected: Expected::Dropped(reason) }
}

fn arrives(name: &'static str, frame: Vec<u8>) -> Line {
    Line { name, before: Vec::new(), frames: vec![frame], expected: Expected::Arrives }
}

/// From slot1's guest, as itself or as somebody else.
fn from(src: &str, dst: &str) -> Path {
    ip(src, dst).from_mac(MAC).to_mac(BRIDGE)
}

pub fn to(dst: &str) -> Path {
    from(if dst.contains(':') { GUEST6 } else { GUEST }, dst)
}

fn web() -> Vec<u8> {
    to(WEB).tcp_syn(40000, 443)
}

fn web6() -> Vec<u8> {
    to(WEB6).tcp_syn(40000, 443)
}

fn query() -> Vec<u8> {
    to("8.8.8.8").udp(40000, 53, b"a query for something")
}

/// ARP from slot1's MAC.
fn claim(operation: u8, sender_mac: [u8; 6], sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut frame = arp(operation, sender_mac, sender, target);
    frame[6..12].copy_from_slice(&MAC);
    frame
}

fn of_type(ether_type: u16) -> Vec<u8> {
    let [high, low] = ether_type.to_be_bytes();
    with_byte(with_byte(web(), 12, high), 13, low)
}

/// An error that quotes the packet behind this frame's Ethernet header.
pub fn error_about(quoted: &[u8]) -> Vec<u8> {
    let mut message = vec![3, 3, 0, 0, 0, 0, 0, 0];
    message.extend(&quoted[14..]);
    message
}

fn frames() -> Vec<Line> {
    let short = |length: usize| web()[..length].to_vec();
    vec![
        dropped("802.1Q", tagged(&web(), 0x8100, 5), R::VlanTag),
        dropped("802.1ad", tagged(&web(), 0x88a8, 5), R::VlanTag),
        dropped("a priority tag", tagged(&web(), 0x8100, 0xe000), R::VlanTag),
        dropped(
            "stacked tags of id 0 around a query",
            tagged(&tagged(&query(), 0x8100, 0), 0x88a8, 0),
            R::VlanTag,
        ),
        dropped(
            "802.1Q in 802.1Q to a neighbour",
            tagged(&tagged(&to(NEIGHBOUR).tcp_syn(1, 22), 0x8100, 2), 0x8100, 1),
            R::VlanTag,
        ),
        dropped("the old QinQ type", tagged(&query(), 0x9100, 0), R::VlanTag),
        dropped("LLC", of_type(40), R::EtherType),
        dropped("LLDP", of_type(0x88cc), R::EtherType),
        dropped("an unknown ether type", of_type(0x1234), R::EtherType),
        dropped("MPLS", of_type(0x8847), R::EtherType),
        dropped("PPPoE", of_type(0x8864), R::EtherType),
        dropped("MACsec", of_type(0x88e5), R::EtherType),
        dropped("an end within the IP header", short(30), R::Truncated),
        dropped("an end before the IP addresses", short(20), R::Truncated),
        dropped("an end within the IPv6 header", web6()[..50].to_vec(), R::Truncated),
        dropped(
            "an ARP packet's beginning",
            claim(1, MAC, [10, 1, 0, 2], [10, 1, 0, 1])[..16].to_vec(),
            R::Truncated,
        ),
        dropped("an end within the TCP header", short(44), R::BadHeader),
        dropped("an end within the UDP header", query()[..38].to_vec(), R::BadHeader),
    ]
}

fn identity() -> Vec<Line> {
    let from_other = |mac| ip(GUEST, WEB).from_mac(mac).to_mac(BRIDGE).tcp_syn(40000, 443);
    vec![
        dropped("a spoofed source MAC", from_other([2, 0x6e, 0x67, 0, 2, 2]), R::SpoofedMac),
        dropped("the bridge's MAC as source", from_other(BRIDGE), R::SpoofedMac),
        dropped("a neighbour's IPv4 source", from(NEIGHBOUR, WEB).tcp_syn(1, 443), {
            R::SpoofedSource
        }),
        dropped("the gateway's source", from(GATEWAY, WEB).tcp_syn(1, 443), R::SpoofedSource),
        dropped("the internet's source", from("8.8.8.8", WEB).udp(53, 9, b"x"), R::SpoofedSource),
        dropped("no source", from("0.0.0.0", WEB).udp(9, 9, b"x"), R::SpoofedSource),
        dropped(
            "a DHCP client where none is served",
            from("0.0.0.0", "255.255.255.255").udp(68, 67, b"x"),
            R::SpoofedSource,
        ),
        dropped("a neighbour's IPv6 source", from(NEIGHBOUR6, WEB6).ping(1), R::SpoofedSource),
        dropped("the gateway's IPv6 source", from(GATEWAY6, WEB6).ping(1), R::SpoofedSource),
        dropped(
            "a query from a neighbour's source",
            from(NEIGHBOUR, "8.8.8.8").udp(1, 53, b"x"),
            R::SpoofedSource,
        ),
        dropped("an ARP reply for another", claim(2, MAC, [10, 2, 0, 2], [10, 1, 0, 9]), {
            R::ArpSpoof
        }),
        dropped(
            "a gratuitous ARP request for the gateway",
            claim(1, MAC, [10, 1, 0, 1], [10, 1, 0, 1]),
            R::ArpSpoof,
        ),
        dropped(
            "a gratuitous ARP reply for the gateway",
            claim(2, MAC, [10, 1, 0, 1], [10, 1, 0, 1]),
            R::ArpSpoof,
        ),
        dropped("ARP with another's MAC", claim(2, BRIDGE, [10, 1, 0, 2], [10, 1, 0, 9]), {
            R::ArpSpoof
        }),
        dropped(
            "ARP for token ring",
            with_byte(claim(1, MAC, [10, 1, 0, 2], [10, 1, 0, 1]), 15, 6),
            R::BadHeader,
        ),
        dropped("a rogue DHCP server", to("255.255.255.255").udp(67, 68, b"x"), R::RogueDhcp),
        dropped("a rogue DHCPv6 server", from(GUEST_LINK, "ff02::1:2").udp(547, 546, b"x"), {
            R::RogueDhcp
        }),
        dropped("a rogue router advertisement", from(GUEST_LINK, "ff02::1").icmp(134, 0), {
            R::RogueRa
        }),
        dropped(
            "an advertisement of the gateway",
            from(GUEST_LINK, "ff02::1").neighbour(136, GATEWAY6),
            R::NdSpoof,
        ),
        dropped(
            "an advertisement of a neighbour",
            from(GUEST6, "ff02::1").neighbour(136, NEIGHBOUR6),
            R::NdSpoof,
        ),
        dropped(
            "duplicate detection that claims the gateway",
            from("::", "ff02::1:ff00:1").neighbour(135, GATEWAY6),
            R::NdSpoof,
        ),
    ]
}

fn headers() -> Vec<Line> {
    let options = |bytes: &[u8]| with_ip_options(&to(WEB).udp(9, 9, b"x"), bytes);
    let extended = |first, chain: &[u8]| {
        let mut bytes = chain.to_vec();
        bytes.extend(&web6()[54..]);
        to(WEB6).protocol(first, &bytes)
    };
    let long_chain = {
        let mut chain = Vec::new();
        for _ in 0..40 {
            chain.extend([60, 0, 1, 4, 0, 0, 0, 0]);
        }
        chain.extend([TCP, 0, 1, 4, 0, 0, 0, 0]);
        extended(60, &chain)
    };
    let mut routing = vec![TCP, 2, 0, 1, 0, 0, 0, 0];
    routing.extend(NEIGHBOUR6.parse::<Ipv6Addr>().expect("an address").octets());
    vec![
        dropped("loose source routing", options(&[131, 7, 4, 10, 2, 0, 2, 0]), R::IpOptions),
        dropped("strict source routing", options(&[137, 7, 4, 10, 2, 0, 2, 0]), R::IpOptions),
        dropped("record route", options(&[7, 7, 4, 0, 0, 0, 0, 0]), R::IpOptions),
        dropped("a time stamp option", options(&[68, 8, 5, 0, 0, 0, 0, 0]), R::IpOptions),
        dropped("a router alert on UDP", options(&[0x94, 4, 0, 0]), R::IpOptions),
        dropped("no operation, as an option", options(&[1, 1, 1, 0]), R::IpOptions),
        dropped("options in front of a query", with_ip_options(&query(), &[1, 1, 1, 0]), {
            R::IpOptions
        }),
        dropped("version 5", with_byte(web(), 14, 0x55), R::BadHeader),
        dropped("a header of 16 bytes", with_byte(web(), 14, 0x44), R::BadHeader),
        dropped("a total length above the frame", with_byte(web(), 17, 200), R::BadHeader),
        dropped("a total length below the header", with_byte(web(), 17, 19), R::BadHeader),
        dropped("a TCP offset of 4", with_byte(web(), 46, 0x40), R::BadHeader),
        dropped("a TCP offset behind the end", with_byte(web(), 46, 0xf0), R::BadHeader),
        dropped("a UDP length of 7", with_byte(query(), 39, 7), R::BadHeader),
        dropped("a UDP length above the packet", with_byte(query(), 39, 99), R::BadHeader),
        dropped("IPv6 of version 7", with_byte(web6(), 14, 0x70), R::BadHeader),
        dropped("an IPv6 length above the frame", with_byte(web6(), 19, 200), R::BadHeader),
        dropped("hop-by-hop before TCP", extended(0, &[TCP, 0, 5, 2, 0, 0, 1, 0]), {
            R::Ipv6Extension
        }),
        dropped("hop-by-hop before a ping", to(WEB6).behind_hop_by_hop(128), R::Ipv6Extension),
        dropped(
            "two hop-by-hop headers",
            extended(0, &[0, 0, 1, 4, 0, 0, 0, 0, TCP, 0, 1, 4, 0, 0, 0, 0]),
            R::Ipv6Extension,
        ),
        dropped("a routing header", extended(43, &routing), R::Ipv6Extension),
        dropped("destination options", extended(60, &[TCP, 0, 1, 4, 0, 0, 0, 0]), {
            R::Ipv6Extension
        }),
        dropped("a long chain", long_chain, R::Ipv6Extension),
        dropped("a chain that claims 2 KiB", extended(60, &[TCP, 255, 1, 4, 0, 0, 0, 0]), {
            R::Ipv6Extension
        }),
        dropped(
            "authentication before TCP",
            extended(51, &[TCP, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1]),
            R::Ipv6Extension,
        ),
    ]
}

fn fragments() -> Vec<Line> {
    let (tcp, tcp6) = (&web()[34..], &web6()[54..]);
    let (udp, udp6) = (&to(WEB).udp(9, 9, &[7; 48])[34..], &to(WEB6).udp(9, 9, &[7; 48])[54..]);
    let padded = |mut frame: Vec<u8>| {
        frame.extend([0; 40]);
        frame
    };
    let mut behind_fragment = vec![UDP, 0, 1, 4, 0, 0, 0, 0];
    behind_fragment.extend(udp6);
    vec![
        dropped("a tiny first fragment", to(WEB).fragment(TCP, 0, 0, true, &tcp[..8]), {
            R::Truncated
        }),
        dropped(
            "a padded tiny first fragment",
            padded(to(WEB).fragment(TCP, 0, 0, true, &tcp[..8])),
            R::BadHeader,
        ),
        dropped("a tiny first fragment, IPv6", to(WEB6).fragment(TCP, 1, 0, true, &tcp6[..8]), {
            R::Truncated
        }),
        behind(
            "an overlapping fragment",
            vec![to(WEB).fragment(UDP, 0, 0, true, &udp[..32])],
            to(WEB).fragment(UDP, 0, 2, false, &[9; 32]),
            R::Fragment,
        ),
        behind(
            "an overlapping fragment, IPv6",
            vec![to(WEB6).fragment(UDP, 2, 0, true, &udp6[..32])],
            to(WEB6).fragment(UDP, 2, 2, false, &[9; 32]),
            R::Fragment,
        ),
        behind(
            "the first fragment again, now of a query",
            vec![to(WEB).fragment(UDP, 0, 0, true, &udp[..32])],
            to(WEB).fragment(UDP, 0, 0, true, &to(WEB).udp(9, 53, &[7; 24])[34..]),
            R::Fragment,
        ),
        behind(
            "a fragment behind a gap",
            vec![to(WEB).fragment(UDP, 0, 0, true, &udp[..32])],
            to(WEB).fragment(UDP, 0, 5, false, &[9; 8]),
            R::Fragment,
        ),
        behind(
            "a fragment that offers itself to another address",
            vec![to(WEB).fragment(UDP, 0, 0, true, &udp[..32])],
            to(NEIGHBOUR).fragment(UDP, 0, 4, false, &[9; 8]),
            R::Fragment,
        ),
        dropped("no first fragment", to(WEB).fragment(UDP, 0, 100, false, &[9; 16]), R::Fragment),
        dropped("no first fragment, IPv6", to(WEB6).fragment(UDP, 3, 100, false, &[9; 16]), {
            R::Fragment
        }),
        dropped(
            "no first fragment, to a neighbour",
            to(NEIGHBOUR).fragment(TCP, 0, 100, false, &[9; 16]),
            R::Fragment,
        ),
        behind(
            "offset 1 over the TCP flags",
            vec![to(WEB).fragment(TCP, 0, 0, true, &padded(tcp.to_vec())[..24])],
            to(WEB).fragment(TCP, 0, 1, false, &tcp[8..]),
            R::Fragment,
        ),
        dropped("offset 1, IPv6", to(WEB6).fragment(TCP, 4, 1, false, &tcp6[8..]), R::Fragment),
        dropped("an atomic fragment", to(WEB6).fragment(TCP, 5, 0, false, tcp6), R::Fragment),
        dropped(
            "an extension behind a fragment header",
            to(WEB6).fragment(60, 6, 0, true, &behind_fragment),
            R::Ipv6Extension,
        ),
        dropped("a first fragment of odd length", to(WEB).fragment(UDP, 0, 0, true, &udp[..30]), {
            R::Fragment
        }),
        dropped("a fragment beyond 64 KiB", to(WEB).fragment(UDP, 0, 8191, false, &[9; 24]), {
            R::Fragment
        }),
        dropped(
            "a query in fragments",
            to("8.8.8.8").fragment(UDP, 0, 0, true, &to("8.8.8.8").udp(9, 53, &[7; 24])[34..]),
            R::Fragment,
        ),
        dropped(
            "a query in fragments, IPv6",
            {
                let payload = &to(WEB6).udp(9, 53, &[7; 24])[54..];
                to(WEB6).fragment(UDP, 7, 0, true, payload)
            },
            R::Fragment,
        ),
        dropped("a ping in fragments", to(WEB).fragment(ICMP, 0, 0, true, &[8; 16]), R::IcmpSize),
        dropped("GRE in fragments", to(WEB).fragment(47, 0, 0, true, &[0; 16]), R::Protocol),
        dropped("GRE's later fragment", to(WEB).fragment(47, 0, 9, false, &[0; 16]), R::Protocol),
        dropped(
            "a first fragment to a neighbour",
            to(NEIGHBOUR).fragment(UDP, 0, 0, true, &to(NEIGHBOUR).udp(9, 9, &[7; 24])[34..]),
            R::CrossSlot,
        ),
    ]
}

fn protocols() -> Vec<Line> {
    let inner = &to(NEIGHBOUR).tcp_syn(1, 22)[14..];
    let inner6 = &to(NEIGHBOUR6).tcp_syn(1, 22)[14..];
    vec![
        dropped("GRE", to(WEB).protocol(47, &[0; 24]), R::Protocol),
        dropped("IP in IP", to(WEB).protocol(4, inner), R::Protocol),
        dropped("6in4", to(WEB).protocol(41, inner6), R::Protocol),
        dropped("4in6", to(WEB6).protocol(4, inner), R::Protocol),
        dropped("IPv6 in IPv6", to(WEB6).protocol(41, inner6), R::Protocol),
        dropped("SCTP", to(WEB).protocol(132, &[0; 24]), R::Protocol),
        dropped("SCTP over IPv6", to(WEB6).protocol(132, &[0; 24]), R::Protocol),
        dropped("ESP", to(WEB).protocol(50, &[0; 24]), R::Protocol),
        dropped("ESP over IPv6", to(WEB6).protocol(50, &[0; 24]), R::Protocol),
        dropped("UDP-Lite", to(WEB).protocol(136, &[0; 24]), R::Protocol),
        dropped("DCCP", to(WEB).protocol(33, &[0; 24]), R::Protocol),
        dropped("L2TP", to(WEB).protocol(115, &[0; 24]), R::Protocol),
        dropped("raw protocol 253", to(WEB).protocol(253, &[0; 24]), R::Protocol),
        dropped("raw protocol 255", to(WEB).protocol(255, &[0; 24]), R::Protocol),
        dropped("ICMPv6 over IPv4", to(WEB).protocol(ICMPV6, &[128; 8]), R::Protocol),
        dropped("ICMP over IPv6", to(WEB6).protocol(ICMP, &[8; 8]), R::Protocol),
        dropped("IGMP to the internet", to(WEB).protocol(2, &[0x22; 16]), R::Protocol),
        dropped("VXLAN to a neighbour", to(NEIGHBOUR).udp(4789, 4789, &[8; 64]), R::CrossSlot),
        dropped("WireGuard to a neighbour", to(NEIGHBOUR).udp(51820, 51820, &[1; 148]), {
            R::CrossSlot
        }),
        dropped("VXLAN to the host", to(GATEWAY).udp(4789, 4789, &[8; 64]), R::Host),
    ]
}

fn icmp() -> Vec<Line> {
    let long = |kind| {
        let mut message = vec![kind, 0, 0, 0, 0, 7, 0, 1];
        message.extend([0x61; 249]);
        message
    };
    // What the peer of the flow below sends to the guest; the error tells the peer of it.
    let received = |peer| ip(peer, GUEST).udp(7000, 7001, b"what the quote is of");
    vec![
        arrives("the flow that errors quote", to(WEB).udp(7001, 7000, b"x")),
        dropped("an error that quotes nothing", to(WEB).icmp(3, 1), R::IcmpError),
        dropped("an error that quotes nothing, IPv6", to(WEB6).icmp(2, 1), R::IcmpError),
        dropped(
            "an error that quotes no flow",
            to(ELSEWHERE).protocol(ICMP, &error_about(&received(ELSEWHERE))),
            R::IcmpError,
        ),
        dropped(
            "an error that quotes an own flow, to another",
            to(ELSEWHERE).protocol(ICMP, &error_about(&received(WEB))),
            R::IcmpError,
        ),
        dropped(
            "an error that quotes an own flow, to a neighbour",
            to(NEIGHBOUR).protocol(ICMP, &error_about(&received(WEB))),
            R::CrossSlot,
        ),
        dropped(
            "an error that quotes a neighbour's flow",
            {
                let quoted = ip(WEB, NEIGHBOUR).udp(7000, 7001, b"what the quote is of");
                to(WEB).protocol(ICMP, &error_about(&quoted))
            },
            R::IcmpError,
        ),
        dropped("a redirect", to(WEB).icmp(5, 1), R::IcmpType),
        dropped("a redirect to a neighbour", to(NEIGHBOUR).icmp(5, 1), R::IcmpType),
        dropped("an IPv6 redirect", from(GUEST_LINK, "ff02::1").icmp(137, 1), R::IcmpType),
        dropped("a time stamp request", to(WEB).icmp(13, 1), R::IcmpType),
        dropped("a reply that nobody asked for", to(WEB).pong(9), R::IcmpType),
        dropped("a reply that nobody asked for, IPv6", to(WEB6).pong(9), R::IcmpType),
        dropped("an MLD report abroad", to(WEB6).behind_hop_by_hop(143), R::IcmpType),
        dropped("a long echo request", to(WEB).protocol(ICMP, &long(8)), R::IcmpSize),
        dropped("a long echo request, IPv6", to(WEB6).protocol(ICMPV6, &long(128)), R::IcmpSize),
        dropped("a long echo request to the gateway", to(GATEWAY).protocol(ICMP, &long(8)), {
            R::IcmpSize
        }),
    ]
}

fn dns() -> Vec<Line> {
    let (google6, cloudflare6) = ("2001:4860:4860::8888", "2606:4700:4700::1111");
    vec![
        dropped("DNS over TLS", to("1.1.1.1").tcp_syn(40000, 853), R::DnsOverTls),
        dropped("DNS over TLS to anybody", to(ELSEWHERE).tcp_syn(40000, 853), R::DnsOverTls),
        dropped("DNS over TLS, IPv6", to(google6).tcp_syn(40000, 853), R::DnsOverTls),
        dropped("DNS over TLS to a neighbour", to(NEIGHBOUR).tcp_syn(1, 853), R::DnsOverTls),
        dropped("DNS over QUIC", to("8.8.8.8").udp(40000, 853, b"x"), R::DnsOverQuic),
        dropped("DNS over QUIC, IPv6", to(cloudflare6).udp(40000, 853, b"x"), R::DnsOverQuic),
        dropped("DNS over HTTPS", to("1.1.1.1").tcp_syn(40000, 443), R::DnsOverHttps),
        dropped("DNS over HTTP/3", to("1.1.1.1").udp(40000, 443, b"x"), R::DnsOverHttps),
        dropped("DNS over HTTPS, IPv6", to(cloudflare6).tcp_syn(40000, 443), R::DnsOverHttps),
        dropped("DNS over HTTP/3, IPv6", to(cloudflare6).udp(40000, 443, b"x"), R::DnsOverHttps),
        dropped("DNS over HTTPS at another port", to("8.8.8.8").tcp_syn(1, 8443), R::DnsOverHttps),
        // Ports that mean DNS where a packet goes mean nothing where it comes from.
        arrives("source port 53", to(WEB).udp(53, 9, b"x")),
        arrives("source port 853", to(WEB).udp(853, 9, b"x")),
        arrives("source port 53, IPv6", to(WEB6).udp(53, 9, b"x")),
        dropped("source port 53 to a neighbour", to(NEIGHBOUR).udp(53, 9, b"x"), R::CrossSlot),
        dropped("source port 853 to a neighbour", to(NEIGHBOUR).tcp_syn(853, 22), R::CrossSlot),
        dropped("source port 53 to the host", to("192.0.2.2").udp(53, 9, b"x"), R::Host),
        dropped("source port 53 to the gateway", to(GATEWAY).tcp_syn(53, 22), R::Host),
        dropped("source port 853 to the host", to(GATEWAY).tcp_syn(853, 22), R::Host),
    ]
}

fn tcp() -> Vec<Line> {
    let flags = |flags| to(WEB).tcp_flags(40001, 443, flags);
    vec![
        dropped("SYN and FIN", flags(0x03), R::TcpFlags),
        dropped("SYN and RST", flags(0x06), R::TcpFlags),
        dropped("no flags", flags(0), R::TcpFlags),
        dropped("FIN, PSH, URG", flags(0x29), R::TcpFlags),
        dropped("all flags", flags(0x3f), R::TcpFlags),
        dropped("FIN alone", flags(0x01), R::TcpFlags),
        dropped("URG alone", flags(0x20), R::TcpFlags),
        dropped("FIN alone, IPv6", to(WEB6).tcp_flags(40001, 443, 0x01), R::TcpFlags),
        dropped("a bare ACK", flags(0x10), R::TcpState),
        dropped("a FIN and ACK to nobody", flags(0x11), R::TcpState),
        dropped("a RST to nobody", flags(0x04), R::TcpState),
        dropped("a SYN and ACK to nobody", flags(0x12), R::TcpState),
        dropped("a SYN and ACK to a neighbour", to(NEIGHBOUR).tcp_flags(22, 9, 0x12), R::CrossSlot),
        dropped("an ACK to a neighbour", to(NEIGHBOUR).tcp_ack(22, 9, b"x"), R::CrossSlot),
        dropped("a bare ACK, IPv6", to(WEB6).tcp_ack(40001, 443, b"x"), R::TcpState),
    ]
}

fn places() -> Vec<Line> {
    let neighbours_link = "fe80::6e:67ff:fe00:202";
    vec![
        dropped("metadata", to("169.254.169.254").tcp_syn(1, 80), R::Metadata),
        dropped("metadata by UDP", to("169.254.169.254").udp(1, 80, b"x"), R::Metadata),
        dropped("metadata, IPv4-mapped", to("::ffff:169.254.169.254").tcp_syn(1, 80), R::BadHeader),
        dropped("metadata by NAT64", to("64:ff9b::a9fe:a9fe").tcp_syn(1, 80), {
            R::PrivateDestination
        }),
        dropped("metadata by 6to4", to("2002:a9fe:a9fe::1").tcp_syn(1, 80), R::PrivateDestination),
        dropped("metadata by Teredo", to("2001:0:a9fe:a9fe::1").tcp_syn(1, 80), {
            R::PrivateDestination
        }),
        dropped("metadata, IPv6", to("fd00:ec2::254").tcp_syn(1, 80), R::Metadata),
        dropped("a container's credentials", to("169.254.170.2").tcp_syn(1, 80), R::Metadata),
        dropped("Azure's host agent", to("168.63.129.16").tcp_syn(1, 80), R::Metadata),
        dropped("Alibaba's metadata", to("100.100.100.200").tcp_syn(1, 80), R::Metadata),
        dropped("the uplink's address", to("192.0.2.2").tcp_syn(1, 22), R::Host),
        dropped("the uplink's address, ping", to("192.0.2.2").ping(1), R::Host),
        dropped("the uplink's IPv6 address", to("2001:db8:ffff::2").tcp_syn(1, 22), R::Host),
        dropped("the uplink's broadcast", to("192.0.2.255").udp(1, 9, b"x"), R::Host),
        dropped("the uplink's anycast", to("2001:db8:ffff::").udp(1, 9, b"x"), R::Host),
        dropped("the gateway's SSH", to(GATEWAY).tcp_syn(1, 22), R::Host),
        dropped("the gateway's SSH, IPv6", to(GATEWAY6).tcp_syn(1, 22), R::Host),
        dropped("the host in the management network", to("100.64.0.1").tcp_syn(1, 22), R::Host),
        dropped("the management network", to("100.64.0.2").tcp_syn(1, 22), R::Management),
        dropped("a neighbour", to(NEIGHBOUR).tcp_syn(1, 22), R::CrossSlot),
        dropped("a neighbour's IPv6", to(NEIGHBOUR6).tcp_syn(1, 22), R::CrossSlot),
        dropped("a neighbour's gateway", to("10.2.0.1").tcp_syn(1, 22), R::CrossSlot),
        dropped("a neighbour's gateway, ping", to("10.2.0.1").ping(1), R::CrossSlot),
        dropped("a neighbour's IPv6 gateway", to("fd00:10:2::1").ping(1), R::CrossSlot),
        dropped("a neighbour's broadcast", to("10.2.0.255").udp(1, 9, b"x"), R::CrossSlot),
        dropped(
            "a neighbour's bridge, by MAC",
            to(NEIGHBOUR).to_mac(NEIGHBOURS_BRIDGE).tcp_syn(1, 22),
            R::CrossSlot,
        ),
        dropped(
            "a neighbour, by its MAC",
            to(NEIGHBOUR).to_mac([2, 0x6e, 0x67, 0, 2, 2]).tcp_syn(1, 22),
            R::CrossSlot,
        ),
        dropped(
            "a neighbour, by everybody's MAC",
            to(NEIGHBOUR).to_mac([0xff; 6]).udp(1, 9, b"x"),
            R::CrossSlot,
        ),
        dropped(
            "a neighbour's link-local address",
            from(GUEST_LINK, neighbours_link).tcp_syn(1, 22),
            R::LinkLocal,
        ),
        dropped("link-local", to("169.254.1.1").tcp_syn(1, 80), R::LinkLocal),
        dropped("the own subnet", to("10.1.0.77").ping(1), R::Isolated),
        dropped("the own broadcast", to("10.1.0.255").udp(1, 9, b"x"), R::Isolated),
        dropped("multicast", to("239.1.1.1").udp(1, 9, b"x"), R::Multicast),
        dropped("multicast DNS", to("224.0.0.251").udp(5353, 5353, b"x"), R::Multicast),
        dropped("multicast DNS, IPv6", from(GUEST_LINK, "ff02::fb").udp(5353, 5353, b"x"), {
            R::Multicast
        }),
        dropped("an MLD query", from(GUEST_LINK, "ff02::1").behind_hop_by_hop(130), R::Multicast),
        dropped("broadcast", to("255.255.255.255").udp(1, 9, b"x"), R::Multicast),
        dropped("a private address", to("192.168.7.7").tcp_syn(1, 80), R::PrivateDestination),
        dropped("a private address, 172", to("172.17.0.2").tcp_syn(1, 80), R::PrivateDestination),
        dropped("a private address, 10", to("10.200.0.1").ping(1), R::PrivateDestination),
        dropped("a private address, IPv6", to("fd12::1").ping(1), R::PrivateDestination),
        dropped("loopback", to("127.0.0.1").tcp_syn(1, 22), R::PrivateDestination),
        dropped("loopback, IPv6", to("::1").tcp_syn(1, 22), R::PrivateDestination),
        dropped("this network", to("0.0.0.1").tcp_syn(1, 22), R::PrivateDestination),
        dropped("the reserved range", to("240.0.0.1").tcp_syn(1, 22), R::PrivateDestination),
        dropped("unassigned IPv6", to("4000::1").ping(1), R::UnknownAddress),
        dropped("IPv4-compatible IPv6", to("::10.2.0.2").ping(1), R::UnknownAddress),
        // In between, and at the end of the whole table: the listeners hear.
        arrives("UDP to the internet", to(WEB).udp(9, 9, b"x")),
        arrives("UDP to the internet, IPv6", to(WEB6).udp(9, 9, b"x")),
    ]
}

pub fn table() -> Vec<Line> {
    let groups =
        [frames(), identity(), headers(), fragments(), protocols(), icmp(), dns(), tcp(), places()];
    let mut lines: Vec<_> = groups.into_iter().flatten().collect();
    for (line, mark) in lines.iter_mut().zip(MARKS..) {
        for frame in line.before.iter_mut().chain(&mut line.frames) {
            *frame = marked(std::mem::take(frame), mark);
        }
    }
    lines
}

/// The first line's mark; the others' follow.
pub const MARKS: u16 = 0xa001;
