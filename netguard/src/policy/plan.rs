//! From meaning to bytes: the contents of every policy map, computed from the policy and from what
//! the host has right now.
//!
//! Compiling is pure and whole: whenever the host changes, the plan is compiled again and compared
//! with the one in force.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use netguard_common::{
    Address, NO_SLOT, SlotId,
    maps::{Place, PlaceEntry, PortEntry, SlotEntry, write_name},
};

use super::{Policy, Slot, places::SPECIAL};

/// What the host has: the only input of a plan besides the policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Every interface.
    pub interfaces: Vec<InterfaceFact>,
    /// Every address, with the number of its interface.
    pub addresses: Vec<(u32, IpAddr)>,
}

/// One interface of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceFact {
    /// The kernel's number for it.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its Ethernet address; zero where it has none.
    pub mac: [u8; 6],
    /// The bridge it is a port of, by number.
    pub controller: Option<u32>,
    /// True for a bridge.
    pub is_bridge: bool,
    /// True for a bridge's port that reaches no other such port.
    pub isolated: bool,
}

impl Facts {
    /// The interface of that name.
    #[must_use]
    pub fn interface(&self, name: &str) -> Option<&InterfaceFact> {
        self.interfaces.iter().find(|interface| interface.name == name)
    }
}

/// A prefix in the form of the map `PLACES`: IPv4 mapped, so lengths count from 128 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    /// The network address.
    pub address: Address,
    /// 0 to 128; 96 more than the length of an IPv4 prefix.
    pub length: u32,
}

impl From<IpNet> for Prefix {
    fn from(net: IpNet) -> Self {
        let mapped = if net.addr().is_ipv4() { 96 } else { 0 };
        Self { address: net.network().into(), length: u32::from(net.prefix_len()) + mapped }
    }
}

/// The contents of every policy map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// `SLOTS`.
    pub slots: BTreeMap<SlotId, SlotEntry>,
    /// `PLACES`.
    pub places: BTreeMap<Prefix, PlaceEntry>,
    /// `PORTS`, by interface number: the configured interfaces that exist.
    pub ports: BTreeMap<u32, PortEntry>,
}

impl Plan {
    /// Compiles the policy for the host as it is.
    #[must_use]
    pub fn compile(policy: &Policy, facts: &Facts) -> Self {
        let slots = policy
            .slots
            .iter()
            .map(|slot| (slot.id, slot_entry(slot, policy.dns.port, facts)))
            .collect();
        Self { slots, places: places(policy, facts), ports: ports(policy, facts) }
    }
}

fn slot_entry(slot: &Slot, resolver_port: u16, facts: &Facts) -> SlotEntry {
    let bridge = facts.interface(&slot.bridge);
    let gateway = |v4| slot.gateway(v4).map_or(Address::UNSPECIFIED, Address::from);
    SlotEntry {
        gateway4: gateway(true),
        gateway6: gateway(false),
        bridge_mac: bridge.map_or([0; 6], |bridge| bridge.mac),
        bridge_ifindex: bridge.map_or(0, |bridge| bridge.index),
        _reserved: 0,
        resolver_port_be: resolver_port.to_be(),
        name: write_name(&slot.name),
    }
}

/// Later entries replace earlier ones of the same prefix: what the policy says beats what the
/// registries say, and a gateway beats the host address that it also is.
fn places(policy: &Policy, facts: &Facts) -> BTreeMap<Prefix, PlaceEntry> {
    let nowhere = |place| PlaceEntry { place: place as u16, slot_id: NO_SLOT };
    let special = SPECIAL.iter().map(|(prefix, place)| {
        let net: IpNet = prefix.parse().expect("the table's prefixes are constants under test");
        (net.into(), nowhere(*place))
    });
    let management =
        policy.management.iter().map(|net| ((*net).into(), nowhere(Place::Management)));
    let host = facts
        .addresses
        .iter()
        .filter(|(_, address)| !is_link_local(address) && !address.is_loopback())
        .map(|(_, address)| (IpNet::from(*address).into(), nowhere(Place::Host)));
    let subnets = policy.slots.iter().flat_map(|slot| {
        slot.subnets.iter().map(|subnet| {
            (subnet.prefix.into(), PlaceEntry { place: Place::Slot as u16, slot_id: slot.id })
        })
    });
    let gateways = policy.slots.iter().flat_map(|slot| {
        slot.subnets.iter().map(|subnet| {
            let net = IpNet::from(subnet.gateway);
            (net.into(), PlaceEntry { place: Place::Gateway as u16, slot_id: slot.id })
        })
    });
    special.chain(management).chain(host).chain(subnets).chain(gateways).collect()
}

/// Every interface has its own link-local address, and neighbour discovery must reach it: the
/// prefix's own place is the right one.
fn is_link_local(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// The slots' bridges and the ports that are on them. A port that is not on its bridge yet has nowhere
/// to send to, and one that is something else must not be touched.
fn ports(policy: &Policy, facts: &Facts) -> BTreeMap<u32, PortEntry> {
    let entry = |slot: &Slot, interface: &InterfaceFact, is_bridge| {
        let name = write_name(&interface.name);
        (interface.index, PortEntry { slot_id: slot.id, is_bridge, _reserved: 0, name })
    };
    let of_slot = |slot: &Slot| {
        let bridge = facts.interface(&slot.bridge)?;
        let port = facts.interface(&slot.port);
        let port = port.filter(|port| port.controller == Some(bridge.index));
        Some([Some(entry(slot, bridge, 1)), port.map(|port| entry(slot, port, 0))])
    };
    policy.slots.iter().filter_map(of_slot).flatten().flatten().collect()
}
