//! What lies at an address, by a list that is read from its start to its end. Owns no decision.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netguard_common::{NO_SLOT, SlotId, maps::Place};

use crate::policy::{Facts, Policy, Slot, places::SPECIAL};

/// What lies at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Site {
    pub(super) place: Place,
    /// Whose: the slot of [`Place::Slot`], [`Place::Gateway`], and of a [`Place::Gate`] that is a
    /// guest; else none.
    pub(super) owner: SlotId,
    /// The length of the prefix that said so, counted in the address's own family.
    pub(super) prefix_length: u8,
}

/// Every prefix that has a meaning, in the order in which the later of equal ones wins.
pub(super) struct Sites(Vec<(IpNet, Place, SlotId)>);

impl Sites {
    pub(super) fn new(policy: &Policy, facts: &Facts) -> Self {
        let mut list = Vec::new();
        for (prefix, place) in SPECIAL {
            let prefix = prefix.parse().expect("the table's prefixes are constants under test");
            list.push((prefix, *place, NO_SLOT));
        }
        for prefix in &policy.host.management {
            list.push((*prefix, Place::Management, NO_SLOT));
        }
        for (_, address) in facts.addresses() {
            if !is_link_local(*address) && !address.is_loopback() {
                list.push((IpNet::from(*address), Place::Host, NO_SLOT));
            }
        }
        let subnets = || {
            policy.slots.iter().flat_map(|slot| slot.subnets.iter().map(move |it| (slot.id, it)))
        };
        for (id, subnet) in subnets() {
            list.push((subnet.prefix, Place::Slot, id));
        }
        for (id, subnet) in subnets() {
            list.push((IpNet::from(subnet.gateway), Place::Gateway, id));
        }
        for address in policy.gate.iter().flat_map(|gate| &gate.addresses) {
            // A guest's, unless the host itself has the address.
            let is_host = facts.addresses().iter().any(|(_, it)| it == address)
                || subnets().any(|(_, subnet)| subnet.gateway == *address);
            let owner = subnets().find(|(_, subnet)| !is_host && subnet.prefix.contains(address));
            let owner = owner.map_or(NO_SLOT, |(id, _)| id);
            list.push((IpNet::from(*address), Place::Gate, owner));
        }
        Self(list)
    }

    /// The longest prefix, the later of equal ones; none where no prefix is.
    pub(super) fn at(&self, address: IpAddr) -> Option<Site> {
        let mut found: Option<Site> = None;
        for (prefix, place, owner) in &self.0 {
            let prefix_length = prefix.prefix_len();
            let is_longer = found.is_none_or(|site| prefix_length >= site.prefix_length);
            if is_longer && prefix.contains(&address) {
                found = Some(Site { place: *place, owner: *owner, prefix_length });
            }
        }
        found
    }
}

/// Link-local of either family.
fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// fe80::/10.
pub(super) fn is_v6_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

pub(super) const BROADCAST: IpAddr = IpAddr::V4(Ipv4Addr::BROADCAST);
pub(super) const UNSPECIFIED_V4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
pub(super) const UNSPECIFIED_V6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// True for an address that a guest of the slot may call its own.
pub(super) fn is_guest(slot: &Slot, address: IpAddr) -> bool {
    slot.subnets.iter().any(|subnet| {
        let prefix = subnet.prefix;
        let is_broadcast = address.is_ipv4() && address == prefix.broadcast();
        prefix.contains(&address)
            && address != subnet.gateway
            && address != prefix.network()
            && !is_broadcast
    })
}

/// True for a group or everybody, as seen from the slot.
pub(super) fn is_group(slot: &Slot, address: IpAddr) -> bool {
    let own_broadcast = |it: &IpNet| address.is_ipv4() && it.broadcast() == address;
    address.is_multicast()
        || address == BROADCAST
        || slot.subnets.iter().any(|subnet| own_broadcast(&subnet.prefix))
}
