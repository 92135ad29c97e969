//! The BPF maps: one name, one key and one value each.
//!
//! Policy maps ([`PORTS`], [`UPLINKS`], [`SLOTS`], [`PLACES`], [`RULES`], [`SERVICES`], [`NAMES`]) are written by the daemon and
//! only read by the programs. Each holds two policies, one on each [`Side`], and [`ACTIVE`] says which one counts; only [`NAMES`] has no
//! sides, because its sets never change.
//! State maps (the others) outlive a daemon; but for [`PINS`] the programs write them.
//!
//! Any change of a layout here must raise [`LAYOUT_VERSION`]: the pin directory's name carries it,
//! because a loader that finds a pinned map does not check the map's layout.

mod counters;
mod dns_flows;
mod keys;
mod ports;

pub use counters::{
    Counter, CounterKey, DropCounter, OUTCOME_ANSWER, OUTCOME_PASS, OUTCOME_REDIRECT,
    OUTCOME_WOULD, Outcome, Passed, passed_index, would_drop,
};
pub use dns_flows::{DNS_FLOW_FIRST_PORT, DNS_FLOWS_MAX, DNS_FLOWS_PER_SLOT, DnsFlow, DnsFlowKey};
pub use keys::{
    PLACE_SIDE_BITS, PlaceKey, RULE_SLOT_BITS, RuleKey, SERVICE_BITS, SERVICE_SET_BITS,
    SERVICE_SET_MAX, ServiceKey, place_key, rule_key, service_key, side_of_place, side_of_rule,
    side_of_service,
};
pub use ports::{
    INTERFACE_NAME_LENGTH, LinkKind, PortEntry, PortKey, PortKind, UPLINKS_MAX, UplinkEntry,
};

use crate::{Address, SlotId, names::NAME_SETS};

/// The version of every layout in this module, in [`crate::flow`], in [`crate::translation`],
/// in [`crate::names`], in [`crate::dns_denial`] and in [`crate::pin`].
pub const LAYOUT_VERSION: u32 = 9;

/// `0 -> u32`: the side whose policy counts.
pub const ACTIVE: &str = "ACTIVE";
/// `PortKey -> PortEntry`: what an interface is to netguard.
pub const PORTS: &str = "PORTS";
/// Array of [`SlotEntry`], by [`slot_index`]: what the programs must know of a slot.
pub const SLOTS: &str = "SLOTS";
/// `(side, address prefix) -> PlaceEntry`: what lies at an address; the longest prefix wins.
pub const PLACES: &str = "PLACES";
/// `(side, slot, address prefix) -> u32`: which set of services a slot's egress rules speak of there; the
/// longest prefix wins.
pub const RULES: &str = "RULES";
/// `(side, set, protocol, port prefix) -> ServiceEntry`: what a set says of a service; the longest prefix
/// wins.
pub const SERVICES: &str = "SERVICES";
/// [`crate::names::NameKey`] to [`crate::names::name_kind`]: every suffix of the names that slots may ask for, by sets. What a set's number
/// says is its content, so both sides have it in common.
pub const NAMES: &str = "NAMES";
/// Array per CPU of [`Passed`], by slot id: packets that passed.
pub const PASSED: &str = "PASSED";
/// `CounterKey -> DropCounter` per CPU: packets that were dropped, and how many of them have no record.
pub const COUNTERS: &str = "COUNTERS";
/// Array of [`crate::flow::Bucket`]: the connections of all slots, each slot's in a region of its own.
pub const FLOWS: &str = "FLOWS";
/// Array of words, by what an answer from outside bears: which flow that is; see [`crate::translation`].
pub const NAT: &str = "NAT";
/// `Outside -> u32`: connections of the host and of others behind it that have a port as translated flows have. By their own port
/// the one that they have outside, which is another one where a flow has theirs; by that one their own.
pub const ELSEWHERE: &str = "ELSEWHERE";
/// Array of words, a bit for each port as translated flows have: set for good once a key in [`ELSEWHERE`] has it, see
/// [`crate::translation::port_bit`].
pub const ELSEWHERE_PORTS: &str = "ELSEWHERE_PORTS";
/// `PortKey -> UplinkEntry`: the uplinks that the fast path may take.
pub const UPLINKS: &str = "UPLINKS";
/// Array of [`crate::flow::Fragment`]: first fragments that passed, by slot.
pub const FRAGMENTS: &str = "FRAGMENTS";
/// Array of [`Spent`], by slot id: how much of its limits a slot has used.
pub const SPENT: &str = "SPENT";
/// `DnsFlowKey -> DnsFlow`: who asked which resolver, to restore the replies.
pub const DNS_FLOWS: &str = "DNS_FLOWS";
/// [`crate::pin::PinKey`] to [`crate::pin::PinEntry`]: the addresses that DNS answers gave a slot. Written by the
/// daemon, and kept from one to the next.
pub const PINS: &str = "PINS";
/// How many entries [`PINS`] has for all slots together.
pub const PINS_MAX: u32 = 1 << 20;
/// Ring buffer of [`crate::record::DropRecord`].
pub const DROPS: &str = "DROPS";
/// `0 -> u64` per CPU: records that found the ring buffer full.
pub const RECORDS_LOST: &str = "RECORDS_LOST";

/// Array of u64, by slot id: the `CLOCK_MONOTONIC` time in nanoseconds at which a slot may ask as much as in the beginning again. The
/// programs take the queries off that they deny, and the resolver, which has it in its memory, all others.
pub const ASKED: &str = "ASKED";
/// Ring buffer of [`crate::dns_denial::DnsDenial`] and a name each.
pub const DENIALS: &str = "DENIALS";

/// Maps that a starting daemon adopts instead of replacing them.
pub const STATE_MAPS: [&str; 14] = [
    PASSED,
    COUNTERS,
    FLOWS,
    NAT,
    ELSEWHERE,
    ELSEWHERE_PORTS,
    FRAGMENTS,
    SPENT,
    ASKED,
    DNS_FLOWS,
    PINS,
    DROPS,
    RECORDS_LOST,
    DENIALS,
];

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
// SAFETY: an array of plain old data.
unsafe impl Layout for Passed {}
// SAFETY: a byte array whose length is a multiple of its alignment.
unsafe impl Layout for Address {}

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

/// One of the two policies that policy maps hold: 0 or 1. It is part of every key, so nothing of one is ever
/// found by who looks for the other.
pub type Side = u32;

/// Both.
pub const SIDES: [Side; 2] = [0, 1];

/// The longest slot name in bytes, so that [`SlotEntry::name`] keeps a final zero.
pub const SLOT_NAME_LENGTH: usize = 31;

/// Bits of [`SlotEntry::flags`].
pub mod slot_flags {
    /// The slot has no network at all.
    pub const LOCKDOWN: u16 = 1 << 0;
    /// The slot's runtime keeps its own workloads apart.
    pub const ISOLATE: u16 = 1 << 1;
    /// The slot may reach the internet where no rule speaks.
    pub const OPEN: u16 = 1 << 2;
    /// The slot may reach the metadata service.
    pub const METADATA: u16 = 1 << 3;
    /// The slot may reach every service of the host.
    pub const HOST: u16 = 1 << 4;
    /// [`super::SlotEntry::mac`] is the only source that frames may have.
    pub const MAC: u16 = 1 << 5;
    /// The slot has egress rules.
    pub const RULES: u16 = 1 << 6;
    /// The slot has limits on more than ICMP.
    pub const LIMITS: u16 = 1 << 7;
    /// Where no rule speaks, the slot may reach the addresses that are pinned for it.
    pub const PINNED: u16 = 1 << 8;
    /// The slot is told what its policy denies.
    pub const REJECT: u16 = 1 << 9;
    /// What no rule and no pin opens passes, and is recorded as what would be dropped.
    pub const AUDIT: u16 = 1 << 10;
    /// What leaves by an uplink may take the fast path.
    pub const FAST_PATH: u16 = 1 << 11;
    /// A query for a name that none of the slot's sets has is denied by the programs themselves.
    pub const DENIES: u16 = 1 << 12;
    /// There is such a slot; without it the entry is empty.
    pub const PRESENT: u16 = 1 << 15;
}

/// What the programs must know of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct SlotEntry {
    /// How much it may send: packets, bytes, flows, ICMP; see [`Spent`].
    pub limits: [Limit; 4],
    /// How much it may ask; see [`ASKED`].
    pub queries: Limit,
    /// The sets of names in [`NAMES`] that it may ask for; 0 behind the last one.
    pub names: [u64; NAME_SETS],
    /// The slot's IPv4 gateway, where its resolver listens; unspecified if it has none.
    pub gateway4: Address,
    /// The slot's IPv6 gateway, where its resolver listens; unspecified if it has none.
    pub gateway6: Address,
    /// The slot's IPv4 subnet in its mapped form; unspecified if it has none.
    pub subnet4: Address,
    /// The bits of an address that must be `subnet4`'s.
    pub mask4: Address,
    /// The slot's IPv6 subnet; unspecified if it has none.
    pub subnet6: Address,
    /// The bits of an address that must be `subnet6`'s.
    pub mask6: Address,
    /// The bridge's MAC: redirected queries are addressed to it, whatever the guest wrote.
    pub bridge_mac: [u8; 6],
    /// The guest's MAC, if flags say so.
    pub mac: [u8; 6],
    /// The bridge's interface number: where the host's routing takes over.
    pub bridge_ifindex: u32,
    /// The policy that these entries belong to: a flow that was allowed under another is asked again.
    pub generation: u32,
    /// The number of the slot's first entry in the buckets of [`FLOWS`].
    pub flows_first: u32,
    /// The number of its buckets of [`crate::flow::WAYS`] entries each, less one: a mask.
    pub flows_mask: u32,
    /// The set of services on the host that it may use.
    pub host_services: u32,
    /// The side that the entry is on: where to look for everything else of the same policy.
    pub side: Side,
    /// The longest name that the programs deny, in bytes on the wire: what is longer is refused for that.
    pub name_max: u32,
    /// The resolver's port in network order.
    pub resolver_port_be: u16,
    /// The family that the slot belongs to.
    pub runtime: u16,
    /// See [`slot_flags`].
    pub flags: u16,
    /// The longest ICMP message in bytes.
    pub icmp_max_bytes: u16,
    /// The slot's name in UTF-8, filled up with zeros, for whoever reads the map.
    pub name: [u8; SLOT_NAME_LENGTH + 1],
}
const _: () = assert!(size_of::<SlotEntry>() == 64 + 16 + 64 + 96 + 12 + 28 + 8 + 32);
// SAFETY: `repr(C)`, bytes and integers, sizes add up to the asserted total.
unsafe impl Layout for SlotEntry {}

impl SlotEntry {
    /// The same slot with its network.
    #[must_use]
    pub const fn unlocked(&self) -> Self {
        Self { flags: self.flags & !slot_flags::LOCKDOWN, ..*self }
    }

    /// What an entry holds that is no slot's.
    pub const EMPTY: Self = Self {
        limits: [Limit { cost: 0, burst_ns: 0 }; 4],
        queries: Limit { cost: 0, burst_ns: 0 },
        names: [0; NAME_SETS],
        gateway4: Address::UNSPECIFIED,
        gateway6: Address::UNSPECIFIED,
        subnet4: Address::UNSPECIFIED,
        mask4: Address::UNSPECIFIED,
        subnet6: Address::UNSPECIFIED,
        mask6: Address::UNSPECIFIED,
        bridge_mac: [0; 6],
        mac: [0; 6],
        bridge_ifindex: 0,
        generation: 0,
        flows_first: 0,
        flows_mask: 0,
        host_services: 0,
        side: 0,
        name_max: 0,
        resolver_port_be: 0,
        runtime: 0,
        flags: 0,
        icmp_max_bytes: 0,
        name: [0; SLOT_NAME_LENGTH + 1],
    };
}

/// A rate, for the generic cell rate algorithm (ITU-T I.371): each unit moves the time at which the
/// slot is even again by `cost`, and it may be ahead of the clock by `burst_ns`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Limit {
    /// Nanoseconds per unit in 1/1024; 0 means no limit.
    pub cost: u64,
    /// Nanoseconds.
    pub burst_ns: u64,
}
// SAFETY: `repr(C)`, two integers of one size.
unsafe impl Layout for Limit {}

impl Limit {
    /// How many fractions of a nanosecond [`Self::cost`] counts in.
    pub const FRACTIONS: u64 = 1024;

    /// So many units a second, and as many at once after a second of silence.
    #[must_use]
    pub const fn per_second(units: u64) -> Self {
        match (1_000_000_000 * Self::FRACTIONS).checked_div(units) {
            Some(cost) => Self { cost, burst_ns: 1_000_000_000 },
            None => Self { cost: 0, burst_ns: 0 },
        }
    }
}

/// What a limit counts: the index into [`SlotEntry::limits`], but for the last one, and [`Spent`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Counted {
    /// Packets.
    Packets = 0,
    /// Bytes from the Ethernet header on.
    Bytes = 1,
    /// New flows.
    Flows = 2,
    /// ICMP messages.
    Icmp = 3,
    /// Answers to what is denied, of which every slot may have [`ANSWERS`].
    Answers = 4,
}

/// How many answers to what is denied a slot gets: more than anybody who waits for one needs, and far too few to be
/// worth a flood.
pub const ANSWERS: Limit = Limit::per_second(100);

/// The value of [`SPENT`]: for each limit the `CLOCK_MONOTONIC` time in nanoseconds at which the slot is
/// even again.
pub type Spent = [u64; 5];

/// What lies at an address. The verdict stage decides by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
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
    /// A known DNS-over-HTTPS resolver.
    Resolver = 10,
    /// The way from one runtime to another: the host's, or in the subnet of the slot that the entry names.
    Gate = 11,
}

impl Place {
    /// Reads the number that a map holds.
    #[must_use]
    #[inline(always)]
    pub const fn from_raw(raw: u8) -> Option<Self> {
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
            10 => Self::Resolver,
            11 => Self::Gate,
            _ => return None,
        })
    }

    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Internet => "internet",
            Self::Slot => "slot",
            Self::Gateway => "gateway",
            Self::Host => "host",
            Self::Management => "management",
            Self::Metadata => "metadata",
            Self::Private => "private",
            Self::LinkLocal => "link-local",
            Self::Multicast => "multicast",
            Self::Resolver => "resolver",
            Self::Gate => "gate",
        }
    }

    /// The one that is called so.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        (0..=u8::MAX).filter_map(Self::from_raw).find(|place| place.name() == name)
    }
}

/// The value of [`PLACES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct PlaceEntry {
    /// A [`Place`] as a number.
    pub place: u8,
    /// The length of the entry's own prefix in bits, of 128.
    pub prefix_length: u8,
    /// The slot of [`Place::Slot`], [`Place::Gateway`] and [`Place::Gate`], else [`crate::NO_SLOT`].
    pub slot_id: SlotId,
    /// That slot's runtime.
    pub runtime: u16,
    /// Zero.
    pub _reserved: u16,
    /// What every slot may open there: a set of [`SERVICES`].
    pub services: u32,
}
const _: () = assert!(size_of::<PlaceEntry>() == 12);
// SAFETY: `repr(C)`, integers only, sizes add up to the asserted total.
unsafe impl Layout for PlaceEntry {}

/// The value of [`SERVICES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ServiceEntry {
    /// 1 if the service is allowed, 0 if it is denied.
    pub allowed: u8,
    /// The length of the address prefix in the rule that says so, of 128 bits; 0 where no address is
    /// part of it.
    pub prefix_length: u8,
    /// Zero.
    pub _reserved: u16,
}
const _: () = assert!(size_of::<ServiceEntry>() == 4);
// SAFETY: `repr(C)`, integers only, sizes add up to the asserted total.
unsafe impl Layout for ServiceEntry {}

/// How many shares the slots' state is divided into if this is the highest number of a slot.
#[must_use]
pub const fn slot_shares(highest: SlotId) -> u32 {
    (highest as u32 + 1).next_power_of_two()
}

/// Where a slot stands in [`SLOTS`]: both sides of one slot are neighbours.
#[must_use]
#[inline(always)]
pub const fn slot_index(side: Side, slot_id: SlotId) -> u32 {
    slot_id as u32 * SIDES.len() as u32 + side
}
