//! When no program still runs that began before now: the kernel's own grace period (RCU), which every program's run
//! is part of.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    sync::Arc,
    thread::JoinHandle,
};

use super::sys::bpf;

/// Numbers of include/uapi/linux/bpf.h.
const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_MAP_TYPE_ARRAY_OF_MAPS: u32 = 12;

/// The part of `union bpf_attr` that BPF_MAP_CREATE reads.
#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
}

/// The part of `union bpf_attr` that BPF_MAP_UPDATE_ELEM reads.
#[repr(C)]
struct MapUpdate {
    map_fd: u64,
    key: u64,
    value: u64,
    flags: u64,
}

/// Waits for programs to end. No program uses its maps: of a map of maps the kernel promises that an update returns
/// only when no program still runs with what was there before (`maybe_wait_bpf_programs` in kernel/bpf/syscall.c,
/// Linux 4.20). membarrier(2) would wait too, but not on every machine: kernels with `nohz_full` refuse it.
pub(super) struct Grace {
    maps: Arc<Maps>,
    waiting: Option<JoinHandle<io::Result<()>>>,
}

struct Maps {
    outer: OwnedFd,
    inner: OwnedFd,
}

impl Grace {
    pub(super) fn new() -> io::Result<Self> {
        let inner = create(BPF_MAP_TYPE_ARRAY, 0)?;
        let outer = create(BPF_MAP_TYPE_ARRAY_OF_MAPS, inner.as_raw_fd().cast_unsigned())?;
        Ok(Self { maps: Arc::new(Maps { outer, inner }), waiting: None })
    }

    /// Returns when every program that began before has ended: milliseconds.
    pub(super) fn wait(&self) -> io::Result<()> {
        self.maps.wait()
    }

    /// Begins to do so on a thread of its own.
    pub(super) fn begin(&mut self) {
        let maps = Arc::clone(&self.maps);
        self.waiting = Some(std::thread::spawn(move || maps.wait()));
    }

    /// True if nothing is waited for any more.
    pub(super) fn is_over(&self) -> bool {
        self.waiting.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Returns when what was begun is over: milliseconds.
    pub(super) fn end(&mut self) -> io::Result<()> {
        match self.waiting.take().map(JoinHandle::join) {
            None | Some(Ok(Ok(()))) => Ok(()),
            // Then at least now.
            Some(_) => self.maps.wait(),
        }
    }
}

impl Maps {
    fn wait(&self) -> io::Result<()> {
        let key = 0_u32;
        let value = self.inner.as_raw_fd().cast_unsigned();
        let map_fd = u64::from(self.outer.as_raw_fd().cast_unsigned());
        let (key, value) = (&raw const key, &raw const value);
        let mut request = MapUpdate { map_fd, key: key as u64, value: value as u64, flags: 0 };
        // SAFETY: key and value are words, as the map was made for, and outlive the call, in which the kernel reads
        // them.
        unsafe { bpf(BPF_MAP_UPDATE_ELEM, &mut request) }.map(|_| ())
    }
}

/// A map of one word.
fn create(map_type: u32, inner_map_fd: u32) -> io::Result<OwnedFd> {
    let mut request = MapCreate {
        map_type,
        key_size: size_of::<u32>() as u32,
        value_size: size_of::<u32>() as u32,
        max_entries: 1,
        map_flags: 0,
        inner_map_fd,
    };
    // SAFETY: the request holds no pointers.
    let raw = unsafe { bpf(BPF_MAP_CREATE, &mut request)? };
    // SAFETY: the kernel has just given this descriptor to us and to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}
