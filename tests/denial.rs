//! What a slot with `denial = "reject"` is told of what its policy denies, by answers read byte by byte and by clients that fail
//! at once; and what nobody is told.

use std::{
    io::ErrorKind,
    net::{IpAddr, UdpSocket},
    time::{Duration, Instant},
};

use netguard_common::{DropReason as R, Hook, maps::ANSWERS};
use netguard_tests::{
    answer::{Answer, read},
    binary::{Ended, netguard},
    can_use_kernel,
    client::connect_once,
    kernel::{Kernel, Outcome, SLOTS, is_told},
    lab::Lab,
    packet::ip,
    until,
    wire::Capture,
};
use serde_json::Value;

const GUEST: &str = "10.1.0.2";
const GUEST6: &str = "fd00:10:1::2";
const OTHER: &str = "10.2.0.2";
const OTHER6: &str = "fd00:10:2::2";
const METADATA: &str = "169.254.169.254";
const WEB: &str = "203.0.113.9";
const WEB6: &str = "2001:db8:113::9";

const TCP: u8 = 6;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const ETHERNET: usize = 14;

/// The fixture's slots, of which the first is told, and reaches nothing of the internet.
fn kernel() -> Kernel {
    let told = "id = 1\ndenial = \"reject\"\negress = \"none\"";
    Kernel::with(&SLOTS.replace("id = 1", told))
}

/// What a frame is answered with; it must be dropped for that reason, and recorded as it was.
fn answer(kernel: &mut Kernel, frame: &[u8], reason: R) -> Option<Answer> {
    let (outcome, probed) = kernel.probe(Hook::PortEgress, frame, 0);
    assert_eq!(outcome, Outcome::Drop(reason));
    let early = kernel.probe(Hook::Xdp, frame, 0).0;
    assert!(!is_told(&probed) || early == Outcome::Continue, "XDP has dropped it: {early:?}");
    is_told(&probed).then(|| read(&probed.frame))
}

fn parse(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

#[test]
fn a_denied_connection_is_reset() {
    const FIN: u8 = 0x01;
    const SYN: u8 = 0x02;
    const RST: u8 = 0x04;
    const ACK: u8 = 0x10;
    if !can_use_kernel() {
        return;
    }
    let mut kernel = kernel();
    for (guest, to, reason) in [
        (GUEST, OTHER, R::CrossSlot),
        (GUEST, METADATA, R::Metadata),
        (GUEST, WEB, R::EgressDenied),
        (GUEST, "192.168.7.7", R::PrivateDestination),
        (GUEST6, OTHER6, R::CrossSlot),
        (GUEST6, WEB6, R::EgressDenied),
    ] {
        let path = ip(guest, to);
        for frame in [
            path.tcp_flags(40000, 443, SYN),
            path.tcp_flags(40000, 443, ACK),
            path.tcp_flags(40000, 443, FIN | ACK),
            path.tcp_ack(40000, 443, &[7; 1001]),
        ] {
            let answer = answer(&mut kernel, &frame, reason).expect("an answer");
            assert_eq!((answer.src, answer.dst), (parse(to), parse(guest)));
            assert_eq!((answer.protocol, answer.payload.len()), (TCP, 20));
            let asked = &frame[ETHERNET + if guest == GUEST { 20 } else { 40 }..];
            // RFC 9293 section 3.10.7.1; of these only the SYN acknowledges nothing.
            let expected = match asked[13] & ACK {
                0 => (0, word(asked, 4) + 1, RST | ACK),
                _ => (word(asked, 8), 0, RST),
            };
            let told = &answer.payload;
            assert_eq!((word(told, 4), word(told, 8), told[13]), expected);
            assert_eq!((word(told, 0), told[12]), (443 << 16 | 40000, 5 << 4));
        }
    }
}

#[test]
fn a_denied_datagram_is_prohibited_by_the_gateway() {
    const QUOTE_MAX: usize = 496;
    if !can_use_kernel() {
        return;
    }
    let mut kernel = kernel();
    for length in [0, 1, 2, 3, 7, 200, 467, 468, 469, 1400] {
        let payload: Vec<u8> = (0..length).map(|byte| (byte % 251) as u8).collect();
        for (guest, to, gateway, protocol, head) in [
            (GUEST, OTHER, "10.1.0.1", ICMP, [3, 13]),
            (GUEST6, OTHER6, "fd00:10:1::1", ICMPV6, [1, 1]),
        ] {
            let frame = ip(guest, to).udp(40000, 9, &payload);
            let answer = answer(&mut kernel, &frame, R::CrossSlot).expect("an answer");
            assert_eq!((answer.src, answer.dst), (parse(gateway), parse(guest)));
            assert_eq!((answer.protocol, &answer.payload[..2]), (protocol, &head[..]));
            assert_eq!(answer.payload[4..8], [0; 4], "nobody uses it");
            let quoted = (frame.len() - ETHERNET).min(QUOTE_MAX);
            assert_eq!(answer.payload[8..], frame[ETHERNET..ETHERNET + quoted], "{length}");
        }
    }
    for (guest, to) in [(GUEST, OTHER), (GUEST6, OTHER6)] {
        let frame = ip(guest, to).ping(7);
        let answer = answer(&mut kernel, &frame, R::CrossSlot).expect("an answer");
        assert_eq!(answer.payload[8..], frame[ETHERNET..]);
    }
    // With more behind it than it says: what is no part of the packet is not quoted.
    let mut padded = ip(GUEST, OTHER).udp(40000, 9, b"");
    let whole = padded.len();
    padded.resize(60, 9);
    let answer = answer(&mut kernel, &padded, R::CrossSlot).expect("an answer");
    assert_eq!(answer.payload[8..], padded[ETHERNET..whole]);
}

#[test]
fn what_is_not_denied_by_the_policy_is_told_to_nobody() {
    const GROUP: [u8; 6] = [0x01, 0, 0x5e, 0, 0, 1];
    const RST: u8 = 0x04;
    if !can_use_kernel() {
        return;
    }
    let mut kernel = kernel();
    let about = ip(OTHER, GUEST).udp(9, 40000, b"x");
    for (frame, reason) in [
        (ip("10.1.0.99", OTHER).from_mac([3, 0, 0, 0, 1, 2]).tcp_syn(1, 2), R::SpoofedMac),
        (ip("10.7.0.2", OTHER).tcp_syn(1, 2), R::SpoofedSource),
        (ip(GUEST, OTHER).to_mac(GROUP).udp(1, 2, b"x"), R::CrossSlot),
        (ip(GUEST, "239.1.1.1").udp(1, 2, b"x"), R::Multicast),
        (ip(GUEST, "255.255.255.255").udp(1, 2, b"x"), R::Multicast),
        (ip(GUEST, OTHER).tcp_flags(1, 2, RST), R::CrossSlot),
        (ip(GUEST, OTHER).tcp_flags(1, 2, 0x03), R::TcpFlags),
        (ip(GUEST, OTHER).pong(1), R::CrossSlot),
        (ip(GUEST, OTHER).error(3, &about[ETHERNET..]), R::CrossSlot),
        (ip(GUEST, OTHER).protocol(47, b"tunnel"), R::Protocol),
    ] {
        let told = answer(&mut kernel, &frame, reason).is_some();
        assert!(!told, "{reason:?} is told: {frame:02x?}");
    }
    kernel.apply(&SLOTS.replace("id = 1", "id = 1\ndenial = \"reject\"\nmode = \"lockdown\""));
    assert!(answer(&mut kernel, &ip(GUEST, OTHER).tcp_syn(1, 2), R::Lockdown).is_none());
    kernel.apply(SLOTS);
    assert!(answer(&mut kernel, &ip(GUEST, OTHER).tcp_syn(1, 2), R::CrossSlot).is_none());
}

/// Two slots that may reach nothing, of which the first is told.
const CONFIG: &str = "[host]\nuplinks = [\"eth0\"]\n[dns]\nupstreams = [\"1.1.1.1\"]\ncategories = []\n\
     [[slot]]\nname = \"slot1\"\nid = 1\nsubnet = \"10.1.0.0/24\"\nsubnet6 = \"fd00:10:1::/64\"\negress = \"none\"\n\
     denial = \"reject\"\n\
     [[slot]]\nname = \"slot2\"\nid = 2\nsubnet = \"10.2.0.0/24\"\nsubnet6 = \"fd00:10:2::/64\"\negress = \"none\"\n";

/// Whether an interface leaves checksums to whoever comes next (`ethtool -K INTERFACE tx off`).
const CHECKSUMS: &str = "
import ctypes, fcntl, socket, struct, sys
SIOCETHTOOL, ETHTOOL_STXCSUM = 0x8946, 0x17
value = ctypes.create_string_buffer(struct.pack('II', ETHTOOL_STXCSUM, int(sys.argv[2])))
request = struct.pack('16sQ', sys.argv[1].encode(), ctypes.addressof(value)) + bytes(16)
fcntl.ioctl(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), SIOCETHTOOL, request)
";

/// What becomes of a datagram, as its sender is told.
fn datagram_error(to: &str) -> Option<i32> {
    let to = parse(to);
    let any: IpAddr = if to.is_ipv4() { parse("0.0.0.0") } else { parse("::") };
    let socket = UdpSocket::bind((any, 0)).expect("a socket");
    socket.connect((to, 9)).expect("a way there");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    socket.send(b"x").expect("it is sent");
    socket.recv(&mut [0]).expect_err("nobody is there").raw_os_error()
}

/// Errors that the first slot's host was told of.
fn unreachables(lab: &Lab) -> u64 {
    let counters = lab.exec("slot1", "cat /proc/net/snmp");
    let mut lines = counters.success().lines().filter(|line| line.starts_with("Icmp: "));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let mut pairs = names.split(' ').zip(values.split(' '));
    let (_, value) = pairs.find(|(name, _)| *name == "InDestUnreachs").expect("the counter");
    value.parse().expect("a number")
}

#[test]
fn a_client_fails_at_once_and_nobody_else_hears_of_it() {
    if !can_use_kernel() {
        return;
    }
    for ports in ["veth", "tap"] {
        let lab = Lab::with(CONFIG, ports);
        let elsewhere = [("slot2", "eth0"), ("hv", "eth0")];
        let elsewhere = elsewhere.map(|(host, interface)| Capture::on(&lab, host, interface));
        // Who fills in a checksum: nobody, the host where the answer leaves, the guest itself.
        for (guests, hosts) in [("1", "1"), ("1", "0"), ("0", "1")] {
            let _ = lab.python("slot1", CHECKSUMS, &["eth0", guests]).success();
            let _ = lab.python("hv", CHECKSUMS, &["vm-slot1", hosts]).success();
            let case = format!("{ports} {guests} {hosts}");
            for (to, reason) in [
                (OTHER, "cross-slot"),
                (OTHER6, "cross-slot"),
                (METADATA, "metadata"),
                (WEB, "egress-denied"),
                (WEB6, "egress-denied"),
            ] {
                let before = lab.packets("slot1", "egress", reason);
                let refused = lab.within("slot1", || connect_once(parse(to), 443));
                let refused = refused.expect_err("nobody is there");
                assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{case} {to}");
                let v4 = parse(to).is_ipv4();
                let error = lab.within("slot1", || datagram_error(to));
                let expected = if v4 { libc::EHOSTUNREACH } else { libc::EACCES };
                assert_eq!(error, Some(expected), "{case} {to}");
                let pinged = lab.exec("slot1", &format!("ping -c 1 -W 5 {to}"));
                let words = if v4 { "Packet filtered" } else { "Administratively prohibited" };
                assert!(pinged.stdout.contains(words), "{case} {pinged:?}");
                assert_eq!(lab.packets("slot1", "egress", reason), before + 3, "{case} {to}");
            }
        }
        for (slot, to, protocol, answer) in [
            ("slot1", "10.2.0.2:443", "tcp", Some(", answered with RST")),
            ("slot1", "10.2.0.2:9", "udp", Some(", answered with ICMP")),
            ("slot2", "10.1.0.2:443", "tcp", None),
        ] {
            let (instance, ask) = (lab.instance(), ["explain", slot, to, "--proto", protocol]);
            let explained =
                Ended::of(&mut netguard(&[&ask[..], &["--instance", &instance]].concat()));
            let verdict =
                format!("would be dropped: cross-slot (540017){}\n", answer.unwrap_or(""));
            assert!(explained.code == 3 && explained.stdout.contains(&verdict), "{explained:?}");
        }
        let is_it = |drop: &Value| {
            drop["slot"] == "slot1" && drop["dst"] == OTHER6 && drop["detail"] == "syn"
        };
        assert_eq!(lab.event("record", is_it)["program"], "ng_port_egress");
        let silent = lab.within("slot2", || connect_once(parse(GUEST), 443));
        assert_eq!(silent.expect_err("nobody is there").kind(), ErrorKind::TimedOut);
        // What was captured before this has been printed.
        let _ = lab.exec("slot2", "ping -c 1 -W 5 10.2.0.1").success();
        until("the ping's answer was captured", || !elsewhere[0].frames().is_empty());
        let guests: [&[u8]; 2] = [&[10, 1, 0, 2], &[0xfd, 0, 0, 0x10, 0, 1, 0, 0]];
        for frame in elsewhere.iter().flat_map(Capture::frames) {
            let is_guests = |it: &&[u8]| frame.windows(it.len()).any(|part| part == *it);
            assert!(!guests.iter().any(is_guests), "{ports} {frame:02x?}");
        }
    }
}

#[test]
fn a_flood_has_no_more_answers_than_its_limit() {
    const PACKETS: u64 = 3000;
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::with(CONFIG, "veth");
    assert_eq!(lab.within("slot1", || datagram_error(OTHER)), Some(libc::EHOSTUNREACH));
    let (told, counted) = (unreachables(&lab), lab.packets("slot1", "egress", "cross-slot"));
    let begun = Instant::now();
    lab.within("slot1", || {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        for _ in 0..PACKETS {
            socket.send_to(b"x", (OTHER, 9)).expect("it is sent");
        }
    });
    let all = || lab.packets("slot1", "egress", "cross-slot") - counted;
    until("all are counted", || all() == PACKETS);
    let answers = unreachables(&lab) - told;
    // As many as the burst has, and what comes back meanwhile.
    let burst = ANSWERS.burst_ns * netguard_common::maps::Limit::FRACTIONS / ANSWERS.cost;
    let most = burst as f64 * (1.0 + begun.elapsed().as_secs_f64()) + 1.0;
    assert!(answers > 0 && (answers as f64) <= most, "{answers} answers, at most {most}");
}
