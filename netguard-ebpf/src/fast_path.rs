//! The fast path: what passes and leaves by an uplink is translated and sent there at once, past the bridge, the host's routing
//! and its netfilter.
//!
//! A flow takes it from its first packet on or never: what looks one way on one path and another way on the other is broken.
//! So that packet must find all of it there: the route, the neighbour and a port. Of the later ones those that it cannot
//! carry (too long, at the end of their life, no route) go the slow path, where the host answers them and lets none through.

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_SHOT, bpf_redir_neigh},
    helpers::{bpf_redirect, bpf_redirect_neigh},
    programs::TcContext,
};
use netguard_common::{
    Address, Direction, SlotId, fast_path_of,
    maps::{Side as PolicySide, SlotEntry, slot_flags},
    translation::Translation,
};

use crate::{
    cursor::Window,
    dry_run::is_dry_run,
    fragments, nat,
    packet::{Packet, TCP, UDP},
    policy,
    rewrite::{self, Ends, Hop, Side},
    routing::{self, Route, Way},
    scratch::{self, Scratch},
};

/// What a packet that may leave is to the flow at [`Scratch::flow_index`].
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Role {
    /// Nothing: it belongs to none.
    None = 0,
    /// It has opened it just now, and the host's routing does not take it for the host.
    Opens = 1,
    /// It belongs to it.
    Follows = 2,
    /// It is an ICMP error about it.
    Reports = 3,
    /// It is a later fragment of a packet of it.
    Continues = 4,
}

/// What [`ng_fast_path`] must know of a packet that was let through.
#[repr(C)]
pub struct Departure {
    role: u32,
    slot_id: u32,
    side: PolicySide,
    way: Way,
}

/// Remembers what a packet is that may leave.
#[inline(always)]
pub fn note(scratch: &mut Scratch, role: Role, slot_id: SlotId, slot: &SlotEntry) {
    let may_take = slot.flags & slot_flags::FAST_PATH != 0;
    scratch.departure.role = if may_take { role as u32 } else { Role::None as u32 };
    scratch.departure.slot_id = slot_id.into();
    scratch.departure.side = slot.side;
}

/// Sends a packet that was let through on its way; `None` if it takes the slow path.
#[inline(always)]
pub fn depart(ctx: &TcContext) -> Option<i32> {
    let scratch = scratch::memory().ok()?;
    if scratch.departure.role == Role::None as u32 || is_dry_run(ctx) {
        return None;
    }
    match ng_fast_path(ctx.skb.skb) {
        0 => None,
        action => Some(action as i32),
    }
}

/// A global function: the verifier takes it as it stands, once, and not once more for every way that leads here.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ng_fast_path(skb: *mut __sk_buff) -> u32 {
    let ctx = TcContext::new(skb);
    let Ok(scratch) = scratch::memory() else { return 0 };
    go(&ctx, scratch).unwrap_or(0)
}

#[inline(always)]
fn go(ctx: &TcContext, scratch: &mut Scratch) -> Option<u32> {
    let role = scratch.departure.role;
    let (opens, reports) = (role == Role::Opens as u32, role == Role::Reports as u32);
    let translation = nat::of_flow(scratch.flow_index())?;
    // SAFETY: the entry stays writable for the whole program. It is this flow's, whose packets agree on what is written.
    let translation = unsafe { &mut *translation };
    let may_open = opens && matches!(scratch.packet.protocol, TCP | UDP);
    if !may_open && translation.port_be == 0 {
        return None;
    }
    let slot = policy::slot_on(scratch.departure.side, scratch.departure.slot_id as SlotId)?;
    route(ctx, scratch, slot, opens)?;
    let out = scratch.departure.way.ifindex;
    let uplink = policy::uplink(slot.side, out)?;
    let address = if scratch.packet.dst.is_v4() { &uplink.address4 } else { &uplink.address6 };
    if *address == Address::UNSPECIFIED || scratch.packet.time_to_live <= 1 {
        return None;
    }
    if opens {
        translation.uplink_ifindex = out;
        if nat::assign(ctx, scratch, uplink) == 0 {
            return None;
        }
    }
    if translation.uplink_ifindex != out {
        return None;
    }
    if !reports {
        remember_way_back(ctx, &scratch.packet, translation);
    }
    let packet = &scratch.packet;
    let rewritten = if reports {
        let ports = (scratch.quoted.dst_port_be, translation.port_be);
        rewrite::translate_error(ctx, packet, Side::Source, *address, ports)
    } else {
        let to = Ends {
            address: *address,
            src_port_be: translation.port_be,
            dst_port_be: packet.dst_port_be,
        };
        rewrite::translate(ctx, packet, Side::Source, &to, Hop::Counted)
    };
    // It was parsed, so that does not fail; half rewritten it may not go on.
    if rewritten.is_err() {
        return Some(TC_ACT_SHOT as u32);
    }
    let slot_id = scratch.departure.slot_id as SlotId;
    if packet.more_fragments && !packet.is_later_fragment() {
        fragments::take_along(scratch, slot_id, Direction::Egress, scratch.flow_index());
    }
    ctx.set_mark(fast_path_of(slot_id));
    Some(send(ctx, scratch))
}

/// Asks the host's routing for a way that the fast path can take.
#[inline(always)]
fn route(ctx: &TcContext, scratch: &mut Scratch, slot: &SlotEntry, opens: bool) -> Option<()> {
    let length = length(ctx, &scratch.packet);
    // What a router may split must never need to be: the parts would leave by the slow path, and look otherwise.
    let longest = if opens && scratch.packet.protocol == UDP {
        length.max(routing::mtu_of(ctx, slot.bridge_ifindex))
    } else {
        length
    };
    let (route, way) = routing::way(ctx, slot.bridge_ifindex, scratch, longest);
    scratch.departure.way = way;
    match route {
        Route::Found => Some(()),
        Route::NoNeighbour if !opens => Some(()), // it is looked for
        Route::TooLong if !opens && scratch.packet.may_be_split => {
            let _ = rewrite::forbid_splitting(ctx);
            None
        }
        _ => None, // the host's to deliver, to answer or to drop
    }
}

/// The length of the packet, or of the longest that is made of it, from the IP header on.
#[inline(always)]
fn length(ctx: &TcContext, packet: &Packet) -> u32 {
    const ETHERNET: u32 = 14;
    let headers = u32::from(packet.transport_offset) - ETHERNET;
    // SAFETY: the verifier allows reads of this context field.
    match unsafe { (*ctx.skb.skb).gso_size } {
        0 => headers + packet.payload,
        segment => headers + u32::from(packet.transport_length) + segment,
    }
}

/// A guest that moves to another port takes its flows along.
#[inline(always)]
fn remember_way_back(ctx: &TcContext, packet: &Packet, translation: &mut Translation) {
    // SAFETY: the verifier allows reads of this context field.
    translation.port_ifindex = unsafe { (*ctx.skb.skb).ifindex };
    translation.guest_mac = packet.eth_src;
}

#[inline(always)]
fn send(ctx: &TcContext, scratch: &mut Scratch) -> u32 {
    let way = &mut scratch.departure.way;
    if way.is_known == 1 {
        // It was parsed, so that does not fail.
        let Ok(ethernet) = Window::<12>::at(ctx, 0) else { return TC_ACT_SHOT as u32 };
        ethernet.store::<_, 0>(way.addresses);
        // SAFETY: the helper only remembers the interface's number.
        return unsafe { bpf_redirect(way.ifindex, 0) as u32 };
    }
    let way = &raw mut *way;
    // SAFETY: the helper copies the structure, whose size it gets.
    unsafe {
        bpf_redirect_neigh(
            (*way).ifindex,
            &raw mut (*way).next_hop,
            size_of::<bpf_redir_neigh>() as i32,
            0,
        ) as u32
    }
}
