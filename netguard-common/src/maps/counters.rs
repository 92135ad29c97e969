//! What is counted of packets, and how far drops have records: the keys and values of [`COUNTERS`] and [`PASSED`].

use super::Layout;
#[cfg(doc)]
use super::{COUNTERS, PASSED, RECORDS_LOST};
use crate::SlotId;

/// What became of a packet: [`OUTCOME_PASS`], [`OUTCOME_REDIRECT`], [`OUTCOME_ANSWER`], else the number of a
/// [`crate::DropReason`], with [`OUTCOME_WOULD`] if it passed all the same.
pub type Outcome = u8;
/// The packet passed.
pub const OUTCOME_PASS: Outcome = 0;
/// The packet was a DNS query and went to the resolver.
pub const OUTCOME_REDIRECT: Outcome = 255;
/// The packet was a DNS query, which the program has denied and answered itself.
pub const OUTCOME_ANSWER: Outcome = 254;
/// Beside a reason's number: the packet opened a flow of a slot that is audited, which would else have been dropped. It
/// is counted among those that passed too.
pub const OUTCOME_WOULD: Outcome = 128;

/// Why packets of that outcome would have been dropped; `None` if that is not what became of them.
#[must_use]
pub const fn would_drop(outcome: Outcome) -> Option<crate::DropReason> {
    match outcome {
        OUTCOME_REDIRECT | OUTCOME_ANSWER | ..OUTCOME_WOULD => None,
        would => crate::DropReason::from_raw(would - OUTCOME_WOULD),
    }
}

/// The key of [`COUNTERS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct CounterKey {
    /// The slot, or [`crate::NO_SLOT`].
    pub slot_id: SlotId,
    /// A [`crate::Direction`] as a number.
    pub direction: u8,
    /// What became of the packets.
    pub outcome: Outcome,
}
const _: () = assert!(size_of::<CounterKey>() == 4);
// SAFETY: `repr(C)`, integers only, sizes add up to the asserted total.
unsafe impl Layout for CounterKey {}

/// Packets that went the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Counter {
    /// Frames as the program saw them: a GSO super-frame counts as one.
    pub packets: u64,
    /// Bytes of those frames from the Ethernet header on.
    pub bytes: u64,
}
const _: () = assert!(size_of::<Counter>() == 16);
// SAFETY: `repr(C)`, integers only, sizes add up to the asserted total.
unsafe impl Layout for Counter {}

/// The value of [`COUNTERS`]. Its packets are those that have a record, those that found the ring buffer full
/// ([`RECORDS_LOST`]), and the suppressed ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct DropCounter {
    /// All of them.
    pub counter: Counter,
    /// `CLOCK_MONOTONIC` in nanoseconds at which the latest window of records began: see
    /// [`crate::record::WINDOW_NS`].
    pub window_ns: u64,
    /// Records that were made in that window.
    pub records: u32,
    /// Packets since the latest record that have none.
    pub suppressed: u32,
}
const _: () = assert!(size_of::<DropCounter>() == 32);
// SAFETY: `repr(C)`, integers only, sizes add up to the asserted total.
unsafe impl Layout for DropCounter {}

/// The value of [`PASSED`]: egress, ingress, egress to the resolver, and egress that was answered.
pub type Passed = [Counter; 4];

/// Which counter of [`Passed`] counts what went that way with that outcome.
#[must_use]
#[inline(always)]
pub const fn passed_index(direction: crate::Direction, outcome: Outcome) -> Option<usize> {
    match (direction, outcome) {
        (crate::Direction::Egress, OUTCOME_PASS) => Some(0),
        (crate::Direction::Ingress, OUTCOME_PASS) => Some(1),
        (crate::Direction::Egress, OUTCOME_REDIRECT) => Some(2),
        (crate::Direction::Egress, OUTCOME_ANSWER) => Some(3),
        _ => None, // a drop
    }
}
