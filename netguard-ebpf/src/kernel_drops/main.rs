//! An object of its own, which only `netguard doctor --watch` loads: a look at every packet that the kernel drops, at the
//! tracepoint kfree_skb, and a record of those that are a slot's. It decides nothing and changes no packet.
//!
//! The tracepoint is the whole machine's. What is of another network namespace is told apart by three reads, and left.
//! Whose a packet is, the instance's own policy maps say, which the loader hands in.

#![no_std]
#![no_main]
#![expect(missing_docs, reason = "the program macros make functions without documentation")]

mod maps;
#[path = "../prefix.rs"]
mod prefix;

use aya_ebpf::{
    helpers::{bpf_ktime_get_ns, bpf_probe_read_kernel, bpf_probe_read_kernel_buf},
    macros::raw_tracepoint,
    programs::RawTracePointContext,
};
use netguard_common::{
    Address, Direction, NO_SLOT, SlotId,
    kernel_drop::{NO_DIRECTION, RECORDS_A_SECOND, SkbLayout},
    maps::{PLACE_SIDE_BITS, Place, PortKey, PortKind, Side, place_key},
};

use crate::maps::{ACTIVE, KERNEL_DROPS, LOST, PLACES, PORTS, SKB_LAYOUT, TOLD};

const SECOND_NS: u64 = 1_000_000_000;
const IPV4: u16 = 0x0800_u16.to_be();
const IPV6: u16 = 0x86dd_u16.to_be();

/// `kfree_skb(skb, location, reason)`: the first three arguments are these from Linux 5.17 on (c504e5c2f964).
#[raw_tracepoint(tracepoint = "kfree_skb")]
pub fn ng_kfree_skb(ctx: RawTracePointContext) -> i32 {
    let _ = look_at(ctx.arg(0), ctx.arg(1), ctx.arg(2));
    0
}

/// `None` as soon as it is not a slot's.
#[inline(always)]
fn look_at(skb: u64, location: u64, reason: u32) -> Option<()> {
    let layout = SKB_LAYOUT.get(0)?;
    let ifindex = in_namespace(skb, layout)?;
    let iif: u32 = read(skb, layout.skb_iif)?;
    let side = *ACTIVE.get(0)?;
    let ether_type_be: u16 = read(skb, layout.skb_protocol)?;
    let head: u64 = read(skb, layout.skb_head)?;
    let header: u16 = read(skb, layout.skb_network_header)?;
    let network = head.wrapping_add(u64::from(header));
    let (slot_id, direction) = whose(side, [iif, ifindex], network, ether_type_be)?;
    if !may_tell(slot_id) {
        return None;
    }
    let Some(mut entry) = KERNEL_DROPS.reserve(0) else {
        let lost = LOST.get_ptr_mut(0)?;
        // SAFETY: the value is this CPU's own, and the kernel does not run a tracepoint's program within itself.
        unsafe { *lost += 1 };
        return None;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: the ring buffer lent the bytes of a record, and every one of them is written before they are submitted;
    // the helper checks the address that it reads.
    unsafe {
        (*record).time_ns = bpf_ktime_get_ns();
        (*record).location = location;
        (*record).reason = reason;
        (*record).ifindex = ifindex;
        (*record).length = read(skb, layout.skb_len).unwrap_or(0);
        (*record).slot_id = slot_id;
        (*record).ether_type_be = ether_type_be;
        (*record).direction = direction;
        (*record)._reserved = [0; 6];
        let packet = bpf_probe_read_kernel_buf(network as *const u8, &mut (*record).packet);
        (*record).captured = u8::from(packet.is_ok());
    }
    entry.submit(0);
    Some(())
}

/// The number of the packet's interface, 0 if it has none (any more); `None` in another network namespace.
#[inline(always)]
fn in_namespace(skb: u64, layout: &SkbLayout) -> Option<u32> {
    // In a socket's queue other things stand in this field: what they lead to is no namespace.
    let dev: u64 = read(skb, layout.skb_dev)?;
    if dev != 0
        && let Some(net) = read::<u64>(dev, layout.dev_net)
    {
        let is_it = read::<u32>(net, layout.net_inum)? == layout.namespace;
        return if is_it { read(dev, layout.dev_ifindex) } else { None };
    }
    let sk: u64 = read(skb, layout.skb_sk)?;
    let net: u64 = read(sk, layout.sk_net)?;
    if read::<u32>(net, layout.net_inum)? == layout.namespace { Some(0) } else { None }
}

/// Whose packet it is: that of the port that it came or leaves by, else of who has its addresses. What is on a bridge of
/// several slots may be nobody's in particular.
#[inline(always)]
fn whose(
    side: Side,
    interfaces: [u32; 2],
    network: u64,
    ether_type_be: u16,
) -> Option<(SlotId, u8)> {
    let [source, destination] = ends(side, network, ether_type_be);
    let [came_by, is_on] = interfaces.map(|ifindex| port(side, ifindex));
    let way = |slot_id: SlotId| {
        if source == slot_id {
            Direction::Egress as u8
        } else if destination == slot_id {
            Direction::Ingress as u8
        } else {
            NO_DIRECTION
        }
    };
    match (came_by, is_on) {
        (Some((slot_id, PORT)), _) => Some((slot_id, Direction::Egress as u8)),
        (_, Some((slot_id, PORT))) => Some((slot_id, way(slot_id))),
        _ if source != NO_SLOT => Some((source, Direction::Egress as u8)),
        _ if destination != NO_SLOT => Some((destination, Direction::Ingress as u8)),
        (Some((slot_id, BRIDGE)), _) => Some((slot_id, Direction::Egress as u8)),
        (_, Some((slot_id, BRIDGE))) => Some((slot_id, NO_DIRECTION)),
        _ => None, // an uplink, or what is no business of netguard's
    }
}

const PORT: u8 = PortKind::Port as u8;
const BRIDGE: u8 = PortKind::Bridge as u8;

#[inline(always)]
fn port(side: Side, ifindex: u32) -> Option<(SlotId, u8)> {
    // SAFETY: an entry that is written meanwhile names one slot or the other.
    let entry = unsafe { PORTS.get(PortKey { ifindex, side }) }?;
    Some((entry.slot_id, entry.kind))
}

/// The slots that have source and destination address.
#[inline(always)]
fn ends(side: Side, network: u64, ether_type_be: u16) -> [SlotId; 2] {
    match ether_type_be {
        IPV4 => [12, 16].map(|offset| match read(network, offset) {
            Some(octets) => slot_at(side, &Address::v4(octets)),
            None => NO_SLOT,
        }),
        IPV6 => [8, 24].map(|offset| match read(network, offset) {
            Some(words) => slot_at(side, &Address::from_words(words)),
            None => NO_SLOT,
        }),
        _ => [NO_SLOT; 2], // ARP: the interface says whose
    }
}

/// A function of its own in BPF too, so that its key takes stack only once.
#[inline(never)]
fn slot_at(side: Side, address: &Address) -> SlotId {
    match PLACES.get(&prefix::key(PLACE_SIDE_BITS + 128, place_key(side, *address))) {
        Some(entry) if entry.place == Place::Slot as u8 => entry.slot_id,
        _ => NO_SLOT,
    }
}

/// True as long as the slot has records left within this second, on this CPU.
#[inline(always)]
fn may_tell(slot_id: SlotId) -> bool {
    let Some(told) = TOLD.get_ptr_mut(slot_id.into()) else { return false };
    // SAFETY: a helper without arguments; the value is this CPU's own, and the kernel does not run a tracepoint's program
    // within itself.
    unsafe {
        let second = bpf_ktime_get_ns() / SECOND_NS;
        if (*told)[0] != second {
            (*told)[0] = second;
            (*told)[1] = 0;
        }
        (*told)[1] += 1;
        let may = (*told)[1] <= RECORDS_A_SECOND;
        if !may {
            (*told)[2] += 1;
        }
        may
    }
}

/// Reads kernel memory; `None` where there is none.
#[inline(always)]
fn read<T>(base: u64, offset: u32) -> Option<T> {
    let address = base.wrapping_add(u64::from(offset)) as *const T;
    // SAFETY: the helper checks the address, and every `T` here is numbers.
    unsafe { bpf_probe_read_kernel(address) }.ok()
}

/// Nothing here may panic; what the compiler could not prove ends here and is refused by the verifier.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel lends its memory to GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
