//! Pins: the addresses that DNS answers gave a slot, as the map `PINS` holds them. User space writes them, the
//! programs read them.

use crate::{Address, SlotId, maps::Layout};

/// How many ranges of ports an address can be pinned for at once.
pub const PIN_LANES: usize = 8;

/// The longest name in bytes, so that [`PinEntry::name`] keeps a final zero: RFC 1035 section 2.3.4 allows 253 in
/// text form.
pub const PIN_NAME_LENGTH: usize = 255;

/// The key of `PINS`: which address, for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C, align(8))]
pub struct PinKey {
    /// The address.
    pub address: Address,
    /// The slot.
    pub slot_id: SlotId,
    /// Zero: hash keys compare every byte.
    pub _reserved: [u8; 6],
}
const _: () = assert!(size_of::<PinKey>() == 24);
// SAFETY: `repr(C)`, integers only, sizes add up to the asserted total.
unsafe impl Layout for PinKey {}

impl PinKey {
    /// That address, for that slot.
    #[must_use]
    pub const fn new(slot_id: SlotId, address: Address) -> Self {
        Self { address, slot_id, _reserved: [0; 6] }
    }
}

/// One range of ports, of TCP and UDP alike, and until when it is open. A ping counts as port 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct PinLane {
    /// `CLOCK_MONOTONIC` in nanoseconds from which on it is closed; 0 in a lane that is not used.
    pub expires_ns: u64,
    /// The lowest port, in host order.
    pub first_port: u16,
    /// The highest port, in host order.
    pub last_port: u16,
    /// Zero.
    pub _reserved: u32,
}
const _: () = assert!(size_of::<PinLane>() == 16);
// SAFETY: `repr(C)`, integers only, sizes add up to the asserted total.
unsafe impl Layout for PinLane {}

impl PinLane {
    /// True if the lane lets something through to that port now.
    #[must_use]
    #[inline(always)]
    pub const fn is_open(&self, port: u16, now_ns: u64) -> bool {
        now_ns < self.expires_ns && self.first_port <= port && port <= self.last_port
    }
}

/// The value of `PINS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PinEntry {
    /// The entry's own key, and first: memory of an entry that is removed may hold another by the time its lanes
    /// are read, and whoever writes that writes its key before its lanes.
    pub key: PinKey,
    /// Where the address may be reached.
    pub lanes: [PinLane; PIN_LANES],
    /// `CLOCK_MONOTONIC` in nanoseconds since which the address is pinned.
    pub since_ns: u64,
    /// The asked name that gave the pin last, as text filled up with zeros, for whoever reads the map.
    pub name: [u8; PIN_NAME_LENGTH + 1],
}
const _: () = assert!(size_of::<PinEntry>() == 24 + 16 * PIN_LANES + 8 + 256);
// SAFETY: `repr(C)`, bytes and integers, sizes add up to the asserted total.
unsafe impl Layout for PinEntry {}
