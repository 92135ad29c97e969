//! The packets: one case for each drop reason, with the line of the configuration that decides.

use netguard_common::{Direction, DropReason as R};
use netguard_tests::{
    lines::{default_of, line_of},
    packet::{Path, arp, ip, tagged, with_byte, with_ip_options},
};

pub const CONFIG: &str = r#"
[host]
uplinks = ["eth0"]
management = [
    "100.64.0.0/10",
]
[limits]
flows = 512
[dns]
upstreams = ["1.1.1.1"]
categories = []
names = ["github.com"]
[[runtime]]
name = "vm"
isolate = true
[[runtime]]
name = "pods"

[[slot]]
name = "slot1"
id = 1
subnet = "10.1.0.0/24"
subnet6 = "fd00:10:1::/64"
mac = "02:6e:67:00:01:02"
runtime = "vm"
egress = "open"
host_services = ["tcp/22"]
metadata = false

[[slot]]
name = "slot2"
id = 2
subnet = "10.2.0.0/24"
runtime = "pods"
egress = "listed"
allow = ["203.0.113.0/24 tcp/443"]
deny = [
    "203.0.113.66 tcp/80",
]

[[slot]]
name = "slot3"
id = 3
subnet = "10.3.0.0/24"
runtime = "vm"
egress = "pinned"

[[slot]]
name = "slot4"
id = 4
subnet = "10.4.0.0/24"
runtime = "pods"
mode = "lockdown"

[[slot]]
name = "slot5"
id = 5
subnet = "10.5.0.0/24"
runtime = "pods"
egress = "open"
limits.packets_per_second = 10
limits.icmp_per_second = 5
limits.icmp_max_bytes = 100

[[slot]]
name = "slot6"
id = 6
subnet = "10.6.0.0/24"
runtime = "pods"
egress = "open"
limits.bytes_per_second = 10000
limits.flows_per_second = 10
"#;

/// What is sent, and what must come of it.
pub struct Case {
    pub reason: R,
    /// Whose drop it is.
    pub slot: &'static str,
    pub direction: Direction,
    /// The host and its interface that send.
    pub from: (&'static str, &'static str),
    pub frames: Vec<Vec<u8>>,
    /// Where that stands which decides.
    pub line: String,
    /// How many of the frames are dropped, if that depends on no clock.
    pub is_exact: bool,
}

const WEB: &str = "203.0.113.10";
const WEB6: &str = "2001:db8:113::10";

/// The MACs of a lab.
const fn guest(slot: u8) -> [u8; 6] {
    [2, 0x6e, 0x67, 0, slot, 2]
}

const fn bridge(slot: u8) -> [u8; 6] {
    [2, 0x6e, 0x67, 0, slot, 1]
}

/// From a slot's guest.
fn out(slot: u8, dst: &str) -> Path {
    let src = format!("10.{slot}.0.2");
    as_if(slot, if dst.contains(':') { "fd00:10:1::2" } else { &src }, dst)
}

fn as_if(slot: u8, src: &str, dst: &str) -> Path {
    ip(src, dst).from_mac(guest(slot)).to_mac(bridge(slot))
}

/// The place of the only line that has this in it.
fn at(what: &str) -> String {
    line_of(CONFIG, "netguard.toml", what)
}

fn built_in() -> String {
    "built in".to_owned()
}

/// One frame of a slot's guest that is dropped on its way out.
fn egress(slot: u8, reason: R, frame: Vec<u8>, line: String) -> Case {
    let slot = ["", "slot1", "slot2", "slot3", "slot4", "slot5", "slot6"][usize::from(slot)];
    Case {
        reason,
        slot,
        direction: Direction::Egress,
        from: (slot, "eth0"),
        frames: vec![frame],
        line,
        is_exact: true,
    }
}

/// Many at once, some of which are too many.
fn flood(slot: u8, reason: R, frames: Vec<Vec<u8>>, line: String) -> Case {
    Case { frames, is_exact: false, ..egress(slot, reason, Vec::new(), line) }
}

/// One frame to slot1's guest.
fn ingress(reason: R, from: (&'static str, &'static str), frame: Vec<u8>, line: String) -> Case {
    Case { direction: Direction::Ingress, from, ..egress(1, reason, frame, line) }
}

/// What is dropped for what it is.
fn by_form() -> Vec<Case> {
    let web = || out(1, WEB).tcp_syn(40000, 443);
    let of_type = |high, low| with_byte(with_byte(web(), 12, high), 13, low);
    let mut claimed = arp(2, guest(1), [10, 2, 0, 2], [10, 1, 0, 9]);
    claimed[6..12].copy_from_slice(&guest(1));
    let link = "fe80::6e:67ff:fe00:102";
    vec![
        egress(1, R::Truncated, web()[..30].to_vec(), built_in()),
        egress(1, R::Truncated, out(1, WEB).fragment(6, 0, 0, true, &[0; 8]), built_in()),
        egress(1, R::VlanTag, tagged(&web(), 0x8100, 5), built_in()),
        egress(1, R::EtherType, of_type(0x88, 0xcc), built_in()),
        egress(1, R::SpoofedSource, as_if(1, "10.77.0.2", WEB).tcp_syn(1, 443), {
            at("subnet = \"10.1.0.0/24\"")
        }),
        egress(1, R::SpoofedMac, out(1, WEB).from_mac(guest(2)).tcp_syn(1, 443), at("mac = ")),
        egress(1, R::ArpSpoof, claimed, at("subnet = \"10.1.0.0/24\"")),
        egress(1, R::NdSpoof, as_if(1, link, "ff02::1").neighbour(136, "fd00:10:1::1"), {
            at("subnet6 = ")
        }),
        egress(1, R::RogueDhcp, out(1, "255.255.255.255").udp(67, 68, b"x"), built_in()),
        egress(1, R::RogueRa, as_if(1, link, "ff02::1").icmp(134, 0), built_in()),
        egress(1, R::BadHeader, with_byte(web(), 14, 0x55), built_in()),
        egress(1, R::IpOptions, with_ip_options(&out(1, WEB).udp(9, 9, b"x"), &[7, 7, 4, 0]), {
            built_in()
        }),
        egress(1, R::Ipv6Extension, out(1, WEB6).behind_hop_by_hop(128), built_in()),
        egress(1, R::Fragment, out(1, WEB).fragment(17, 0, 100, false, &[9; 16]), built_in()),
        egress(1, R::Protocol, out(1, WEB).protocol(47, &[0; 24]), built_in()),
        egress(1, R::IcmpType, out(1, WEB).icmp(5, 1), built_in()),
        egress(1, R::IcmpError, out(1, WEB).icmp(3, 1), built_in()),
        egress(5, R::IcmpSize, out(5, WEB).protocol(1, &[8; 200]), at("icmp_max_bytes")),
        egress(1, R::TcpFlags, out(1, WEB).tcp_flags(1, 443, 0x03), built_in()),
        egress(1, R::TcpState, out(1, WEB).tcp_ack(1, 443, b"x"), built_in()),
    ]
}

/// What is dropped for where it goes.
fn by_place() -> Vec<Case> {
    let to = |dst: &str, port| out(1, dst).tcp_syn(40000, port);
    vec![
        egress(1, R::CrossRuntime, to("10.2.0.2", 80), default_of("gate")),
        egress(1, R::CrossSlot, to("10.3.0.2", 80), at("isolate = true")),
        egress(1, R::Isolated, to("10.1.0.77", 80), at("isolate = true")),
        egress(1, R::Host, to("10.1.0.1", 80), at("host_services = ")),
        egress(1, R::Metadata, to("169.254.169.254", 80), at("metadata = false")),
        egress(1, R::PrivateDestination, to("192.168.7.7", 80), default_of("allow")),
        egress(1, R::LinkLocal, to("169.254.1.1", 80), default_of("allow")),
        egress(1, R::Multicast, out(1, "239.1.1.1").udp(1, 9, b"x"), default_of("allow")),
        egress(1, R::Management, to("100.64.0.2", 80), at("100.64.0.0/10")),
        egress(1, R::UnknownAddress, out(1, "4000::1").ping(1), built_in()),
        egress(1, R::DnsOverTls, to("1.1.1.1", 853), built_in()),
        egress(1, R::DnsOverQuic, out(1, "1.1.1.1").udp(1, 853, b"x"), built_in()),
        egress(1, R::DnsOverHttps, to("1.1.1.1", 443), default_of("allow")),
        egress(2, R::EgressDenied, out(2, "203.0.113.66").tcp_syn(1, 80), {
            at("\"203.0.113.66 tcp/80\"")
        }),
        egress(3, R::NotPinned, out(3, WEB).tcp_syn(1, 80), at("egress = \"pinned\"")),
        egress(4, R::Lockdown, out(4, WEB).tcp_syn(1, 80), at("mode = \"lockdown\"")),
        // From a link-local address: the slot has no subnet of IPv6.
        egress(
            2,
            R::NoResolver,
            as_if(2, "fe80::6e:67ff:fe00:202", "2001:db8::53").udp(1, 53, b"query"),
            default_of("subnet6"),
        ),
    ]
}

/// What is dropped because it is too much.
fn by_room() -> Vec<Case> {
    let many = |frame: Vec<u8>| vec![frame; 100];
    let ports = |slot, from: u16, count: u16| (from..from + count).map(move |port| (slot, port));
    let syns = ports(6, 2000, 100).map(|(slot, port)| out(slot, WEB).tcp_syn(port, 443));
    // Shorter than a header of DNS: nobody answers.
    let queries =
        ports(1, 10_000, 50_000).map(|(slot, port)| out(slot, "8.8.8.8").udp(port, 53, b"query"));
    vec![
        flood(5, R::IcmpRate, many(out(5, WEB).ping(7)), at("icmp_per_second")),
        flood(5, R::PacketRate, many(out(5, WEB).udp(9, 9, b"x")), at("packets_per_second")),
        flood(6, R::FlowRate, syns.collect(), at("flows_per_second")),
        flood(6, R::ByteRate, many(out(6, WEB).udp(9, 9, &[0; 958])), at("bytes_per_second")),
        flood(1, R::DnsFlowsFull, queries.collect(), built_in()),
    ]
}

/// What is dropped on its way in.
fn inwards() -> Vec<Case> {
    let from = |src: &str| ip(src, "10.1.0.2").from_mac(bridge(1)).to_mac(guest(1));
    vec![
        ingress(R::Unsolicited, ("hv", "br-slot1"), from(WEB).tcp_syn(1, 22), {
            default_of("management")
        }),
        ingress(R::DnsUnsolicited, ("hv", "br-slot1"), from("10.1.0.1").udp(53, 1, b"x"), {
            built_in()
        }),
        // By the port itself, where no bridge has vouched for it.
        ingress(R::UnguardedPort, ("hv", "vm-slot1"), from(WEB).tcp_syn(1, 22), built_in()),
    ]
}

/// What passes, where nothing is wrong with its port.
pub fn any(slot: u8) -> Vec<u8> {
    out(slot, WEB).tcp_syn(1, 443)
}

/// All of them but for those that [`super`] sees to by itself.
pub fn table() -> Vec<Case> {
    [by_form(), by_place(), by_room(), inwards()].into_iter().flatten().collect()
}
