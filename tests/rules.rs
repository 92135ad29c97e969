//! What a slot's keys in the file open and close, by the programs that the kernel has loaded.

#[path = "rules/meeting.rs"]
mod meeting;

use DropReason as R;
use netguard_common::DropReason;
use netguard_tests::{
    can_use_kernel,
    kernel::{Kernel, Outcome},
    packet::{BRIDGE_MAC, GUEST_MAC, arp, ip, with_byte},
};

const GUEST: &str = "10.1.0.2";
const GUEST6: &str = "fd00:10:1::2";
const WEB: &str = "203.0.113.9";
const WEB6: &str = "2001:db8:113::9";
const PASS: Outcome = Outcome::Pass;
const PING_BYTES: usize = 8;

/// Three slots of two runtimes. Slot 1 is on `lo` and says `more`; 2 is of its runtime, 3 is not.
fn slots(top: &str, isolate: bool, more: &str) -> String {
    format!(
        r#"
{top}
[host]
management = ["100.64.0.0/10"]

[dns]
upstreams = ["1.1.1.1"]

[[runtime]]
name = "one"
isolate = {isolate}

[[runtime]]
name = "two"

[[slot]]
name = "slot1"
id = 1
bridge = "br-slot1"
port = "lo"
subnet = "10.1.0.0/24"
subnet6 = "fd00:10:1::/64"
runtime = "one"
limits = {{ icmp_per_second = 0 }}
{more}

[[slot]]
name = "slot2"
id = 2
bridge = "br-slot1"
port = "vm-slot2"
subnet = "10.2.0.0/24"
subnet6 = "fd00:10:2::/64"
runtime = "one"

[[slot]]
name = "slot3"
id = 3
bridge = "br-slot1"
port = "vm-slot3"
subnet = "10.3.0.0/24"
subnet6 = "fd00:10:3::/64"
runtime = "two"
"#
    )
}

fn dropped(reason: DropReason) -> Outcome {
    Outcome::Drop(reason)
}

/// What slot 1 says, and what then becomes of frames that leave it.
type Case<'a> = (&'a str, Vec<(&'a str, Vec<u8>, Outcome)>);

/// One policy after the other in the same programs, without what they remember: every case has ports of
/// its own.
fn check_leaving(cases: Vec<Case>) {
    let mut kernel = Kernel::with(&slots("", true, ""));
    let mut failed = Vec::new();
    for (more, frames) in cases {
        kernel.apply(&slots("", true, more));
        for (name, frame, expected) in frames {
            let found = kernel.verdict_egress(&frame);
            if found != expected {
                failed.push(format!("{more}: {name}: {found:?}, not {expected:?}"));
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn the_longest_prefix_that_names_the_service_wins_and_then_a_denial() {
    if !can_use_kernel() {
        return;
    }
    let denied = || dropped(R::EgressDenied);
    let syn = |dst: &str, port| ip(GUEST, dst).tcp_syn(40000, port);
    let syn6 = |dst: &str, port| ip(GUEST6, dst).tcp_syn(40000, port);
    let udp = |dst: &str, port| ip(GUEST, dst).udp(40000, port, b"");
    check_leaving(vec![
        (
            "allow = ['203.0.113.0/24']\ndeny = ['203.0.113.0/24']",
            vec![
                ("deny beats allow on the same prefix", syn(WEB, 1), denied()),
                ("and for pings", ip(GUEST, WEB).ping(1), denied()),
                ("elsewhere it is open", syn("198.51.100.9", 1), PASS),
            ],
        ),
        (
            "deny = ['203.0.0.0/8']\nallow = ['203.0.113.0/24', '203.0.113.128/25 tcp/80']",
            vec![
                ("the longer prefix wins", syn(WEB, 2), PASS),
                (
                    "a longer one that names another service says nothing",
                    syn("203.0.113.200", 2),
                    PASS,
                ),
                ("outside of it the shorter one speaks", syn("203.0.114.1", 2), denied()),
            ],
        ),
        (
            "allow = ['203.0.0.0/8']\ndeny = ['203.0.113.9']",
            vec![
                ("a single address", syn(WEB, 3), denied()),
                ("its neighbour", syn("203.0.113.8", 3), PASS),
                ("its other neighbour", syn("203.0.113.10", 3), PASS),
            ],
        ),
        (
            "egress = 'listed'\nallow = ['203.0.113.0/24 tcp/1000-2000,udp/53-54,udp/500']",
            vec![
                ("below the range", syn(WEB, 999), denied()),
                ("its first port", syn(WEB, 1000), PASS),
                ("its last port", syn(WEB, 2000), PASS),
                ("above it", syn(WEB, 2001), denied()),
                ("its port over UDP", udp(WEB, 1000), denied()),
                ("UDP 54", udp(WEB, 54), PASS),
                ("UDP 55", udp(WEB, 55), denied()),
                ("UDP 500", udp(WEB, 500), PASS),
                ("TCP 500", syn(WEB, 500), denied()),
                ("no ping", ip(GUEST, WEB).ping(4), denied()),
                (
                    "DNS goes to the resolver whatever the rules say",
                    udp(WEB, 53),
                    Outcome::Redirect,
                ),
                ("another destination", syn("203.0.114.9", 1000), denied()),
                ("IPv6, of which nothing is said", syn6(WEB6, 1000), denied()),
            ],
        ),
        (
            "egress = 'listed'\nallow = ['203.0.113.0/24 icmp', '2001:db8::/32 icmp']",
            vec![
                ("a ping", ip(GUEST, WEB).ping(5), PASS),
                ("a ping over IPv6", ip(GUEST6, WEB6).ping(5), PASS),
                ("no timestamp", ip(GUEST, WEB).icmp(13, 5), dropped(R::IcmpType)),
                ("TCP", syn(WEB, 5), denied()),
            ],
        ),
        (
            "egress = 'listed'\nallow = ['::/0']",
            vec![
                ("all of IPv6", syn6(WEB6, 6), PASS),
                ("and nothing of IPv4", syn(WEB, 6), denied()),
                ("but for what is private", syn6("fd00:99::1", 6), dropped(R::PrivateDestination)),
            ],
        ),
        (
            "egress = 'listed'\nallow = ['0.0.0.0/0']",
            vec![
                ("all of IPv4", syn(WEB, 7), PASS),
                ("and nothing of IPv6", syn6(WEB6, 7), denied()),
                ("but for what is private", syn("192.168.1.1", 7), dropped(R::PrivateDestination)),
                ("and resolvers", syn("8.8.8.8", 443), dropped(R::DnsOverHttps)),
            ],
        ),
        (
            "deny = ['::/0', '0.0.0.0/0 udp']",
            vec![
                ("no IPv6", syn6(WEB6, 8), denied()),
                ("no UDP", udp(WEB, 8), denied()),
                ("but TCP", syn(WEB, 8), PASS),
            ],
        ),
        (
            "egress = 'none'",
            vec![
                ("IPv4", syn(WEB, 9), denied()),
                ("IPv6", syn6(WEB6, 9), denied()),
                ("a ping", ip(GUEST, WEB).ping(9), denied()),
                ("DNS still works", udp("8.8.8.8", 53), Outcome::Redirect),
                ("and the gateway's ping", ip(GUEST, "10.1.0.1").ping(9), PASS),
            ],
        ),
    ]);
}

#[test]
fn what_is_no_internet_opens_only_to_a_rule_within_its_own_range() {
    if !can_use_kernel() {
        return;
    }
    let syn = |dst: &str, port| ip(GUEST, dst).tcp_syn(40001, port);
    check_leaving(vec![
        (
            "allow = ['192.0.0.0/8', '10.0.0.0/7']",
            vec![
                ("a shorter prefix does not open it", syn("192.168.1.1", 1), {
                    dropped(R::PrivateDestination)
                }),
                ("nor this", syn("10.9.9.9", 1), dropped(R::PrivateDestination)),
                ("a slot is no private network", syn("10.2.0.2", 1), dropped(R::CrossSlot)),
            ],
        ),
        (
            "allow = ['192.168.0.0/16 tcp/443', '10.9.0.0/16', '169.254.7.7', '239.1.1.1 udp']",
            vec![
                ("the very range", syn("192.168.1.1", 443), PASS),
                ("another port", syn("192.168.1.1", 444), dropped(R::PrivateDestination)),
                ("a part of it", syn("10.9.9.9", 2), PASS),
                ("beside it", syn("10.8.9.9", 2), dropped(R::PrivateDestination)),
                ("a link-local address", syn("169.254.7.7", 2), PASS),
                ("a group", ip(GUEST, "239.1.1.1").udp(1, 2, b""), PASS),
                ("another group", ip(GUEST, "239.1.1.2").udp(1, 2, b""), dropped(R::Multicast)),
                ("metadata is no rule's", syn("169.254.169.254", 80), dropped(R::Metadata)),
            ],
        ),
        (
            "allow = ['192.168.0.0/16']\ndeny = ['192.168.7.0/24']",
            vec![
                ("around the denied", syn("192.168.6.1", 3), PASS),
                ("the denied", syn("192.168.7.1", 3), dropped(R::PrivateDestination)),
            ],
        ),
        (
            "allow = ['10.2.0.0/24', '100.64.0.0/10', '169.254.169.254', '10.1.0.1']",
            vec![
                ("rules open no slot", syn("10.2.0.2", 4), dropped(R::CrossSlot)),
                ("no management", syn("100.64.0.2", 4), dropped(R::Management)),
                ("no metadata", syn("169.254.169.254", 80), dropped(R::Metadata)),
                ("and no host", syn("10.1.0.1", 4), dropped(R::Host)),
            ],
        ),
        (
            "allow = ['8.8.8.8 tcp/443']",
            vec![
                ("a resolver that a rule names", syn("8.8.8.8", 443), PASS),
                ("another of its ports", syn("8.8.8.8", 444), dropped(R::DnsOverHttps)),
                ("a ping of another", ip(GUEST, "8.8.4.4").ping(5), PASS),
                ("another over HTTPS", syn("8.8.4.4", 443), dropped(R::DnsOverHttps)),
                ("and over QUIC", ip(GUEST, "8.8.4.4").udp(1, 443, b""), dropped(R::DnsOverHttps)),
            ],
        ),
        (
            "metadata = true",
            vec![
                ("metadata", syn("169.254.169.254", 81), PASS),
                ("over IPv6", ip(GUEST6, "fd00:ec2::254").tcp_syn(40001, 81), PASS),
                ("its neighbour", syn("169.254.169.253", 81), dropped(R::LinkLocal)),
            ],
        ),
    ]);
}

#[test]
fn the_host_offers_what_is_listed_on_the_slots_own_gateway() {
    if !can_use_kernel() {
        return;
    }
    let syn = |dst: &str, port| ip(GUEST, dst).tcp_syn(40002, port);
    let discover = || ip("0.0.0.0", "255.255.255.255").udp(68, 67, b"");
    check_leaving(vec![
        (
            "host_services = ['tcp/4317', 'udp/123', 'tcp/8000-8001']",
            vec![
                ("listed", syn("10.1.0.1", 4317), PASS),
                ("listed, IPv6", ip(GUEST6, "fd00:10:1::1").tcp_syn(40002, 4317), PASS),
                ("a range", syn("10.1.0.1", 8001), PASS),
                ("behind it", syn("10.1.0.1", 8002), dropped(R::Host)),
                ("over UDP", ip(GUEST, "10.1.0.1").udp(1, 4317, b""), dropped(R::Host)),
                ("UDP", ip(GUEST, "10.1.0.1").udp(1, 123, b""), PASS),
                ("another address of the host", syn("198.51.100.1", 4317), dropped(R::Host)),
                ("another's gateway of its runtime", syn("10.2.0.1", 4317), dropped(R::CrossSlot)),
                ("of another runtime", syn("10.3.0.1", 4317), dropped(R::CrossRuntime)),
                ("no DHCP", discover(), dropped(R::SpoofedSource)),
            ],
        ),
        (
            "host_services = ['udp/67']",
            vec![
                ("DHCP", discover(), PASS),
                ("to the server", ip(GUEST, "10.1.0.1").udp(68, 67, b""), PASS),
                ("from another port", ip("0.0.0.0", "255.255.255.255").udp(69, 67, b""), {
                    dropped(R::SpoofedSource)
                }),
                ("to another port", ip("0.0.0.0", "255.255.255.255").udp(68, 68, b""), {
                    dropped(R::SpoofedSource)
                }),
                ("to one machine", ip("0.0.0.0", "10.1.0.1").udp(68, 67, b""), {
                    dropped(R::SpoofedSource)
                }),
                (
                    "as a server",
                    ip(GUEST, "255.255.255.255").udp(67, 68, b""),
                    dropped(R::RogueDhcp),
                ),
                ("as a DHCPv6 server", ip("fe80::2", "fe80::3").udp(547, 546, b""), {
                    dropped(R::RogueDhcp)
                }),
            ],
        ),
        (
            "host_services = 'all'",
            vec![
                ("the gateway", syn("10.1.0.1", 22), PASS),
                ("another address of the host", syn("198.51.100.1", 22), PASS),
                ("one that no list knows", ip(GUEST6, "2001:db8:ffff::2").tcp_syn(40002, 22), PASS),
                ("another's gateway", syn("10.2.0.1", 22), dropped(R::CrossSlot)),
                ("DHCP", discover(), PASS),
                ("not another slot", syn("10.3.0.2", 22), dropped(R::CrossRuntime)),
                ("not what is private", syn("192.168.1.1", 22), dropped(R::PrivateDestination)),
            ],
        ),
    ]);
}

#[test]
fn a_slot_speaks_for_itself_only() {
    if !can_use_kernel() {
        return;
    }
    let query = || arp(1, GUEST_MAC, [10, 1, 0, 2], [10, 1, 0, 1]);
    let syn = || ip(GUEST, WEB).tcp_syn(40003, 1);
    check_leaving(vec![
        (
            "mac = '02:00:00:00:01:02'",
            vec![
                ("its own MAC", syn(), PASS),
                ("another's", with_byte(syn(), 11, 9), dropped(R::SpoofedMac)),
                ("another's ARP", with_byte(query(), 11, 9), dropped(R::SpoofedMac)),
                (
                    "another's query",
                    { with_byte(ip(GUEST, "8.8.8.8").udp(1, 53, b""), 11, 9) },
                    dropped(R::SpoofedMac),
                ),
                ("a group's", with_byte(syn(), 6, 3), dropped(R::SpoofedMac)),
            ],
        ),
        (
            "",
            vec![
                ("any machine's, if none is named", with_byte(syn(), 11, 9), PASS),
                ("but no group's", with_byte(syn(), 6, 3), dropped(R::SpoofedMac)),
                ("nor in ARP", with_byte(query(), 6, 3), dropped(R::SpoofedMac)),
                (
                    "a router advertisement",
                    ip("fe80::2", "ff02::1").icmp(134, 0),
                    dropped(R::RogueRa),
                ),
                ("to one machine", ip(GUEST6, "fe80::9").icmp(134, 0), dropped(R::RogueRa)),
                (
                    "an IPv6 redirect",
                    ip("fe80::2", "fd00:10:1::1").icmp(137, 0),
                    dropped(R::IcmpType),
                ),
            ],
        ),
        (
            "mode = 'lockdown'",
            vec![
                ("TCP", syn(), dropped(R::Lockdown)),
                ("ARP", query(), dropped(R::Lockdown)),
                ("DNS", ip(GUEST, "8.8.8.8").udp(1, 53, b""), dropped(R::Lockdown)),
                ("the gateway's ping", ip(GUEST, "10.1.0.1").ping(1), dropped(R::Lockdown)),
                (
                    "neighbour discovery",
                    { ip(GUEST6, "ff02::1:ff00:1").neighbour(135, "fd00:10:1::1") },
                    dropped(R::Lockdown),
                ),
                ("but what is malformed is told as that", with_byte(syn(), 14, 0x55), {
                    dropped(R::BadHeader)
                }),
            ],
        ),
    ]);
    let mut kernel = Kernel::with(&slots("", true, "mode = 'lockdown'"));
    for frame in [
        arp(1, BRIDGE_MAC, [10, 1, 0, 1], [10, 1, 0, 2]),
        ip("10.1.0.1", GUEST).ping(1),
        ip("100.64.0.2", GUEST).tcp_syn(1, 22),
    ] {
        assert_eq!(kernel.ingress(&frame), dropped(R::Lockdown));
    }
}

#[test]
fn long_icmp_is_no_ping() {
    if !can_use_kernel() {
        return;
    }
    let ping = |bytes: usize| {
        let mut message = vec![8, 0, 0, 0, 0, 1, 0, 1];
        message.resize(bytes, 0);
        ip(GUEST, WEB).protocol(1, &message)
    };
    let mut kernel = Kernel::with(&slots("", true, ""));
    assert_eq!(kernel.egress(&ping(256)), PASS);
    assert_eq!(kernel.egress(&ping(257)), dropped(R::IcmpSize));
    assert_eq!(kernel.egress(&ping(PING_BYTES)), PASS);
    let toml = slots("", true, "").replace("icmp_per_second = 0", "icmp_max_bytes = 64");
    kernel.apply(&toml);
    assert_eq!(kernel.egress(&ping(64)), PASS);
    assert_eq!(kernel.egress(&ping(65)), dropped(R::IcmpSize));
    // Errors quote what they are about, up to the least MTU of IPv6.
    let error = |quoted: usize| ip(GUEST, WEB).error(3, &vec![0; 14 + quoted]);
    assert_eq!(kernel.egress(&error(1272)), dropped(R::IcmpError));
    assert_eq!(kernel.egress(&error(1273)), dropped(R::IcmpSize));
}
