//! The record of one drop, as it travels through the ring buffer `DROPS`.

use crate::{DropReason, SlotId};

/// How many bytes of the packet a record carries, from the Ethernet header on.
pub const CAPTURE_LENGTH: usize = 128;

/// The version of [`DropRecord`]'s layout; a reader refuses records of another.
pub const RECORD_VERSION: u8 = 1;

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
    /// The first bytes of the packet; zero behind `captured`.
    pub packet: [u8; CAPTURE_LENGTH],
}

const _: () = assert!(size_of::<DropRecord>() == 24 + CAPTURE_LENGTH);

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
