//! From meaning to bytes: the contents of every policy map, computed from the policy and from what
//! the host has right now.
//!
//! Compiling is pure and whole: whenever the host changes, the plan is compiled again and compared
//! with the one in force.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hasher as _},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;
use netguard_common::{
    Address, NO_SLOT, SlotId,
    flow::{WAYS, flow_entries},
    maps::{
        Counted, Limit, Place, PlaceEntry, PortEntry, PortKind, SIDES, ServiceEntry, SlotEntry,
        UplinkEntry, slot_flags, slot_shares, write_name,
    },
    names::NAME_SETS,
    translation::{nat_entries, nat_mask},
};
use netguard_dns::Suffixes;

use super::{
    Facts, HostServices, InterfaceFact, Policy, Ports, Slot, Unnamed, places::SPECIAL,
    rules::ServiceSets,
};

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

/// An aligned block of ports in a set of services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePrefix {
    /// The set.
    pub set: u32,
    /// The IP protocol number.
    pub protocol: u8,
    /// The first port.
    pub port: u16,
    /// How many of the 16 bits the ports share.
    pub length: u32,
}

/// The contents of every policy map, whichever side of it they will be on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// `SLOTS`.
    pub slots: BTreeMap<SlotId, SlotEntry>,
    /// `PLACES`.
    pub places: BTreeMap<Prefix, PlaceEntry>,
    /// `RULES`, by slot and destination.
    pub rules: BTreeMap<(SlotId, Prefix), u32>,
    /// `SERVICES`.
    pub services: BTreeMap<ServicePrefix, ServiceEntry>,
    /// `NAMES`, by the numbers of sets.
    pub names: BTreeMap<u64, Arc<Suffixes>>,
    /// `PORTS`, by interface number: the configured interfaces that exist.
    pub ports: BTreeMap<u32, PortEntry>,
    /// `UPLINKS`, by interface number: the uplinks that the fast path may take.
    pub uplinks: BTreeMap<u32, UplinkEntry>,
    /// Ports, by interface number, that their bridge must keep from each other.
    pub isolated: Vec<u32>,
    /// How many entries `FLOWS` must have.
    pub flow_entries: u32,
    /// How many entries `SLOTS` must have.
    pub slot_entries: u32,
    /// How many entries `NAMES` must have at least.
    pub name_entries: u32,
}

impl Plan {
    /// Compiles the policy for the host as it is.
    #[must_use]
    pub fn compile(policy: &Policy, facts: &Facts) -> Self {
        let mut sets = ServiceSets::default();
        let mut rules = BTreeMap::new();
        for slot in &policy.slots {
            for (prefix, set) in sets.rules(&slot.egress.allow, &slot.egress.deny) {
                rules.insert((slot.id, prefix.into()), set);
            }
        }
        let gate = policy.gate.as_ref().map_or(0, |gate| sets.allow(&gate.services));
        let places = places(policy, facts, gate);
        let shares = Shares::of(policy);
        let entry = |slot: &Slot, sets: &mut ServiceSets| {
            let host_services = match &slot.host_services {
                HostServices::Listed(services) => sets.allow(services),
                HostServices::All => 0,
            };
            slot_entry(slot, policy, facts, &shares, host_services)
        };
        let mut slots: BTreeMap<_, _> =
            policy.slots.iter().map(|slot| (slot.id, entry(slot, &mut sets))).collect();
        let services: BTreeMap<_, _> = sets.entries().collect();
        let unlocked: BTreeMap<_, _> = slots.iter().map(|(id, it)| (id, it.unlocked())).collect();
        let generation = generation(&(&unlocked, &places, &rules, &services));
        let mut names = BTreeMap::new();
        for slot in &policy.slots {
            let Some(entry) = slots.get_mut(&slot.id) else { continue };
            entry.generation = generation;
            // What may be asked for is nothing that a flow must be asked again for.
            names.extend(add_names(entry, slot, policy));
        }
        let Shares { entries: flow_entries, slot_entries, .. } = shares;
        let name_entries = name_entries(&names);
        let uplinks = uplinks(policy, facts, flow_entries);
        let (ports, isolated) = ports(policy, facts, &uplinks);
        Self {
            slots,
            places,
            rules,
            services,
            names,
            ports,
            uplinks,
            isolated,
            flow_entries,
            slot_entries,
            name_entries,
        }
    }

    /// The same plan while its table of flows takes the place of another one.
    #[must_use]
    pub fn changing(mut self) -> Self {
        for uplink in self.uplinks.values_mut() {
            uplink.is_changing = 1;
        }
        self
    }

    /// The same plan with no fast path by some interfaces.
    #[must_use]
    pub fn without_fast(mut self, uplinks: impl IntoIterator<Item = u32>) -> Self {
        for index in uplinks {
            self.uplinks.remove(&index);
            if let Some(port) = self.ports.get_mut(&index) {
                port.kind = PortKind::Uplink as u8;
            }
        }
        self
    }

    /// The slots whose network is taken or given back, if that is all the difference to an earlier plan.
    #[must_use]
    pub fn locks_since(&self, old: &Self) -> Option<BTreeMap<SlotId, SlotEntry>> {
        let is_same = |(new, old): ((&SlotId, &SlotEntry), (&SlotId, &SlotEntry))| {
            new.0 == old.0 && new.1.unlocked() == old.1.unlocked()
        };
        let is_alike = self.slots.len() == old.slots.len()
            && self.slots.iter().zip(&old.slots).all(is_same)
            && self.ports == old.ports
            && self.uplinks == old.uplinks
            && self.places == old.places
            && self.services == old.services
            && self.rules == old.rules
            && self.names == old.names
            && self.isolated == old.isolated
            && (self.flow_entries, self.slot_entries) == (old.flow_entries, old.slot_entries);
        let has_changed = |(id, slot): &(&SlotId, &SlotEntry)| old.slots.get(id) != Some(slot);
        let changed = self.slots.iter().filter(has_changed).map(|(id, slot)| (*id, *slot));
        is_alike.then(|| changed.collect())
    }
}

/// Has the programs deny what a slot may not ask for, and returns the sets that they need for it. Not for a slot that is audited, which is
/// answered, nor for one with more sets than the programs would look through.
fn add_names(entry: &mut SlotEntry, slot: &Slot, policy: &Policy) -> Vec<(u64, Arc<Suffixes>)> {
    let Some(dns) = policy.dns.slots.get(&slot.id) else { return Vec::new() };
    let sets = dns.allowlist.sets();
    if slot.audit || !policy.dns.denied_in_kernel || sets.len() > NAME_SETS {
        return Vec::new();
    }
    entry.flags |= slot_flags::DENIES;
    entry.name_max = u32::try_from(policy.dns.name_max).unwrap_or(u32::MAX);
    let queries = dns.limits.queries_per_second;
    entry.queries = Limit::per_second(queries.into());
    let suffixes = sets.iter().map(|set| Arc::clone(set.suffixes()));
    let suffixes: Vec<_> = suffixes.map(|it| (it.number(), it)).collect();
    for (to, (number, _)) in entry.names.iter_mut().zip(&suffixes) {
        *to = *number;
    }
    suffixes
}

/// Room for the next plan's names beside these; a power of two, so that a few more need no other map.
fn name_entries(names: &BTreeMap<u64, Arc<Suffixes>>) -> u32 {
    /// So few that what says that a name is not there stays in a processor's own cache.
    const LEAST: u32 = 1 << 12;
    let wanted: usize = names.values().map(|suffixes| suffixes.len()).sum();
    let both = u32::try_from(wanted * SIDES.len()).unwrap_or(u32::MAX >> 1);
    both.max(LEAST).checked_next_power_of_two().unwrap_or(1 << 31)
}

/// A number for everything that verdicts depend on but locks, which no flow gets past: flows that were allowed under another are asked again.
fn generation(rules: &impl std::hash::Hash) -> u32 {
    let mut hasher = DefaultHasher::new();
    rules.hash(&mut hasher);
    hasher.finish() as u32
}

/// How the table of flows is divided: by slot numbers, so that a slot that is added moves nobody's share
/// until they reach the next power of two.
struct Shares {
    entries: u32,
    slot_entries: u32,
    buckets_each: u32,
}

impl Shares {
    /// The least share: two buckets for each of 32 flows.
    const LEAST: u32 = 64;

    fn of(policy: &Policy) -> Self {
        let highest = policy.slots.iter().map(|slot| slot.id).max().unwrap_or_default();
        let shares = slot_shares(highest);
        let entries = flow_entries(policy.flows_max).max(shares * Self::LEAST);
        let slot_entries = shares * SIDES.len() as u32;
        Self { entries, slot_entries, buckets_each: entries / shares / WAYS }
    }
}

fn slot_entry(
    slot: &Slot,
    policy: &Policy,
    facts: &Facts,
    shares: &Shares,
    host_services: u32,
) -> SlotEntry {
    let bridge = facts.interface(&slot.bridge);
    let gateway = |v4| slot.gateway(v4).map_or(Address::UNSPECIFIED, Address::from);
    let (subnet4, mask4) = subnet(slot, true);
    let (subnet6, mask6) = subnet(slot, false);
    SlotEntry {
        limits: limits(slot),
        queries: Limit::default(),
        names: [0; NAME_SETS],
        gateway4: gateway(true),
        gateway6: gateway(false),
        subnet4,
        mask4,
        subnet6,
        mask6,
        bridge_mac: bridge.map_or([0; 6], |bridge| bridge.mac),
        mac: slot.mac.unwrap_or_default(),
        bridge_ifindex: bridge.map_or(0, |bridge| bridge.index),
        generation: 0,
        flows_first: u32::from(slot.id) * shares.buckets_each * WAYS,
        flows_mask: shares.buckets_each - 1,
        host_services,
        side: 0,
        name_max: 0,
        resolver_port_be: policy.dns.port.to_be(),
        runtime: slot.runtime as u16,
        flags: flags(slot, policy),
        icmp_max_bytes: slot.limits.icmp_max_bytes,
        name: write_name(&slot.name),
    }
}

/// The network address and its mask in the form of the map, IPv4 with the mapped prefix in both.
fn subnet(slot: &Slot, v4: bool) -> (Address, Address) {
    let Some(subnet) = slot.subnet(v4) else {
        return (Address::UNSPECIFIED, Address::UNSPECIFIED);
    };
    let Prefix { address, length } = subnet.prefix.into();
    let mask = u128::MAX.checked_shl(128 - length).unwrap_or_default();
    (address, Address(mask.to_be_bytes()))
}

fn limits(slot: &Slot) -> [Limit; 4] {
    let limits = &slot.limits;
    let mut entries = [Limit::default(); 4];
    for (counted, units) in [
        (Counted::Packets, limits.packets_per_second.map(u64::from)),
        (Counted::Bytes, limits.bytes_per_second),
        (Counted::Flows, limits.flows_per_second.map(u64::from)),
        (Counted::Icmp, limits.icmp_per_second.map(u64::from)),
    ] {
        entries[counted as usize] = Limit::per_second(units.unwrap_or_default());
    }
    entries
}

fn flags(slot: &Slot, policy: &Policy) -> u16 {
    let isolates = policy.runtimes.get(slot.runtime).is_none_or(|runtime| runtime.isolate);
    let has_rules = !slot.egress.allow.is_empty() || !slot.egress.deny.is_empty();
    let has_limits = limits(slot)[..Counted::Icmp as usize] != [Limit::default(); 3];
    [
        (true, slot_flags::PRESENT),
        (slot.lockdown, slot_flags::LOCKDOWN),
        (isolates, slot_flags::ISOLATE),
        (slot.egress.unnamed == Unnamed::Open, slot_flags::OPEN),
        (slot.egress.unnamed == Unnamed::Pinned, slot_flags::PINNED),
        (slot.metadata, slot_flags::METADATA),
        (slot.host_services == HostServices::All, slot_flags::HOST),
        (slot.mac.is_some(), slot_flags::MAC),
        (has_rules, slot_flags::RULES),
        (has_limits, slot_flags::LIMITS),
        (slot.rejects, slot_flags::REJECT),
        (slot.audit, slot_flags::AUDIT),
        (policy.host.fast_path, slot_flags::FAST_PATH),
    ]
    .iter()
    .filter(|(is_set, _)| *is_set)
    .fold(0, |flags, (_, flag)| flags | flag)
}

/// Later entries replace earlier ones of the same prefix: what the policy says beats what the registries
/// say, a gateway beats the host address that it also is, and the gate beats everything.
fn places(policy: &Policy, facts: &Facts, gate_services: u32) -> BTreeMap<Prefix, PlaceEntry> {
    let at = |net: IpNet, place, slot: Option<&Slot>| {
        let prefix = Prefix::from(net);
        let entry = PlaceEntry {
            place: place as u8,
            prefix_length: prefix.length as u8,
            slot_id: slot.map_or(NO_SLOT, |slot| slot.id),
            runtime: slot.map_or(0, |slot| slot.runtime as u16),
            _reserved: 0,
            services: if place == Place::Gate { gate_services } else { 0 },
        };
        (prefix, entry)
    };
    let special = SPECIAL.iter().map(|(prefix, place)| {
        let net = prefix.parse().expect("the table's prefixes are constants under test");
        at(net, *place, None)
    });
    let management = policy.host.management.iter().map(|net| at(*net, Place::Management, None));
    let host = facts
        .addresses()
        .iter()
        .filter(|(_, address)| !is_link_local(address) && !address.is_loopback())
        .map(|(_, address)| at(IpNet::from(*address), Place::Host, None));
    let subnets = || {
        let slots = policy.slots.iter();
        slots.flat_map(|slot| slot.subnets.iter().map(move |subnet| (slot, subnet)))
    };
    let slots = subnets().map(|(slot, subnet)| at(subnet.prefix, Place::Slot, Some(slot)));
    let gateways =
        subnets().map(|(slot, subnet)| at(IpNet::from(subnet.gateway), Place::Gateway, Some(slot)));
    let gate = policy.gate.iter().flat_map(|gate| &gate.addresses).map(|address| {
        // A guest's, unless the host itself has the address.
        let is_host = facts.addresses().iter().any(|(_, it)| it == address);
        let owner = subnets().find(|(_, subnet)| !is_host && subnet.prefix.contains(address));
        at(IpNet::from(*address), Place::Gate, owner.map(|(slot, _)| slot))
    });
    special.chain(management).chain(host).chain(slots).chain(gateways).chain(gate).collect()
}

/// Every interface has its own link-local address, and neighbour discovery must reach it: the
/// prefix's own place is the right one.
fn is_link_local(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// The slots' bridges, the ports that are on them, and the uplinks. A port that is not on its bridge yet has
/// nowhere to send to, and one that is something else must not be touched. With them, the ports that their
/// bridge must keep apart: those of isolating runtimes, and those of bridges that several slots share.
fn ports(
    policy: &Policy,
    facts: &Facts,
    fast: &BTreeMap<u32, UplinkEntry>,
) -> (BTreeMap<u32, PortEntry>, Vec<u32>) {
    let entry = |slot_id, kind, interface: &InterfaceFact| {
        let name = write_name(&interface.name);
        (interface.index, PortEntry { slot_id, kind: kind as u8, link: interface.link as u8, name })
    };
    let mut ports = BTreeMap::new();
    let mut isolated = Vec::new();
    ports.extend(uplinks_of(policy, facts).map(|uplink| {
        let is_fast = fast.contains_key(&uplink.index);
        entry(NO_SLOT, if is_fast { PortKind::FastUplink } else { PortKind::Uplink }, uplink)
    }));
    for slot in &policy.slots {
        let Some(bridge) = facts.interface(&slot.bridge) else { continue };
        // Of several slots on one bridge it is filed under the first.
        ports.entry(bridge.index).or_insert(entry(slot.id, PortKind::Bridge, bridge).1);
        let isolates = policy.runtimes.get(slot.runtime).is_none_or(|runtime| runtime.isolate);
        for port in facts.ports_of(bridge.index).filter(|it| is_port_of(slot, it)) {
            ports.extend([entry(slot.id, PortKind::Port, port)]);
            if isolates {
                isolated.push(port.index);
            }
        }
    }
    (ports, isolated)
}

fn uplinks_of<'a>(policy: &'a Policy, facts: &'a Facts) -> impl Iterator<Item = &'a InterfaceFact> {
    policy.host.uplinks.iter().filter_map(|name| facts.interface(name))
}

/// What the fast path may take: Ethernet, by which the host sends from one address.
fn uplinks(policy: &Policy, facts: &Facts, flow_entries: u32) -> BTreeMap<u32, UplinkEntry> {
    let entry = |uplink: &InterfaceFact| {
        let source =
            |v4| facts.source(uplink.index, v4).map_or(Address::UNSPECIFIED, Address::from);
        let (address4, address6) = (source(true), source(false));
        let nat_mask = nat_mask(nat_entries(flow_entries));
        let has_none = address4 == address6; // both unspecified
        let entry = UplinkEntry { address4, address6, nat_mask, is_changing: 0 };
        (!has_none && uplink.mac != [0; 6]).then_some((uplink.index, entry))
    };
    if !policy.host.fast_path {
        return BTreeMap::new();
    }
    uplinks_of(policy, facts).filter_map(entry).collect()
}

fn is_port_of(slot: &Slot, interface: &InterfaceFact) -> bool {
    match &slot.ports {
        Ports::One(name) => interface.name == *name,
        Ports::Shared => true,
    }
}
