//! Keys of the maps in which the longest prefix wins: a side of the policy, and what stands on it, as one run of bits.

use super::Side;
use crate::{Address, SlotId};

/// The data of a [`super::PLACES`] key: a side, then an address, both in network order.
pub type PlaceKey = [u8; 20];
/// How many bits of a [`PlaceKey`] the side takes.
pub const PLACE_SIDE_BITS: u32 = 32;

/// Where an address stands among the places of a side.
#[must_use]
#[inline(always)]
pub const fn place_key(side: Side, address: Address) -> PlaceKey {
    behind_word(side, address)
}

/// The data of a [`super::RULES`] key: a side, a slot, then an address, all in network order.
pub type RuleKey = [u8; 20];
/// How many bits of a [`RuleKey`] side and slot take.
pub const RULE_SLOT_BITS: u32 = 32;

/// Where an address stands among a slot's rules.
#[must_use]
#[inline(always)]
pub const fn rule_key(side: Side, slot_id: SlotId, address: Address) -> RuleKey {
    behind_word(side << 16 | slot_id as u32, address)
}

/// The side of a place.
#[must_use]
pub const fn side_of_place(key: &PlaceKey) -> Side {
    let [w, x, y, z, ..] = *key;
    u32::from_be_bytes([w, x, y, z])
}

/// The side of a rule.
#[must_use]
pub const fn side_of_rule(key: &RuleKey) -> Side {
    side_of_place(key) >> 16
}

#[inline(always)]
const fn behind_word(word: u32, address: Address) -> [u8; 20] {
    let [w, x, y, z] = word.to_be_bytes();
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address.0;
    [w, x, y, z, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}

/// The data of a [`super::SERVICES`] key: a side and a set in one word, a protocol and a port in network order, and a
/// zero that no prefix reaches.
pub type ServiceKey = [u8; 8];
/// How many bits of a [`ServiceKey`] side and set take; the side has the highest.
pub const SERVICE_SET_BITS: u32 = 32;
/// The highest number of a set.
pub const SERVICE_SET_MAX: u32 = (1 << (SERVICE_SET_BITS - 1)) - 1;
/// How many bits of a [`ServiceKey`] side, set, protocol and port take.
pub const SERVICE_BITS: u32 = SERVICE_SET_BITS + 8 + 16;

/// Where a service stands in a set.
#[must_use]
#[inline(always)]
pub const fn service_key(side: Side, set: u32, protocol: u8, port: u16) -> ServiceKey {
    let [a, b, c, d] = (side << (SERVICE_SET_BITS - 1) | set).to_be_bytes();
    let [high, low] = port.to_be_bytes();
    [a, b, c, d, protocol, high, low, 0]
}

/// The side of a service.
#[must_use]
pub const fn side_of_service(key: &ServiceKey) -> Side {
    let [a, b, c, d, ..] = *key;
    u32::from_be_bytes([a, b, c, d]) >> (SERVICE_SET_BITS - 1)
}
