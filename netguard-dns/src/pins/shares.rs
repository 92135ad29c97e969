//! What names give to one address, and what the kernel is told of it.

use netguard_common::{
    maps::write_name,
    pin::{PIN_LANES, PinEntry, PinKey, PinLane},
};

use super::Ports;
use crate::Moment;

/// What one name gives to an address.
#[derive(Clone)]
pub(super) struct Share {
    pub(super) name: Box<str>,
    pub(super) ports: Ports,
    pub(super) ends: Moment,
}

pub(super) type Lanes = [PinLane; PIN_LANES];

impl Share {
    /// True for what the same name gives with the same ports.
    pub(super) fn is_alike(&self, other: &Self) -> bool {
        self.name == other.name && self.ports == other.ports
    }
}

/// An entry of the kernel's map.
pub(super) fn entry(key: PinKey, lanes: Lanes, since: Moment, name: &str) -> PinEntry {
    PinEntry { key, lanes, since_ns: since.ns(), name: write_name(name) }
}

/// The union of all shares that live, without what a wider and longer one covers; sorted, so that equal unions are equal.
/// `None` if it needs more lanes than there are.
pub(super) fn lanes<'a>(shares: impl Iterator<Item = &'a Share>, now: Moment) -> Option<Lanes> {
    let mut lanes: Vec<PinLane> = Vec::new();
    for share in shares.filter(|share| now < share.ends) {
        for range in share.ports.ranges() {
            let (first_port, last_port) = (*range.start(), *range.end());
            let lane = PinLane { expires_ns: share.ends.ns(), first_port, last_port, _reserved: 0 };
            let covers = |one: &PinLane, other: &PinLane| {
                one.first_port <= other.first_port
                    && other.last_port <= one.last_port
                    && other.expires_ns <= one.expires_ns
            };
            if !lanes.iter().any(|other| covers(other, &lane)) {
                lanes.retain(|other| !covers(&lane, other));
                lanes.push(lane);
            }
        }
    }
    lanes.sort_by_key(|lane| (lane.first_port, lane.last_port));
    let mut array = Lanes::default();
    array.get_mut(..lanes.len())?.copy_from_slice(&lanes);
    Some(array)
}
