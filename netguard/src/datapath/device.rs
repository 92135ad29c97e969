//! Which interface a pinned link is really on. A pin's name says where it was made; devices are renamed
//! and made anew.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

/// BPF_OBJ_GET (include/uapi/linux/bpf.h).
const BPF_OBJ_GET: libc::c_int = 7;

/// The part of `union bpf_attr` that BPF_OBJ_GET reads.
#[repr(C)]
struct ObjGet {
    path: u64,
    fd: u32,
    flags: u32,
}

/// The number of the interface that the link at `pin` is attached to; 0 if that interface is gone,
/// `None` if there is no such pin. aya keeps this part of a link's information to itself, but the
/// kernel prints it for every open link (`bpf_xdp_link_show_fdinfo`, `tcx_link_fdinfo`).
pub(super) fn ifindex_of(pin: &Path) -> io::Result<Option<u32>> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let request = ObjGet { path: path.as_ptr() as u64, fd: 0, flags: 0 };
    // SAFETY: the attribute's size is given, its path is a C string that outlives the call, and
    // the kernel writes nothing through either.
    let raw = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_OBJ_GET, &raw const request, size_of::<ObjGet>())
    };
    let Some(raw) = i32::try_from(raw).ok().filter(|raw| *raw >= 0) else {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::NotFound { Ok(None) } else { Err(error) };
    };
    // SAFETY: the kernel has just given this descriptor to us and to nobody else.
    let link = unsafe { OwnedFd::from_raw_fd(raw) };
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", link.as_raw_fd()))?;
    let ifindex = info.lines().find_map(|line| line.strip_prefix("ifindex:")?.trim().parse().ok());
    ifindex.map(Some).ok_or_else(|| io::Error::other("the pin is no link of an interface"))
}
