//! The DNS redirect: a query to any address goes to the slot's resolver, and the reply comes from
//! the address that the guest asked.
//!
//! Only a TC rewrite that also translates the **source port** is right in every case: one guest
//! socket may ask several resolvers at once, and behind the redirect nothing but the port tells
//! those queries apart. Checksums are patched, not recomputed, so that partial (virtio, GSO), full
//! and absent (UDP 0) checksums all stay what they were.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR},
    helpers::{bpf_csum_diff, bpf_ktime_get_ns},
    programs::TcContext,
};
use aya_log_ebpf::warn;
use netguard_common::{
    Address, DropReason, SlotId,
    maps::{DNS_FLOW_FIRST_PORT, DNS_FLOWS_PER_SLOT, DnsFlow, DnsFlowKey, SlotEntry},
};

use crate::{
    maps::DNS_FLOWS,
    packet::{Packet, TCP, TCP_FIN_OR_RST, UDP},
    policy,
};

const SECOND_NS: u64 = 1_000_000_000;
/// A resolver gives up long before; a UDP flow without a reply is free again after this time.
const UDP_IDLE_NS: u64 = 10 * SECOND_NS;
/// RFC 7766 section 6.2.3 lets idle connections be closed after seconds; this is generous.
const TCP_IDLE_NS: u64 = 120 * SECOND_NS;
/// How many places a flow may take; all of them busy means the slot's table is about full.
const PROBES: u16 = 8;
/// IPv4's header checksum and the first address, in bytes from the Ethernet header on.
const IPV4_CHECKSUM_OFFSET: usize = 14 + 10;
const IPV4_SRC_OFFSET: usize = 14 + 12;
const IPV6_SRC_OFFSET: usize = 14 + 8;

/// Sends a query to the slot's resolver.
#[inline(always)]
pub fn redirect(ctx: &TcContext, slot_id: SlotId, query: &Packet) -> Result<(), DropReason> {
    let slot = policy::slot(slot_id).ok_or(DropReason::Internal)?;
    let resolver = resolver_for(slot, query.src);
    if resolver == Address::UNSPECIFIED {
        return Err(DropReason::NoResolver);
    }
    let port = acquire_flow(slot_id, query)?;
    let rewritten = Packet {
        dst: resolver,
        src_port_be: port.to_be(),
        dst_port_be: slot.resolver_port_be,
        ..*query
    };
    translate(ctx, query, &rewritten)?;
    // The guest may have written any destination MAC; the bridge must take the frame for its own.
    let mac = slot.bridge_mac;
    store(ctx, 0, &mac)
}

/// True if the packet comes from the slot's resolver.
#[inline(always)]
pub fn is_reply(packet: &Packet, slot_id: SlotId) -> bool {
    matches!(packet.protocol, UDP | TCP)
        && policy::slot(slot_id).is_some_and(|slot| {
            packet.src_port_be == slot.resolver_port_be
                && packet.src == resolver_for(slot, packet.src)
        })
}

/// Gives a reply of the resolver the address and ports that the guest expects.
#[inline(always)]
pub fn restore(ctx: &TcContext, slot_id: SlotId, reply: &Packet) -> Result<(), DropReason> {
    let key = flow_key(slot_id, reply.protocol, u16::from_be(reply.dst_port_be));
    let flow = DNS_FLOWS.get_ptr_mut(key).ok_or(DropReason::DnsUnsolicited)?;
    // SAFETY: the entry stays readable for the whole program, also if another CPU removes it;
    // torn reads of a flow that is being replaced reach the same slot only.
    let (client, asked, client_port_be) = unsafe {
        let closes = reply.protocol == UDP || reply.tcp_flags & TCP_FIN_OR_RST != 0;
        if closes {
            (*flow).outstanding = (*flow).outstanding.saturating_sub(1);
        }
        ((*flow).client, (*flow).asked, (*flow).client_port_be)
    };
    if client != reply.dst {
        return Err(DropReason::DnsUnsolicited);
    }
    let restored =
        Packet { src: asked, src_port_be: 53_u16.to_be(), dst_port_be: client_port_be, ..*reply };
    translate(ctx, reply, &restored)
}

#[inline(always)]
fn resolver_for(slot: &SlotEntry, family_of: Address) -> Address {
    if family_of.is_v4() { slot.gateway4 } else { slot.gateway6 }
}

#[inline(always)]
fn flow_key(slot_id: SlotId, protocol: u8, port: u16) -> DnsFlowKey {
    DnsFlowKey { slot_id, port, protocol, _reserved: [0; 3] }
}

/// Finds the flow of a query or opens one; the port is the resolver's name for it.
///
/// The ports of a slot are a small open-addressed table: a flow may stand at any of [`PROBES`]
/// places behind its hash. All are looked at before a free one is taken, because a TCP connection
/// must keep its port.
#[inline(always)]
fn acquire_flow(slot_id: SlotId, query: &Packet) -> Result<u16, DropReason> {
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let idle_ns = if query.protocol == TCP { TCP_IDLE_NS } else { UDP_IDLE_NS };
    let home = hash(query);
    let mut free = None;
    for probe in 0..PROBES {
        let index = home.wrapping_add(probe) & (DNS_FLOWS_PER_SLOT - 1);
        let port = DNS_FLOW_FIRST_PORT + index;
        let Some(flow) = DNS_FLOWS.get_ptr_mut(flow_key(slot_id, query.protocol, port)) else {
            free = free.or(Some(port));
            continue;
        };
        // SAFETY: the entry stays writable for the whole program; two CPUs that touch one flow at
        // once are two packets of the same slot, and the counts are hints.
        unsafe {
            let same = (*flow).client_port_be == query.src_port_be
                && (*flow).client == query.src
                && (*flow).asked == query.dst;
            let idle = now.saturating_sub((*flow).seen_ns) > idle_ns;
            if same {
                (*flow).seen_ns = now;
                if query.protocol == UDP || (*flow).outstanding == 0 {
                    (*flow).outstanding = (*flow).outstanding.wrapping_add(1);
                }
                return Ok(port);
            }
            if (*flow).outstanding == 0 || idle {
                free = free.or(Some(port));
            }
        }
    }
    let port = free.ok_or(DropReason::DnsFlowsFull)?;
    let key = flow_key(slot_id, query.protocol, port);
    let flow = DnsFlow {
        client: query.src,
        asked: query.dst,
        seen_ns: now,
        client_port_be: query.src_port_be,
        _reserved: 0,
        outstanding: 1,
    };
    DNS_FLOWS.insert(key, flow, u64::from(BPF_ANY)).map_err(|_| DropReason::DnsFlowsFull)?;
    Ok(port)
}

/// FNV-1a over what tells a slot's queries apart. A guest that makes its own queries collide only
/// fills its own places.
#[inline(always)]
fn hash(query: &Packet) -> u16 {
    let mut hash = 0x811c_9dc5_u32 ^ u32::from(query.src_port_be);
    for address in [query.src, query.dst] {
        for word in address.0.as_chunks::<4>().0 {
            hash = (hash ^ u32::from_ne_bytes(*word)).wrapping_mul(0x0100_0193);
            hash ^= hash >> 15;
        }
    }
    (hash ^ (hash >> 16)) as u16
}

/// Rewrites one address and both ports from `old` to `new`, in the packet and in its checksums.
#[inline(always)]
fn translate(ctx: &TcContext, old: &Packet, new: &Packet) -> Result<(), DropReason> {
    // One path for both families: the mapped form's first twelve bytes are equal, so the
    // difference of the 16-byte forms is the difference of the 4-byte ones.
    let to_destination = old.dst != new.dst;
    let (from, to) = if to_destination { (old.dst, new.dst) } else { (old.src, new.src) };
    let (mut from_words, mut to_words) = (from, to);
    // SAFETY: both buffers are 16 readable bytes on the stack.
    let difference = unsafe {
        bpf_csum_diff(from_words.0.as_mut_ptr().cast(), 16, to_words.0.as_mut_ptr().cast(), 16, 0)
    };
    if difference < 0 {
        return fail(ctx, "bpf_csum_diff", difference);
    }
    let difference = difference as u64;

    let transport = usize::from(old.transport_offset);
    let (checksum, mangled) = match old.protocol {
        TCP => (transport + 16, 0),
        _ => (transport + 6, u64::from(BPF_F_MARK_MANGLED_0)), // UDP, where 0 says "no checksum"
    };
    let pseudo_header = u64::from(BPF_F_PSEUDO_HDR) | mangled;
    let port = 2 | mangled;
    let patch = |from_be: u16, to_be: u16| {
        ctx.l4_csum_replace(checksum, from_be.into(), to_be.into(), port)
    };
    let patched = ctx
        .l4_csum_replace(checksum, 0, difference, pseudo_header)
        .and_then(|()| patch(old.src_port_be, new.src_port_be))
        .and_then(|()| patch(old.dst_port_be, new.dst_port_be));
    if let Err(error) = patched {
        return fail(ctx, "bpf_l4_csum_replace", error);
    }

    if to.is_v4() {
        if let Err(error) = ctx.l3_csum_replace(IPV4_CHECKSUM_OFFSET, 0, difference, 0) {
            return fail(ctx, "bpf_l3_csum_replace", error);
        }
        let offset = IPV4_SRC_OFFSET + if to_destination { 4 } else { 0 };
        store(ctx, offset, &to.v4_octets())?;
    } else {
        let offset = IPV6_SRC_OFFSET + if to_destination { 16 } else { 0 };
        store(ctx, offset, &to.0)?;
    }
    store(ctx, transport, &[new.src_port_be, new.dst_port_be])
}

#[inline(always)]
fn store<T>(ctx: &TcContext, offset: usize, bytes: &T) -> Result<(), DropReason> {
    match ctx.store(offset, bytes, 0) {
        Ok(()) => Ok(()),
        Err(error) => fail(ctx, "bpf_skb_store_bytes", error),
    }
}

/// A helper that cannot fail has failed: drop the packet and tell the daemon's log which one.
#[inline(always)]
fn fail<T>(ctx: &TcContext, helper: &'static str, error: i64) -> Result<T, DropReason> {
    warn!(ctx, "{} returned {}", helper, error);
    Err(DropReason::Internal)
}
