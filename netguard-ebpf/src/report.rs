//! From a verdict to its consequences: the counter, the record and the hook's action.

use aya_ebpf::{
    bindings::{BPF_NOEXIST, BPF_RB_AVAIL_DATA},
    helpers::{bpf_get_smp_processor_id, bpf_ringbuf_query},
};
use netguard_common::{
    Direction, DropReason, Hook, SlotId,
    maps::{
        Counter, CounterKey, DropCounter, OUTCOME_ANSWER, OUTCOME_PASS, OUTCOME_REDIRECT,
        OUTCOME_WOULD, Outcome, passed_index,
    },
    record::{
        CAPTURE_LENGTH, CROWDED, RECORD_VERSION, RECORDS_PER_WINDOW, RECORDS_WHEN_CROWDED,
        WINDOW_NS,
    },
};

use crate::{
    clock::now_ns,
    frame::Frame,
    maps::{COUNTERS, DROPS, PASSED, RECORDS_LOST},
};

/// What becomes of a frame.
#[derive(Clone, Copy)]
pub enum Verdict {
    /// It passes, and this program is the last of ours to decide on it.
    Pass,
    /// It was a DNS query and is now addressed to the slot's resolver.
    Redirect,
    /// It is a DNS query that is denied, and answered in its place.
    Answer,
    /// It is dropped.
    Drop(DropReason),
    /// It passes, because its slot is audited; else it would have been dropped.
    Audit(DropReason),
    /// It is dropped, and whoever sent it is told.
    Deny(DropReason),
    /// It goes on to the next of our programs, which decides and counts.
    Continue,
}

/// Counts, records and says what the hook shall do. The only place that knows actions. A dry run is told what became of
/// the frame, and nothing else happens.
#[inline(always)]
pub fn finish<F: Frame>(
    frame: &F,
    hook: Hook,
    direction: Direction,
    slot_id: SlotId,
    verdict: Verdict,
) -> u32 {
    // What became of it, and what is recorded of that.
    let (outcome, recorded) = match verdict {
        Verdict::Continue => return frame.action_pass(),
        Verdict::Pass => (OUTCOME_PASS, None),
        Verdict::Redirect => (OUTCOME_REDIRECT, None),
        Verdict::Answer => (OUTCOME_ANSWER, None),
        Verdict::Audit(reason) => (OUTCOME_PASS, Some(reason)),
        Verdict::Drop(reason) | Verdict::Deny(reason) => (reason as Outcome, Some(reason)),
    };
    let is_dry_run = frame.is_dry_run();
    if is_dry_run {
        frame.answer(outcome);
    }
    let is_drop = matches!(verdict, Verdict::Drop(_) | Verdict::Deny(_));
    if !is_drop && !is_dry_run {
        count_pass(frame, slot_id, direction, outcome);
    }
    if let Some(reason) = recorded
        && !is_dry_run
    {
        let would = if is_drop { 0 } else { OUTCOME_WOULD };
        let outcome = reason as Outcome | would;
        let key = CounterKey { slot_id, direction: direction as u8, outcome };
        let counter = count_drop(frame, key);
        record(frame, hook, key, counter);
    }
    match verdict {
        // From here on the frame is no longer what it was.
        Verdict::Deny(_) if !is_dry_run => frame.action_deny(),
        Verdict::Answer if !is_dry_run => frame.action_answer(),
        Verdict::Drop(_) | Verdict::Deny(_) => frame.action_drop(),
        Verdict::Pass
        | Verdict::Redirect
        | Verdict::Answer
        | Verdict::Audit(_)
        | Verdict::Continue => frame.action_pass(),
    }
}

/// In an array, because this is every good packet's way.
#[inline(always)]
fn count_pass<F: Frame>(frame: &F, slot_id: SlotId, direction: Direction, outcome: Outcome) {
    let Some(index) = passed_index(direction, outcome) else { return };
    let Some(passed) = PASSED.get_ptr_mut(slot_id.into()) else { return };
    // SAFETY: the value is this CPU's own and programs of one hook do not nest on a CPU; the index is one
    // of the counters.
    unsafe {
        let counter = passed.cast::<Counter>().add(index);
        (*counter).packets += 1;
        (*counter).bytes += u64::from(frame.length());
    }
}

/// Counts a drop. None if the map is full: then the record tells of the drop.
#[inline(always)]
fn count_drop<F: Frame>(frame: &F, key: CounterKey) -> Option<*mut DropCounter> {
    let bytes = u64::from(frame.length());
    let counter = match COUNTERS.get_ptr_mut(key) {
        Some(counter) => counter,
        None => {
            // Another CPU may have been faster: either way the entry exists now.
            let zero = DropCounter {
                counter: Counter { packets: 0, bytes: 0 },
                window_ns: 0,
                records: 0,
                suppressed: 0,
            };
            let _ = COUNTERS.insert(key, zero, u64::from(BPF_NOEXIST));
            COUNTERS.get_ptr_mut(key)?
        }
    };
    // SAFETY: the value is this CPU's own and programs of one hook do not nest on a CPU.
    unsafe {
        (*counter).counter.packets += 1;
        (*counter).counter.bytes += bytes;
    }
    Some(counter)
}

/// True if the drop gets a record; else it is counted among those that have none.
#[inline(always)]
fn has_room(counter: *mut DropCounter, now_ns: u64) -> bool {
    // SAFETY: the value is this CPU's own and programs of one hook do not nest on a CPU.
    let counter = unsafe { &mut *counter };
    if now_ns.wrapping_sub(counter.window_ns) >= WINDOW_NS {
        counter.window_ns = now_ns;
        counter.records = 0;
    }
    if counter.records < RECORDS_WHEN_CROWDED
        || (counter.records < RECORDS_PER_WINDOW && !is_crowded())
    {
        return true;
    }
    counter.suppressed = counter.suppressed.saturating_add(1);
    false
}

/// True if whoever reads records does not keep up.
#[inline(always)]
fn is_crowded() -> bool {
    // SAFETY: the address of a ring buffer, which is all that the helper wants.
    let unread = unsafe {
        bpf_ringbuf_query((&raw const DROPS).cast_mut().cast(), BPF_RB_AVAIL_DATA.into())
    };
    unread > CROWDED
}

/// Takes what the record says of those before it out of the counter.
#[inline(always)]
fn take_suppressed(counter: Option<*mut DropCounter>) -> u32 {
    let Some(counter) = counter else { return 0 };
    // SAFETY: the value is this CPU's own and programs of one hook do not nest on a CPU.
    unsafe {
        (*counter).records += 1;
        core::mem::take(&mut (*counter).suppressed)
    }
}

#[inline(always)]
fn record<F: Frame>(frame: &F, hook: Hook, key: CounterKey, counter: Option<*mut DropCounter>) {
    let time_ns = now_ns();
    if counter.is_some_and(|counter| !has_room(counter, time_ns)) {
        return;
    }
    let Some(mut entry) = DROPS.reserve(0) else {
        if let Some(lost) = RECORDS_LOST.get_ptr_mut(0) {
            // SAFETY: the value is this CPU's own.
            unsafe { *lost += 1 };
        }
        return;
    };
    let suppressed = take_suppressed(counter);
    let frame_length = frame.length();
    let record = entry.as_mut_ptr();
    // SAFETY: the ring buffer lent `size_of::<DropRecord>()` writable bytes at `record`, and every
    // one of them is written before they are submitted.
    unsafe {
        (*record).time_ns = time_ns;
        (*record).ifindex = frame.ifindex();
        (*record).frame_length = frame_length;
        (*record).slot_id = key.slot_id;
        (*record).version = RECORD_VERSION;
        (*record).reason = key.outcome & !OUTCOME_WOULD;
        (*record).direction = key.direction;
        (*record).hook = hook as u8;
        (*record).suppressed = suppressed;
        (*record).cpu = bpf_get_smp_processor_id() as u16;
        (*record).passed = u16::from(key.outcome & OUTCOME_WOULD != 0);
        (*record).packet = [0; CAPTURE_LENGTH];
        // The helpers want a length from 1 to the buffer's, and Linux 6.1 to 6.5 believe that only of
        // a sum like this (`clamp` compiles to a comparison with 0 that they forget). Frames have 14
        // bytes or more.
        let wanted = frame_length.wrapping_sub(1).min(CAPTURE_LENGTH as u32 - 1) + 1;
        let copied = frame.copy(0, (*record).packet.as_mut_ptr(), wanted);
        (*record).captured = if copied { wanted as u16 } else { 0 };
    }
    entry.submit(0);
}
