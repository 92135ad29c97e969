//! The kernel's map of pinned addresses, written for the resolver. No pins of this file are pins of bpffs.

use std::{
    io,
    sync::{Mutex, PoisonError},
};

use aya::maps::{HashMap, MapData, MapError};
use netguard_common::{
    maps::{PINS, PINS_MAX},
    pin::{PinEntry, PinKey},
};
use netguard_dns::PinMap;

use super::{
    Error,
    maps::{Wire, tolerate_absent},
    pins::PinDirectory,
    view,
};

type Map = HashMap<MapData, Wire<PinKey>, Wire<PinEntry>>;

/// Writes the map; may be shared by threads.
pub struct PinWriter {
    map: Mutex<Map>,
}

impl PinWriter {
    pub(super) fn new(map: Map) -> Self {
        Self { map: Mutex::new(map) }
    }

    /// Opens the map of an instance, which need not be this process's.
    ///
    /// # Errors
    ///
    /// The instance has no pins, or this process may not write them.
    pub fn open(pins: &PinDirectory) -> Result<Self, Error> {
        view::open(pins, PINS).map(Self::new)
    }

    /// Everything that the map holds, by slot and address; also what is over.
    ///
    /// # Errors
    ///
    /// The kernel refuses to read it.
    pub fn entries(&self) -> Result<Vec<(PinKey, PinEntry)>, Error> {
        self.with(|map| entries(map))
    }

    /// A thread that panicked here has left nothing half done: each change is one system call.
    fn with<T>(&self, use_it: impl FnOnce(&mut Map) -> T) -> T {
        use_it(&mut self.map.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl PinMap for PinWriter {
    fn put(&self, key: &PinKey, entry: &PinEntry) -> io::Result<()> {
        self.with(|map| map.insert(Wire(*key), Wire(*entry), 0)).map_err(cause)
    }

    fn remove(&self, key: &PinKey) -> io::Result<()> {
        self.with(|map| tolerate_absent(map.remove(&Wire(*key)))).map_err(cause)
    }
}

/// The entries by slot and address. The map may change meanwhile; then the kernel may begin anew, so what comes
/// twice is taken once, and as many steps are made as a full map has entries.
pub(super) fn entries(map: &Map) -> Result<Vec<(PinKey, PinEntry)>, Error> {
    let mut entries: Vec<_> = map
        .iter()
        .take(PINS_MAX as usize)
        .map(|entry| entry.map(|(key, value)| (key.0, value.0)))
        .collect::<Result<_, _>>()
        .map_err(|source| Error::map(PINS, source))?;
    entries.sort_by_key(|(key, _)| (key.slot_id, key.address));
    entries.dedup_by_key(|(key, _)| *key);
    Ok(entries)
}

/// The kernel's own words.
fn cause(error: MapError) -> io::Error {
    match error {
        MapError::SyscallError(error) => error.io_error,
        other => io::Error::other(other),
    }
}
