//! What flows on the fast path look like outside: a port of the uplink's address for each, which its answers find it by.
//!
//! A flow's port follows from the guest's own, so that one socket of a guest looks the same to everybody (RFC 4787 REQ-1). Where
//! that is taken the next ones are tried, and where a few are the flow takes the slow path: no slot can fill anything that
//! another one needs.

use aya_ebpf::{
    EbpfContext as _,
    bindings::BPF_F_CURRENT_NETNS,
    helpers::{bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp},
    programs::TcContext,
};
use netguard_common::{
    maps::UplinkEntry,
    translation::{
        NAT_WAYS, Outside, Translation, nat_flow, nat_matches, nat_place, nat_word, next_port,
        port_bit, preferred_port,
    },
};

use crate::{
    atomic, flows,
    maps::{ELSEWHERE, ELSEWHERE_PORTS, NAT},
    packet::TCP,
    scratch::Scratch,
    words::put_words,
};

/// How many ports are tried for a flow.
const TRIES: u32 = 6;

/// The translation of the flow of that number.
#[inline(always)]
pub fn of_flow(index: u32) -> Option<*mut Translation> {
    // SAFETY: see `Entry`.
    flows::at(index).map(|entry| unsafe { &raw mut (*entry.flow).translation })
}

/// Gives the flow at [`Scratch::flow_index`], whose key is in the scratch memory, a port outside. 1 if it has one now. A function of its
/// own in BPF too, for its stack.
#[inline(never)]
pub fn assign(ctx: &TcContext, scratch: &mut Scratch, uplink: &UplinkEntry) -> u32 {
    let index = scratch.flow_index();
    let Some(translation) = of_flow(index) else { return 0 };
    scratch.outside_port = preferred_port(&scratch.flow_key);
    let mut tried = 0;
    // Counted at its end, for Linux 6.1: see `dns_flows::acquire`.
    loop {
        // SAFETY: the entry stays writable for the whole program, and is this flow's alone.
        unsafe {
            (*translation).port_be = scratch.outside_port.to_be();
            scratch.outside = Outside::of(&scratch.flow_key, &*translation);
        }
        if is_free_elsewhere(ctx, scratch, uplink) == 1
            && claim(&scratch.outside, index, uplink.nat_mask, scratch.now_ns) == 1
        {
            return 1;
        }
        scratch.outside_port = next_port(scratch.outside_port);
        tried += 1;
        if tried == TRIES {
            break;
        }
    }
    // SAFETY: as above.
    unsafe { (*translation).port_be = 0 };
    0
}

/// Puts the flow where its answers find it, unless another one is known by the same there.
#[inline(never)]
fn claim(outside: &Outside, index: u32, mask: u32, now_ns: u64) -> u32 {
    let hash = outside.hash();
    let own = nat_word(hash, index);
    let mut free = NAT_WAYS;
    let mut number = 0;
    loop {
        let word = word_at(nat_place(mask, hash, number));
        if word == own {
            return 1; // of this flow's earlier life
        }
        // Only of a word that bears the tag the flow itself is looked at: it is somewhere else in memory.
        if nat_matches(word, hash) && hash_of(nat_flow(word), now_ns) == hash {
            return 0;
        }
        if word == 0 {
            free = number;
        }
        number += 1;
        if number == NAT_WAYS {
            break;
        }
    }
    if free == NAT_WAYS {
        free = stale(hash, mask, now_ns);
    }
    if free == NAT_WAYS {
        return 0; // what lives has no place to give
    }
    let at = nat_place(mask, hash, free);
    let there = word_at(at);
    let Some(word) = NAT.get_ptr_mut(at) else { return 0 };
    // SAFETY: an aligned word of the map.
    unsafe { atomic::replace(word, there, own) }.into()
}

/// A word of a bucket that leads to no flow which lives and looks like that; [`NAT_WAYS`] if there is none.
#[inline(never)]
fn stale(hash: u64, mask: u32, now_ns: u64) -> u32 {
    let mut number = 0;
    loop {
        // Not always the same one first.
        let way = (number ^ (hash >> 29) as u32) & (NAT_WAYS - 1);
        let word = word_at(nat_place(mask, hash, way));
        let known = hash_of(nat_flow(word), now_ns);
        if known == 0 || nat_word(known, nat_flow(word)) != word {
            return way;
        }
        number += 1;
        if number == NAT_WAYS {
            break;
        }
    }
    NAT_WAYS
}

#[inline(always)]
fn word_at(place: u32) -> u64 {
    // SAFETY: an aligned word of the map, which stays valid for the whole program.
    NAT.get_ptr(place).map_or(0, |word| unsafe { word.read_volatile() })
}

/// The hash of what the flow of that number looks like outside; 0 if it does not live, or has no such looks.
#[inline(never)]
fn hash_of(index: u32, now_ns: u64) -> u64 {
    let Some(entry) = flows::at(index) else { return 0 };
    // In this order: most that is asked for here is over.
    if entry.head().is_over(now_ns) {
        return 0;
    }
    // SAFETY: see `Entry`; whoever changes it meanwhile makes another flow of it, and the worst that comes of it is a port that
    // is not taken.
    let flow = unsafe { &*entry.flow };
    if flow.translation.port_be == 0 {
        return 0;
    }
    Outside::of(&flow.key, &flow.translation).hash()
}

/// The number of the flow that an answer is for; `u32::MAX` if it is for none.
#[inline(never)]
pub fn find(outside: &Outside, mask: u32, now_ns: u64) -> u32 {
    let hash = outside.hash();
    let mut number = 0;
    loop {
        let word = word_at(nat_place(mask, hash, number));
        let index = nat_flow(word);
        if nat_matches(word, hash) && is_flow(outside, index, now_ns) == 1 {
            return index;
        }
        number += 1;
        if number == NAT_WAYS {
            break;
        }
    }
    u32::MAX
}

#[inline(never)]
fn is_flow(outside: &Outside, index: u32, now_ns: u64) -> u32 {
    let Some(entry) = flows::at(index) else { return 0 };
    // SAFETY: as in `hash_of`.
    let flow = unsafe { &*entry.flow };
    let is_same = Outside::of(&flow.key, &flow.translation).is_same(outside);
    (is_same && flow.translation.port_be != 0 && !entry.head().is_over(now_ns)).into()
}

/// The port that somebody else's connection has outside, which is known by [`Scratch::outside`]: its own, unless a flow of a slot has
/// that already.
#[inline(never)]
pub fn port_elsewhere(scratch: &mut Scratch, mask: u32) -> u32 {
    let own = scratch.outside.port_be;
    // SAFETY: nobody takes the value for more than the moment.
    if let Some(known) = unsafe { ELSEWHERE.get(scratch.outside) } {
        return *known;
    }
    scratch.own = scratch.outside;
    let mut tried = 0;
    loop {
        let is_taken = find(&scratch.outside, mask, scratch.now_ns) != u32::MAX
            || (scratch.outside.port_be != own && is_elsewhere(&scratch.outside));
        if !is_taken {
            break;
        }
        scratch.outside.port_be = next_port(u16::from_be(scratch.outside.port_be)).to_be();
        tried += 1;
        if tried == TRIES {
            return own.into(); // nothing is free: it meets a slot's flow
        }
    }
    // Before who asks for the port could miss the connection.
    note_port(own);
    note_port(scratch.outside.port_be);
    let port = u32::from(scratch.outside.port_be);
    let _ = ELSEWHERE.insert(scratch.own, port, 0);
    if scratch.outside.port_be != own {
        let _ = ELSEWHERE.insert(scratch.outside.answered(), u32::from(own), 0);
    }
    port
}

/// The port that somebody else's connection has of its own, whose answer looks like that; 0 if it is none that was given another.
#[inline(always)]
pub fn own_port(outside: &Outside) -> u16 {
    if !is_noted(outside.port_be) {
        return 0;
    }
    // SAFETY: nobody takes the value for more than the moment.
    unsafe { ELSEWHERE.get(outside.answered()) }.map_or(0, |port| *port as u16)
}

/// True if a connection that is no slot's looks like that.
#[inline(always)]
pub fn is_elsewhere(outside: &Outside) -> bool {
    // SAFETY: nobody takes the values for more than the moment.
    let is_known = |key: Outside| unsafe { ELSEWHERE.get(key) }.is_some();
    is_noted(outside.port_be) && (is_known(*outside) || is_known(outside.answered()))
}

/// False if no connection that is not a slot's ever had that port: on most hosts none has any, and to look one up takes longer
/// than all else about a port.
#[inline(always)]
fn is_noted(port_be: u16) -> bool {
    let (place, bit) = port_bit(u16::from_be(port_be));
    // SAFETY: an aligned word of the map, which stays valid for the whole program.
    ELSEWHERE_PORTS.get_ptr(place).is_some_and(|word| unsafe { word.read_volatile() } & bit != 0)
}

#[inline(always)]
fn note_port(port_be: u16) {
    let (place, bit) = port_bit(u16::from_be(port_be));
    if let Some(word) = ELSEWHERE_PORTS.get_ptr_mut(place) {
        // SAFETY: an aligned word of the map, which stays valid for the whole program.
        unsafe { atomic::set(word, bit) };
    }
}

/// 1 if neither a connection of the host's own nor one that it forwards for others looks as [`Scratch::outside`] does.
#[inline(never)]
fn is_free_elsewhere(ctx: &TcContext, scratch: &mut Scratch, uplink: &UplinkEntry) -> u32 {
    let (outside, tuple) = (&scratch.outside, &raw mut scratch.tuple);
    if is_elsewhere(outside) {
        return 0;
    }
    // SAFETY: the memory is there, and the helpers get the size of what was written; a socket that is found is given back.
    unsafe {
        let length = if outside.peer.is_v4() {
            let ipv4 = &raw mut (*tuple).__bindgen_anon_1.ipv4;
            (*ipv4).saddr = u32::from_ne_bytes(outside.peer.v4_octets());
            (*ipv4).daddr = u32::from_ne_bytes(uplink.address4.v4_octets());
            (*ipv4).sport = outside.peer_port_be;
            (*ipv4).dport = outside.port_be;
            size_of_val(&*ipv4)
        } else {
            let ipv6 = &raw mut (*tuple).__bindgen_anon_1.ipv6;
            put_words((&raw mut (*ipv6).saddr).cast(), outside.peer);
            put_words((&raw mut (*ipv6).daddr).cast(), uplink.address6);
            (*ipv6).sport = outside.peer_port_be;
            (*ipv6).dport = outside.port_be;
            size_of_val(&*ipv6)
        };
        let (skb, length) = (ctx.as_ptr(), length as u32);
        let here = BPF_F_CURRENT_NETNS as u64;
        let socket = if outside.protocol == TCP {
            bpf_skc_lookup_tcp(skb, tuple, length, here, 0)
        } else {
            bpf_sk_lookup_udp(skb, tuple, length, here, 0)
        };
        if socket.is_null() {
            return 1;
        }
        let _ = bpf_sk_release(socket.cast());
    }
    0
}
