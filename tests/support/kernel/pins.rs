//! Pins by hand, for tests that need no resolver.

use std::{collections::BTreeMap, net::IpAddr};

use netguard::policy::Pin;
use netguard_common::pin::{PIN_LANES, PinEntry, PinKey, PinLane};
use netguard_dns::PinMap as _;

use super::Kernel;

impl Kernel {
    /// Pins addresses as a resolver would. What was pinned for the same slot and address is over.
    ///
    /// # Panics
    ///
    /// The kernel does not take them, or an address has more ranges than it keeps.
    pub fn pin(&self, pins: &[Pin]) {
        let unused = PinLane::default();
        let mut entries: BTreeMap<PinKey, PinEntry> = BTreeMap::new();
        for pin in pins {
            let key = PinKey::new(pin.slot, pin.address.into());
            let empty = PinEntry { key, lanes: [unused; PIN_LANES], since_ns: 0, name: [0; 256] };
            let entry = entries.entry(key).or_insert(empty);
            let lane = entry.lanes.iter_mut().find(|lane| **lane == unused).expect("a lane");
            *lane = PinLane {
                expires_ns: pin.until_ns,
                first_port: *pin.ports.start(),
                last_port: *pin.ports.end(),
                _reserved: 0,
            };
        }
        for (key, entry) in &entries {
            self.pinned.put(key, entry).expect("the kernel takes a pin");
        }
    }

    /// Takes the pins of an address back, as a denial would.
    ///
    /// # Panics
    ///
    /// The kernel refuses.
    pub fn unpin(&self, slot: u16, address: IpAddr) {
        let key = PinKey::new(slot, address.into());
        self.pinned.remove(&key).expect("the kernel removes a pin");
    }
}
