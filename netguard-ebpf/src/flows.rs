//! The connections that the host and the management network opened to a slot, so that the slot's
//! replies may leave where nothing else may.

use aya_ebpf::bindings::BPF_ANY;
use netguard_common::{
    SlotId,
    maps::{Flow, FlowKey},
};

use crate::{
    clock::{SECOND_NS, now_ns},
    maps::FLOWS,
    packet::{ICMP, ICMPV6, Packet, TCP},
    scratch,
};

/// RFC 5382 REQ-5: an established connection may be silent for two hours and four minutes.
const TCP_IDLE_NS: u64 = 7440 * SECOND_NS;
/// RFC 4787 REQ-5 asks for two minutes or more.
const OTHER_IDLE_NS: u64 = 180 * SECOND_NS;

/// Opens or refreshes the flow of a packet that was allowed in.
#[inline(always)]
pub fn remember(packet: &Packet, slot_id: SlotId) {
    const ECHO_REQUEST: u8 = 8;
    const ECHO_REQUEST_V6: u8 = 128;
    match (packet.protocol, packet.icmp_type) {
        (ICMP, ECHO_REQUEST) | (ICMPV6, ECHO_REQUEST_V6) => {}
        (ICMP | ICMPV6, _) => return, // only a request expects an answer
        _ => {}                       // TCP and UDP
    }
    let flow = Flow { seen_ns: now_ns() };
    let key = flow_key(packet, slot_id, false);
    // If the map refuses, the replies are dropped: closed, and counted where they are.
    let _ = FLOWS.insert(key, flow, u64::from(BPF_ANY));
}

/// True if the packet that leaves belongs to a flow that was allowed in and is still alive. A reply
/// opens no connection of its own.
#[inline(always)]
pub fn is_reply(packet: &Packet, slot_id: SlotId) -> bool {
    if packet.opens_tcp() {
        return false;
    }
    let idle_limit = if packet.protocol == TCP { TCP_IDLE_NS } else { OTHER_IDLE_NS };
    let Some(scratch) = scratch::memory() else {
        return false;
    };
    // SAFETY: the memory is this CPU's own while the program runs.
    let key = unsafe {
        (*scratch).flow_key = flow_key(packet, slot_id, true);
        &(*scratch).flow_key
    };
    let Some(flow) = FLOWS.get_ptr_mut(key) else {
        return false;
    };
    let now = now_ns();
    // SAFETY: the entry stays writable for the whole program; its one field is an aligned word, and
    // of two times that race either will do.
    unsafe {
        let alive = now.saturating_sub((*flow).seen_ns) < idle_limit;
        if alive {
            (*flow).seen_ns = now;
        }
        alive
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
