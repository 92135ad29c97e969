//! Fragments: each follows its first one, in order, or does not pass.

use netguard_common::DropReason;
use netguard_tests::{
    can_use_kernel,
    kernel::Kernel,
    packet::{Path, ip},
};

use super::*;

const UDP: u8 = 17;
const TCP: u8 = 6;

/// The part of a datagram from `offset` on, in bytes, as a fragment of the packet with that identification.
fn fragment(path: Path, id: u16, offset: u16, more: bool, number: u8, part: &[u8]) -> Vec<u8> {
    let low = u8::try_from(id).expect("identifications of these tests are small");
    let mut frame = path.fragment(number, low, offset / 8, more, part);
    if frame[12..14] == [8, 0] {
        frame[18..20].copy_from_slice(&id.to_be_bytes());
    }
    frame
}

/// The first bytes of a datagram of that many bytes in all.
fn udp_head(src_port: u16, dst_port: u16, length: u16, part: usize) -> Vec<u8> {
    let mut head = Vec::new();
    for field in [src_port, dst_port, length, 0] {
        head.extend(field.to_be_bytes());
    }
    head.resize(part, b'x');
    head
}

#[test]
fn fragments_follow_their_first_in_order_or_not_at_all() {
    use DropReason as R;
    if !can_use_kernel() {
        return;
    }
    let part = [b'y'; 64];
    let bad = || dropped(R::Fragment);
    let mut stories = for_both(|stories, Ways { out, back }, family| {
        for leaves in [true, false] {
            let (way, own) = if leaves { (out, 8000) } else { (back, 123) };
            let step = |frame, outcome| {
                if leaves { Leaves(frame, outcome) } else { Enters(frame, outcome) }
            };
            let way_name = if leaves { "out" } else { "in" };
            let dst = if leaves { 123 } else { 8000 };
            let first = move |id| fragment(way, id, 0, true, UDP, &udp_head(own, dst, 200, 64));
            let later = move |id, at, more| fragment(way, id, at, more, UDP, &part);
            let mut tell = |name: &str, steps: Vec<Step>| {
                // What enters must have been asked for.
                let mut all = vec![Leaves(out.udp(8000, 123, b""), PASS)];
                all.extend(steps);
                stories.push((format!("{name}, {family}, {way_name}"), all));
            };
            tell(
                "in order",
                vec![
                    step(first(1), PASS),
                    step(later(1, 64, true), PASS),
                    step(later(1, 128, true), PASS),
                    step(later(1, 192, false), PASS),
                    step(later(1, 192, false), bad()),
                    step(later(1, 256, false), bad()),
                ],
            );
            tell("a gap", vec![step(first(2), PASS), step(later(2, 128, false), bad())]);
            tell(
                "an overlap",
                vec![
                    step(first(3), PASS),
                    step(later(3, 56, true), bad()),
                    step(later(3, 64, true), PASS),
                    step(later(3, 64, true), bad()),
                    step(later(3, 120, false), bad()),
                ],
            );
            tell(
                "out of order",
                vec![
                    step(later(4, 64, false), bad()),
                    step(first(4), PASS),
                    step(later(4, 128, false), bad()),
                    step(later(4, 64, true), PASS),
                ],
            );
            tell("at offset 8", vec![step(first(5), PASS), step(later(5, 8, true), bad())]);
            tell(
                "another identification",
                vec![step(first(6), PASS), step(later(7, 64, false), bad())],
            );
            tell(
                "another protocol",
                vec![step(first(8), PASS), step(fragment(way, 8, 64, false, TCP, &part), bad())],
            );
            let id = if leaves { 9 } else { 15 };
            tell(
                "the other way",
                vec![
                    step(first(id), PASS),
                    if leaves {
                        Enters(fragment(back, id, 64, false, UDP, &part), bad())
                    } else {
                        Leaves(fragment(out, id, 64, false, UDP, &part), bad())
                    },
                ],
            );
            tell(
                "not in eights",
                vec![
                    step(fragment(way, 10, 0, true, UDP, &udp_head(own, dst, 200, 60)), bad()),
                    step(first(10), PASS),
                    step(fragment(way, 10, 64, true, UDP, &part[..60]), bad()),
                    step(fragment(way, 10, 64, false, UDP, &part[..60]), PASS),
                ],
            );
            tell(
                "an empty one",
                vec![
                    step(first(11), PASS),
                    step(fragment(way, 11, 64, false, UDP, &[]), dropped(R::BadHeader)),
                ],
            );
            tell(
                "longer than a packet can be",
                vec![step(fragment(way, 12, 65528, false, UDP, &part), bad())],
            );
            tell(
                "without a transport header",
                vec![
                    step(fragment(way, 13, 0, true, TCP, &part[..8]), dropped(R::Truncated)),
                    step(fragment(way, 13, 64, false, TCP, &part), bad()),
                ],
            );
            tell(
                "a tunnel",
                vec![step(fragment(way, 14, 64, false, 47, &part), dropped(R::Protocol))],
            );
        }
        // What the first is not allowed, no later one is.
        stories.push((
            format!("a denied first, {family}"),
            vec![
                Enters(fragment(back, 20, 0, true, UDP, &udp_head(9, 9, 200, 64)), {
                    dropped(R::Unsolicited)
                }),
                Enters(fragment(back, 20, 64, false, UDP, &part), bad()),
            ],
        ));
        stories.push((
            format!("a query, {family}"),
            vec![
                Leaves(fragment(out, 21, 0, true, UDP, &udp_head(8001, 53, 200, 64)), bad()),
                Leaves(fragment(out, 21, 64, false, UDP, &part), bad()),
            ],
        ));
        stories.push((
            format!("encrypted DNS, {family}"),
            vec![Leaves(fragment(out, 22, 0, true, UDP, &udp_head(8001, 853, 200, 64)), {
                dropped(R::DnsOverQuic)
            })],
        ));
    });
    let atomic = fragment(ip(GUEST6, WEB6), 30, 0, false, UDP, &udp_head(8001, 123, 64, 64));
    stories.push(("an atomic fragment".to_owned(), vec![Leaves(atomic, bad())]));
    let ping = [[8, 0, 0, 0, 0, 1, 0, 1], [0; 8]].concat();
    let ping = fragment(ip(GUEST, WEB), 31, 0, true, 1, &ping);
    stories.push(("a ping in fragments".to_owned(), vec![Leaves(ping, dropped(R::IcmpSize))]));
    play(&mut Kernel::with(&slots()), stories);
}
