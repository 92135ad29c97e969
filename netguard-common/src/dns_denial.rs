//! The record of a DNS query that a program has answered itself, as it travels through the ring buffer `DENIALS`.

use crate::{Address, SlotId};

/// The version of [`DnsDenial`]'s layout; a reader refuses records of another.
pub const DENIAL_VERSION: u8 = 1;
/// The size of the ring buffer in bytes; a power of two. What finds it full is answered by user space.
pub const DENIALS_BYTES: usize = 1 << 21;
/// The longest name in wire form (RFC 1035 section 2.3.4).
pub const NAME_MAX: usize = 255;

/// A denied query. Its name, as the guest wrote it in wire form, stands behind it in the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct DnsDenial {
    /// `CLOCK_MONOTONIC` in nanoseconds, as of the last tick.
    pub time_ns: u64,
    /// The guest.
    pub client: Address,
    /// The slot.
    pub slot_id: SlotId,
    /// The asked type.
    pub record_type: u16,
    /// [`DENIAL_VERSION`].
    pub version: u8,
    /// The answer's code.
    pub rcode: u8,
    /// Zero.
    pub _reserved: u16,
}
const _: () = assert!(size_of::<DnsDenial>() == 32);

impl DnsDenial {
    /// Reads a record from the ring buffer's bytes, and the name; `None` if the layout is not this version's.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (head, name) = bytes.split_at_checked(size_of::<Self>())?;
        // SAFETY: the bytes are as many as the type's, which is plain old data without padding and valid for every bit pattern;
        // `read_unaligned` demands no alignment.
        let head = unsafe { head.as_ptr().cast::<Self>().read_unaligned() };
        (head.version == DENIAL_VERSION && name.len() <= NAME_MAX).then_some((head, name))
    }
}
