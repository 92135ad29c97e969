//! What the host has: the only input of a plan besides the policy.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use netguard_common::maps::LinkKind;

/// Interfaces and addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    interfaces: Vec<InterfaceFact>,
    /// Each with the number of its interface.
    addresses: BTreeSet<(u32, IpAddr)>,
    by_name: HashMap<String, usize>,
    by_controller: HashMap<u32, Vec<usize>>,
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
    /// What the kernel made it.
    pub link: LinkKind,
    /// True for a bridge's port that reaches no other such port.
    pub isolated: bool,
}

impl Facts {
    /// Of every interface and every address, each with the number of its interface.
    #[must_use]
    pub fn new(interfaces: Vec<InterfaceFact>, addresses: BTreeSet<(u32, IpAddr)>) -> Self {
        let mut by_controller: HashMap<_, Vec<_>> = HashMap::new();
        for (at, interface) in interfaces.iter().enumerate() {
            if let Some(controller) = interface.controller {
                by_controller.entry(controller).or_default().push(at);
            }
        }
        let names = interfaces.iter().enumerate().map(|(at, it)| (it.name.clone(), at));
        let by_name = names.collect();
        Self { interfaces, addresses, by_name, by_controller }
    }

    /// Every interface.
    #[must_use]
    pub fn interfaces(&self) -> &[InterfaceFact] {
        &self.interfaces
    }

    /// Every address, with the number of its interface.
    #[must_use]
    pub fn addresses(&self) -> &BTreeSet<(u32, IpAddr)> {
        &self.addresses
    }

    /// The interface of that name.
    #[must_use]
    pub fn interface(&self, name: &str) -> Option<&InterfaceFact> {
        self.interfaces.get(*self.by_name.get(name)?)
    }

    /// The ports of the bridge of that number.
    pub fn ports_of(&self, bridge: u32) -> impl Iterator<Item = &InterfaceFact> {
        let ports = self.by_controller.get(&bridge).into_iter().flatten();
        ports.filter_map(|at| self.interfaces.get(*at))
    }
}
