//! Who may open what towards whom: the policy's rules, without packets and without state.

use std::{cell::RefCell, collections::HashMap, net::IpAddr};

use netguard_common::{
    Direction,
    DropReason::{self, CrossRuntime, CrossSlot, EgressDenied, Isolated, UnknownAddress},
    NO_SLOT, SlotId,
    maps::Place,
};

use super::{
    pins::{Pin, Pins},
    site::{Site, Sites},
};
use crate::policy::{Facts, HostServices, Policy, Protocol, Rule, Service, Slot, Unnamed};

/// What a packet is to rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// None for IGMP, which no service names.
    pub protocol: Option<Protocol>,
    /// The destination port; 0 where there is none.
    pub port: u16,
    /// True for a ping.
    pub is_echo_request: bool,
}

impl Traffic {
    /// An echo request.
    pub const PING: Self = Self { protocol: Some(Protocol::Icmp), port: 0, is_echo_request: true };

    /// The first packet of what the service means, to its lowest port.
    #[must_use]
    pub fn of(service: &Service) -> Self {
        let is_echo_request = service.protocol == Protocol::Icmp;
        Self { protocol: Some(service.protocol), port: *service.ports.start(), is_echo_request }
    }

    fn is_of(&self, services: &[Service]) -> bool {
        let Some(protocol) = self.protocol else { return false };
        services.iter().any(|service| service.covers(protocol, self.port))
    }

    fn is_named_by(&self, rule: &Rule) -> bool {
        match self.protocol {
            Some(protocol) => rule.covers(protocol, self.port),
            None => false,
        }
    }
}

/// The questions that can be put to a policy on a host.
pub struct Openings<'a> {
    policy: &'a Policy,
    sites: Sites,
    /// What was found at addresses that have been asked for: whoever asks about every pair of slots asks often.
    known: RefCell<HashMap<IpAddr, Option<Site>>>,
    runtimes: HashMap<SlotId, usize>,
    pins: Pins,
}

impl<'a> Openings<'a> {
    /// Of that policy, on a host with those addresses; nothing is pinned.
    #[must_use]
    pub fn new(policy: &'a Policy, facts: &Facts) -> Self {
        let runtimes = policy.slots.iter().map(|slot| (slot.id, slot.runtime)).collect();
        let (sites, known) = (Sites::new(policy, facts), RefCell::default());
        Self { policy, sites, known, runtimes, pins: Pins::default() }
    }

    /// The same, with pins, at a moment in nanoseconds of the kernel's clock.
    #[must_use]
    pub fn with_pins(mut self, list: Vec<Pin>, now_ns: u64) -> Self {
        self.pins = Pins { list, now_ns };
        self
    }

    pub(super) fn site(&self, address: IpAddr) -> Option<Site> {
        *self.known.borrow_mut().entry(address).or_insert_with(|| self.sites.at(address))
    }

    /// What lies at an address; none where nobody knows.
    #[must_use]
    pub fn place(&self, address: IpAddr) -> Option<Place> {
        self.site(address).map(|site| site.place)
    }

    /// May such traffic be opened between an address of the slot and a peer, by the guest
    /// ([`Direction::Egress`]) or by the peer? The host's routing is not asked.
    ///
    /// # Errors
    ///
    /// It may not, and why.
    pub fn may_open(
        &self,
        slot: &Slot,
        direction: Direction,
        guest: IpAddr,
        peer: IpAddr,
        traffic: &Traffic,
    ) -> Result<(), DropReason> {
        match direction {
            _ if slot.lockdown => Err(DropReason::Lockdown),
            Direction::Egress => self.egress(slot, guest, peer, traffic),
            Direction::Ingress => self.ingress(slot, guest, peer, traffic),
        }
    }

    fn egress(
        &self,
        slot: &Slot,
        src: IpAddr,
        dst: IpAddr,
        traffic: &Traffic,
    ) -> Result<(), DropReason> {
        let site = self.site(dst).ok_or(UnknownAddress)?;
        let is_own = site.owner == slot.id;
        match site.place {
            Place::Gateway if is_own => match &slot.host_services {
                _ if traffic.is_echo_request => Ok(()),
                HostServices::All => Ok(()),
                HostServices::Listed(services) if traffic.is_of(services) => Ok(()),
                HostServices::Listed(_) => Err(DropReason::Host),
            },
            Place::Gateway => Err(self.between(slot, site.owner)),
            Place::Host => match slot.host_services {
                HostServices::All => Ok(()),
                HostServices::Listed(_) => Err(DropReason::Host),
            },
            Place::Gate if !is_own && self.gate_offers(traffic) => Ok(()),
            Place::Gate if site.owner == NO_SLOT => match slot.host_services {
                HostServices::All => Ok(()),
                HostServices::Listed(_) => Err(DropReason::Host),
            },
            Place::Gate | Place::Slot if is_own => self.within(slot),
            Place::Gate | Place::Slot if self.is_gate(src) => Ok(()),
            Place::Gate | Place::Slot => self.sibling(slot, site.owner),
            Place::Management => Err(DropReason::Management),
            Place::Metadata if slot.metadata => Ok(()),
            Place::Metadata => Err(DropReason::Metadata),
            Place::Internet => self.internet(slot, dst, traffic),
            Place::Resolver if traffic.is_echo_request => self.internet(slot, dst, traffic),
            Place::Resolver => {
                Self::within_place(slot, dst, traffic, &site, DropReason::DnsOverHttps)
            }
            Place::Private => {
                Self::within_place(slot, dst, traffic, &site, DropReason::PrivateDestination)
            }
            Place::LinkLocal => {
                Self::within_place(slot, dst, traffic, &site, DropReason::LinkLocal)
            }
            Place::Multicast => {
                Self::within_place(slot, dst, traffic, &site, DropReason::Multicast)
            }
        }
    }

    fn ingress(
        &self,
        slot: &Slot,
        dst: IpAddr,
        src: IpAddr,
        traffic: &Traffic,
    ) -> Result<(), DropReason> {
        let site = self.site(src).ok_or(UnknownAddress)?;
        let is_own = site.owner == slot.id;
        match site.place {
            Place::Gateway if is_own => Ok(()),
            Place::Gateway => Err(self.between(slot, site.owner)),
            Place::Slot | Place::Gate if is_own => self.within(slot),
            Place::Host | Place::Management | Place::Gate => Ok(()),
            Place::Slot if self.is_gate(dst) && self.gate_offers(traffic) => Ok(()),
            Place::Slot => self.sibling(slot, site.owner),
            Place::LinkLocal if src.is_ipv6() => Ok(()),
            Place::LinkLocal
            | Place::Internet
            | Place::Resolver
            | Place::Private
            | Place::Metadata
            | Place::Multicast => Err(DropReason::Unsolicited),
        }
    }

    /// The reason that is about two slots: are they of one runtime?
    pub(super) fn between(&self, slot: &Slot, other: SlotId) -> DropReason {
        match self.runtimes.get(&other) {
            Some(runtime) if *runtime == slot.runtime => CrossSlot,
            _ => CrossRuntime,
        }
    }

    /// True if the slot's runtime keeps its own workloads apart; a runtime that is not there does.
    pub(super) fn isolates(&self, slot: &Slot) -> bool {
        self.policy.runtimes.get(slot.runtime).is_none_or(|runtime| runtime.isolate)
    }

    /// From one workload of the slot to another.
    pub(super) fn within(&self, slot: &Slot) -> Result<(), DropReason> {
        if self.isolates(slot) { Err(Isolated) } else { Ok(()) }
    }

    /// From or to another slot, not by the gate.
    pub(super) fn sibling(&self, slot: &Slot, other: SlotId) -> Result<(), DropReason> {
        match self.between(slot, other) {
            CrossSlot if !self.isolates(slot) => Ok(()),
            reason => Err(reason),
        }
    }

    /// True for an address of the gate.
    pub(super) fn is_gate(&self, address: IpAddr) -> bool {
        self.policy.gate.as_ref().is_some_and(|gate| gate.addresses.contains(&address))
    }

    fn gate_offers(&self, traffic: &Traffic) -> bool {
        self.policy.gate.as_ref().is_some_and(|gate| traffic.is_of(&gate.services))
    }

    fn internet(&self, slot: &Slot, dst: IpAddr, traffic: &Traffic) -> Result<(), DropReason> {
        match (winner(slot, dst, traffic), slot.egress.unnamed) {
            (Some(Winner { allow: true, .. }), _) | (None, Unnamed::Open) => Ok(()),
            (None, _) if slot.audit => Ok(()),
            (Some(_), _) | (None, Unnamed::Closed) => Err(EgressDenied),
            (None, Unnamed::Pinned) if self.pins.open(slot.id, dst, traffic) => Ok(()),
            (None, Unnamed::Pinned) => Err(DropReason::NotPinned),
        }
    }

    /// Where the internet is not, only a rule that was written for that place says yes.
    fn within_place(
        slot: &Slot,
        dst: IpAddr,
        traffic: &Traffic,
        site: &Site,
        reason: DropReason,
    ) -> Result<(), DropReason> {
        match winner(slot, dst, traffic) {
            Some(rule) if rule.allow && rule.prefix_length >= site.prefix_length => Ok(()),
            Some(rule) if !rule.allow => Err(reason),
            // What a rule could open.
            _ if slot.audit && site.place == Place::Private => Ok(()),
            _ => Err(reason),
        }
    }
}

/// The rule that decides about a destination.
pub(in crate::policy) struct Winner {
    /// It is one of the slot's allowances; else a denial.
    pub(in crate::policy) allow: bool,
    /// Its place among those; of equal ones the first.
    pub(in crate::policy) index: usize,
    prefix_length: u8,
}

/// The rule that decides: the longest prefix, and of equal ones a denial.
pub(in crate::policy) fn winner(slot: &Slot, dst: IpAddr, traffic: &Traffic) -> Option<Winner> {
    let of = |rules: &[Rule], allow| {
        let fits = |rule: &&Rule| rule.prefix.contains(&dst) && traffic.is_named_by(rule);
        let longest = rules.iter().filter(fits).map(|rule| rule.prefix.prefix_len()).max()?;
        let is_it = |rule: &Rule| rule.prefix.prefix_len() == longest && fits(&rule);
        let index = rules.iter().position(is_it)?;
        Some(Winner { allow, index, prefix_length: longest })
    };
    match (of(&slot.egress.allow, true), of(&slot.egress.deny, false)) {
        (Some(allow), Some(deny)) if allow.prefix_length > deny.prefix_length => Some(allow),
        (_, Some(deny)) => Some(deny),
        (allow, None) => allow,
    }
}
