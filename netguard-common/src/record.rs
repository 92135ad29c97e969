//! The record of one drop, as it travels through the ring buffer `DROPS`.

use crate::{
    DropReason, SlotId,
    maps::{CounterKey, OUTCOME_WOULD},
};

/// How many bytes of the packet a record carries, from the Ethernet header on.
pub const CAPTURE_LENGTH: usize = 128;

/// The version of [`DropRecord`]'s layout; a reader refuses records of another.
pub const RECORD_VERSION: u8 = 2;

/// How long a window is in which drops of one slot, direction and reason have so many records on a CPU, in
/// nanoseconds.
pub const WINDOW_NS: u64 = 1_000_000_000;

/// How many records a window has room for. More of the same tells nobody anything new, and costs whoever reads them
/// time that other slots' drops need.
pub const RECORDS_PER_WINDOW: u32 = 256;

/// The same while the ring buffer is [`CROWDED`]: a slot that is dropped for every reason at once, faster than
/// anybody reads, leaves the other half to others.
pub const RECORDS_WHEN_CROWDED: u32 = 16;

/// The size of the ring buffer in bytes; a power of two.
pub const RING_BYTES: usize = 1 << 20;

/// So many unread bytes make the ring buffer crowded.
pub const CROWDED: u64 = RING_BYTES as u64 / 2;

/// One dropped packet.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct DropRecord {
    /// `CLOCK_MONOTONIC` in nanoseconds.
    pub time_ns: u64,
    /// The interface whose program dropped the packet.
    pub ifindex: u32,
    /// The length of the frame in bytes, from the Ethernet header on.
    pub frame_length: u32,
    /// The slot, or [`crate::NO_SLOT`].
    pub slot_id: SlotId,
    /// How many bytes of `packet` hold the packet.
    pub captured: u16,
    /// [`RECORD_VERSION`].
    pub version: u8,
    /// A [`DropReason`] as a number.
    pub reason: u8,
    /// A [`crate::Direction`] as a number.
    pub direction: u8,
    /// A [`crate::Hook`] as a number.
    pub hook: u8,
    /// How many drops of the same slot, direction and reason on the same CPU have no record since the one before this.
    pub suppressed: u32,
    /// The CPU.
    pub cpu: u16,
    /// 1 if the packet passed all the same: see [`crate::maps::OUTCOME_WOULD`].
    pub passed: u16,
    /// The first bytes of the packet; zero behind `captured`.
    pub packet: [u8; CAPTURE_LENGTH],
}

const _: () = assert!(size_of::<DropRecord>() == 32 + CAPTURE_LENGTH);

impl DropRecord {
    /// Reads a record from the ring buffer's bytes; `None` if the layout is not this version's.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != size_of::<Self>() {
            return None;
        }
        // SAFETY: the length was checked above, the type is plain old data without padding and
        // valid for every bit pattern, and `read_unaligned` demands no alignment.
        let record = unsafe { bytes.as_ptr().cast::<Self>().read_unaligned() };
        (record.version == RECORD_VERSION && usize::from(record.captured) <= CAPTURE_LENGTH)
            .then_some(record)
    }

    /// The key under which it is counted.
    #[must_use]
    pub const fn counter_key(&self) -> CounterKey {
        let would = if self.passed == 1 { OUTCOME_WOULD } else { 0 };
        CounterKey {
            slot_id: self.slot_id,
            direction: self.direction,
            outcome: self.reason | would,
        }
    }

    /// The reason, if this build knows its number.
    #[must_use]
    pub const fn reason(&self) -> Option<DropReason> {
        DropReason::from_raw(self.reason)
    }

    /// The captured part of the packet.
    #[must_use]
    pub fn captured(&self) -> &[u8] {
        &self.packet[..usize::from(self.captured).min(CAPTURE_LENGTH)]
    }
}
