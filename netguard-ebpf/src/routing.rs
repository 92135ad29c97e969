//! Where the host's own routing would take a packet.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_FWD_DISABLED, BPF_FIB_LKUP_RET_NO_NEIGH,
        BPF_FIB_LKUP_RET_NOT_FWDED, BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup as Lookup,
        bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1,
    },
    helpers::{bpf_check_mtu, bpf_fib_lookup},
    programs::TcContext,
};

use netguard_common::Address;

use crate::{
    scratch::Scratch,
    words::{put_address, put_words},
};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Where a packet goes that comes up from a bridge; of all but the first two [`Scratch::lookup`] says nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// Out by an interface, to a neighbour that is known.
    Found,
    /// The same, to one that must be looked for.
    NoNeighbour,
    /// It is longer than what that way carries.
    TooLong,
    /// The host takes it for itself, or has no way for it: the kernel's answer is the same.
    Local,
    /// Nowhere: the host answers or drops it.
    Refused,
}

/// True if the host would take the packet for itself when it comes up from the bridge.
///
/// No list of addresses can know that: a host also listens on every broadcast address, on every
/// subnet's anycast address (RFC 4291 section 2.6.1), and on addresses that it was given while no
/// daemon ran. The kernel's routing tables do know. Where the host has no route, or forwards nothing,
/// the answer is the same: there is no way but to the host.
#[inline(always)]
pub fn is_local(ctx: &TcContext, bridge_ifindex: u32, scratch: &mut Scratch) -> bool {
    is_known(scratch, bridge_ifindex) == 0 && find(ctx, bridge_ifindex, scratch, 0) == Route::Local
}

/// A way that the kernel has told on this CPU, as good as the answer until the clock's next tick: a route that changes counts some
/// milliseconds later.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Known {
    src: Address,
    dst: Address,
    /// [`Scratch::now_ns`] when it was told; nothing is known where it is 0.
    told_ns: u64,
    bridge_ifindex: u32,
    /// The longest packet that was asked about.
    length: u32,
    way: Way,
}

/// Where a packet leaves.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Way {
    pub ifindex: u32,
    pub next_hop: bpf_redir_neigh,
    /// The Ethernet addresses of the next hop and of the interface, where the neighbour is known.
    pub addresses: [u32; 3],
    /// 1 if the kernel has told all of it for an earlier packet: by that one it knows that the neighbour is still asked for.
    pub is_known: u32,
}

/// How many ways are remembered; a power of two.
pub const KNOWN: usize = 32;

/// Where a packet of that length leaves that comes up from a bridge, by what is known or by asking.
#[inline(always)]
pub fn way(
    ctx: &TcContext,
    bridge_ifindex: u32,
    scratch: &mut Scratch,
    length: u32,
) -> (Route, Way) {
    if is_known(scratch, bridge_ifindex) == 1 {
        let known = &scratch.known[place(scratch)];
        if length <= known.length {
            return (Route::Found, Way { is_known: 1, ..known.way });
        }
    }
    let route = find(ctx, bridge_ifindex, scratch, length);
    let way = Way {
        ifindex: scratch.lookup.ifindex,
        next_hop: next_hop(&scratch.lookup),
        addresses: addresses(&scratch.lookup),
        is_known: 0,
    };
    if route == Route::Found {
        let (src, dst) = (scratch.packet.src.words(), scratch.packet.dst.words());
        let told_ns = scratch.now_ns;
        let known = &mut scratch.known[place(scratch)];
        put_address(&mut known.src, src);
        put_address(&mut known.dst, dst);
        known.told_ns = told_ns;
        known.bridge_ifindex = bridge_ifindex;
        known.length = length;
        known.way = way;
    }
    (route, way)
}

/// 1 if something is. A function of its own in BPF too, for its stack.
#[inline(never)]
fn is_known(scratch: &Scratch, bridge_ifindex: u32) -> u32 {
    let known = &scratch.known[place(scratch)];
    let is_same = |one: Address, other: Address| {
        let ([a, b], [c, d]) = (one.words(), other.words());
        (a ^ c) | (b ^ d) == 0
    };
    let is_known = known.told_ns == scratch.now_ns
        && known.bridge_ifindex == bridge_ifindex
        && is_same(known.dst, scratch.packet.dst)
        && is_same(known.src, scratch.packet.src);
    is_known.into()
}

#[inline(always)]
fn place(scratch: &Scratch) -> usize {
    let ([a, b], [c, d]) = (scratch.packet.dst.words(), scratch.packet.src.words());
    let mixed = (a ^ b ^ c ^ d).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 32) as usize & (KNOWN - 1)
}

/// Asks the kernel's routing. `length` is the packet's from the IP header on; 0 asks of any.
#[inline(always)]
fn find(ctx: &TcContext, bridge_ifindex: u32, scratch: &mut Scratch, length: u32) -> Route {
    let packet = &scratch.packet;
    // SAFETY: an all-zero lookup is a valid one, the unions that are written are plain integers, and the
    // helper gets the structure's size.
    let answer = unsafe {
        let lookup = &raw mut scratch.lookup;
        lookup.write_bytes(0, 1);
        (*lookup).ifindex = bridge_ifindex;
        (*lookup).l4_protocol = packet.protocol;
        (*lookup).__bindgen_anon_1.tot_len = length as u16;
        if packet.dst.is_v4() {
            (*lookup).family = AF_INET;
            (*lookup).__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(packet.src.v4_octets());
            (*lookup).__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(packet.dst.v4_octets());
        } else {
            (*lookup).family = AF_INET6;
            put_words((&raw mut (*lookup).__bindgen_anon_3.ipv6_src).cast(), packet.src);
            put_words((&raw mut (*lookup).__bindgen_anon_4.ipv6_dst).cast(), packet.dst);
        }
        bpf_fib_lookup(ctx.as_ptr(), lookup, size_of::<Lookup>() as i32, 0)
    };
    const FOUND: i64 = BPF_FIB_LKUP_RET_SUCCESS as i64;
    const NO_NEIGHBOUR: i64 = BPF_FIB_LKUP_RET_NO_NEIGH as i64;
    const TOO_LONG: i64 = BPF_FIB_LKUP_RET_FRAG_NEEDED as i64;
    const NOT_FORWARDED: i64 = BPF_FIB_LKUP_RET_NOT_FWDED as i64;
    const FORWARDS_NOTHING: i64 = BPF_FIB_LKUP_RET_FWD_DISABLED as i64;
    match answer {
        FOUND => Route::Found,
        NO_NEIGHBOUR => Route::NoNeighbour,
        TOO_LONG => Route::TooLong,
        // Negative: the bridge is gone, or has no addresses of this family.
        NOT_FORWARDED | FORWARDS_NOTHING | ..0 => Route::Local,
        _ => Route::Refused, // unreachable, prohibited, blackholed
    }
}

/// The neighbour that a found route leads to, of either family.
#[inline(always)]
fn next_hop(lookup: &Lookup) -> bpf_redir_neigh {
    // SAFETY: the helper has written the field of that family, and the longer one has the bytes of both.
    let ipv6_nh = unsafe { lookup.__bindgen_anon_4.ipv6_dst };
    bpf_redir_neigh {
        nh_family: lookup.family.into(),
        __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 { ipv6_nh },
    }
}

/// The Ethernet addresses that a frame to the neighbour bears.
#[inline(always)]
fn addresses(lookup: &Lookup) -> [u32; 3] {
    let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (lookup.dmac, lookup.smac);
    [[a, b, c, d], [e, f, g, h], [i, j, k, l]].map(u32::from_ne_bytes)
}

/// The longest packet of an interface; 0 if there is none such.
#[inline(always)]
pub fn mtu_of(ctx: &TcContext, ifindex: u32) -> u32 {
    let mut mtu = 0;
    // SAFETY: the helper writes one word.
    let _ = unsafe { bpf_check_mtu(ctx.as_ptr(), ifindex, &raw mut mtu, 0, 0) };
    mtu
}
