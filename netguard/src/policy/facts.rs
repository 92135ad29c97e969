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
    /// Those of them that the host does not send from by itself.
    others: BTreeSet<(u32, IpAddr)>,
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
        Self { interfaces, addresses, others: BTreeSet::new(), by_name, by_controller }
    }

    /// The same, with what is known of addresses that the host does not send from by itself: secondary, deprecated or tentative
    /// ones, and those that reach no further than the link.
    #[must_use]
    pub fn with_others(self, others: BTreeSet<(u32, IpAddr)>) -> Self {
        Self { others, ..self }
    }

    /// The address of that family that the host sends from by an interface; `None` if it is not the only one that it could be.
    #[must_use]
    pub fn source(&self, index: u32, v4: bool) -> Option<IpAddr> {
        let of = (index, if v4 { IpAddr::from([0; 4]) } else { IpAddr::from([0_u16; 8]) });
        let own = self.addresses.range(of..).take_while(|(it, _)| *it == index);
        let own = own.filter(|it| it.1.is_ipv4() == v4 && !self.others.contains(it));
        let mut sources = own.map(|(_, address)| *address);
        sources.next().filter(|_| sources.next().is_none())
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
