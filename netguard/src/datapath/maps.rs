//! The policy maps, typed: from a [`Plan`] to entries.

use std::collections::BTreeMap;

use aya::{
    Ebpf,
    maps::{Array, HashMap, IterableMap as _, LpmTrie, Map, MapData, MapError, lpm_trie::Key},
};
use netguard_common::maps::{self as layout, Layout};

use super::Error;
use crate::policy::{Plan, Prefix, TrieKey};

/// A shared layout as aya wants it.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Wire<T: Layout>(pub(super) T);

// SAFETY: `Layout` promises plain old data that is valid for every bit pattern, and the wrapper is
// transparent.
unsafe impl<T: Layout> aya::Pod for Wire<T> {}

type Entries<K, V> = HashMap<MapData, Wire<K>, Wire<V>>;
type Trie<K, V> = LpmTrie<MapData, K, Wire<V>>;

/// The maps that the daemon writes and the programs read.
pub(super) struct PolicyMaps {
    ports: Entries<u32, layout::PortEntry>,
    slots: Array<MapData, Wire<layout::SlotEntry>>,
    places: Trie<[u8; 16], layout::PlaceEntry>,
    rules: Trie<layout::RuleKey, u32>,
    services: Trie<layout::ServiceKey, layout::ServiceEntry>,
}

impl PolicyMaps {
    /// Takes the maps out of a freshly loaded object.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, Error> {
        Ok(Self {
            ports: take(ebpf, layout::PORTS)?,
            slots: take(ebpf, layout::SLOTS)?,
            places: take(ebpf, layout::PLACES)?,
            rules: take(ebpf, layout::RULES)?,
            services: take(ebpf, layout::SERVICES)?,
        })
    }

    /// Each map with its name.
    pub(super) fn each(&self) -> [(&'static str, &MapData); 5] {
        [
            (layout::PORTS, self.ports.map()),
            (layout::SLOTS, self.slots.map()),
            (layout::PLACES, self.places.map()),
            (layout::RULES, self.rules.map()),
            (layout::SERVICES, self.services.map()),
        ]
    }

    /// Writes what `new` has and `old` has not, what is referred to before what refers to it: flows are
    /// asked again when the slots' generation changes, and then all else is there.
    pub(super) fn write_changed(&mut self, old: &Plan, new: &Plan) -> Result<(), Error> {
        for (key, entry) in changed(&old.services, &new.services) {
            let written = self.services.insert(&trie_key(*key), Wire(*entry), 0);
            written.map_err(|source| Error::map(layout::SERVICES, source))?;
        }
        for (key, set) in changed(&old.rules, &new.rules) {
            let written = self.rules.insert(&trie_key(*key), Wire(*set), 0);
            written.map_err(|source| Error::map(layout::RULES, source))?;
        }
        for (prefix, entry) in changed(&old.places, &new.places) {
            let written = self.places.insert(&place_key(*prefix), Wire(*entry), 0);
            written.map_err(|source| Error::map(layout::PLACES, source))?;
        }
        for (id, entry) in changed(&old.slots, &new.slots) {
            let written = self.slots.set(u32::from(*id), Wire(*entry), 0);
            written.map_err(|source| Error::map(layout::SLOTS, source))?;
        }
        for (index, port) in changed(&old.ports, &new.ports) {
            let written = self.ports.insert(Wire(*index), Wire(*port), 0);
            written.map_err(|source| Error::map(layout::PORTS, source))?;
        }
        Ok(())
    }

    /// Removes what `old` has and `new` has not, in the opposite order.
    pub(super) fn remove_stale(&mut self, old: &Plan, new: &Plan) -> Result<(), Error> {
        for index in gone(&old.ports, &new.ports) {
            tolerate_absent(self.ports.remove(&Wire(*index)))
                .map_err(|source| Error::map(layout::PORTS, source))?;
        }
        for id in gone(&old.slots, &new.slots) {
            let cleared = self.slots.set(u32::from(*id), Wire(layout::SlotEntry::EMPTY), 0);
            cleared.map_err(|source| Error::map(layout::SLOTS, source))?;
        }
        for prefix in gone(&old.places, &new.places) {
            tolerate_absent(self.places.remove(&place_key(*prefix)))
                .map_err(|source| Error::map(layout::PLACES, source))?;
        }
        for key in gone(&old.rules, &new.rules) {
            tolerate_absent(self.rules.remove(&trie_key(*key)))
                .map_err(|source| Error::map(layout::RULES, source))?;
        }
        for key in gone(&old.services, &new.services) {
            tolerate_absent(self.services.remove(&trie_key(*key)))
                .map_err(|source| Error::map(layout::SERVICES, source))?;
        }
        Ok(())
    }
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

fn place_key(prefix: Prefix) -> Key<[u8; 16]> {
    Key::new(prefix.length, prefix.address.0)
}

fn trie_key<K: aya::Pod>((data, length): TrieKey<K>) -> Key<K> {
    Key::new(length, data)
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
