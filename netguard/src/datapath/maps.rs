//! The policy maps, typed: from a [`Plan`] to entries of a side.

use std::{collections::BTreeMap, net::IpAddr};

use aya::{
    Ebpf,
    maps::{Array, HashMap, IterableMap as _, LpmTrie, Map, MapData, MapError, lpm_trie::Key},
};
use netguard_common::{
    Address, SlotId,
    maps::{self as layout, Layout, SIDES, Side},
};

use super::{Error, PinDirectory, batch, names::NameMap, view::open};
use crate::policy::{Plan, Prefix, ServicePrefix};

/// A shared layout as aya wants it.
#[derive(Clone, Copy, Default)]
#[repr(transparent)]
pub(super) struct Wire<T: Layout>(pub(super) T);

// SAFETY: `Layout` promises plain old data that is valid for every bit pattern, and the wrapper is
// transparent.
unsafe impl<T: Layout> aya::Pod for Wire<T> {}

pub(super) type Entries<K, V> = HashMap<MapData, Wire<K>, Wire<V>>;
type Trie<K, V> = LpmTrie<MapData, K, Wire<V>>;

/// An entry that nobody here has written, or that is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Foreign {
    pub(super) map: &'static str,
    /// Which entry, for people.
    pub(super) entry: String,
}

impl Foreign {
    const fn new(map: &'static str, entry: String) -> Self {
        Self { map, entry }
    }
}

/// The maps that the daemon writes and the programs read.
pub(super) struct PolicyMaps {
    active: Array<MapData, Wire<Side>>,
    ports: Entries<layout::PortKey, layout::PortEntry>,
    uplinks: Entries<layout::PortKey, layout::UplinkEntry>,
    slots: Array<MapData, Wire<layout::SlotEntry>>,
    places: Trie<layout::PlaceKey, layout::PlaceEntry>,
    rules: Trie<layout::RuleKey, u32>,
    services: Trie<layout::ServiceKey, layout::ServiceEntry>,
    names: NameMap,
}

impl PolicyMaps {
    /// Takes the maps out of a freshly loaded object.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, Error> {
        Ok(Self {
            active: take(ebpf, layout::ACTIVE)?,
            ports: take(ebpf, layout::PORTS)?,
            uplinks: take(ebpf, layout::UPLINKS)?,
            slots: take(ebpf, layout::SLOTS)?,
            places: take(ebpf, layout::PLACES)?,
            rules: take(ebpf, layout::RULES)?,
            services: take(ebpf, layout::SERVICES)?,
            names: NameMap::take(ebpf)?,
        })
    }

    /// Opens the pinned maps of an instance.
    pub(super) fn open(pins: &PinDirectory) -> Result<Self, Error> {
        Ok(Self {
            active: open(pins, layout::ACTIVE)?,
            ports: open(pins, layout::PORTS)?,
            uplinks: open(pins, layout::UPLINKS)?,
            slots: open(pins, layout::SLOTS)?,
            places: open(pins, layout::PLACES)?,
            rules: open(pins, layout::RULES)?,
            services: open(pins, layout::SERVICES)?,
            names: NameMap::open(pins)?,
        })
    }

    /// The side that counts.
    pub(super) fn active(&self) -> Result<Side, Error> {
        let found = self.active.get(&0, 0).map_err(|it| Error::map(layout::ACTIVE, it))?;
        Ok(found.0)
    }

    /// What lies at an address, as the programs find it.
    pub(super) fn place(
        &self,
        side: Side,
        address: Address,
    ) -> Result<Option<layout::PlaceEntry>, Error> {
        let key = Key::new(layout::PLACE_SIDE_BITS + 128, layout::place_key(side, address));
        found(layout::PLACES, self.places.get(&key, 0)).map(|entry| entry.map(|it| it.0))
    }

    /// What a slot's rules say of a service at an address, as the programs find it.
    pub(super) fn rule(
        &self,
        side: Side,
        slot: SlotId,
        address: Address,
        (protocol, port): (u8, u16),
    ) -> Result<Option<layout::ServiceEntry>, Error> {
        let key = Key::new(layout::RULE_SLOT_BITS + 128, layout::rule_key(side, slot, address));
        let Some(Wire(set)) = found(layout::RULES, self.rules.get(&key, 0))? else {
            return Ok(None);
        };
        let service = layout::service_key(side, set, protocol, port);
        let entry = self.services.get(&Key::new(layout::SERVICE_BITS, service), 0);
        found(layout::SERVICES, entry).map(|entry| entry.map(|it| it.0))
    }

    /// Each map with its name.
    pub(super) fn each(&self) -> [(&'static str, &MapData); 8] {
        [
            (layout::ACTIVE, self.active.map()),
            (layout::PORTS, self.ports.map()),
            (layout::UPLINKS, self.uplinks.map()),
            (layout::SLOTS, self.slots.map()),
            (layout::PLACES, self.places.map()),
            (layout::RULES, self.rules.map()),
            (layout::SERVICES, self.services.map()),
            (layout::NAMES, self.names.map()),
        ]
    }

    /// Says which side counts. A store of one word, of which only one byte ever changes.
    pub(super) fn activate(&mut self, side: Side) -> Result<(), Error> {
        self.active.set(0, Wire(side), 0).map_err(|source| Error::map(layout::ACTIVE, source))
    }

    /// Refuses a plan that takes more than its half of a map: it would leave no room for the next one.
    pub(super) fn check_room(&self, plan: &Plan) -> Result<(), Error> {
        for (name, map, wanted) in [
            (layout::PORTS, self.ports.map(), plan.ports.len()),
            (layout::UPLINKS, self.uplinks.map(), plan.uplinks.len()),
            (layout::PLACES, self.places.map(), plan.places.len()),
            (layout::RULES, self.rules.map(), plan.rules.len()),
            (layout::SERVICES, self.services.map(), plan.services.len()),
            (layout::NAMES, self.names.map(), plan.names.values().map(|it| it.len()).sum()),
        ] {
            let info = map.info().map_err(|source| Error::map(name, source))?;
            let room = info.max_entries() as usize / SIDES.len();
            if wanted > room {
                return Err(Error::Room { name, wanted, room });
            }
        }
        Ok(())
    }

    /// Makes a side that holds `old` hold `new`. Nobody reads it meanwhile, so any order will do; what goes makes
    /// room for what comes. `beside` is what the other side holds.
    pub(super) fn change(
        &mut self,
        side: Side,
        old: &Plan,
        new: &Plan,
        beside: &Plan,
    ) -> Result<(), Error> {
        self.names.remove(old, new, beside)?;
        self.remove_stale(side, old, new)?;
        self.names.add(old, new, beside)?;
        self.write_changed(side, old, new)
    }

    /// Makes the map of names hold those of the only plan that there is.
    pub(super) fn restore_names(&self, plan: &Plan) -> Result<(), Error> {
        self.names.restore(plan)
    }

    fn remove_stale(&mut self, side: Side, old: &Plan, new: &Plan) -> Result<(), Error> {
        let ports = gone(&old.ports, &new.ports).map(|index| port_key(side, *index));
        batch::remove(layout::PORTS, self.ports.map(), ports)?;
        let uplinks = gone(&old.uplinks, &new.uplinks).map(|index| port_key(side, *index));
        batch::remove(layout::UPLINKS, self.uplinks.map(), uplinks)?;
        let slots = gone(&old.slots, &new.slots).map(|id| layout::slot_index(side, *id));
        // A slot that had no room cannot be there.
        let slots = slots.filter(|index| *index < self.slots.len());
        let empty = slots.map(|index| (index, Wire(layout::SlotEntry::EMPTY)));
        batch::put(layout::SLOTS, self.slots.map(), empty)?;
        let places = gone(&old.places, &new.places).map(|prefix| place_key(side, prefix));
        batch::remove(layout::PLACES, self.places.map(), places)?;
        let rules = gone(&old.rules, &new.rules).map(|(id, prefix)| rule_key(side, *id, prefix));
        batch::remove(layout::RULES, self.rules.map(), rules)?;
        let services = gone(&old.services, &new.services);
        let services = services.map(|service| service_key(side, service));
        batch::remove(layout::SERVICES, self.services.map(), services)
    }

    fn write_changed(&mut self, side: Side, old: &Plan, new: &Plan) -> Result<(), Error> {
        let services = changed(&old.services, &new.services);
        let services = services.map(|(service, entry)| (service_key(side, service), Wire(*entry)));
        batch::put(layout::SERVICES, self.services.map(), services)?;
        let rules = changed(&old.rules, &new.rules);
        let rules = rules.map(|((id, prefix), set)| (rule_key(side, *id, prefix), Wire(*set)));
        batch::put(layout::RULES, self.rules.map(), rules)?;
        let places = changed(&old.places, &new.places);
        let places = places.map(|(prefix, entry)| (place_key(side, prefix), Wire(*entry)));
        batch::put(layout::PLACES, self.places.map(), places)?;
        let ports = changed(&old.ports, &new.ports);
        let ports = ports.map(|(index, port)| (port_key(side, *index), Wire(*port)));
        batch::put(layout::PORTS, self.ports.map(), ports)?;
        let uplinks = changed(&old.uplinks, &new.uplinks);
        let uplinks = uplinks.map(|(index, uplink)| (port_key(side, *index), Wire(*uplink)));
        batch::put(layout::UPLINKS, self.uplinks.map(), uplinks)?;
        self.put_slots(side, changed(&old.slots, &new.slots))
    }

    /// The entry of a slot as a plan has it, if there is one.
    pub(super) fn slot(&self, side: Side, id: SlotId) -> Result<Option<layout::SlotEntry>, Error> {
        let entry = self.slots.get(&layout::slot_index(side, id), 0);
        let Wire(entry) = entry.map_err(|source| Error::map(layout::SLOTS, source))?;
        Ok((entry != layout::SlotEntry::EMPTY).then_some(layout::SlotEntry { side: 0, ..entry }))
    }

    /// Writes the entries of some slots.
    pub(super) fn put_slots<'a>(
        &self,
        side: Side,
        slots: impl Iterator<Item = (&'a SlotId, &'a layout::SlotEntry)>,
    ) -> Result<(), Error> {
        let slots = slots.map(|(id, entry)| {
            (layout::slot_index(side, *id), Wire(layout::SlotEntry { side, ..*entry }))
        });
        batch::put(layout::SLOTS, self.slots.map(), slots)
    }

    /// The first set of names that is not that of the plans, if there is one.
    pub(super) fn find_foreign_names(
        &self,
        plans: [Option<&Plan>; 2],
    ) -> Result<Option<Foreign>, Error> {
        let found = self.names.find_foreign(plans)?;
        Ok(found.map(|set| Foreign::new(layout::NAMES, set)))
    }

    /// The same in steps.
    pub(super) fn find_foreign_names_slowly(
        &mut self,
        plans: [Option<&Plan>; 2],
    ) -> Result<Option<Foreign>, Error> {
        let found = self.names.find_foreign_slowly(plans)?;
        Ok(found.map(|set| Foreign::new(layout::NAMES, set)))
    }

    /// The first entry of any other map that is not that of the plans, if there is one: somebody else has written. A side
    /// without a plan is not looked at.
    pub(super) fn find_foreign(
        &self,
        active: Side,
        plans: [Option<&Plan>; 2],
    ) -> Result<Option<Foreign>, Error> {
        let found = self.active()?;
        if found != active {
            return Ok(Some(Foreign::new(layout::ACTIVE, format!("side {found}"))));
        }
        let sides = || SIDES.into_iter().zip(plans).filter_map(|(side, plan)| Some((side, plan?)));
        let ports = sides().flat_map(|(side, plan)| {
            plan.ports.iter().map(move |(index, port)| (port_key(side, *index).0, *port))
        });
        let uplinks = sides().flat_map(|(side, plan)| {
            plan.uplinks.iter().map(move |(index, uplink)| (port_key(side, *index).0, *uplink))
        });
        let places = sides().flat_map(|(side, plan)| {
            plan.places.iter().map(move |(prefix, it)| (trie_key(place_key(side, prefix)), *it))
        });
        let rules = sides().flat_map(|(side, plan)| {
            let key = move |id: &SlotId, prefix| trie_key(rule_key(side, *id, prefix));
            plan.rules.iter().map(move |((id, prefix), set)| (key(id, prefix), *set))
        });
        let services = sides().flat_map(|(side, plan)| {
            plan.services.iter().map(move |(it, entry)| (trie_key(service_key(side, it)), *entry))
        });
        let is_watched = |side: Side| plans.get(side as usize).is_some_and(Option::is_some);
        let found =
            batch::entries::<Wire<layout::PortKey>, Wire<layout::PortEntry>>(self.ports.map());
        let found = found.map(|it| it.map(|(key, port)| (key.0, port.0)));
        let other = first_other(layout::PORTS, found, ports, |key| is_watched(key.side))?;
        if let Some(key) = other {
            return Ok(Some(Foreign::new(layout::PORTS, format!("interface {}", key.ifindex))));
        }
        let found = self.uplinks.iter().map(|it| it.map(|(key, uplink)| (key.0, uplink.0)));
        let other = first_other(layout::UPLINKS, found, uplinks, |key| is_watched(key.side))?;
        if let Some(key) = other {
            return Ok(Some(Foreign::new(layout::UPLINKS, format!("interface {}", key.ifindex))));
        }
        let other = first_other(layout::PLACES, trie(&self.places), places, |key| {
            is_watched(layout::side_of_place(&key.0))
        })?;
        if let Some(key) = other {
            return Ok(Some(Foreign::new(layout::PLACES, place_text(&key))));
        }
        let other = first_other(layout::RULES, trie(&self.rules), rules, |key| {
            is_watched(layout::side_of_rule(&key.0))
        })?;
        if let Some(key) = other {
            return Ok(Some(Foreign::new(layout::RULES, rule_text(&key))));
        }
        let other = first_other(layout::SERVICES, trie(&self.services), services, |key| {
            is_watched(layout::side_of_service(&key.0))
        })?;
        if let Some(key) = other {
            return Ok(Some(Foreign::new(layout::SERVICES, service_text(&key))));
        }
        let slots = sides().flat_map(|(side, plan)| {
            let at = move |id: &SlotId| layout::slot_index(side, *id);
            plan.slots.iter().map(move |(id, slot)| (at(id), layout::SlotEntry { side, ..*slot }))
        });
        let slots: BTreeMap<_, _> = slots.collect();
        for entry in batch::entries(self.slots.map()) {
            let (index, Wire(found)): (u32, Wire<layout::SlotEntry>) =
                entry.map_err(|source| Error::map(layout::SLOTS, source))?;
            let wanted = slots.get(&index).unwrap_or(&layout::SlotEntry::EMPTY);
            if found != *wanted && is_watched(index % SIDES.len() as u32) {
                let slot = format!("slot {}", index / SIDES.len() as u32);
                return Ok(Some(Foreign::new(layout::SLOTS, slot)));
            }
        }
        Ok(None)
    }

    /// Removes every entry of a side, whoever wrote it.
    pub(super) fn clear(&mut self, side: Side) -> Result<(), Error> {
        let ports: Vec<_> = keys(layout::PORTS, self.ports.keys())?;
        let ports = ports.into_iter().filter(|key| key.0.side == side);
        batch::remove(layout::PORTS, self.ports.map(), ports)?;
        let uplinks: Vec<_> = keys(layout::UPLINKS, self.uplinks.keys())?;
        let uplinks = uplinks.into_iter().filter(|key| key.0.side == side);
        batch::remove(layout::UPLINKS, self.uplinks.map(), uplinks)?;
        let places: Vec<_> = keys(layout::PLACES, self.places.keys())?;
        let places = places.into_iter().filter(|key| layout::side_of_place(&key.data()) == side);
        batch::remove(layout::PLACES, self.places.map(), places)?;
        let rules: Vec<_> = keys(layout::RULES, self.rules.keys())?;
        let rules = rules.into_iter().filter(|key| layout::side_of_rule(&key.data()) == side);
        batch::remove(layout::RULES, self.rules.map(), rules)?;
        let services: Vec<_> = keys(layout::SERVICES, self.services.keys())?;
        let of_side = |key: &Key<_>| layout::side_of_service(&key.data()) == side;
        batch::remove(layout::SERVICES, self.services.map(), services.into_iter().filter(of_side))?;
        let slots = (0..self.slots.len()).filter(|index| index % SIDES.len() as u32 == side);
        let empty = slots.map(|index| (index, Wire(layout::SlotEntry::EMPTY)));
        batch::put(layout::SLOTS, self.slots.map(), empty)
    }
}

fn keys<K>(
    name: &'static str,
    keys: impl Iterator<Item = Result<K, MapError>>,
) -> Result<Vec<K>, Error> {
    keys.collect::<Result<_, _>>().map_err(|source| Error::map(name, source))
}

/// A trie's key as what can be compared.
fn trie_key<K: aya::Pod>(key: Key<K>) -> (K, u32) {
    (key.data(), key.prefix_len())
}

/// A trie's entries.
fn trie<K: aya::Pod, V: Layout>(
    trie: &Trie<K, V>,
) -> impl Iterator<Item = Result<((K, u32), V), MapError>> {
    let entries = batch::entries::<Key<K>, Wire<V>>(trie.map());
    entries.map(|it| it.map(|(key, value)| (trie_key(key), value.0)))
}

/// The first key of an entry that is not as wanted, of those that are watched.
fn first_other<K: Ord, V: PartialEq>(
    name: &'static str,
    found: impl Iterator<Item = Result<(K, V), MapError>>,
    wanted: impl Iterator<Item = (K, V)>,
    is_watched: impl Fn(&K) -> bool,
) -> Result<Option<K>, Error> {
    let mut wanted: BTreeMap<_, _> = wanted.collect();
    for entry in found {
        let (key, value) = entry.map_err(|source| Error::map(name, source))?;
        if is_watched(&key) && wanted.remove(&key).as_ref() != Some(&value) {
            return Ok(Some(key));
        }
    }
    Ok(wanted.into_keys().next())
}

/// What a lookup has found.
fn found<V>(name: &'static str, looked: Result<V, MapError>) -> Result<Option<V>, Error> {
    match looked {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(None),
        Err(source) => Err(Error::map(name, source)),
    }
}

/// A prefix as people write it, from an address and its length behind the side, in bits.
fn prefix_text(address: &[u8], length: u32) -> String {
    let Ok(bytes) = <[u8; 16]>::try_from(address) else { return String::new() };
    match IpAddr::from(Address(bytes)) {
        IpAddr::V4(v4) if length >= 96 => format!("{v4}/{}", length - 96),
        address => format!("{address}/{length}"),
    }
}

fn place_text((key, length): &(layout::PlaceKey, u32)) -> String {
    prefix_text(&key[4..], length.saturating_sub(layout::PLACE_SIDE_BITS))
}

fn rule_text((key, length): &(layout::RuleKey, u32)) -> String {
    let slot = u16::from_be_bytes([key[2], key[3]]);
    format!(
        "slot {slot}, {}",
        prefix_text(&key[4..], length.saturating_sub(layout::RULE_SLOT_BITS))
    )
}

fn service_text((key, length): &(layout::ServiceKey, u32)) -> String {
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("set of services {hex}/{length}")
}

fn changed<'a, K: Ord, V: PartialEq>(
    old: &'a BTreeMap<K, V>,
    new: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    new.iter().filter(|(key, value)| old.get(key) != Some(value))
}

fn gone<'a, K: Ord, V>(
    old: &'a BTreeMap<K, V>,
    new: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = &'a K> {
    old.keys().filter(|key| !new.contains_key(key))
}

const fn port_key(side: Side, ifindex: u32) -> Wire<layout::PortKey> {
    Wire(layout::PortKey { ifindex, side })
}

fn place_key(side: Side, prefix: &Prefix) -> Key<layout::PlaceKey> {
    Key::new(layout::PLACE_SIDE_BITS + prefix.length, layout::place_key(side, prefix.address))
}

fn rule_key(side: Side, slot_id: SlotId, prefix: &Prefix) -> Key<layout::RuleKey> {
    let data = layout::rule_key(side, slot_id, prefix.address);
    Key::new(layout::RULE_SLOT_BITS + prefix.length, data)
}

fn service_key(side: Side, service: &ServicePrefix) -> Key<layout::ServiceKey> {
    let ServicePrefix { set, protocol, port, length } = *service;
    let data = layout::service_key(side, set, protocol, port);
    Key::new(layout::SERVICE_BITS - u16::BITS + length, data)
}

/// Takes a map out of a loaded object, once.
pub(super) fn take<T: TryFrom<Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<T, Error> {
    let map = ebpf.take_map(name).ok_or(Error::Object(name))?;
    T::try_from(map).map_err(|source| Error::map(name, source))
}

/// Removing an entry that is not there leaves what was asked for.
pub(super) fn tolerate_absent(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
        {
            Ok(())
        }
        result => result,
    }
}
