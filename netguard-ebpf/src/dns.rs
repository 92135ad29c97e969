//! The DNS redirect: a query to any address goes to the slot's resolver, and the reply comes from
//! the address that the guest asked.
//!
//! Only a TC rewrite that also translates the **source port** is right in every case: one guest
//! socket may ask several resolvers at once, and behind the redirect nothing but the port tells
//! those queries apart.

use aya_ebpf::programs::TcContext;
use netguard_common::{Address, DropReason, SlotId, maps::SlotEntry};

use crate::{
    denial, dns_flows,
    frame::Frame,
    names,
    packet::{Packet, TCP, UDP},
    rewrite::{Ends, Hop, Side, translate},
    scratch::Scratch,
};

const DNS_PORT_BE: u16 = 53_u16.to_be();

/// True if a query is plainly one that the slot's resolver would deny.
#[inline(always)]
pub fn is_denied<F: Frame>(frame: &F, scratch: &mut Scratch, slot: &SlotEntry) -> bool {
    resolver_for(slot, scratch.packet.src) != Address::UNSPECIFIED
        && names::is_denied(frame, scratch, slot)
        && denial::turn_around(frame, &mut scratch.answer).is_some()
}

/// Sends a query to the slot's resolver.
#[inline(always)]
pub fn redirect(
    ctx: &TcContext,
    slot_id: SlotId,
    slot: &SlotEntry,
    scratch: &mut Scratch,
) -> Result<(), DropReason> {
    decode(redirect_apart(ctx, slot_id.into(), slot, scratch))
}

/// Gives a reply of the resolver the address and ports that the guest expects.
#[inline(always)]
pub fn restore(ctx: &TcContext, slot_id: SlotId, scratch: &mut Scratch) -> Result<(), DropReason> {
    decode(restore_apart(ctx, slot_id.into(), scratch))
}

/// Functions of their own in BPF too, because a program has 512 bytes of stack in all. Those return one
/// register: 0, or the number of a drop reason.
#[inline(never)]
fn redirect_apart(ctx: &TcContext, slot_id: u32, slot: &SlotEntry, scratch: &mut Scratch) -> u32 {
    to_resolver(ctx, slot_id as SlotId, slot, scratch).map_or_else(|reason| reason as u32, |()| 0)
}

#[inline(never)]
fn restore_apart(ctx: &TcContext, slot_id: u32, scratch: &mut Scratch) -> u32 {
    from_resolver(ctx, slot_id as SlotId, scratch).map_or_else(|reason| reason as u32, |()| 0)
}

#[inline(always)]
fn decode(code: u32) -> Result<(), DropReason> {
    match code {
        0 => Ok(()),
        reason => Err(DropReason::from_raw(reason as u8).unwrap_or(DropReason::Internal)),
    }
}

#[inline(always)]
fn to_resolver(
    ctx: &TcContext,
    slot_id: SlotId,
    slot: &SlotEntry,
    scratch: &mut Scratch,
) -> Result<(), DropReason> {
    let query = &scratch.packet;
    let resolver = resolver_for(slot, query.src);
    if resolver == Address::UNSPECIFIED {
        return Err(DropReason::NoResolver);
    }
    let port = dns_flows::acquire(ctx, slot_id, query, &mut scratch.dns_flow)?;
    let to =
        Ends { address: resolver, src_port_be: port.to_be(), dst_port_be: slot.resolver_port_be };
    translate(ctx, query, Side::Destination, &to, Hop::None)?;
    // The guest may have written any destination MAC; the bridge must take the frame for its own.
    ctx.store(0, &slot.bridge_mac, 0).map_err(|_| DropReason::Internal)
}

/// True if the packet comes from the slot's resolver.
#[inline(always)]
pub fn is_reply(packet: &Packet, slot: &SlotEntry) -> bool {
    matches!(packet.protocol, UDP | TCP)
        && !packet.is_later_fragment()
        && packet.src_port_be == slot.resolver_port_be
        && packet.src == resolver_for(slot, packet.src)
        && packet.src != Address::UNSPECIFIED // a slot without such a resolver
}

#[inline(always)]
fn from_resolver(
    ctx: &TcContext,
    slot_id: SlotId,
    scratch: &mut Scratch,
) -> Result<(), DropReason> {
    let reply = &scratch.packet;
    if reply.is_fragment() {
        return Err(DropReason::DnsUnsolicited); // the resolver's answers fit, and later parts have no port
    }
    // SAFETY: the verifier allows reads of this context field; it is 0 for what is one packet.
    let segments = unsafe { (*ctx.skb.skb).gso_segs };
    let (asked, client_port_be) = dns_flows::answered(ctx, slot_id, reply, segments.max(1))?;
    let to = Ends { address: asked, src_port_be: DNS_PORT_BE, dst_port_be: client_port_be };
    translate(ctx, reply, Side::Source, &to, Hop::None)
}

#[inline(always)]
fn resolver_for(slot: &SlotEntry, family_of: Address) -> Address {
    if family_of.is_v4() { slot.gateway4 } else { slot.gateway6 }
}
