//! How much a slot may send: stage 10. Each limit is a generic cell rate algorithm (ITU-T I.371) in one
//! word, the time at which the slot is even again.

use netguard_common::{
    DropReason, SlotId,
    maps::{ANSWERS, Counted, Limit, SlotEntry, slot_flags},
};

use crate::{
    atomic,
    frame::Frame,
    icmp,
    maps::{ASKED, SPENT},
    scratch::Scratch,
};

/// How often another CPU may be faster before the packet counts as one too many.
const TRIES: u32 = 4;

/// Takes a packet off the slot's limits on packets, bytes and ICMP.
#[inline(always)]
pub fn packet<F: Frame>(
    frame: &F,
    scratch: &Scratch,
    slot_id: SlotId,
    slot: &SlotEntry,
) -> Result<(), DropReason> {
    if slot.flags & slot_flags::LIMITS == 0 && !scratch.packet.is_icmp() {
        return Ok(());
    }
    match packet_apart(frame, scratch, slot_id.into(), slot) {
        0 => Ok(()),
        reason => Err(DropReason::from_raw(reason as u8).unwrap_or(DropReason::Internal)),
    }
}

/// A function of its own in BPF too, for its stack.
#[inline(never)]
fn packet_apart<F: Frame>(frame: &F, scratch: &Scratch, slot_id: u32, slot: &SlotEntry) -> u32 {
    match take(frame, scratch, slot_id as SlotId, slot) {
        Ok(()) => 0,
        Err(reason) => reason as u32,
    }
}

#[inline(always)]
fn take<F: Frame>(
    frame: &F,
    scratch: &Scratch,
    slot_id: SlotId,
    slot: &SlotEntry,
) -> Result<(), DropReason> {
    let spend = |counted: Counted, units| {
        spend(frame, scratch, slot_id, slot.limits[counted as usize], counted, units)
    };
    spend(Counted::Packets, 1).ok_or(DropReason::PacketRate)?;
    spend(Counted::Bytes, frame.length()).ok_or(DropReason::ByteRate)?;
    if scratch.packet.is_icmp() && !icmp::is_link_upkeep(&scratch.packet) {
        spend(Counted::Icmp, 1).ok_or(DropReason::IcmpRate)?;
    }
    Ok(())
}

/// Takes a new flow off the slot's limit.
#[inline(always)]
pub fn flow<F: Frame>(
    frame: &F,
    scratch: &Scratch,
    slot_id: SlotId,
    slot: &SlotEntry,
) -> Result<(), DropReason> {
    if slot.flags & slot_flags::LIMITS == 0 {
        return Ok(());
    }
    let limit = slot.limits[Counted::Flows as usize];
    spend(frame, scratch, slot_id, limit, Counted::Flows, 1).ok_or(DropReason::FlowRate)
}

/// Takes a query that is denied off the slot's limit on queries.
#[inline(always)]
pub fn query<F: Frame>(frame: &F, scratch: &Scratch, slot_id: SlotId, slot: &SlotEntry) -> bool {
    ASKED
        .get_ptr_mut(slot_id.into())
        .and_then(|even| take_from(frame, scratch, even, slot.queries, 1))
        .is_some()
}

/// Takes an answer to what is denied off the slot's own.
#[inline(always)]
pub fn answer<F: Frame>(frame: &F, scratch: &Scratch, slot_id: SlotId) -> bool {
    spend(frame, scratch, slot_id, ANSWERS, Counted::Answers, 1).is_some()
}

/// True if the slot has one left.
#[inline(always)]
pub fn has_answer(scratch: &Scratch, slot_id: SlotId) -> bool {
    SPENT.get(slot_id.into()).is_some_and(|spent| {
        // SAFETY: the entry stays valid for the whole program, and aligned words are read whole.
        let even = unsafe { (&raw const spent[Counted::Answers as usize]).read_volatile() };
        even.saturating_sub(scratch.now_ns) < ANSWERS.burst_ns
    })
}

#[inline(always)]
fn spend<F: Frame>(
    frame: &F,
    scratch: &Scratch,
    slot_id: SlotId,
    limit: Limit,
    counted: Counted,
    units: u32,
) -> Option<()> {
    if limit.cost == 0 {
        return Some(());
    }
    let spent = SPENT.get_ptr_mut(slot_id.into())?;
    // SAFETY: the entry stays valid for the whole program.
    let even = unsafe { &raw mut (*spent)[counted as usize] };
    take_from(frame, scratch, even, limit, units)
}

/// Moves the time at which the slot is even again.
#[inline(always)]
fn take_from<F: Frame>(
    frame: &F,
    scratch: &Scratch,
    even: *mut u64,
    limit: Limit,
    units: u32,
) -> Option<()> {
    if limit.cost == 0 {
        return Some(());
    }
    let cost = limit.cost * u64::from(units) / Limit::FRACTIONS;
    for _ in 0..TRIES {
        // SAFETY: the entry stays valid for the whole program, and aligned words are read whole.
        let seen = unsafe { even.read_volatile() };
        let ahead = seen.saturating_sub(scratch.now_ns);
        // A slot that is even may always send one packet, however large.
        if ahead > 0 && ahead + cost > limit.burst_ns {
            return None;
        }
        if frame.is_dry_run() {
            return Some(());
        }
        let next = scratch.now_ns + ahead + cost;
        // SAFETY: as above.
        if unsafe { atomic::replace(even, seen, next) } {
            return Some(());
        }
    }
    None
}
