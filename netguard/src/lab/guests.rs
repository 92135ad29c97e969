//! Who sits behind the ports of a lab's slots: one guest in a slot with one port, two in a slot whose bridge
//! is shared, so that there is somebody to keep apart.

use std::net::IpAddr;

use crate::policy::{Ports, Slot, Subnet};

/// One guest: a network namespace that plays a workload.
pub(super) struct Guest<'a> {
    /// Its name in the lab.
    pub(super) host: String,
    pub(super) slot: &'a Slot,
    /// The hypervisor's end of its wire.
    pub(super) port: String,
    /// From 1 within the slot.
    number: u8,
}

impl Guest<'_> {
    /// A locally administered address, the same in every lab, so that logs compare; the slot's own, where
    /// that is given.
    pub(super) fn mac(&self) -> String {
        let [high, low] = self.slot.id.to_be_bytes();
        let mac = self.slot.mac.unwrap_or([2, 0x6e, 0x67, high, low, 1 + self.number]);
        mac.map(|byte| format!("{byte:02x}")).join(":")
    }

    /// The address behind the gateway, and those that follow it for further guests.
    pub(super) fn address(&self, subnet: &Subnet) -> Option<IpAddr> {
        let mut hosts = subnet.prefix.hosts().filter(|host| *host > subnet.gateway);
        hosts.nth(usize::from(self.number) - 1)
    }
}

/// The guests of some slots, in their order.
pub(super) fn of(slots: &[Slot]) -> impl Iterator<Item = Guest<'_>> {
    slots.iter().flat_map(|slot| {
        let guest = |host: String, port: String, number| Guest { host, slot, port, number };
        match &slot.ports {
            Ports::One(port) => vec![guest(slot.name.clone(), port.clone(), 1)],
            Ports::Shared => ["a", "b"]
                .into_iter()
                .zip(1..)
                .map(|(letter, number)| {
                    guest(
                        format!("{}-{letter}", slot.name),
                        format!("v{letter}-{}", slot.bridge),
                        number,
                    )
                })
                .collect(),
        }
    })
}
