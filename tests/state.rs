//! Connections, fragments (`state/fragments.rs`), and what becomes of flows when policies and pins change (`state/policies.rs`),
//! packet by packet: what follows what, by the programs that the kernel has loaded.

#[path = "state/fragments.rs"]
mod fragments;
#[path = "state/policies.rs"]
mod policies;

use std::time::Duration;

use netguard::policy::Pin;
use netguard_common::{DropReason, flow::FlowState};
use netguard_tests::{
    can_use_kernel,
    kernel::{FROM_HOST, Kernel, Outcome, SLOTS, now_ns},
    packet::{Path, ip},
};

const GUEST: &str = "10.1.0.2";
const GUEST6: &str = "fd00:10:1::2";
const WEB: &str = "203.0.113.9";
const WEB6: &str = "2001:db8:113::9";
const MANAGER: &str = "100.64.0.2";

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const URG: u8 = 0x20;

/// [`SLOTS`] without a limit on ICMP, with few flows.
fn slots() -> String {
    let slot1 = "subnet6 = \"fd00:10:1::/64\"";
    let unlimited = format!("{slot1}\nlimits = {{ icmp_per_second = 0 }}");
    SLOTS.replace(slot1, &unlimited).replace("[dns]", "[limits]\nflows = 512\n[dns]")
}

/// One packet and what must become of it.
enum Step {
    Leaves(Vec<u8>, Outcome),
    Enters(Vec<u8>, Outcome),
    /// From now on this policy is in force.
    Policy(String),
    /// All flows have been silent for so many seconds.
    Silence(u64),
    /// So many seconds go by.
    Time(u64),
    /// An address is pinned for slot 1 for so many seconds from now on; 0 is over already.
    Pinned(&'static str, u64),
    /// It is not any more.
    Unpinned(&'static str),
}
use Step::{Enters, Leaves, Pinned, Policy, Silence, Time, Unpinned};

const PASS: Outcome = Outcome::Pass;

fn dropped(reason: DropReason) -> Outcome {
    Outcome::Drop(reason)
}

/// Plays stories one after the other; what goes wrong is told by name and step, all at once.
fn play(kernel: &mut Kernel, stories: Vec<(String, Vec<Step>)>) {
    let mut failed = Vec::new();
    for (name, steps) in stories {
        for (number, step) in (1..).zip(steps) {
            let (found, expected) = match step {
                Leaves(frame, expected) => (kernel.verdict_egress(&frame), expected),
                Enters(frame, expected) => (kernel.verdict_ingress(&frame, FROM_HOST), expected),
                Policy(toml) => {
                    kernel.apply(&toml);
                    continue;
                }
                Pinned(address, seconds) => {
                    let address = address.parse().expect("an address");
                    let until_ns = now_ns() + seconds * 1_000_000_000;
                    kernel.pin(&[Pin { slot: 1, address, ports: 0..=u16::MAX, until_ns }]);
                    continue;
                }
                Unpinned(address) => {
                    kernel.unpin(1, address.parse().expect("an address"));
                    continue;
                }
                Silence(seconds) | Time(seconds) => {
                    let time = Duration::from_secs(seconds);
                    let is_up = if matches!(step, Silence(_)) {
                        kernel.age_flows(time)
                    } else {
                        kernel.age_flows_more(time)
                    };
                    if is_up {
                        continue;
                    }
                    eprintln!("{name}: cut short, this machine is not up for {seconds} s yet");
                    break;
                }
            };
            if found != expected {
                failed.push(format!("{name}, step {number}: {found:?}, not {expected:?}"));
                break;
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Who sends a segment.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Opener,
    Other,
}

/// What a segment of a connection meets.
#[derive(Clone, Copy)]
enum Meets {
    Passes,
    /// Dropped: nobody sends this in that state.
    State,
    /// Dropped: nobody ever sends this.
    Flags,
    /// Dropped as what belongs to no connection, by the policy for whoever did not begin.
    Policy,
}

#[test]
fn a_connection_is_opened_by_a_handshake_and_ends_with_both_sides() {
    use Meets::{Flags, Passes, Policy, State};
    use Side::{Opener, Other};
    if !can_use_kernel() {
        return;
    }
    const HANDSHAKE: [(Side, u8, Meets); 3] =
        [(Opener, SYN, Passes), (Other, SYN | ACK, Passes), (Opener, ACK, Passes)];
    type Line<'a> = (&'a str, bool, &'a [(Side, u8, Meets)]);
    let table: [Line<'_>; 28] = [
        ("an ACK to nothing", false, &[(Opener, ACK, State)]),
        ("a SYN+ACK to nothing", false, &[(Opener, SYN | ACK, State)]),
        ("a FIN to nothing", false, &[(Opener, FIN | ACK, State)]),
        ("a RST to nothing", false, &[(Opener, RST, State)]),
        ("the other side's RST to nothing", false, &[(Other, RST, Policy)]),
        ("the other side's answer to nothing", false, &[(Other, SYN | ACK, Policy)]),
        ("NULL", false, &[(Opener, 0, Flags)]),
        ("XMAS", false, &[(Opener, FIN | PSH | URG, Flags)]),
        ("SYN+FIN", false, &[(Opener, SYN | FIN, Flags)]),
        ("SYN+RST", false, &[(Opener, SYN | RST, Flags)]),
        ("FIN alone", false, &[(Opener, FIN, Flags)]),
        (
            "ended by both before it is confirmed, and a new one",
            false,
            &[
                (Opener, SYN, Passes),
                (Other, SYN | ACK, Passes),
                (Other, FIN | ACK, Passes),
                (Opener, FIN | ACK, Passes),
                (Other, SYN, Policy),
                (Opener, SYN, Passes),
            ],
        ),
        ("the SYN once more", false, &[(Opener, SYN, Passes), (Opener, SYN, Passes)]),
        ("data before the answer", false, &[(Opener, SYN, Passes), (Opener, ACK, State)]),
        ("SYN+ACK of the opener", false, &[(Opener, SYN, Passes), (Opener, SYN | ACK, State)]),
        ("simultaneous open", false, &[(Opener, SYN, Passes), (Other, SYN, State)]),
        ("a FIN for an answer", false, &[(Opener, SYN, Passes), (Other, FIN | ACK, State)]),
        (
            "an ACK that asks what connection this is",
            false,
            &[
                (Opener, SYN, Passes),
                (Other, ACK, Passes),
                (Opener, ACK, State),
                (Opener, RST, Passes),
                (Opener, SYN, Passes),
                (Other, SYN | ACK, Passes),
            ],
        ),
        (
            "refused, and tried again",
            false,
            &[
                (Opener, SYN, Passes),
                (Other, RST | ACK, Passes),
                (Other, SYN, Policy),
                (Opener, SYN, Passes),
                (Opener, ACK, State),
                (Other, SYN | ACK, Passes),
            ],
        ),
        (
            "a SYN+ACK of the opener after the answer",
            false,
            &[(Opener, SYN, Passes), (Other, SYN | ACK, Passes), (Opener, SYN | ACK, State)],
        ),
        ("data both ways", true, &[(Opener, ACK | PSH, Passes), (Other, ACK | PSH, Passes)]),
        ("urgent data", true, &[(Other, ACK | URG, Passes)]),
        ("a SYN of the other side", true, &[(Other, SYN, State), (Opener, ACK, Passes)]),
        ("NULL into a connection", true, &[(Other, 0, Flags), (Opener, FIN | PSH | URG, Flags)]),
        ("half closed", true, &[(Opener, FIN | ACK, Passes), (Other, ACK, Passes)]),
        ("half closed takes no SYN", true, &[(Opener, FIN | ACK, Passes), (Other, SYN, State)]),
        (
            "closed by both, and a new one",
            true,
            &[
                (Opener, FIN | ACK, Passes),
                (Other, FIN | ACK, Passes),
                (Opener, ACK, Passes),
                (Other, SYN, Policy),
                (Opener, SYN, Passes),
                (Opener, ACK, State),
                (Other, SYN | ACK, Passes),
                (Opener, ACK, Passes),
            ],
        ),
        (
            "closed by a RST of the other side",
            true,
            &[(Other, RST, Passes), (Other, SYN, Policy), (Opener, SYN, Passes)],
        ),
    ];
    let mut stories = Vec::new();
    let mut port = 10_000;
    for (name, established, steps) in table {
        for (guest, peer, slot_opens) in [
            (GUEST, WEB, true),
            (GUEST6, WEB6, true),
            (GUEST, MANAGER, false),
            (GUEST6, "fd00:10:1::1", false),
        ] {
            port += 1;
            let handshake = if established { &HANDSHAKE[..] } else { &[] };
            let steps = handshake.iter().chain(steps).map(|(side, flags, meets)| {
                let leaves = (*side == Opener) == slot_opens;
                let (guest_port, peer_port) = if slot_opens { (port, 443) } else { (22, port) };
                let expected = match meets {
                    Passes => PASS,
                    State => dropped(DropReason::TcpState),
                    Flags => dropped(DropReason::TcpFlags),
                    Policy if !leaves => dropped(DropReason::Unsolicited),
                    Policy if peer == MANAGER => dropped(DropReason::Management),
                    Policy => dropped(DropReason::Host),
                };
                if leaves {
                    Leaves(ip(guest, peer).tcp_flags(guest_port, peer_port, *flags), expected)
                } else {
                    Enters(ip(peer, guest).tcp_flags(peer_port, guest_port, *flags), expected)
                }
            });
            let opener = if slot_opens { "the slot" } else { "the other" };
            stories.push((format!("{name} ({opener} opens, {peer})"), steps.collect()));
        }
    }
    play(&mut Kernel::with(&slots()), stories);
}

/// The two ways between a guest and its peer.
#[derive(Clone, Copy)]
struct Ways {
    out: Path,
    back: Path,
}

fn between(guest: &str, peer: &str) -> Ways {
    Ways { out: ip(guest, peer), back: ip(peer, guest) }
}

/// Each story for both families.
fn for_both(story: impl Fn(&mut Vec<(String, Vec<Step>)>, Ways, &str)) -> Vec<(String, Vec<Step>)> {
    let mut stories = Vec::new();
    story(&mut stories, between(GUEST, WEB), "IPv4");
    story(&mut stories, between(GUEST6, WEB6), "IPv6");
    stories
}

#[test]
fn only_who_was_asked_answers() {
    use DropReason as R;
    if !can_use_kernel() {
        return;
    }
    let stories = for_both(|stories, Ways { out, back }, family| {
        let (other, other_guest) = match family {
            "IPv4" => (ip("203.0.113.10", GUEST), ip(WEB, "10.1.0.3")),
            _ => (ip("2001:db8:113::10", GUEST6), ip(WEB6, "fd00:10:1::3")),
        };
        let nobody = || dropped(R::Unsolicited);
        let mut tell = |name: &str, steps| stories.push((format!("{name}, {family}"), steps));
        tell(
            "a datagram",
            vec![
                Enters(back.udp(123, 5000, b""), nobody()),
                Leaves(out.udp(5000, 123, b""), PASS),
                Enters(back.udp(123, 5000, b""), PASS),
                Enters(back.udp(123, 5000, b"more"), PASS),
                Enters(back.udp(124, 5000, b"another port"), nobody()),
                Enters(back.udp(123, 5001, b"to another port"), nobody()),
                Enters(other.udp(123, 5000, b"another peer"), nobody()),
                Enters(other_guest.udp(123, 5000, b"to another guest"), nobody()),
                Enters(back.tcp_flags(123, 5000, SYN), nobody()),
                Leaves(out.udp(5000, 123, b""), PASS),
            ],
        );
        tell(
            "an echo",
            vec![
                Enters(back.pong(7), nobody()),
                Leaves(out.ping(7), PASS),
                Enters(back.pong(7), PASS),
                Enters(back.pong(8), nobody()),
                Enters(other.pong(7), nobody()),
                Enters(back.ping(7), nobody()),
                Leaves(out.pong(7), dropped(R::IcmpType)),
                Leaves(out.ping(7), PASS),
            ],
        );
    });
    play(&mut Kernel::with(&slots()), stories);
}

#[test]
fn an_error_passes_if_it_is_about_a_flow_and_told_to_who_sent() {
    use DropReason as R;
    if !can_use_kernel() {
        return;
    }
    let stories = for_both(|stories, Ways { out, back }, family| {
        let (unreachable, router, stranger, ping) = match family {
            "IPv4" => (3, ip("198.51.100.77", GUEST), ip("198.51.100.77", "10.1.0.3"), 8),
            _ => (1, ip("2001:db8:77::1", GUEST6), ip("2001:db8:77::1", "fd00:10:1::3"), 128),
        };
        let sent = out.udp(6000, 33434, b"traceroute");
        let syn = out.tcp_flags(6000, 443, SYN);
        let asked = out.icmp(ping, 60);
        let nobody = || dropped(R::Unsolicited);
        let mut tell = |name: &str, steps| stories.push((format!("{name}, {family}"), steps));
        tell(
            "about what the slot sent",
            vec![
                Enters(router.error(unreachable, &sent), nobody()),
                Leaves(sent.clone(), PASS),
                Enters(router.error(unreachable, &sent), PASS),
                Enters(router.error(if unreachable == 3 { 11 } else { 3 }, &sent), PASS),
                Enters(back.error(unreachable, &sent), PASS),
                Enters(stranger.error(unreachable, &sent), nobody()),
                Enters(router.error(unreachable, &out.udp(6001, 33434, b"traceroute")), nobody()),
                Enters(router.error(unreachable, &back.udp(33434, 6000, b"its own")), nobody()),
                Leaves(syn.clone(), PASS),
                Enters(router.error(unreachable, &syn), PASS),
                Leaves(asked.clone(), PASS),
                Enters(router.error(unreachable, &asked), PASS),
            ],
        );
        let reply = back.udp(33434, 6002, b"a reply that nobody takes");
        tell(
            "about what the slot received",
            vec![
                Leaves(out.error(unreachable, &reply), dropped(R::IcmpError)),
                Leaves(out.udp(6002, 33434, b""), PASS),
                Enters(reply.clone(), PASS),
                Leaves(out.error(unreachable, &reply), PASS),
                Leaves(out.error(unreachable, &back.udp(1, 6002, b"another")), {
                    dropped(R::IcmpError)
                }),
            ],
        );
        let other = match family {
            "IPv4" => ip(GUEST, "203.0.113.99"),
            _ => ip(GUEST6, "2001:db8:113::99"),
        };
        tell(
            "told to another than who sent",
            vec![
                Leaves(out.udp(6003, 33434, b""), PASS),
                Leaves(other.error(unreachable, &back.udp(33434, 6003, b"")), {
                    dropped(R::IcmpError)
                }),
            ],
        );
    });
    play(&mut Kernel::with(&slots()), stories);
}

#[test]
fn what_management_opens_lets_answers_out_and_nothing_else() {
    use DropReason as R;
    if !can_use_kernel() {
        return;
    }
    let Ways { out, back } = between(GUEST, MANAGER);
    let closed = || dropped(R::Management);
    let steps = vec![
        Leaves(out.udp(161, 7000, b""), closed()),
        Enters(back.udp(7000, 161, b""), PASS),
        Leaves(out.udp(161, 7000, b""), PASS),
        Leaves(out.udp(161, 7001, b""), closed()),
        Leaves(out.udp(162, 7000, b""), closed()),
        Leaves(out.tcp_flags(161, 7000, SYN), closed()),
        Leaves(out.ping(7), closed()),
        Enters(back.ping(7), PASS),
        Leaves(out.pong(7), PASS),
        Leaves(out.ping(7), closed()),
        Leaves(out.pong(8), closed()),
        // An error about what it was sent.
        Leaves(out.error(3, &back.udp(7000, 161, b"")), PASS),
        Leaves(out.error(3, &back.udp(7002, 161, b"")), closed()),
    ];
    play(&mut Kernel::with(&slots()), vec![("management".to_owned(), steps)]);
}

#[test]
fn every_packet_of_either_side_keeps_a_flow_alive() {
    if !can_use_kernel() {
        return;
    }
    let Ways { out, back } = between(GUEST, WEB);
    // A datagram without an answer lives 30 s, a handshake 60 s.
    let stories = vec![
        (
            "the guest's".to_owned(),
            vec![
                Leaves(out.udp(9003, 123, b""), PASS),
                Time(20),
                Leaves(out.udp(9003, 123, b""), PASS),
                Time(20),
                Enters(back.udp(123, 9003, b""), PASS),
            ],
        ),
        (
            "the peer's".to_owned(),
            vec![
                Leaves(out.tcp_flags(9004, 443, SYN), PASS),
                Enters(back.tcp_flags(443, 9004, SYN | ACK), PASS),
                Time(40),
                Enters(back.tcp_flags(443, 9004, SYN | ACK), PASS),
                Time(40),
                Enters(back.tcp_flags(443, 9004, SYN | ACK), PASS),
            ],
        ),
    ];
    play(&mut Kernel::with(&slots()), stories);
}

#[test]
fn what_was_silent_for_too_long_is_no_flow_any_more() {
    use DropReason as R;
    if !can_use_kernel() {
        return;
    }
    let seconds = |state: FlowState| FlowState::timeout_ns(state as u8) / 1_000_000_000;
    let Ways { out, back } = between(GUEST, WEB);
    let gone = || dropped(R::Unsolicited);
    // A second is more than the few packets between setting the clock back and looking take.
    let told = |name: &str, state, before: &[(bool, u8)], answer: Vec<u8>| {
        let opening = || {
            before.iter().map(|(leaves, flags)| {
                if *leaves {
                    Leaves(out.tcp_flags(9000, 443, *flags), PASS)
                } else {
                    Enters(back.tcp_flags(443, 9000, *flags), PASS)
                }
            })
        };
        let mut steps: Vec<_> = opening().collect();
        steps.push(Silence(seconds(state) - 2));
        steps.push(Enters(answer.clone(), PASS));
        (name.to_owned(), steps, Enters(answer, gone()))
    };
    let cases = [
        told("a SYN", FlowState::SynSent, &[(true, SYN)], back.tcp_flags(443, 9000, ACK)),
        told(
            "a handshake",
            FlowState::SynReceived,
            &[(true, SYN), (false, SYN | ACK)],
            back.tcp_flags(443, 9000, SYN | ACK),
        ),
        told(
            "a connection",
            FlowState::Established,
            &[(true, SYN), (false, SYN | ACK), (true, ACK)],
            back.tcp_flags(443, 9000, ACK),
        ),
        told(
            "a closed one",
            FlowState::Closed,
            &[(true, SYN), (false, SYN | ACK), (true, ACK), (false, RST)],
            back.tcp_flags(443, 9000, ACK),
        ),
    ];
    let states =
        [FlowState::SynSent, FlowState::SynReceived, FlowState::Established, FlowState::Closed];
    for ((name, mut steps, last), state) in cases.into_iter().zip(states) {
        steps.extend([Silence(seconds(state)), last]);
        play(&mut Kernel::with(&slots()), vec![(name, steps)]);
    }
    let (asked, answered) = (seconds(FlowState::Asked), seconds(FlowState::Answered));
    let stories = vec![
        (
            "a datagram without an answer".to_owned(),
            vec![
                Leaves(out.udp(9001, 123, b""), PASS),
                Silence(asked),
                Enters(back.udp(123, 9001, b""), gone()),
            ],
        ),
        (
            "with an answer".to_owned(),
            vec![
                Leaves(out.udp(9002, 123, b""), PASS),
                Enters(back.udp(123, 9002, b""), PASS),
                Silence(answered - 2),
                Enters(back.udp(123, 9002, b""), PASS),
                Silence(answered),
                Enters(back.udp(123, 9002, b""), gone()),
            ],
        ),
        (
            "an echo".to_owned(),
            vec![
                Leaves(out.ping(9), PASS),
                Silence(asked),
                Enters(back.pong(9), gone()),
                Enters(ip("198.51.100.77", GUEST).error(3, &out.ping(9)), gone()),
            ],
        ),
    ];
    play(&mut Kernel::with(&slots()), stories);
}
