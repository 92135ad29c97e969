//! What may enter a slot, and the memory of what the host and the management network opened.
//!
//! Packets from the internet enter without state until the connection table of the complete packet
//! policy exists; nothing from another slot does.

use aya_ebpf::{bindings::BPF_ANY, helpers::bpf_ktime_get_ns, programs::TcContext};
use netguard_common::{
    DropReason, NO_SLOT, SlotId,
    maps::{Flow, FlowKey, Place},
};

use crate::{
    dns, egress, frame,
    maps::FLOWS,
    packet::{self, ICMP, ICMPV6, Packet, Parsed, TCP},
    report::Verdict,
};

const SECOND_NS: u64 = 1_000_000_000;
/// RFC 5382 REQ-5: an established connection may be silent for two hours and four minutes.
const TCP_IDLE_NS: u64 = 7440 * SECOND_NS;
/// RFC 4787 REQ-5 asks for two minutes or more.
const OTHER_IDLE_NS: u64 = 180 * SECOND_NS;

/// The verdict, and the packet restored if it is a reply of the resolver.
#[inline(always)]
pub fn decide_and_restore(ctx: &TcContext) -> (SlotId, Verdict) {
    let Some(slot_id) = egress::slot_of(ctx) else {
        return (NO_SLOT, Verdict::Drop(DropReason::UnknownPort));
    };
    let verdict = match judge(ctx, slot_id) {
        Ok(()) => Verdict::Pass,
        Err(reason) => Verdict::Drop(reason),
    };
    (slot_id, verdict)
}

#[inline(always)]
fn judge(ctx: &TcContext, own: SlotId) -> Result<(), DropReason> {
    if !frame::is_guarded(ctx) {
        return Err(DropReason::UnguardedPort);
    }
    let packet = match packet::parse(ctx)? {
        Parsed::Arp(..) => return Ok(()), // the host or a port of the same slot, checked there
        Parsed::Ip(packet) => packet,
    };
    if dns::is_reply(&packet, own) {
        return dns::restore(ctx, own, &packet);
    }
    let from = egress::place_of(packet.src).ok_or(DropReason::UnknownDestination)?;
    if from.slot_id != own && from.slot_id != NO_SLOT {
        return Err(DropReason::CrossSlot);
    }
    match Place::from_raw(from.place) {
        Some(Place::Gateway | Place::Host | Place::Management) => {
            remember(&packet, own);
            Ok(())
        }
        _ => Ok(()), // the slot's own subnet, its link, and for now the internet
    }
}

/// The flow of a packet, as its key in [`FLOWS`].
#[inline(always)]
fn flow_key(packet: &Packet, slot_id: SlotId, leaving: bool) -> FlowKey {
    let (guest, guest_port_be, peer, peer_port_be) = if leaving {
        (packet.src, packet.src_port_be, packet.dst, packet.dst_port_be)
    } else {
        (packet.dst, packet.dst_port_be, packet.src, packet.src_port_be)
    };
    FlowKey {
        guest,
        peer,
        guest_port_be,
        peer_port_be,
        slot_id,
        protocol: packet.protocol,
        _reserved: 0,
    }
}

/// Opens or refreshes the flow of a packet that was allowed in.
#[inline(always)]
fn remember(packet: &Packet, slot_id: SlotId) {
    const ECHO_REQUEST: u8 = 8;
    const ECHO_REQUEST_V6: u8 = 128;
    match (packet.protocol, packet.icmp_type) {
        (ICMP, ECHO_REQUEST) | (ICMPV6, ECHO_REQUEST_V6) => {}
        (ICMP | ICMPV6, _) => return, // only a request expects an answer
        _ => {}                       // TCP and UDP
    }
    // SAFETY: a helper without arguments.
    let flow = Flow { seen_ns: unsafe { bpf_ktime_get_ns() } };
    let key = flow_key(packet, slot_id, false);
    // If the map refuses, the replies are dropped: closed, and counted where they are.
    let _ = FLOWS.insert(key, flow, u64::from(BPF_ANY));
}

/// True if the packet that leaves answers a flow that was allowed in and is still alive.
#[inline(always)]
pub fn is_reply(packet: &Packet, slot_id: SlotId) -> bool {
    let idle_limit = if packet.protocol == TCP { TCP_IDLE_NS } else { OTHER_IDLE_NS };
    let key = flow_key(packet, slot_id, true);
    // SAFETY: the value is one aligned word; a racing update leaves an older or newer time.
    let Some(flow) = (unsafe { FLOWS.get(key) }) else {
        return false;
    };
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    now.saturating_sub(flow.seen_ns) < idle_limit
}
