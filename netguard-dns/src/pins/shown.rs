//! Pins for whoever asks what is pinned: read off the table, or off the kernel's map by who has no table.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use netguard_common::{
    SlotId,
    maps::read_name,
    pin::{PinEntry, PinKey},
};

use super::{Pins, Ports};
use crate::Moment;

/// One pin, for whoever asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// The slot.
    pub slot: SlotId,
    /// The name that was asked.
    pub name: String,
    /// The address that was answered.
    pub address: IpAddr,
    /// Where it may be reached.
    pub ports: Ports,
    /// For how long the address has been pinned.
    pub age: Duration,
    /// For how long it still is.
    pub left: Duration,
}

impl Pin {
    /// What an entry of the kernel's map says; `None` if its time is over.
    #[must_use]
    pub fn of_entry(key: &PinKey, entry: &PinEntry, now: Moment) -> Option<Self> {
        let lanes = || entry.lanes.iter().filter(|lane| now.ns() < lane.expires_ns);
        let until = lanes().map(|lane| lane.expires_ns).max()?;
        Some(Self {
            slot: key.slot_id,
            name: read_name(&entry.name).to_owned(),
            address: key.address.into(),
            ports: Ports::of(lanes().map(|lane| lane.first_port..=lane.last_port).collect())?,
            age: now.since(Moment::from_ns(entry.since_ns)),
            left: Moment::from_ns(until).since(now),
        })
    }
}

impl Pins {
    /// How many addresses each slot has pinned, but for what was over and not removed yet.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<SlotId, usize> {
        let slots = self.slots();
        slots.iter().map(|(id, slot)| (*id, slot.table().addresses.len())).collect()
    }

    /// Every live pin, by slot, name and address.
    #[must_use]
    pub fn list(&self, now: Moment) -> Vec<Pin> {
        let mut list = Vec::new();
        for (id, slot) in &**self.slots() {
            for (address, pinned) in &slot.table().addresses {
                let live = pinned.shares.iter().filter(|share| now < share.ends);
                list.extend(live.map(|share| Pin {
                    slot: *id,
                    name: share.name.to_string(),
                    address: (*address).into(),
                    ports: share.ports.clone(),
                    age: now.since(pinned.since),
                    left: share.ends.since(now),
                }));
            }
        }
        list.sort_by(|one, other| {
            (one.slot, &one.name, one.address).cmp(&(other.slot, &other.name, other.address))
        });
        list
    }
}
