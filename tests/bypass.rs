//! Every known way around netguard, sent for real: raw frames from a guest, or from the internet, over
//! veth and TAP ports. Each is counted under exactly its reason, logged with its addresses, and does not
//! arrive where it could: not on the bridge, not at the uplink's other end, not at another slot. The same
//! frames in a lab that nothing guards do arrive, so what listens can hear. Slots have `egress = "open"`: what
//! is dropped here is not dropped for want of a pin.
//!
//! GSO super-frames and partial checksums are a driver's to send, not a raw socket's: `guest.rs` does that
//! with a virtual machine.

#[path = "bypass/table.rs"]
mod table;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use netguard_common::{Direction, DropReason as R};
use netguard_tests::{
    can_use_kernel,
    lab::{Lab, Packets, on_both_port_kinds_open},
    packet::{ip, marked, with_ip_options},
    until,
    wire::{Capture, Wire},
};
use serde_json::Value;

use table::{
    ELSEWHERE, Expected, GUEST, GUEST6, ICMP, Line, MARKS, NEIGHBOUR, NEIGHBOUR6, TCP, WEB, WEB6,
    dropped, error_about, table, to,
};

/// Where a frame of slot1 could arrive.
struct Witnesses {
    bridge: Capture,
    neighbour: Capture,
    internet: Capture,
}

impl Witnesses {
    fn of(lab: &Lab) -> Self {
        Self {
            bridge: Capture::on(lab, "hv", "br-slot1"),
            neighbour: Capture::on(lab, "slot2", "eth0"),
            internet: Capture::on(lab, "net", "eth0"),
        }
    }
}

/// Nobody's mark but the host's, which may speak to slots.
const CONTROL: u16 = 0x9fff;

/// Waits until each witness has heard what it may hear, sent behind everything else.
fn control(lab: &Lab, wire: &mut Wire, witnesses: &Witnesses) {
    let allowed = marked(to(WEB).udp(4999, 4998, b"x"), CONTROL);
    wire.send(&allowed);
    until("the internet hears the control", || witnesses.internet.count(CONTROL) == 1);
    // A ping never takes the fast path.
    wire.send(&marked(to(WEB).ping(4999), CONTROL));
    until("the bridge hears the control", || witnesses.bridge.count(CONTROL) > 0);
    until("the internet hears the ping", || witnesses.internet.count(CONTROL) == 2);
    let heard = || witnesses.neighbour.frames().iter().any(|frame| frame.ends_with(b"control"));
    let send = "import socket
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'control', ('10.2.0.2', 4999))";
    let _ = lab.python("hv", send, &[]).success();
    until("the neighbour hears the control", heard);
}

/// The addresses that the frame's header tells, behind whatever tags: what the log must tell too.
fn addresses(frame: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let mut at = 12;
    while matches!(frame.get(at..at + 2)?, [0x81 | 0x91, 0] | [0x88, 0xa8]) {
        at += 4;
    }
    let v4 = |at: usize| {
        let bytes = <[u8; 4]>::try_from(frame.get(at..at + 4)?).ok()?;
        Some(IpAddr::from(Ipv4Addr::from(bytes)))
    };
    let v6 = |at: usize| {
        let bytes = <[u8; 16]>::try_from(frame.get(at..at + 16)?).ok()?;
        Some(IpAddr::from(Ipv6Addr::from(bytes)))
    };
    match frame[at..at + 2] {
        [0x08, 0x00] if frame.get(at + 2)? >> 4 == 4 => Some((v4(at + 14)?, v4(at + 18)?)),
        [0x08, 0x06] => Some((v4(at + 16)?, v4(at + 26)?)),
        [0x86, 0xdd] if frame.get(at + 2)? >> 4 == 6 => Some((v6(at + 10)?, v6(at + 26)?)),
        _ => None,
    }
}

/// How often the log tells of the drop, with or without the addresses that a broken header still tells.
fn logged(lab: &Lab, direction: Direction, reason: R, frame: &[u8]) -> usize {
    let told = addresses(frame).map(|(src, dst)| (src.to_string(), dst.to_string()));
    let is_broken = matches!(reason, R::Truncated | R::BadHeader | R::VlanTag);
    let fits = |event: &Value| {
        let address = |key| event[key].as_str().map(str::to_owned);
        let logged = address("src").zip(address("dst"));
        event["event"] == "drop"
            && event["slot"] == "slot1"
            && event["direction"] == direction.name()
            && event["reason"] == reason.name()
            && event["code"] == reason.code()
            && (logged == told || (is_broken && logged.is_none()))
    };
    lab.events().iter().filter(|event| fits(event)).count()
}

/// What was dropped in between.
fn drops(before: &Packets, after: &Packets) -> Vec<(String, String, u64)> {
    let is_drop = |outcome: &str| !["pass", "redirect", "answer"].contains(&outcome);
    let rises = after.iter().map(|(key, count)| (key, count - before.get(key).unwrap_or(&0)));
    rises
        .filter(|((_, outcome), rise)| is_drop(outcome) && *rise > 0)
        .map(|((direction, outcome), rise)| (direction.clone(), outcome.clone(), rise))
        .collect()
}

/// Sends what must be dropped and returns what went wrong.
fn send_in_vain(
    lab: &Lab,
    wire: &mut Wire,
    frames: &[Vec<u8>],
    direction: Direction,
    reason: R,
) -> Option<String> {
    let counted = lab.counters("slot1");
    let known: Vec<_> = frames.iter().map(|frame| logged(lab, direction, reason, frame)).collect();
    for frame in frames {
        wire.send(frame);
    }
    let count = frames.len() as u64;
    let total = |found: &[(String, String, u64)]| found.iter().map(|it| it.2).sum::<u64>();
    let mut found = Vec::new();
    soon(|| {
        found = drops(&counted, &lab.counters("slot1"));
        total(&found) >= count
    });
    if found != [(direction.name().to_owned(), reason.name().to_owned(), count)] {
        return Some(format!("counted {found:?}, not {} {count} times", reason.name()));
    }
    let news = |frame: &Vec<u8>, known| logged(lab, direction, reason, frame) > known;
    let is_told = |(frame, known): (&Vec<u8>, &usize)| soon(|| news(frame, *known));
    if frames.iter().zip(&known).all(is_told) {
        return None;
    }
    let last = lab.events().into_iter().rfind(|event| event["event"] == "drop");
    Some(format!("the log does not tell of {:?}: {last:?}", addresses(&frames[0])))
}

/// True if it comes about within seconds: the table goes on where it does not, and tells all that failed.
fn soon(mut is_so: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        if is_so() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        std::thread::yield_now();
    }
}

#[test]
fn no_known_way_around_gets_through() {
    on_both_port_kinds_open(|lab| nothing_gets_through(lab, Path::Fast));
}

#[test]
fn no_known_way_around_gets_through_without_the_fast_path() {
    if can_use_kernel() {
        nothing_gets_through(&Lab::slow("veth"), Path::Slow);
    }
}

/// Which one packets may take that leave by the uplink.
#[derive(Clone, Copy, PartialEq)]
enum Path {
    Fast,
    Slow,
}

impl Path {
    /// True if so many packets were heard where they may be heard: on the bridge, at the neighbour, in the internet. What takes the
    /// fast path is not on the bridge, and of a packet in fragments the first one is in the internet even if no other follows.
    fn explains(self, line: &Line, found: [usize; 3]) -> bool {
        let expected = match line.expected {
            Expected::Dropped(_) => [line.before.len(), 0, 0],
            Expected::Arrives => [line.frames.len(), 0, line.frames.len()],
        };
        let [bridge, neighbour, internet] = found;
        let [allowed, ..] = expected;
        let is_fast = || bridge.max(internet) == allowed && neighbour == 0;
        found == expected || (self == Self::Fast && is_fast())
    }
}

fn nothing_gets_through(lab: &Lab, path: Path) {
    let witnesses = Witnesses::of(lab);
    let mut wire = Wire::on(lab, "slot1", "eth0");
    let lines = table();
    let mut failed = Vec::new();
    for line in &lines {
        for frame in &line.before {
            wire.send(frame);
        }
        match line.expected {
            Expected::Dropped(reason) => {
                let error = send_in_vain(lab, &mut wire, &line.frames, Direction::Egress, reason);
                failed.extend(error.map(|error| format!("{}: {error}", line.name)));
            }
            Expected::Arrives => line.frames.iter().for_each(|frame| wire.send(frame)),
        }
    }
    control(lab, &mut wire, &witnesses);
    for (line, mark) in lines.iter().zip(MARKS..) {
        let Witnesses { bridge, neighbour, internet } = &witnesses;
        let found = [bridge, neighbour, internet].map(|it| it.count(mark));
        if !path.explains(line, found) {
            failed.push(format!(
                "{}: arrived {found:?} times on the bridge, at the neighbour, in the internet",
                line.name
            ));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(lines.len() > 150, "only {} lines", lines.len());
}

#[test]
fn the_same_frames_arrive_where_nothing_guards() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::unguarded("veth");
    let witnesses = Witnesses::of(&lab);
    let mut wire = Wire::on(&lab, "slot1", "eth0");
    let lines = table();
    for line in &lines {
        for frame in line.before.iter().chain(&line.frames) {
            wire.send(frame);
        }
    }
    control(&lab, &mut wire, &witnesses);
    let silent =
        |line: &Line, mark| witnesses.bridge.count(mark) < line.before.len() + line.frames.len();
    let lost: Vec<_> =
        lines.iter().zip(MARKS..).filter(|(line, mark)| silent(line, *mark)).collect();
    let lost: Vec<_> = lost.iter().map(|(line, _)| line.name).collect();
    assert_eq!(lost, Vec::<&str>::new(), "the witness on the bridge misses some");
    let through = (MARKS..).take(lines.len());
    let (mut abroad, mut across) = (0, 0);
    for mark in through {
        abroad += u32::from(witnesses.internet.count(mark) > 0);
        across += u32::from(witnesses.neighbour.count(mark) > 0);
    }
    assert!(abroad > 40 && across > 10, "{abroad} lines reach the internet, {across} a neighbour");
}

/// From the internet's end of the uplink, as any host behind it, to slot1's guest by the hypervisor.
fn inbound() -> Vec<Line> {
    let short = |src: &str| if src.contains(':') { GUEST6 } else { GUEST };
    let from = |src: &str| ip(src, short(src));
    let quoted = to(ELSEWHERE).udp(5555, 5556, b"what the quote is of");
    vec![
        dropped("a SYN", from(WEB).tcp_syn(4000, 22), R::Unsolicited),
        dropped("a SYN, IPv6", from(WEB6).tcp_syn(4000, 22), R::Unsolicited),
        dropped("a datagram", from(WEB).udp(4000, 4000, b"x"), R::Unsolicited),
        dropped("a datagram, IPv6", from(WEB6).udp(4000, 4000, b"x"), R::Unsolicited),
        dropped("a ping", from(WEB).ping(1), R::Unsolicited),
        dropped("a ping, IPv6", from(WEB6).ping(1), R::Unsolicited),
        dropped("a bare ACK", from(WEB).tcp_ack(443, 4000, b"x"), R::Unsolicited),
        dropped("a SYN and ACK", from(WEB).tcp_flags(443, 4000, 0x12), R::Unsolicited),
        dropped("a RST", from(WEB).tcp_flags(443, 4000, 0x04), R::Unsolicited),
        dropped("SYN and FIN", from(WEB).tcp_flags(443, 4000, 0x03), R::TcpFlags),
        dropped("an answer that nobody asked for", from("8.8.8.8").udp(53, 4000, b"x"), {
            R::Unsolicited
        }),
        dropped("from the metadata service", from("169.254.169.254").udp(80, 4000, b"x"), {
            R::Unsolicited
        }),
        dropped("from a private address", from("192.168.1.1").udp(1, 2, b"x"), R::Unsolicited),
        dropped("as if from management", from("100.64.0.2").tcp_syn(4000, 22), R::SpoofedSource),
        dropped("as if from a neighbour", from(NEIGHBOUR).tcp_syn(4000, 22), R::CrossSlot),
        dropped("as if from a neighbour, IPv6", from(NEIGHBOUR6).tcp_syn(4000, 22), R::CrossSlot),
        dropped("from nowhere known", from("4000::1").udp(1, 2, b"x"), R::UnknownAddress),
        dropped("an error about nothing", from(WEB).icmp(3, 1), R::Unsolicited),
        dropped(
            "an error about what was not sent",
            from(WEB).protocol(ICMP, &error_about(&quoted)),
            R::Unsolicited,
        ),
        dropped("a redirect", from(WEB).icmp(5, 1), R::IcmpType),
        dropped("a time stamp request", from(WEB).icmp(13, 1), R::Unsolicited),
        dropped("GRE", from(WEB).protocol(47, &[0; 24]), R::Protocol),
        dropped("IP in IP", from(WEB).protocol(4, &quoted[14..]), R::Protocol),
        dropped("SCTP", from(WEB).protocol(132, &[0; 24]), R::Protocol),
        dropped("destination options", from(WEB6).protocol(60, &[TCP, 0, 1, 4, 0, 0, 0, 0]), {
            R::Ipv6Extension
        }),
        dropped(
            "record route",
            with_ip_options(&from(WEB).udp(9, 9, b"x"), &[7, 7, 4, 0, 0, 0, 0, 0]),
            R::IpOptions,
        ),
        dropped("to nobody in the slot's subnet", ip(WEB, "10.1.0.77").udp(9, 9, b"x"), {
            R::Unsolicited
        }),
    ]
}

#[test]
fn nothing_enters_from_the_internet_that_was_not_asked_for() {
    on_both_port_kinds_open(|lab| {
        // The hypervisor does not know the neighbour's MAC yet where nobody lives.
        let neighbour = "ip neigh replace 10.1.0.77 lladdr 02:6e:67:00:01:02 dev br-slot1";
        let _ = lab.exec("hv", neighbour).success();
        for address in [GUEST, GUEST6] {
            let _ = lab.exec("hv", &format!("ping -c 1 -W 5 {address}")).success();
        }
        let guest = Capture::on(lab, "slot1", "eth0");
        let mut wire = Wire::on(lab, "net", "eth0");
        let (outer, inner) = (lab.mac("net", "eth0"), lab.mac("hv", "eth0"));
        let mut failed = Vec::new();
        for (line, mark) in inbound().into_iter().zip(MARKS..) {
            let Expected::Dropped(reason) = line.expected else { continue };
            let mut frame = marked(line.frames[0].clone(), mark);
            frame[..6].copy_from_slice(&inner);
            frame[6..12].copy_from_slice(&outer);
            let error = send_in_vain(lab, &mut wire, &[frame], Direction::Ingress, reason);
            failed.extend(error.map(|error| format!("{}: {error}", line.name)));
        }
        // By real clients, too.
        let before = lab.packets("slot1", "ingress", "unsolicited");
        for client in [
            "ping -c 1 -W 0.2 10.1.0.2",
            "ping -c 1 -W 0.2 fd00:10:1::2",
            "timeout 0.3 nc -z 10.1.0.2 22",
            "timeout 0.3 nc -z fd00:10:1::2 22",
        ] {
            let ended = lab.exec("net", client);
            assert_ne!(ended.code, 0, "{client}: {ended:?}");
        }
        assert_eq!(lab.packets("slot1", "ingress", "unsolicited") - before, 4);
        // Who may is heard, behind all that.
        let send = "import socket
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'control', ('10.1.0.2', 4999))";
        let _ = lab.python("mgmt", send, &[]).success();
        until("the guest hears the control", || {
            guest.frames().iter().any(|frame| frame.ends_with(b"control"))
        });
        for (line, mark) in inbound().iter().zip(MARKS..) {
            if guest.count(mark) > 0 {
                failed.push(format!("{}: it reached the guest", line.name));
            }
        }
        assert!(failed.is_empty(), "{}", failed.join("\n"));
    });
}

#[test]
fn a_simultaneous_open_opens_nothing() {
    on_both_port_kinds_open(|lab| {
        // Nobody lives at this address of the internet, so that nobody resets what is begun there.
        let peer = "198.51.100.77";
        let (internet, guest) =
            (Capture::on(lab, "net", "eth0"), Capture::on(lab, "slot1", "eth0"));
        let (mut inside, mut outside) =
            (Wire::on(lab, "slot1", "eth0"), Wire::on(lab, "net", "eth0"));
        let (outer, inner) = (lab.mac("net", "eth0"), lab.mac("hv", "eth0"));
        inside.send(&marked(to(peer).tcp_syn(7001, 7002), MARKS));
        until("the guest's SYN is out", || internet.count(MARKS) == 1);

        let before = lab.counters("slot1");
        let back = ip(peer, "192.0.2.2").from_mac(outer).to_mac(inner);
        outside.send(&marked(back.tcp_syn(7002, 7001), MARKS + 1));
        until("the SYN that meets it is dropped", || {
            lab.packets("slot1", "ingress", "tcp-state") == 1
        });
        let _ = lab.event("drop of the SYN that meets it", |event| {
            event["reason"] == "tcp-state"
                && event["direction"] == "ingress"
                && event["src"] == peer
        });
        assert_eq!(drops(&before, &lab.counters("slot1")).len(), 1);
        // The proper answer passes.
        outside.send(&marked(back.tcp_flags(7002, 7001, 0x12), MARKS + 2));
        until("the answer arrives", || guest.count(MARKS + 2) == 1);
        assert_eq!(guest.count(MARKS + 1), 0);
    });
}

#[test]
fn a_flood_of_pings_is_cut_to_the_limit() {
    on_both_port_kinds_open(|lab| {
        const FLOOD: usize = 200;
        let internet = Capture::on(lab, "net", "eth0");
        let mut wire = Wire::on(lab, "slot1", "eth0");
        let ping = marked(to(WEB).ping(77), MARKS);
        wire.send(&ping);
        until("the first one passes", || internet.count(MARKS) == 1);
        for _ in 1..FLOOD {
            wire.send(&ping);
        }
        let dropped = || {
            let count = lab.packets("slot1", "egress", "icmp-rate");
            usize::try_from(count).expect("a small number")
        };
        until("each has passed or been dropped", || internet.count(MARKS) + dropped() == FLOOD);
        // 50 a second are allowed, and as many at once.
        assert!(dropped() > FLOOD / 4, "only {} of them were dropped", dropped());
        let event = lab.event("drop", |event| event["reason"] == "icmp-rate");
        assert_eq!((&event["src"], &event["dst"]), (&Value::from(GUEST), &Value::from(WEB)));
    });
}

#[test]
fn a_query_never_reaches_the_address_that_it_was_sent_to() {
    on_both_port_kinds_open(|lab| {
        let internet = Capture::on(lab, "net", "eth0");
        let neighbour = Capture::on(lab, "slot2", "eth0");
        for server in [
            "8.8.8.8",
            "203.0.113.66",
            "198.51.100.199",
            "192.168.7.7",
            "169.254.169.254",
            "100.64.0.2",
            NEIGHBOUR,
            "2001:4860:4860::8888",
            "2001:db8:113::66",
            "fd00:ec2::254",
            NEIGHBOUR6,
        ] {
            for transport in ["+notcp", "+tcp"] {
                let query = format!("dig +short +time=5 +tries=1 {transport} github.com @{server}");
                let ended = lab.exec("slot1", &query);
                assert_eq!(ended.success(), "203.0.113.10\n", "{query}");
            }
        }
        let mut wire = Wire::on(lab, "slot1", "eth0");
        let witnesses = Witnesses::of(lab);
        control(lab, &mut wire, &witnesses);
        until("the internet hears the control", || internet.count(CONTROL) == 2);
        let is_query = |frame: &&Vec<u8>| {
            let port = if frame[12..14] == [0x86, 0xdd] { 56 } else { 36 };
            frame.get(port..port + 2) == Some(&[0, 53])
        };
        // netguard's own questions are all to its first upstream.
        let frames = internet.frames();
        let queries: Vec<_> = frames.iter().filter(is_query).collect();
        assert!(!queries.is_empty(), "netguard asks nobody");
        for frame in queries {
            let told = addresses(frame).map(|(src, dst)| (src.to_string(), dst.to_string()));
            assert_eq!(told, Some(("192.0.2.2".to_owned(), "1.1.1.1".to_owned())));
        }
        assert_eq!(neighbour.frames().iter().filter(is_query).count(), 0);
    });
}

#[test]
fn a_name_that_leads_to_the_metadata_service_leads_nowhere() {
    on_both_port_kinds_open(|lab| {
        let internet = Capture::on(lab, "net", "eth0");
        let url = "http://metadata.github.com/latest/meta-data/";
        // Whatever the resolver makes of such a name.
        let ended = lab.exec("slot1", &format!("curl -sS --max-time 0.5 {url}"));
        assert_ne!(ended.code, 0, "{ended:?}");
        let resolve = "--resolve metadata.github.com:80:169.254.169.254";
        let ended = lab.exec("slot1", &format!("curl -sS --max-time 0.5 {resolve} {url}"));
        assert_ne!(ended.code, 0, "{ended:?}");
        let event = lab.event("drop", |event| event["reason"] == "metadata");
        assert_eq!(event["slot"], "slot1");
        assert_eq!(event["dst"], "169.254.169.254");
        let page = lab.exec("slot1", "curl -sS --max-time 5 http://github.com/");
        assert!(page.success().contains("github.com"), "the control");
        let arrived = || -> Vec<_> {
            internet.frames().iter().filter_map(|frame| addresses(frame)).collect()
        };
        until("the control is heard", || arrived().iter().any(|(_, dst)| dst.to_string() == WEB));
        assert!(!arrived().iter().any(|(_, dst)| dst.to_string() == "169.254.169.254"));
    });
}
