//! What may enter a slot.
//!
//! Packets from the internet enter without state until the connection table of the complete packet
//! policy exists; nothing from another slot does.

use aya_ebpf::programs::TcContext;
use netguard_common::{DropReason, NO_SLOT, SlotId, maps::Place};

use crate::{dns, flows, packet::Parsed, policy, provenance, report::Verdict, scratch};

/// The verdict, and the packet restored if it is a reply of the resolver.
#[inline(always)]
pub fn decide_and_restore(ctx: &TcContext) -> (SlotId, Verdict) {
    policy::in_slot(ctx, |slot_id| judge(ctx, slot_id).map(|()| Verdict::Pass))
}

#[inline(always)]
fn judge(ctx: &TcContext, own: SlotId) -> Result<(), DropReason> {
    if !provenance::is_vouched_for(ctx, own) {
        return Err(DropReason::UnguardedPort);
    }
    let packet = match scratch::parse(ctx)? {
        Parsed::Arp(..) => return Ok(()), // the host or a port of the same slot, checked there
        Parsed::Ip(packet) => packet,
    };
    if dns::is_reply(packet, own) {
        return dns::restore(ctx, own, packet);
    }
    let from = policy::place_of(packet.src).ok_or(DropReason::UnknownAddress)?;
    if from.slot_id != own && from.slot_id != NO_SLOT {
        return Err(DropReason::CrossSlot);
    }
    match Place::from_raw(from.place).ok_or(DropReason::UnknownAddress)? {
        Place::Gateway | Place::Host | Place::Management => flows::remember(packet, own),
        Place::Slot | Place::LinkLocal | Place::Internet => {} // the internet until there is state
        // `::` asks for a duplicate of its address (RFC 4862 section 5.4.2).
        Place::Private | Place::Metadata | Place::Multicast if packet.src.is_unspecified() => {}
        Place::Private | Place::Metadata | Place::Multicast => return Err(DropReason::Unsolicited),
    }
    Ok(())
}
