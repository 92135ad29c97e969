//! Packets in fragments: the later ones follow the verdict of the first.
//!
//! Only the first fragment tells ports. A later one passes if it continues a packet whose first fragment
//! passed, exactly where the last fragment ended: what overlaps (RFC 1858, RFC 5722), leaves gaps or comes
//! out of order is dropped. Senders emit fragments in order, and a host with connection tracking puts
//! those that come from elsewhere back in order.

use aya_ebpf::programs::TcContext;
use netguard_common::{
    Direction, DropReason, SlotId,
    flow::{FRAGMENTS_PER_SLOT, Fragment},
};

use crate::{
    clock::SECOND_NS,
    dry_run::is_dry_run,
    maps::{FRAGMENTS, UPLINK_FRAGMENTS, UPLINK_FRAGMENTS_MAX},
    packet::Packet,
    scratch::Scratch,
    words::put_address,
};

/// Linux gives up on a packet after this time too (net.ipv4.ipfrag_time).
const LIFE_NS: u64 = 30 * SECOND_NS;

/// Remembers a first fragment that passes.
#[inline(always)]
pub fn begin(ctx: &TcContext, scratch: &Scratch, slot_id: SlotId, way: Direction) {
    if is_dry_run(ctx) {
        return;
    }
    let packet = &scratch.packet;
    let Some(entry) = FRAGMENTS.get_ptr_mut(place(packet, slot_id, way)) else { return };
    write(entry, scratch, slot_id, way, 0);
}

/// The later fragments of what [`begin`] has remembered take the fast path, too, as packets of that flow.
#[inline(always)]
pub fn take_along(scratch: &Scratch, slot_id: SlotId, way: Direction, flow: u32) {
    let Some(entry) = FRAGMENTS.get_ptr_mut(place(&scratch.packet, slot_id, way)) else { return };
    // SAFETY: as in `write`.
    unsafe { (*entry).translated = flow + 1 };
}

#[inline(always)]
fn write(
    entry: *mut Fragment,
    scratch: &Scratch,
    slot_id: SlotId,
    way: Direction,
    translated: u32,
) {
    let packet = &scratch.packet;
    // SAFETY: the entry stays writable for the whole program; two CPUs that write it at once are two
    // packets of one slot, and what they mix up fails the comparison in `follow`.
    unsafe {
        (*entry).seen_ns = 0;
        put_address(&mut (*entry).src, packet.src.words());
        put_address(&mut (*entry).dst, packet.dst.words());
        (*entry).identification = packet.identification;
        (*entry).slot_id = slot_id;
        (*entry).protocol = packet.protocol;
        (*entry).direction = way as u8;
        (*entry).next_offset = packet.payload;
        (*entry).translated = translated;
        (*entry).seen_ns = scratch.now_ns;
    }
}

/// Lets a later fragment pass if it is the next one of a packet that passed so far; [`Fragment::translated`] of that.
#[inline(always)]
pub fn follow(
    ctx: &TcContext,
    scratch: &Scratch,
    slot_id: SlotId,
    way: Direction,
) -> Result<u32, DropReason> {
    let packet = &scratch.packet;
    let entry = FRAGMENTS.get_ptr_mut(place(packet, slot_id, way)).ok_or(DropReason::Fragment)?;
    // SAFETY: as in `write`.
    unsafe {
        let continues = (*entry).seen_ns != 0
            && scratch.now_ns.saturating_sub((*entry).seen_ns) < LIFE_NS
            && (*entry).identification == packet.identification
            && (*entry).next_offset == packet.fragment_offset
            && (*entry).slot_id == slot_id
            && (*entry).protocol == packet.protocol
            && (*entry).direction == way as u8
            && (*entry).src == packet.src
            && (*entry).dst == packet.dst;
        if !continues {
            return Err(DropReason::Fragment);
        }
        let translated = (*entry).translated;
        if is_dry_run(ctx) {
            return Ok(translated);
        }
        if packet.more_fragments {
            (*entry).next_offset = packet.fragment_offset + packet.payload;
        } else {
            (*entry).seen_ns = 0;
        }
        Ok(translated)
    }
}

/// Remembers a first fragment that came by an uplink for the flow of that number: the later ones name no port.
#[inline(always)]
pub fn begin_outside(scratch: &Scratch, flow: u32) {
    let packet = &scratch.packet;
    let Some(entry) = UPLINK_FRAGMENTS.get_ptr_mut(place_outside(packet)) else { return };
    write(entry, scratch, 0, Direction::Ingress, flow + 1);
}

/// The flow that a later fragment is of; `u32::MAX` if it is of none that is known.
#[inline(always)]
pub fn flow_outside(scratch: &Scratch) -> u32 {
    let packet = &scratch.packet;
    let Some(entry) = UPLINK_FRAGMENTS.get(place_outside(packet)) else { return u32::MAX };
    let is_same = scratch.now_ns.saturating_sub(entry.seen_ns) < LIFE_NS
        && entry.identification == packet.identification
        && entry.protocol == packet.protocol
        && entry.src == packet.src
        && entry.dst == packet.dst;
    if is_same { entry.translated.wrapping_sub(1) } else { u32::MAX }
}

#[inline(always)]
fn place_outside(packet: &Packet) -> u32 {
    let [high, low] = packet.src.words();
    let mixed = (high ^ low ^ u64::from(packet.identification)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 32) as u32 & (UPLINK_FRAGMENTS_MAX as u32 - 1)
}

/// Each slot has a few entries for each way; a new packet takes the place of an old one of the same slot.
#[inline(always)]
fn place(packet: &Packet, slot_id: SlotId, way: Direction) -> u32 {
    let mixed = packet.identification.wrapping_mul(0x9e37_79b1) >> 24;
    (u32::from(slot_id) * 2 + way as u32) * FRAGMENTS_PER_SLOT + (mixed & (FRAGMENTS_PER_SLOT - 1))
}
