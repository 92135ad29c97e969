//! The memory of an array that programs read and write meanwhile.

use std::{
    io,
    ops::Deref,
    os::fd::{AsFd as _, AsRawFd as _},
    ptr::{self, NonNull},
};

use aya::maps::{MapData, MapError};

use super::Error;

/// The memory of a map, whose entries consist of atomics.
pub(super) struct Mapped<T> {
    entries: NonNull<T>,
    count: usize,
}

// SAFETY: the memory belongs to no thread, and is read and written by atomics only.
unsafe impl<T: Sync> Send for Mapped<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Mapped<T> {}

impl<T> Mapped<T> {
    /// Of a map whose entries are as long as `T`.
    pub(super) fn of(name: &'static str, map: &MapData) -> Result<Self, Error> {
        let failed = |source| Error::map(name, source);
        let info = map.info().map_err(failed)?;
        let count = info.max_entries() as usize;
        if info.value_size() as usize != size_of::<T>() {
            let other = io::Error::other("it has entries of another length");
            return Err(failed(MapError::IoError(other)));
        }
        let (length, rights) = (count * size_of::<T>(), libc::PROT_READ | libc::PROT_WRITE);
        let fd = map.fd().as_fd().as_raw_fd();
        // SAFETY: memory of the kernel's choice, of the map and no longer than it.
        let memory =
            unsafe { libc::mmap(ptr::null_mut(), length, rights, libc::MAP_SHARED, fd, 0) };
        match NonNull::new(memory) {
            Some(memory) if memory.as_ptr() != libc::MAP_FAILED => {
                Ok(Self { entries: memory.cast(), count })
            }
            _ => Err(failed(MapError::IoError(io::Error::last_os_error()))),
        }
    }
}

impl<T> Deref for Mapped<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: so many entries have been mapped, at the start of a page, and stay until this is dropped. The kernel
        // changes them word by word, as atomics allow.
        unsafe { std::slice::from_raw_parts(self.entries.as_ptr(), self.count) }
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: what `of` has mapped, and nobody borrows any more.
        unsafe { libc::munmap(self.entries.as_ptr().cast(), self.count * size_of::<T>()) };
    }
}
