//! The kernel's counters of drops for a process that may only read them, and sees no files: aya reads the number of processors
//! from one whenever it looks at such a map.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    sync::LazyLock,
};

use netguard_common::maps::{COUNTERS, CounterKey, DropCounter};

use super::{
    Error,
    pins::PinDirectory,
    sys::{bpf, open},
};

/// Numbers of include/uapi/linux/bpf.h.
const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
const BPF_F_RDONLY: u32 = 1 << 3;

/// The part of `union bpf_attr` that BPF_MAP_LOOKUP_ELEM reads.
#[repr(C)]
struct Lookup {
    map: u32,
    _padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The map of an instance, by a descriptor that writes nothing.
pub(super) fn open_to_read(pins: &PinDirectory) -> Result<OwnedFd, Error> {
    let path = pins.map(COUNTERS);
    let opened = open(&path, BPF_F_RDONLY).and_then(|it| it.ok_or(io::ErrorKind::NotFound.into()));
    opened.map_err(|error| Error::pin("open", path, error))
}

/// How many processors the host may ever have, which is how many values an entry has; 0 if the host does not say.
#[must_use]
pub fn processors() -> usize {
    static PROCESSORS: LazyLock<usize> = LazyLock::new(|| aya::util::nr_cpus().unwrap_or(0));
    *PROCESSORS
}

/// What the programs have counted of drops.
pub struct DropCounters {
    map: OwnedFd,
    processors: usize,
}

impl DropCounters {
    /// `processors` are those that [`processors`] has counted.
    pub(super) fn new(map: OwnedFd, processors: usize) -> Self {
        Self { map, processors }
    }

    /// What was counted on a processor; none if nothing ever was.
    #[must_use]
    pub fn on(&self, processor: u16, key: &CounterKey) -> Option<DropCounter> {
        let mut values = vec![DropCounter::default(); self.processors];
        let mut request = Lookup {
            map: self.map.as_raw_fd().cast_unsigned(),
            _padding: 0,
            key: &raw const *key as u64,
            value: values.as_mut_ptr() as u64,
            flags: 0,
        };
        if values.is_empty() {
            return None; // nobody knows how much the kernel would write
        }
        // SAFETY: the kernel reads one key and writes one value for each processor, whose size is a multiple of 8 bytes; both
        // outlive the call, and any bytes are numbers.
        unsafe { bpf(BPF_MAP_LOOKUP_ELEM, &mut request) }.ok()?;
        values.get(usize::from(processor)).copied()
    }
}
