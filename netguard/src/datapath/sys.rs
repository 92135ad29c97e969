//! bpf(2) itself, for what aya does not offer.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

/// Number of include/uapi/linux/bpf.h.
const BPF_OBJ_GET: libc::c_int = 7;

/// The part of `union bpf_attr` that BPF_OBJ_GET reads.
#[repr(C)]
struct ObjGet {
    path: u64,
    fd: u32,
    flags: u32,
}

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

/// Opens what is pinned there, with the flags of BPF_OBJ_GET; `None` if there is no such pin.
pub(super) fn open(pin: &Path, flags: u32) -> io::Result<Option<OwnedFd>> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut request = ObjGet { path: path.as_ptr() as u64, fd: 0, flags };
    // SAFETY: the path is a C string that outlives the call, in which the kernel reads it.
    match unsafe { bpf(BPF_OBJ_GET, &mut request) } {
        // SAFETY: the kernel has just given this descriptor to us and to nobody else.
        Ok(raw) => Ok(Some(unsafe { OwnedFd::from_raw_fd(raw) })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
