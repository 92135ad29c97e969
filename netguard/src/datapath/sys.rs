//! bpf(2) itself, for what aya does not offer.

use std::io;

/// One call.
///
/// # Safety
///
/// `T` is the part of `union bpf_attr` that the command reads and writes, and its pointers are valid for what the
/// command does.
pub(super) unsafe fn bpf<T>(command: libc::c_int, request: &mut T) -> io::Result<i32> {
    let size = size_of::<T>();
    // SAFETY: the request is valid for its own size; the rest is the caller's.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *request, size) };
    i32::try_from(result).ok().filter(|it| *it >= 0).ok_or_else(io::Error::last_os_error)
}
