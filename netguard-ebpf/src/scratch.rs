//! Per-CPU memory for what the 512 bytes of a program's stack cannot hold as well (Linux 6.1 counts every
//! call in whole 32 bytes). Each field belongs to the one function that writes it before it reads it.

use aya_ebpf::{
    bindings::{bpf_fib_lookup, bpf_sock_tuple},
    btf_maps::PerCpuArray,
    macros::btf_map,
};
use netguard_common::{DropReason, flow::FlowKey, maps::DnsFlow, translation::Outside};

use crate::{
    clock,
    denial::Answer,
    fast_path::Departure,
    frame::Frame,
    icmp::{Quote, Quoted},
    names::Question,
    packet::{self, IS_ARP, IS_IP, Packet},
    reach::Attempt,
    routing::{KNOWN, Known},
};

#[repr(C)]
pub struct Scratch {
    pub packet: Packet,
    pub attempt: Attempt,
    pub flow_key: FlowKey,
    pub quote: Quote,
    pub quoted: Quoted,
    pub lookup: bpf_fib_lookup,
    pub dns_flow: DnsFlow,
    /// `CLOCK_MONOTONIC` in nanoseconds when the program began, as of the last tick.
    pub now_ns: u64,
    flow_index: u32,
    best: Candidate,
    /// The port outside that is tried for a flow.
    pub outside_port: u16,
    /// A flow as it looks outside, or would.
    pub outside: Outside,
    /// Somebody else's connection as it is known without us.
    pub own: Outside,
    pub tuple: bpf_sock_tuple,
    pub departure: Departure,
    pub known: [Known; KNOWN],
    /// Last, because nothing of them is every packet's.
    pub answer: Answer,
    pub question: Question,
}

/// An entry of the table of flows that a new flow may take.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Candidate {
    pub index: u32,
    /// The lowest is the best; `u64::MAX` may not be taken.
    pub rank: u64,
    /// How the entry stood when it was looked at, as a word.
    pub standing: u64,
}

#[btf_map]
static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

/// This CPU's scratch memory, for as long as the program runs. Who asks for it again finds what was written.
#[inline(always)]
pub fn memory() -> Result<&'static mut Scratch, DropReason> {
    let scratch = SCRATCH.get_ptr_mut(0).ok_or(DropReason::Internal)?;
    // SAFETY: the memory is this CPU's own, programs of one hook do not nest on a CPU, and no program
    // uses two of these at a time. All fields are valid for every bit pattern that the programs write.
    Ok(unsafe { &mut *scratch })
}

impl Scratch {
    /// Reads the frame's headers and the clock; true for IP, false for ARP.
    #[inline(always)]
    pub fn parse<F: Frame>(&mut self, frame: &F) -> Result<bool, DropReason> {
        self.now_ns = clock::coarse_ns();
        match parse_apart(frame, &mut self.packet) {
            IS_IP => Ok(true),
            IS_ARP => Ok(false),
            reason => {
                Err(DropReason::from_raw((reason >> 8) as u8).unwrap_or(DropReason::Internal))
            }
        }
    }

    /// Where in the table the packet's flow stands.
    ///
    /// Read back from memory on purpose: the verifier knows every value that a register can have from the
    /// search's eight ways, and would walk the rest of the program once for each (Linux 6.1 to 6.18).
    #[inline(always)]
    pub fn flow_index(&self) -> u32 {
        // SAFETY: a reference is valid for reads.
        unsafe { (&raw const self.flow_index).read_volatile() }
    }

    /// Kept in memory for the same reason: each of eight entries may be the best.
    #[inline(always)]
    pub fn best(&self) -> Candidate {
        // SAFETY: a reference is valid for reads.
        unsafe { (&raw const self.best).read_volatile() }
    }

    #[inline(always)]
    pub fn set_best(&mut self, best: Candidate) {
        // SAFETY: a mutable reference is valid for writes.
        unsafe { (&raw mut self.best).write_volatile(best) };
    }

    #[inline(always)]
    pub fn set_flow_index(&mut self, index: u32) {
        // SAFETY: a mutable reference is valid for writes.
        unsafe { (&raw mut self.flow_index).write_volatile(index) };
    }
}

/// A function of its own in BPF too: see the stack above. Those return one register.
#[inline(never)]
fn parse_apart<F: Frame>(frame: &F, packet: &mut Packet) -> u32 {
    match packet::parse(frame, packet) {
        Ok(what) => what,
        Err(reason) => (reason as u32) << 8,
    }
}
