//! The BPF maps: one name, one key and one value each.
//!
//! Policy maps ([`PORTS`], [`SLOTS`], [`PLACES`]) are written by the daemon and only read by the
//! programs. State maps (the others) are written by the programs and outlive a daemon.
//!
//! Any change of a layout here must raise [`LAYOUT_VERSION`]: the pin directory's name carries it,
//! because a loader that finds a pinned map does not check the map's layout.

use crate::{Address, SlotId};

/// The version of every layout in this module.
pub const LAYOUT_VERSION: u32 = 1;

/// `ifindex -> PortEntry`: whose port or bridge an interface is.
pub const PORTS: &str = "PORTS";
/// `slot id -> SlotEntry`: what the programs must know of a slot.
pub const SLOTS: &str = "SLOTS";
/// `address prefix -> PlaceEntry`: what lies at an address; the longest prefix wins.
pub const PLACES: &str = "PLACES";
/// `CounterKey -> Counter` per CPU: what became of packets.
pub const COUNTERS: &str = "COUNTERS";
/// `FlowKey -> Flow`: connections that the host or the management network opened to a slot.
pub const FLOWS: &str = "FLOWS";
/// `DnsFlowKey -> DnsFlow`: who asked which resolver, to restore the replies.
pub const DNS_FLOWS: &str = "DNS_FLOWS";
/// Ring buffer of [`crate::record::DropRecord`].
pub const DROPS: &str = "DROPS";
/// `0 -> u64` per CPU: records that found the ring buffer full.
pub const RECORDS_LOST: &str = "RECORDS_LOST";

/// Maps that a starting daemon adopts instead of replacing them.
pub const STATE_MAPS: [&str; 5] = [COUNTERS, FLOWS, DNS_FLOWS, DROPS, RECORDS_LOST];
/// A type that is a map key or value on both sides.
///
/// # Safety
///
/// The type is `repr(C)` or `repr(transparent)`, has no padding, and every bit pattern is a valid
/// value of it.
pub unsafe trait Layout: Copy + 'static {}

// SAFETY: integers are plain old data.
unsafe impl Layout for u16 {}
// SAFETY: integers are plain old data.
unsafe impl Layout for u32 {}
// SAFETY: integers are plain old data.
unsafe impl Layout for u64 {}
// SAFETY: a transparent wrapper of a byte array.
unsafe impl Layout for Address {}

/// The longest interface name in bytes (IFNAMSIZ less its final zero).
pub const INTERFACE_NAME_LENGTH: usize = 15;

/// A name as maps hold it: cut to `N - 1` bytes and filled up with zeros.
#[must_use]
pub fn write_name<const N: usize>(name: &str) -> [u8; N] {
    let mut bytes = [0; N];
    for (to, from) in bytes.iter_mut().zip(name.bytes().take(N.saturating_sub(1))) {
        *to = from;
    }
    bytes
}

/// The name that a map holds, up to its first zero; empty if it is no UTF-8.
#[must_use]
pub fn read_name(bytes: &[u8]) -> &str {
    let name = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    core::str::from_utf8(name).unwrap_or_default()
}

/// What an interface is to netguard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PortEntry {
    /// The slot that the interface belongs to.
    pub slot_id: SlotId,
    /// 1 for the slot's bridge, 0 for a port of it.
    pub is_bridge: u8,
    /// Zero.
    pub _reserved: u8,
    /// The interface's name, filled up with zeros, for whoever reads the map.
    pub name: [u8; INTERFACE_NAME_LENGTH + 1],
}
const _: () = assert!(size_of::<PortEntry>() == 20);
// SAFETY: `repr(C)`, integers only, sizes add up to the asserted total.
unsafe impl Layout for PortEntry {}

/// The longest slot name in bytes, so that [`SlotEntry::name`] keeps a final zero.
pub const SLOT_NAME_LENGTH: usize = 31;

/// What the programs must know of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct SlotEntry {
    /// The slot's IPv4 gateway, where its resolver listens; unspecified if it has none.
    pub gateway4: Address,
    /// The slot's IPv6 gateway, where its resolver listens; unspecified if it has none.
    pub gateway6: Address,
    /// The bridge's MAC: redirected queries are addressed to it, whatever the guest wrote.
    pub bridge_mac: [u8; 6],
    /// The resolver's port in network order.
    pub resolver_port_be: u16,
    /// The bridge's interface number: where the host's routing takes over.
    pub bridge_ifindex: u32,
    /// Zero.
    pub _reserved: u32,
    /// The slot's name in UTF-8, filled up with zeros, for whoever reads the map.
    pub name: [u8; SLOT_NAME_LENGTH + 1],
}
const _: () = assert!(size_of::<SlotEntry>() == 80);
// SAFETY: `repr(C)`, bytes and one integer, sizes add up to the asserted total.
unsafe impl Layout for SlotEntry {}

/// What lies at an address. The verdict stage decides by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
pub enum Place {
    /// The internet.
    Internet = 1,
    /// The subnet of the slot that the entry names.
    Slot = 2,
    /// The gateway address of the slot that the entry names.
    Gateway = 3,
    /// Another address of the host.
    Host = 4,
    /// A network whose peers may open connections to slots.
    Management = 5,
    /// A cloud metadata service.
    Metadata = 6,
    /// Private, shared, loopback or reserved.
    Private = 7,
    /// IPv6 or IPv4 link-local.
    LinkLocal = 8,
    /// Multicast or broadcast.
    Multicast = 9,
}

impl Place {
    /// Reads the number that a map holds.
    #[must_use]
    #[inline(always)]
    pub const fn from_raw(raw: u16) -> Option<Self> {
        Some(match raw {
            1 => Self::Internet,
            2 => Self::Slot,
            3 => Self::Gateway,
            4 => Self::Host,
            5 => Self::Management,
            6 => Self::Metadata,
            7 => Self::Private,
            8 => Self::LinkLocal,
            9 => Self::Multicast,
            _ => return None,
        })
    }
}

/// The value of [`PLACES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PlaceEntry {
    /// A [`Place`] as a number.
    pub place: u16,
    /// The slot of [`Place::Slot`] and [`Place::Gateway`], else [`crate::NO_SLOT`].
    pub slot_id: SlotId,
}
const _: () = assert!(size_of::<PlaceEntry>() == 4);
// SAFETY: `repr(C)`, integers only, sizes add up to the asserted total.
unsafe impl Layout for PlaceEntry {}

/// What became of a packet: [`OUTCOME_PASS`], [`OUTCOME_REDIRECT`], else the number of a
/// [`crate::DropReason`].
pub type Outcome = u8;
/// The packet passed.
pub const OUTCOME_PASS: Outcome = 0;
/// The packet was a DNS query and went to the resolver.
pub const OUTCOME_REDIRECT: Outcome = 255;

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

/// The value of [`COUNTERS`].
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

/// How many flows into slots are remembered; the least recently used one goes first. Only the host
/// and the management network open such flows, so no slot can push out another's.
pub const FLOWS_MAX: u32 = 65536;

/// The key of [`FLOWS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FlowKey {
    /// The guest's address.
    pub guest: Address,
    /// The address of the peer that opened the flow.
    pub peer: Address,
    /// The guest's port in network order; the identifier of an ICMP echo.
    pub guest_port_be: u16,
    /// The peer's port in network order; the identifier of an ICMP echo.
    pub peer_port_be: u16,
    /// The slot.
    pub slot_id: SlotId,
    /// The IP protocol number.
    pub protocol: u8,
    /// Zero: hash keys compare every byte.
    pub _reserved: u8,
}
const _: () = assert!(size_of::<FlowKey>() == 40);
// SAFETY: `repr(C)`, integers only, sizes add up to the asserted total.
unsafe impl Layout for FlowKey {}

/// The value of [`FLOWS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Flow {
    /// `CLOCK_MONOTONIC` in nanoseconds of the latest packet of either direction.
    pub seen_ns: u64,
}
// SAFETY: `repr(C)`, one integer.
unsafe impl Layout for Flow {}

/// How many DNS flows of one protocol a slot can have at once; a power of two.
pub const DNS_FLOWS_PER_SLOT: u16 = 256;
/// Room for every flow of every slot over UDP and TCP: no slot takes another's.
pub const DNS_FLOWS_MAX: u32 = crate::MAX_SLOT_ID as u32 * 2 * DNS_FLOWS_PER_SLOT as u32;
/// The lowest port that a redirected query is sent from; the others follow it.
pub const DNS_FLOW_FIRST_PORT: u16 = 32768;

/// The key of [`DNS_FLOWS`]: the resolver's view of a query's sender.
///
/// The slot is part of the key and the ports of a slot are [`DNS_FLOWS_PER_SLOT`] many, so a slot
/// that opens flows without end fills its own share and nobody else's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct DnsFlowKey {
    /// The slot.
    pub slot_id: SlotId,
    /// The translated source port, in host order.
    pub port: u16,
    /// IPPROTO_UDP or IPPROTO_TCP.
    pub protocol: u8,
    /// Zero: hash keys compare every byte.
    pub _reserved: [u8; 3],
}
const _: () = assert!(size_of::<DnsFlowKey>() == 8);
// SAFETY: `repr(C)`, integers only, sizes add up to the asserted total.
unsafe impl Layout for DnsFlowKey {}

/// The value of [`DNS_FLOWS`]: what the guest sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct DnsFlow {
    /// The guest.
    pub client: Address,
    /// The resolver that the guest asked.
    pub asked: Address,
    /// `CLOCK_MONOTONIC` in nanoseconds of the guest's latest packet.
    pub seen_ns: u64,
    /// The entry's own key: memory of a replaced entry may hold another by the time it is read.
    pub key: DnsFlowKey,
    /// The guest's source port in network order.
    pub client_port_be: u16,
    /// Zero.
    pub _reserved: u16,
    /// Queries that have no reply yet; at 0 the flow may be replaced at once.
    pub outstanding: u32,
}
const _: () = assert!(size_of::<DnsFlow>() == 56);
// SAFETY: `repr(C)`, integers only, sizes add up to the asserted total.
unsafe impl Layout for DnsFlow {}
