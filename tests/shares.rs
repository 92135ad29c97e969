//! What a slot gets of what is scarce: its share of the table of flows, and its limits. No slot takes
//! another's.

use DropReason as R;
use std::time::Duration;

use netguard_common::{DropReason, Hook};
use netguard_tests::{
    can_use_kernel,
    kernel::{FROM_HOST, Kernel, Outcome},
    packet::ip,
};

const WEB: &str = "203.0.113.9";
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// So many slots on one bridge with `lo` as the port of one of them.
fn slots(count: u8, on_lo: u8, flows: u32, more: &str) -> String {
    let mut toml = format!("[limits]\nflows = {flows}\n[dns]\nupstreams = ['1.1.1.1']\n");
    toml += "[host]\nmanagement = ['100.64.0.0/10']\n";
    for id in 1..=count {
        let port = if id == on_lo { "lo".to_owned() } else { format!("vm-slot{id}") };
        // Only slot 1 has limits of its own.
        let more = if id == 1 { more } else { "limits = { icmp_per_second = 0 }" };
        toml += &format!(
            "[[slot]]\nname = 'slot{id}'\nid = {id}\nbridge = 'br-slot1'\nport = '{port}'\n\
             subnet = '10.{id}.0.0/24'\nsubnet6 = 'fd00:10:{id}::/64'\n{more}\n"
        );
    }
    toml
}

/// What the egress program says, without the drop stage: for many packets.
fn leaves(kernel: &mut Kernel, frame: &[u8]) -> Result<(), DropReason> {
    match kernel.verdict(Hook::PortEgress, frame, 0).0 {
        Outcome::Drop(reason) => Err(reason),
        _ => Ok(()),
    }
}

fn enters(kernel: &mut Kernel, frame: &[u8]) -> Result<(), DropReason> {
    match kernel.verdict(Hook::PortIngress, frame, FROM_HOST).0 {
        Outcome::Drop(reason) => Err(reason),
        _ => Ok(()),
    }
}

/// The address of a slot's guest.
fn guest(slot: u8) -> String {
    format!("10.{slot}.0.2")
}

/// The peer and the guest's port of a flow of that number.
fn ends(number: u32) -> (String, u16) {
    let port = u16::try_from(1024 + number % 50_000).expect("a port");
    (format!("203.0.113.{}", 1 + number / 50_000), port)
}

/// Opens an answered flow over UDP; true if both packets pass.
fn open_udp(kernel: &mut Kernel, guest: &str, number: u32) -> Result<(), DropReason> {
    let (peer, port) = ends(number);
    leaves(kernel, &ip(guest, &peer).udp(port, 443, b""))?;
    enters(kernel, &ip(&peer, guest).udp(443, port, b""))
}

/// True if the flow is still there: its answer comes in.
fn lives(kernel: &mut Kernel, guest: &str, number: u32) -> bool {
    let (peer, port) = ends(number);
    enters(kernel, &ip(&peer, guest).udp(443, port, b"")).is_ok()
}

#[test]
fn a_slot_that_opens_without_end_replaces_its_own_half_open_flows_only() {
    if !can_use_kernel() {
        return;
    }
    // 64 entries for each slot.
    let mut kernel = Kernel::with(&slots(2, 2, 64, ""));
    for number in 0..10 {
        assert_eq!(open_udp(&mut kernel, &guest(2), number), Ok(()));
    }
    kernel.apply(&slots(2, 1, 64, ""));
    let own = guest(1);
    // An established connection each way, and one that management has opened.
    let (out, back) = (ip(&own, WEB), ip(WEB, &own));
    assert_eq!(leaves(&mut kernel, &out.tcp_flags(50_000, 443, SYN)), Ok(()));
    assert_eq!(enters(&mut kernel, &back.tcp_flags(443, 50_000, SYN | ACK)), Ok(()));
    assert_eq!(leaves(&mut kernel, &out.tcp_flags(50_000, 443, ACK)), Ok(()));
    let managed = (ip(&own, "100.64.0.2"), ip("100.64.0.2", &own));
    assert_eq!(enters(&mut kernel, &managed.1.tcp_flags(50_000, 22, SYN)), Ok(()));
    for port in 1000..21_000 {
        assert_eq!(leaves(&mut kernel, &out.tcp_flags(port, 443, SYN)), Ok(()), "SYN {port}");
    }
    for port in 1000..11_000 {
        assert_eq!(leaves(&mut kernel, &out.udp(port, 443, b"")), Ok(()), "datagram {port}");
    }
    assert_eq!(enters(&mut kernel, &back.udp(443, 1000, b"")), Err(R::Unsolicited), "replaced");
    assert_eq!(enters(&mut kernel, &back.udp(443, 10_999, b"")), Ok(()), "the latest");
    assert_eq!(enters(&mut kernel, &back.tcp_flags(443, 50_000, ACK)), Ok(()), "established");
    assert_eq!(leaves(&mut kernel, &managed.0.tcp_flags(22, 50_000, SYN | ACK)), Ok(()));
    kernel.apply(&slots(2, 2, 64, ""));
    for number in 0..10 {
        assert!(lives(&mut kernel, &guest(2), number), "the neighbour's flow {number}");
    }
}

#[test]
fn connections_that_are_over_leave_room_for_new_ones_at_any_rate() {
    if !can_use_kernel() {
        return;
    }
    let mut kernel = Kernel::with(&slots(2, 1, 64, ""));
    let own = guest(1);
    let (out, back) = (ip(&own, WEB), ip(WEB, &own));
    // One that goes on, and one that management has opened and closed.
    assert_eq!(open_udp(&mut kernel, &own, 0), Ok(()));
    let managed = ip("100.64.0.2", &own);
    assert_eq!(enters(&mut kernel, &managed.tcp_flags(50_000, 22, SYN)), Ok(()));
    assert_eq!(enters(&mut kernel, &managed.tcp_flags(50_000, 22, RST)), Ok(()));
    for port in 1000..3000 {
        assert_eq!(leaves(&mut kernel, &out.tcp_flags(port, 443, SYN)), Ok(()), "SYN {port}");
        assert_eq!(enters(&mut kernel, &back.tcp_flags(443, port, SYN | ACK)), Ok(()));
        assert_eq!(leaves(&mut kernel, &out.tcp_flags(port, 443, ACK)), Ok(()));
        assert_eq!(leaves(&mut kernel, &out.tcp_flags(port, 443, RST)), Ok(()));
    }
    assert!(lives(&mut kernel, &own, 0));
    // What is late after the end still passes.
    assert_eq!(leaves(&mut kernel, &out.tcp_flags(2999, 443, ACK)), Ok(()));
    let late = ip(&own, "100.64.0.2").tcp_flags(22, 50_000, ACK);
    assert_eq!(leaves(&mut kernel, &late), Ok(()));
}

#[test]
fn a_share_full_of_answered_flows_takes_no_more_but_what_comes_from_outside() {
    if !can_use_kernel() {
        return;
    }
    let mut kernel = Kernel::with(&slots(2, 1, 64, ""));
    let own = guest(1);
    let opened: Vec<_> =
        (0..2000).filter(|number| open_udp(&mut kernel, &own, *number).is_ok()).collect();
    assert!((32..=64).contains(&opened.len()), "{} flows of 64 entries", opened.len());
    for number in &opened {
        assert!(lives(&mut kernel, &own, *number), "flow {number} was evicted by the slot itself");
    }
    let refused = (3000..3100).filter(|port| {
        leaves(&mut kernel, &ip(&own, WEB).tcp_flags(*port, 443, SYN)) == Err(R::FlowsFull)
    });
    assert_eq!(refused.count(), 100);
    // The operator gets in all the same.
    for port in 3000..3020 {
        let syn = ip("100.64.0.2", &own).tcp_flags(port, 22, SYN);
        assert_eq!(enters(&mut kernel, &syn), Ok(()), "from management, {port}");
    }
    // And so does the neighbour.
    kernel.apply(&slots(2, 2, 64, ""));
    assert_eq!(open_udp(&mut kernel, &guest(2), 1), Ok(()));
}

#[test]
fn a_connection_that_is_opened_again_takes_its_old_place() {
    if !can_use_kernel() {
        return;
    }
    const RST: u8 = 0x04;
    let mut kernel = Kernel::with(&slots(1, 1, 64, ""));
    let (out, back) = (ip(&guest(1), WEB), ip(WEB, &guest(1)));
    // Enough rounds that some find an entry free in front of their old one.
    for round in 0..10_u16 {
        let ports = || (5000 + 100 * round)..(5060 + 100 * round);
        let open = |kernel: &mut Kernel| {
            for port in ports() {
                assert_eq!(leaves(kernel, &out.tcp_flags(port, 443, SYN)), Ok(()));
                assert_eq!(enters(kernel, &back.tcp_flags(443, port, SYN | ACK)), Ok(()));
                assert_eq!(leaves(kernel, &out.tcp_flags(port, 443, ACK)), Ok(()));
            }
        };
        let close = |kernel: &mut Kernel| {
            for port in ports() {
                assert_eq!(enters(kernel, &back.tcp_flags(443, port, RST)), Ok(()));
            }
        };
        open(&mut kernel);
        close(&mut kernel);
        open(&mut kernel);
        // Longer than what is closed is remembered, shorter than what is established.
        assert!(kernel.age_flows(Duration::from_secs(61)), "up for a minute");
        for port in ports() {
            let data = back.tcp_flags(443, port, ACK);
            assert_eq!(enters(&mut kernel, &data), Ok(()), "port {port}");
        }
        close(&mut kernel);
        assert!(kernel.age_flows(Duration::from_secs(61)), "up for a minute");
    }
}

/// Opens so many answered flows for each slot, then looks for all of them.
fn fill(kernel: &mut Kernel, count: u8, each: u32, flows: u32) {
    let mut refused = 0;
    for slot in 1..=count {
        kernel.apply(&slots(count, slot, flows, ""));
        let guest = guest(slot);
        let opened = (0..each).filter(|number| open_udp(kernel, &guest, *number).is_ok());
        refused += each - u32::try_from(opened.count()).expect("few enough");
    }
    let mut lost = 0;
    for slot in 1..=count {
        kernel.apply(&slots(count, slot, flows, ""));
        let guest = guest(slot);
        let living = (0..each).filter(|number| lives(kernel, &guest, *number)).count();
        lost += each - u32::try_from(living).expect("few enough");
    }
    assert_eq!((refused, lost), (0, 0), "refused and lost of {each} each for {count} slots");
}

#[test]
fn five_slots_keep_twenty_thousand_flows_each_of_the_default_hundred_thousand() {
    if !can_use_kernel() {
        return;
    }
    fill(&mut Kernel::with(&slots(5, 1, 100_000, "")), 5, 20_000, 100_000);
}

#[test]
fn a_slot_keeps_its_eighth_of_a_million_flows() {
    if !can_use_kernel() {
        return;
    }
    let mut kernel = Kernel::with(&slots(7, 1, 1_000_000, ""));
    let guest = guest(1);
    let each = 125_000;
    let opened = (0..each).filter(|number| open_udp(&mut kernel, &guest, *number).is_ok());
    assert_eq!(opened.count(), each as usize);
    assert!((0..each).all(|number| lives(&mut kernel, &guest, number)));
}

/// Of so many frames sent at once: how many pass and how many are dropped for that reason.
fn burst(
    kernel: &mut Kernel,
    reason: DropReason,
    frames: impl Iterator<Item = Vec<u8>>,
) -> (u32, u32) {
    let (mut passed, mut limited) = (0, 0);
    for frame in frames {
        match leaves(kernel, &frame) {
            Ok(()) => passed += 1,
            Err(other) => {
                assert_eq!(other, reason);
                limited += 1;
            }
        }
    }
    (passed, limited)
}

#[test]
fn a_limit_lets_a_burst_of_a_second_pass_and_holds_nobody_else() {
    if !can_use_kernel() {
        return;
    }
    let own = guest(1);
    let syns = |from: &str| {
        let path = ip(from, WEB);
        (2000..2100).map(move |port| path.tcp_syn(port, 443)).collect::<Vec<_>>()
    };
    let datagram = |from: &str| vec![ip(from, WEB).udp(2000, 443, &[0; 958]); 100];
    let ping = |from: &str| vec![ip(from, WEB).ping(7); 100];
    for (limit, reason, frames) in [
        ("packets_per_second = 10", R::PacketRate, datagram(&own)),
        ("bytes_per_second = 10000", R::ByteRate, datagram(&own)), // 1000 bytes each
        ("flows_per_second = 10", R::FlowRate, syns(&own)),
        ("icmp_per_second = 10", R::IcmpRate, ping(&own)),
    ] {
        let mut kernel = Kernel::with(&slots(2, 1, 512, &format!("limits = {{ {limit} }}")));
        // It refills while this runs: of a hundred at once a few more than ten may pass.
        let (passed, limited) = burst(&mut kernel, reason, frames.into_iter());
        assert!(passed >= 10 && limited >= 80, "{limit}: {passed} passed, {limited} did not");
        if reason == R::FlowRate {
            // What is open goes on.
            let again = (2000..2010).map(|port| ip(&own, WEB).tcp_syn(port, 443));
            assert_eq!(burst(&mut kernel, reason, again), (10, 0));
        }
        if reason == R::IcmpRate {
            assert_eq!(burst(&mut kernel, reason, syns(&own).into_iter()), (100, 0));
        }
        // The neighbour has limits of its own, which are none.
        kernel.apply(&slots(2, 2, 512, &format!("limits = {{ {limit} }}")));
        for frames in [syns(&guest(2)), datagram(&guest(2)), ping(&guest(2))] {
            assert_eq!(burst(&mut kernel, reason, frames.into_iter()), (100, 0), "{limit}");
        }
    }
}

#[test]
fn fifty_pings_a_second_are_the_default() {
    if !can_use_kernel() {
        return;
    }
    let mut kernel = Kernel::with(&slots(1, 1, 512, ""));
    let pings = (0..500).map(|_| ip(&guest(1), WEB).ping(7));
    let (passed, limited) = burst(&mut kernel, R::IcmpRate, pings);
    assert!(passed >= 50 && limited >= 300, "{passed} passed, {limited} did not");
    // Neighbour discovery is not what is meant.
    let ask = ip("fd00:10:1::2", "ff02::1:ff00:1").neighbour(135, "fd00:10:1::1");
    assert_eq!(burst(&mut kernel, R::IcmpRate, (0..100).map(|_| ask.clone())), (100, 0));
}
