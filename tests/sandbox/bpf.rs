//! bpf(2), with no library between.

use std::{
    ffi::CString,
    os::fd::{FromRawFd as _, OwnedFd},
};

use nix::{errno::Errno, libc};

pub const MAP_CREATE: i32 = 0;
pub const PROG_LOAD: i32 = 5;
pub const OBJ_GET: i32 = 7;
pub const MAP_GET_NEXT_ID: i32 = 12;
pub const MAP_FREEZE: i32 = 22;

/// The first words of `union bpf_attr` (linux/bpf.h), which all commands here make do with.
#[repr(C, align(8))]
#[derive(Default)]
pub struct Attributes(pub [u64; 16]);

/// The answer, which some commands have a descriptor for.
pub fn call(command: i32, attributes: &Attributes) -> Result<i64, Errno> {
    // SAFETY: the attributes are as long as said, and live; what they point to lives in whoever calls.
    let answer = unsafe {
        libc::syscall(libc::SYS_bpf, command, &raw const attributes.0, size_of::<Attributes>())
    };
    Errno::result(answer)
}

/// An array of one number.
pub fn make_map() -> Result<OwnedFd, Errno> {
    const ARRAY: u64 = 2;
    let (key_size, value_size, entries) = (4, 4, 1);
    let attributes = Attributes([
        ARRAY | key_size << 32,
        value_size | entries << 32,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
    ]);
    let descriptor = call(MAP_CREATE, &attributes)?;
    // SAFETY: the kernel has just given it to this caller.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(descriptor).expect("a descriptor")) })
}

/// A socket filter that returns 0.
pub fn load_program() -> Result<i64, Errno> {
    const SOCKET_FILTER: u64 = 1;
    // r0 = 0; exit
    let steps: [u64; 2] = [0xb7, 0x95];
    let license = CString::new("GPL").expect("no zero");
    let mut attributes = Attributes::default();
    attributes.0[0] = SOCKET_FILTER | 2 << 32;
    attributes.0[1] = steps.as_ptr() as u64;
    attributes.0[2] = license.as_ptr() as u64;
    call(PROG_LOAD, &attributes)
}

/// The object that is pinned there.
pub fn open_pin(path: &str) -> Result<i64, Errno> {
    let path = CString::new(path).expect("no zero");
    let mut attributes = Attributes::default();
    attributes.0[0] = path.as_ptr() as u64;
    call(OBJ_GET, &attributes)
}
