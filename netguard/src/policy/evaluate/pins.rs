//! The pins as the model is told them: a list, and the moment at which it is read.

use std::{net::IpAddr, ops::RangeInclusive};

use netguard_common::SlotId;

use super::Traffic;

/// An address that a DNS answer gave a slot, with one range of ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// The slot.
    pub slot: SlotId,
    /// The address.
    pub address: IpAddr,
    /// Of TCP and UDP; a ping goes where port 0 is among them.
    pub ports: RangeInclusive<u16>,
    /// Nanoseconds of the kernel's clock, from which on it is none any more.
    pub until_ns: u64,
}

/// All of them, now.
#[derive(Debug, Default)]
pub(super) struct Pins {
    pub(super) list: Vec<Pin>,
    pub(super) now_ns: u64,
}

impl Pins {
    /// True if one of them lets the slot send such traffic there.
    pub(super) fn open(&self, slot: SlotId, dst: IpAddr, traffic: &Traffic) -> bool {
        let mut own = self.list.iter().filter(|pin| pin.slot == slot && pin.address == dst);
        own.any(|pin| pin.ports.contains(&traffic.port) && pin.until_ns > self.now_ns)
    }
}
