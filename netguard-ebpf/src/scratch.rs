//! Per-CPU memory for what the 512 bytes of a program's stack cannot hold as well (Linux 6.1 counts every
//! call in whole 32 bytes). Each field belongs to the one function that writes it before it reads it.

use aya_ebpf::{bindings::bpf_fib_lookup, btf_maps::PerCpuArray, macros::btf_map};
use netguard_common::{
    DropReason,
    maps::{DnsFlow, FlowKey},
};

use crate::{
    frame::Frame,
    packet::{self, Packet, Parsed},
};

#[repr(C)]
pub struct Scratch {
    pub packet: Packet,
    pub lookup: bpf_fib_lookup,
    pub flow_key: FlowKey,
    pub dns_flow: DnsFlow,
}

#[btf_map]
static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

/// This CPU's scratch memory, for as long as the program runs.
#[inline(always)]
pub fn memory() -> Option<*mut Scratch> {
    SCRATCH.get_ptr_mut(0)
}

/// Reads the frame's headers into the scratch memory.
#[inline(always)]
pub fn parse<F: Frame>(frame: &F) -> Result<Parsed, DropReason> {
    let scratch = memory().ok_or(DropReason::Internal)?;
    // SAFETY: the memory is this CPU's own while the program runs, and who parses again has done
    // with what was parsed before.
    packet::parse(frame, unsafe { &mut (*scratch).packet })
}
