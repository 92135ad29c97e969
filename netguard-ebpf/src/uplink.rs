//! The outer end of the fast path: answers find their flow, are translated back and go to the slot's port, whose program judges
//! them as if they had come by the bridge. Everything else that meets an uplink's programs goes on as it was.

use aya_ebpf::{bindings::TC_ACT_SHOT, helpers::bpf_redirect, programs::TcContext};
use netguard_common::{
    Address, Direction, DropReason, Hook, NO_SLOT, is_on_fast_path,
    maps::{Side as PolicySide, UplinkEntry},
    translation::{Outside, is_nat_port},
    vouched_by,
};

use crate::{
    cursor::{Cursor, Window},
    flows, fragments,
    frame::Frame as _,
    headers::{Ethernet, Ipv4, Ipv6},
    icmp::{self, Kind},
    nat,
    packet::{ICMP, ICMPV6, Packet, TCP, UDP},
    policy,
    report::{self, Verdict},
    rewrite::{self, Ends, Hop, Side},
    scratch::{self, Scratch},
};

/// `PACKET_HOST` of include/uapi/linux/if_packet.h: the frame bears the uplink's own Ethernet address.
const PACKET_HOST: u32 = 0;

/// What enters the host; `None` if it is not the fast path's.
#[inline(always)]
pub fn enter(ctx: &TcContext) -> Option<i32> {
    // SAFETY: the verifier allows reads of this context field.
    let is_for_host = unsafe { (*ctx.skb.skb).pkt_type } == PACKET_HOST;
    if !is_for_host || !may_be_answer(ctx) {
        return None;
    }
    match enter_apart(ctx) {
        0 => None,
        UNKNOWN => {
            let verdict = Verdict::Drop(DropReason::Unsolicited);
            Some(report::finish(ctx, Hook::UplinkIngress, Direction::Ingress, NO_SLOT, verdict)
                as i32)
        }
        action => Some(action as i32),
    }
}

/// Beside actions, what [`enter_apart`] returns of a packet that an earlier load's programs may know.
const UNKNOWN: u32 = 255;

/// Of the host's own packets nearly none gets past this.
#[inline(always)]
fn may_be_answer(ctx: &TcContext) -> bool {
    ports(ctx).is_some_and(|Ports { protocol, dst_be, is_later, .. }| match protocol {
        TCP | UDP => is_later || is_nat_port(u16::from_be(dst_be)),
        ICMP | ICMPV6 => true,
        _ => false, // nothing that the fast path carries
    })
}

/// What the first headers say.
struct Ports {
    protocol: u8,
    src_be: u16,
    dst_be: u16,
    /// True for a fragment that has no ports.
    is_later: bool,
}

#[inline(always)]
fn ports(ctx: &TcContext) -> Option<Ports> {
    const IPV4: u16 = 0x0800_u16.to_be();
    const IPV6: u16 = 0x86dd_u16.to_be();
    const FRAGMENT: u8 = 44;
    const OFFSET: u16 = 0x1fff_u16.to_be();
    let mut cursor = Cursor::new(ctx.memory());
    let ethernet: Ethernet = cursor.take().ok()?;
    let (protocol, is_later) = match ethernet.ether_type_be {
        IPV4 => {
            let ip: Ipv4 = cursor.take().ok()?;
            if ip.version_and_length != 0x45 {
                return None;
            }
            (ip.protocol, ip.fragment_be & OFFSET != 0)
        }
        IPV6 => {
            let ip: Ipv6 = cursor.take().ok()?;
            if ip.next_header == FRAGMENT {
                let [next, ..]: [u8; 8] = cursor.take().ok()?;
                (next, true)
            } else {
                (ip.next_header, false)
            }
        }
        _ => return None, // nothing that has ports
    };
    if is_later {
        return Some(Ports { protocol, src_be: 0, dst_be: 0, is_later });
    }
    let [src_be, dst_be]: [u16; 2] = cursor.take().ok()?;
    Some(Ports { protocol, src_be, dst_be, is_later })
}

/// A function of its own in BPF too, for its stack.
#[inline(never)]
fn enter_apart(ctx: &TcContext) -> u32 {
    let Some((side, uplink)) = policy::uplink_of(ctx.ifindex()) else { return 0 };
    let Ok(scratch) = scratch::memory() else { return 0 };
    if !scratch.parse(ctx).unwrap_or(false) {
        return 0; // the host makes of it what it makes of such
    }
    let own = if scratch.packet.dst.is_v4() { uplink.address4 } else { uplink.address6 };
    if own == Address::UNSPECIFIED || scratch.packet.dst != own {
        return 0;
    }
    let is_error = icmp::kind(&scratch.packet) == Kind::Error;
    let index = flow_of(ctx, scratch, uplink, is_error);
    scratch.set_flow_index(index);
    if index == u32::MAX && !is_error && !scratch.packet.is_later_fragment() {
        if uplink.is_changing == 1 && !nat::is_elsewhere(&scratch.outside) {
            return UNKNOWN;
        }
        restore_port(ctx, scratch);
        return 0;
    }
    if scratch.packet.more_fragments && !scratch.packet.is_later_fragment() && index != u32::MAX {
        fragments::begin_outside(scratch, index);
    }
    back(ctx, scratch, side, is_error)
}

/// The number of the flow that a packet from outside belongs to, or speaks of; `u32::MAX` if there is none.
#[inline(always)]
fn flow_of(ctx: &TcContext, scratch: &mut Scratch, uplink: &UplinkEntry, is_error: bool) -> u32 {
    let packet = &scratch.packet;
    if packet.is_later_fragment() {
        return fragments::flow_outside(scratch);
    }
    let uplink_ifindex = ctx.ifindex();
    scratch.outside = if is_error {
        // Whoever quotes a packet must be quoting one that this address has sent.
        if !icmp::read_quoted(ctx, scratch) || scratch.quoted.src != scratch.packet.dst {
            return u32::MAX;
        }
        let quoted = &scratch.quoted;
        Outside {
            peer: quoted.dst,
            uplink_ifindex,
            peer_port_be: quoted.dst_port_be,
            port_be: quoted.src_port_be,
            protocol: quoted.protocol,
            _reserved: [0; 7],
        }
    } else {
        Outside {
            peer: packet.src,
            uplink_ifindex,
            peer_port_be: packet.src_port_be,
            port_be: packet.dst_port_be,
            protocol: packet.protocol,
            _reserved: [0; 7],
        }
    };
    nat::find(&scratch.outside, uplink.nat_mask, scratch.now_ns)
}

/// Sends a packet on to the slot whose flow it belongs to; 0 if there is no such flow, or its slot is gone.
#[inline(always)]
fn back(ctx: &TcContext, scratch: &mut Scratch, side: PolicySide, is_error: bool) -> u32 {
    let index = scratch.flow_index();
    let Some(entry) = flows::at(index) else { return 0 };
    // SAFETY: see `Entry`. If it becomes another flow's meanwhile the port's program finds that the packet is not its guest's.
    let (key, translation) = unsafe { (&(*entry.flow).key, &(*entry.flow).translation) };
    let Some(slot) = policy::slot_at(side, key.slot_id, translation.port_ifindex) else { return 0 };
    let packet: &Packet = &scratch.packet;
    let rewritten = if is_error {
        let ports = (translation.port_be, key.guest_port_be);
        rewrite::translate_error(ctx, packet, Side::Destination, key.guest, ports)
    } else {
        let to = Ends {
            address: key.guest,
            src_port_be: packet.src_port_be,
            dst_port_be: key.guest_port_be,
        };
        rewrite::translate(ctx, packet, Side::Destination, &to, Hop::Counted)
    };
    let addressed = rewritten.and_then(|()| Window::<12>::at(ctx, 0)).map(|ethernet| {
        ethernet.store::<_, 0>(translation.guest_mac);
        ethernet.store::<_, 6>(slot.bridge_mac);
    });
    // It was parsed, so that does not fail; half rewritten it may not go on.
    if addressed.is_err() {
        return TC_ACT_SHOT as u32;
    }
    ctx.set_mark(vouched_by(NO_SLOT));
    // SAFETY: the helper only remembers the interface's number.
    unsafe { bpf_redirect(translation.port_ifindex, 0) as u32 }
}

/// What leaves the host: the fast path's own loses its mark, and what else has a port as the fast path gives them is remembered,
/// so that no flow of a slot gets the same.
#[inline(always)]
pub fn leave(ctx: &TcContext) {
    // SAFETY: the verifier allows reads of this context field.
    if is_on_fast_path(unsafe { (*ctx.skb.skb).mark }) {
        ctx.set_mark(0);
        return;
    }
    let is_like_ours = ports(ctx).is_some_and(|Ports { protocol, src_be, is_later, .. }| {
        matches!(protocol, TCP | UDP) && !is_later && is_nat_port(u16::from_be(src_be))
    });
    if is_like_ours {
        remember(ctx);
    }
}

/// A function of its own in BPF too, for its stack.
#[inline(never)]
fn remember(ctx: &TcContext) -> u32 {
    let Some((_, uplink)) = policy::uplink_of(ctx.ifindex()) else { return 0 };
    let Ok(scratch) = scratch::memory() else { return 0 };
    if !scratch.parse(ctx).unwrap_or(false) {
        return 0;
    }
    let packet = &scratch.packet;
    let own = if packet.src.is_v4() { uplink.address4 } else { uplink.address6 };
    if packet.src != own {
        return 0; // routed, so nothing that comes back for it is addressed to the host
    }
    scratch.outside = Outside {
        peer: packet.dst,
        uplink_ifindex: ctx.ifindex(),
        peer_port_be: packet.dst_port_be,
        port_be: packet.src_port_be,
        protocol: packet.protocol,
        _reserved: [0; 7],
    };
    let port_be = nat::port_elsewhere(scratch, uplink.nat_mask) as u16;
    let packet = &scratch.packet;
    if port_be != packet.src_port_be {
        let to = Ends { address: own, src_port_be: port_be, dst_port_be: packet.dst_port_be };
        // It was parsed, so that does not fail; if it did, the packet would leave as it came.
        let _ = rewrite::translate(ctx, packet, Side::Source, &to, Hop::None);
    }
    1
}

/// An answer to a connection that had to be given another port than its own gets that back, and goes on to the host.
#[inline(always)]
fn restore_port(ctx: &TcContext, scratch: &Scratch) {
    let packet = &scratch.packet;
    let port_be = nat::own_port(&scratch.outside);
    if port_be != 0 {
        let to =
            Ends { address: packet.dst, src_port_be: packet.src_port_be, dst_port_be: port_be };
        let _ = rewrite::translate(ctx, packet, Side::Destination, &to, Hop::None);
    }
}
