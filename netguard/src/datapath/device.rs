//! What a pinned link really holds: which program, on which interface. A pin's name says where it was made; devices are
//! renamed and made anew, and who has the rights can change or end a link behind its pin.

use std::{io, os::fd::AsRawFd as _, path::Path};

use super::{
    filter::Side,
    sys::{bpf, open},
};

/// Numbers of include/uapi/linux/bpf.h.
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_LINK_DETACH: libc::c_int = 34;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;
/// As many as one chain holds (`BPF_MPROG_MAX` in include/linux/bpf_mprog.h).
const PROGRAMS_MAX: usize = 64;

/// The part of `union bpf_attr` that BPF_OBJ_GET_INFO_BY_FD reads.
#[repr(C)]
struct GetInfo {
    fd: u32,
    length: u32,
    info: u64,
}

/// The part of `union bpf_attr` that BPF_LINK_DETACH reads.
#[repr(C)]
struct LinkDetach {
    fd: u32,
}

/// The part of `union bpf_attr` that BPF_PROG_QUERY reads and writes.
#[derive(Default)]
#[repr(C)]
struct ProgramQuery {
    ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    program_ids: u64,
    count: u32,
    _padding: u32,
    program_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// The part of `struct bpf_link_info` that links of interfaces have in common (`xdp`, `tcx`).
#[derive(Default)]
#[repr(C)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program_id: u32,
    _padding: u32,
    ifindex: u32,
    _rest: [u32; 11],
}

/// What a link holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    /// The kernel's number of the link.
    pub(super) id: u32,
    /// The number of the interface; 0 if that is gone, or the link was detached.
    pub(super) ifindex: u32,
    /// The kernel's number of the program.
    pub(super) program_id: u32,
}

/// What the link at `pin` holds; `None` if there is no such pin. aya keeps the interface to itself.
pub(super) fn held_by(pin: &Path) -> io::Result<Option<Held>> {
    let Some(link) = open(pin, 0)? else { return Ok(None) };
    let mut info = LinkInfo::default();
    let mut request = GetInfo {
        fd: link.as_raw_fd().cast_unsigned(),
        length: size_of::<LinkInfo>() as u32,
        info: &raw mut info as u64,
    };
    // SAFETY: the kernel writes at most as many bytes as the length says into `info`, which outlives the call; any bytes
    // are numbers.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut request)? };
    Ok(Some(Held { id: info.id, ifindex: info.ifindex, program_id: info.program_id }))
}

/// The number of the interface that the link at `pin` is on, as in [`Held`].
pub(super) fn ifindex_of(pin: &Path) -> io::Result<Option<u32>> {
    Ok(held_by(pin)?.map(|held| held.ifindex))
}

/// Takes the program of a pinned link off its interface, as anybody with the rights can, behind the pin's back.
///
/// # Errors
///
/// There is no such pin, or the kernel refuses.
pub fn detach_pinned(pin: &Path) -> io::Result<()> {
    let link = open(pin, 0)?.ok_or(io::ErrorKind::NotFound)?;
    let mut request = LinkDetach { fd: link.as_raw_fd().cast_unsigned() };
    // SAFETY: the request holds no pointers.
    unsafe { bpf(BPF_LINK_DETACH, &mut request) }.map(drop)
}

/// The number of the program that TC runs first on one side of an interface, where it has tcx.
pub(super) fn first_program(ifindex: u32, side: Side) -> io::Result<Option<u32>> {
    Ok(programs(ifindex, side)?.first().copied())
}

/// The numbers of the programs that TC runs by links on one side of an interface, in their order.
pub(super) fn programs(ifindex: u32, side: Side) -> io::Result<Vec<u32>> {
    let mut programs = [0_u32; PROGRAMS_MAX];
    let mut request = ProgramQuery {
        ifindex,
        attach_type: match side {
            Side::Ingress => BPF_TCX_INGRESS,
            Side::Egress => BPF_TCX_EGRESS,
        },
        query_flags: 0,
        attach_flags: 0,
        program_ids: programs.as_mut_ptr() as u64,
        count: PROGRAMS_MAX as u32,
        ..ProgramQuery::default()
    };
    // SAFETY: the kernel writes at most as many numbers as the count says to `programs`, which outlives the call, and
    // what it answers into the request itself.
    unsafe { bpf(BPF_PROG_QUERY, &mut request)? };
    Ok(programs.into_iter().take(request.count as usize).collect())
}
