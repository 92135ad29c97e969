//! Many entries of a map in one call: a policy of many rules is written in less than half the time that single calls take, and
//! read for the watch in a third.

use std::{
    io, mem,
    os::fd::{AsFd as _, AsRawFd as _},
};

use aya::{
    Pod,
    maps::{MapData, MapError},
    sys::SyscallError,
};

use super::{Error, sys::bpf};

/// Numbers of include/uapi/linux/bpf.h.
const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;
const BPF_MAP_UPDATE_BATCH: libc::c_int = 26;
const BPF_MAP_DELETE_BATCH: libc::c_int = 27;

/// The part of `union bpf_attr` that batches read, and write the count of.
#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// So many entries are read at once: what a reader allocates for them stays small enough to be taken from its heap.
const AT_ONCE: u32 = 128;

/// The entries of a map, whose types must be the map's, read by the batch. What comes and goes meanwhile may be missed.
pub(super) struct Entries<'a, K, V> {
    map: &'a MapData,
    keys: Vec<K>,
    values: Vec<V>,
    /// Where the kernel goes on: a key, or the start of one. None before the first batch.
    next: Option<K>,
    /// How many of the batch are read, and how many it has.
    read: (usize, usize),
    is_last: bool,
}

/// Reads a map.
pub(super) fn entries<K: Pod, V: Pod>(map: &MapData) -> Entries<'_, K, V> {
    let (keys, values) = (Vec::new(), Vec::new());
    Entries { map, keys, values, next: None, read: (0, 0), is_last: false }
}

impl<K: Pod, V: Pod> Entries<'_, K, V> {
    fn read_batch(&mut self) -> Result<(), MapError> {
        let Self { map, keys, values, next, .. } = self;
        // SAFETY: plain old data of which every bit pattern is good.
        let (no_key, no_value): (K, V) = unsafe { (mem::zeroed(), mem::zeroed()) };
        keys.resize(AT_ONCE as usize, no_key);
        values.resize(AT_ONCE as usize, no_value);
        let mut goes_on = no_key;
        let mut request = Batch {
            in_batch: next.as_ref().map_or(0, |next| &raw const *next as u64),
            out_batch: &raw mut goes_on as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: AT_ONCE,
            map_fd: map.fd().as_fd().as_raw_fd().cast_unsigned(),
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: there is room for as many keys and values as the count says, of the map's own sizes as its typed owner has
        // checked, and for a key where the kernel goes on, which for a hash is a word; all of it outlives the call.
        let called = unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut request) };
        match called {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => self.is_last = true,
            Err(io_error) => {
                let call = "bpf_map_lookup_batch";
                return Err(MapError::SyscallError(SyscallError { call, io_error }));
            }
        }
        self.read = (0, request.count as usize);
        self.next = Some(goes_on);
        Ok(())
    }
}

impl<K: Pod, V: Pod> Iterator for Entries<'_, K, V> {
    type Item = Result<(K, V), MapError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.read.0 == self.read.1 {
            if self.is_last {
                return None;
            }
            if let Err(error) = self.read_batch() {
                self.is_last = true;
                return Some(Err(error));
            }
        }
        let entry = (*self.keys.get(self.read.0)?, *self.values.get(self.read.0)?);
        self.read.0 += 1;
        Some(Ok(entry))
    }
}

/// Writes entries, whose types must be the map's.
pub(super) fn put<K: Pod, V: Pod>(
    name: &'static str,
    map: &MapData,
    entries: impl Iterator<Item = (K, V)>,
) -> Result<(), Error> {
    let (keys, values): (Vec<_>, Vec<_>) = entries.unzip();
    if keys.is_empty() {
        return Ok(());
    }
    call(BPF_MAP_UPDATE_BATCH, map, &keys, &values)
        .map_err(|(_, error)| refused(name, "bpf_map_update_batch", error))
}

/// Removes the entries of some keys, whose type must be the map's. What is not there is as it should be.
pub(super) fn remove<K: Pod>(
    name: &'static str,
    map: &MapData,
    keys: impl Iterator<Item = K>,
) -> Result<(), Error> {
    let keys: Vec<_> = keys.collect();
    let mut rest = keys.as_slice();
    while !rest.is_empty() {
        match call::<K, u32>(BPF_MAP_DELETE_BATCH, map, rest, &[]) {
            Ok(()) => break,
            Err((done, error)) if error.raw_os_error() == Some(libc::ENOENT) => {
                rest = rest.get(done + 1..).unwrap_or_default();
            }
            Err((_, error)) => return Err(refused(name, "bpf_map_delete_batch", error)),
        }
    }
    Ok(())
}

/// Shows the entries of a hash map, whose types must be the map's.
pub(super) fn each<K: Pod + Default, V: Pod + Default>(
    name: &'static str,
    map: &MapData,
    mut visit: impl FnMut(K, V),
) -> Result<(), Error> {
    let mut next = some(name, map, None, &mut visit)?;
    while next.is_some() {
        next = some(name, map, next, &mut visit)?;
    }
    Ok(())
}

/// So many entries of a hash map are shown at once at most: more than any bucket has.
pub(super) const SOME: usize = 1 << 8;

/// Shows some of them, from the first one on or from where an earlier call has stopped. Returns where this one has; nothing behind
/// the last.
pub(super) fn some<K: Pod + Default, V: Pod + Default>(
    name: &'static str,
    map: &MapData,
    from: Option<Cursor>,
    mut visit: impl FnMut(K, V),
) -> Result<Option<Cursor>, Error> {
    let (mut keys, mut values) = (vec![K::default(); SOME], vec![V::default(); SOME]);
    let (mut at, mut end) = (from.unwrap_or_default(), Cursor::default());
    let mut request = Batch {
        in_batch: if from.is_some() { (&raw mut at) as u64 } else { 0 },
        out_batch: (&raw mut end) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: SOME as u32,
        map_fd: map.fd().as_fd().as_raw_fd().cast_unsigned(),
        elem_flags: 0,
        flags: 0,
    };
    // SAFETY: there is room for so many keys and values as the count says, of the map's own sizes as its typed owner has
    // checked, and for the cursors of a hash map; all of it outlives the call.
    let called = unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut request) };
    let is_last = match called {
        Ok(_) => false,
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
        Err(error) => return Err(refused(name, "bpf_map_lookup_batch", error)),
    };
    let found = keys.iter().zip(&values).take(request.count as usize);
    found.for_each(|(key, value)| visit(*key, *value));
    Ok((!is_last).then_some(end))
}

/// The kernel's own: where in a hash map a batch ends.
pub(super) type Cursor = u32;

/// What fails comes with the number of entries before it.
fn call<K: Pod, V: Pod>(
    command: libc::c_int,
    map: &MapData,
    keys: &[K],
    values: &[V],
) -> Result<(), (usize, io::Error)> {
    let mut request = Batch {
        in_batch: 0,
        out_batch: 0,
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: u32::try_from(keys.len()).map_err(|error| (0, io::Error::other(error)))?,
        map_fd: map.fd().as_fd().as_raw_fd().cast_unsigned(),
        elem_flags: 0,
        flags: 0,
    };
    // SAFETY: keys, and values where the command reads any, are as many as the count says, of the map's own sizes as
    // its typed owner has checked, and outlive the call, which reads them and writes the count.
    let called = unsafe { bpf(command, &mut request) };
    called.map(|_| ()).map_err(|error| (request.count as usize, error))
}

fn refused(name: &'static str, call: &'static str, io_error: io::Error) -> Error {
    Error::map(name, MapError::SyscallError(SyscallError { call, io_error }))
}
