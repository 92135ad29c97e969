//! Where the host's own routing would take a packet.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_FIB_LKUP_RET_FWD_DISABLED, BPF_FIB_LKUP_RET_NOT_FWDED, bpf_fib_lookup as Lookup,
    },
    helpers::bpf_fib_lookup,
    programs::TcContext,
};

use netguard_common::Address;

use crate::scratch::Scratch;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// True if the host would take the packet for itself when it comes up from the bridge.
///
/// No list of addresses can know that: a host also listens on every broadcast address, on every
/// subnet's anycast address (RFC 4291 section 2.6.1), and on addresses that it was given while no
/// daemon ran. The kernel's routing tables do know. Where the host has no route, or forwards nothing,
/// the answer is the same: there is no way but to the host.
#[inline(always)]
pub fn is_local(ctx: &TcContext, bridge_ifindex: u32, scratch: &mut Scratch) -> bool {
    let packet = &scratch.packet;
    // SAFETY: an all-zero lookup is a valid one, the unions that are written are plain integers, and the
    // helper gets the structure's size.
    let answer = unsafe {
        let lookup = &raw mut scratch.lookup;
        lookup.write_bytes(0, 1);
        (*lookup).ifindex = bridge_ifindex;
        (*lookup).l4_protocol = packet.protocol;
        if packet.dst.is_v4() {
            (*lookup).family = AF_INET;
            (*lookup).__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(packet.src.v4_octets());
            (*lookup).__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(packet.dst.v4_octets());
        } else {
            (*lookup).family = AF_INET6;
            put((&raw mut (*lookup).__bindgen_anon_3.ipv6_src).cast(), packet.src);
            put((&raw mut (*lookup).__bindgen_anon_4.ipv6_dst).cast(), packet.dst);
        }
        bpf_fib_lookup(ctx.as_ptr(), lookup, size_of::<Lookup>() as i32, 0)
    };
    // Negative: the bridge is gone, or has no addresses of this family.
    answer < 0
        || answer == i64::from(BPF_FIB_LKUP_RET_NOT_FWDED)
        || answer == i64::from(BPF_FIB_LKUP_RET_FWD_DISABLED)
}

/// Writes an address in network order, as the kernel wants it; by words, see `words`.
///
/// # Safety
///
/// `to` must be valid for writes of 16 bytes.
#[inline(always)]
unsafe fn put(to: *mut u32, address: Address) {
    for (index, word) in address.0.as_chunks::<4>().0.iter().enumerate() {
        // SAFETY: four words are 16 bytes; the rest is the caller's.
        unsafe { to.add(index).write_volatile(u32::from_ne_bytes(*word)) };
    }
}
