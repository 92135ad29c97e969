//! Interfaces: the keys and values of [`PORTS`] and [`UPLINKS`].

use super::{Layout, Side};
#[cfg(doc)]
use super::{NAT, PORTS, UPLINKS};
use crate::{Address, SlotId};

/// The longest interface name in bytes (IFNAMSIZ less its final zero).
pub const INTERFACE_NAME_LENGTH: usize = 15;

/// What an interface is to netguard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum PortKind {
    /// A TAP or veth of a slot.
    Port = 0,
    /// The bridge of one slot or several.
    Bridge = 1,
    /// An interface towards the internet; no program sits on it.
    Uplink = 2,
    /// One that the fast path takes.
    FastUplink = 3,
}

impl PortKind {
    /// Reads the number that a map holds.
    #[must_use]
    pub const fn from_raw(raw: u8) -> Option<Self> {
        match raw {
            0 => Some(Self::Port),
            1 => Some(Self::Bridge),
            2 => Some(Self::Uplink),
            3 => Some(Self::FastUplink),
            _ => None,
        }
    }

    /// True for an interface towards the internet.
    #[must_use]
    #[inline(always)]
    pub const fn is_uplink(raw: u8) -> bool {
        raw == Self::Uplink as u8 || raw == Self::FastUplink as u8
    }
}

/// What kind of link an interface is to the kernel, as far as programs and their hooks depend on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum LinkKind {
    /// Any other: a bridge, a network card.
    #[default]
    Other = 0,
    /// One end of a veth pair.
    Veth = 1,
    /// A TUN device in its Ethernet mode.
    Tap = 2,
}

/// The key of [`PORTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct PortKey {
    /// The interface's number.
    pub ifindex: u32,
    /// The side.
    pub side: Side,
}
const _: () = assert!(size_of::<PortKey>() == 8);
// SAFETY: `repr(C)`, integers only, sizes add up to the asserted total.
unsafe impl Layout for PortKey {}

/// The value of [`PORTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct PortEntry {
    /// The slot that the interface belongs to; [`crate::NO_SLOT`] for a bridge of several slots and for
    /// uplinks.
    pub slot_id: SlotId,
    /// A [`PortKind`] as a number.
    pub kind: u8,
    /// A [`LinkKind`] as a number.
    pub link: u8,
    /// The interface's name, filled up with zeros, for whoever reads the map.
    pub name: [u8; INTERFACE_NAME_LENGTH + 1],
}
const _: () = assert!(size_of::<PortEntry>() == 20);
// SAFETY: `repr(C)`, integers only, sizes add up to the asserted total.
unsafe impl Layout for PortEntry {}

/// How many uplinks a host may have.
pub const UPLINKS_MAX: usize = 64;

/// The value of [`UPLINKS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct UplinkEntry {
    /// The IPv4 address that slots borrow there; unspecified if none can be told.
    pub address4: Address,
    /// The IPv6 address that slots borrow there; unspecified if none can be told.
    pub address6: Address,
    /// How many buckets [`NAT`] has, less one: a mask.
    pub nat_mask: u32,
    /// 1 while some programs use an earlier load's table of flows: what nobody knows may be known there, and is dropped, so that the
    /// host refuses nobody in a slot's place.
    pub is_changing: u32,
}
const _: () = assert!(size_of::<UplinkEntry>() == 40);
// SAFETY: `repr(C)`, integers only, sizes add up to the asserted total.
unsafe impl Layout for UplinkEntry {}
