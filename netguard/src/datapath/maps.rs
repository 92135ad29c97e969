//! The policy maps, typed: from a [`Plan`] to entries.

use aya::{
    Ebpf,
    maps::{HashMap, IterableMap as _, LpmTrie, Map, MapData, MapError, lpm_trie::Key},
};
use netguard_common::maps::{self as layout, Layout};

use super::Error;
use crate::policy::{Plan, Prefix};

/// A shared layout as aya wants it.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Wire<T: Layout>(pub(super) T);

// SAFETY: `Layout` promises plain old data that is valid for every bit pattern, and the wrapper is
// transparent.
unsafe impl<T: Layout> aya::Pod for Wire<T> {}

type Entries<K, V> = HashMap<MapData, Wire<K>, Wire<V>>;

/// The maps that the daemon writes and the programs read.
pub(super) struct PolicyMaps {
    ports: Entries<u32, layout::PortEntry>,
    slots: Entries<u16, layout::SlotEntry>,
    places: LpmTrie<MapData, [u8; 16], Wire<layout::PlaceEntry>>,
}

impl PolicyMaps {
    /// Takes the maps out of a freshly loaded object.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, Error> {
        Ok(Self {
            ports: take(ebpf, layout::PORTS)?,
            slots: take(ebpf, layout::SLOTS)?,
            places: take(ebpf, layout::PLACES)?,
        })
    }

    /// Each map with its name.
    pub(super) fn each(&self) -> [(&'static str, &MapData); 3] {
        [
            (layout::PORTS, self.ports.map()),
            (layout::SLOTS, self.slots.map()),
            (layout::PLACES, self.places.map()),
        ]
    }

    /// Writes what `new` has and `old` has not, places and slots before the ports that lead to
    /// them.
    pub(super) fn write_changed(&mut self, old: &Plan, new: &Plan) -> Result<(), Error> {
        for (prefix, entry) in &new.places {
            if old.places.get(prefix) != Some(entry) {
                self.places
                    .insert(&key(*prefix), Wire(*entry), 0)
                    .map_err(|source| Error::map(layout::PLACES, source))?;
            }
        }
        for (id, entry) in &new.slots {
            if old.slots.get(id) != Some(entry) {
                self.slots
                    .insert(Wire(*id), Wire(*entry), 0)
                    .map_err(|source| Error::map(layout::SLOTS, source))?;
            }
        }
        for (index, port) in &new.ports {
            if old.ports.get(index) != Some(port) {
                self.ports
                    .insert(Wire(*index), Wire(*port), 0)
                    .map_err(|source| Error::map(layout::PORTS, source))?;
            }
        }
        Ok(())
    }

    /// Removes what `old` has and `new` has not, in the opposite order.
    pub(super) fn remove_stale(&mut self, old: &Plan, new: &Plan) -> Result<(), Error> {
        for index in old.ports.keys().filter(|index| !new.ports.contains_key(index)) {
            tolerate_absent(self.ports.remove(&Wire(*index)))
                .map_err(|source| Error::map(layout::PORTS, source))?;
        }
        for id in old.slots.keys().filter(|id| !new.slots.contains_key(id)) {
            tolerate_absent(self.slots.remove(&Wire(*id)))
                .map_err(|source| Error::map(layout::SLOTS, source))?;
        }
        for prefix in old.places.keys().filter(|prefix| !new.places.contains_key(prefix)) {
            tolerate_absent(self.places.remove(&key(*prefix)))
                .map_err(|source| Error::map(layout::PLACES, source))?;
        }
        Ok(())
    }
}

fn key(prefix: Prefix) -> Key<[u8; 16]> {
    Key::new(prefix.length, prefix.address.0)
}

fn take<T: TryFrom<Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<T, Error> {
    let map = ebpf.take_map(name).ok_or(Error::Object(name))?;
    T::try_from(map).map_err(|source| Error::map(name, source))
}

/// Removing an entry that is not there leaves what was asked for.
fn tolerate_absent(result: Result<(), MapError>) -> Result<(), MapError> {
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
