//! What may leave a slot. [`stages`] is the whole decision, stage by stage; the first stage that
//! speaks wins, and `ARCHITECTURE.md` lists the same numbers.

use aya_ebpf::programs::TcContext;
use netguard_common::{Address, DropReason, NO_SLOT, SlotId, maps::Place};
use network_types::arp::ArpHdr;

use crate::{
    dns, flows,
    frame::Frame,
    packet::{
        ICMP, ICMPV6, IGMP, MLD_DONE, MLD_QUERY, MLD_REPORT, ND_ADVERTISE, ND_SOLICIT, Packet,
        Parsed, ROUTER_SOLICIT, TCP, UDP,
    },
    policy,
    report::Verdict,
    routing, scratch,
};

const DNS: u16 = 53_u16.to_be();
const ENCRYPTED_DNS: u16 = 853_u16.to_be();

/// How a packet may leave.
#[derive(Clone, Copy)]
enum Permit {
    /// To the gateway or the link, or a reply.
    Pass,
    /// By the host's routing, if that does not take it for the host itself.
    Route,
    /// As a query to the slot's resolver.
    Redirect,
}

/// The verdict that needs neither the packet's rewriting nor the host's routing.
#[inline(always)]
pub fn decide<F: Frame>(frame: &F) -> (SlotId, Verdict) {
    policy::in_slot(frame, |slot_id| judge(frame, slot_id).map(|_| Verdict::Continue))
}

/// The whole verdict, and the packet rewritten if it is a DNS query.
#[inline(always)]
pub fn decide_and_redirect(ctx: &TcContext) -> (SlotId, Verdict) {
    policy::in_slot(ctx, |slot_id| carry_out(ctx, slot_id))
}

#[inline(always)]
fn carry_out(ctx: &TcContext, slot_id: SlotId) -> Result<Verdict, DropReason> {
    let permit = judge(ctx, slot_id)?;
    let slot = policy::slot(slot_id).ok_or(DropReason::Internal)?;
    let scratch = scratch::memory().ok_or(DropReason::Internal)?;
    // SAFETY: the memory is this CPU's own while the program runs, and the parser has just written it.
    let packet = unsafe { &(*scratch).packet };
    match permit {
        Permit::Pass => Ok(Verdict::Pass),
        Permit::Route if routing::is_local(ctx, slot.bridge_ifindex, packet) => {
            Err(DropReason::Host)
        }
        Permit::Route => Ok(Verdict::Pass),
        Permit::Redirect => {
            dns::redirect(ctx, slot_id, slot, packet)?;
            Ok(Verdict::Redirect)
        }
    }
}

#[inline(always)]
fn judge<F: Frame>(frame: &F, own: SlotId) -> Result<Permit, DropReason> {
    const PASS: u32 = Permit::Pass as u32;
    const ROUTE: u32 = Permit::Route as u32;
    const REDIRECT: u32 = Permit::Redirect as u32;
    match judge_apart(frame, own) {
        PASS => Ok(Permit::Pass),
        ROUTE => Ok(Permit::Route),
        REDIRECT => Ok(Permit::Redirect),
        drop => {
            Err(DropReason::from_raw((drop >> DROP_SHIFT) as u8).unwrap_or(DropReason::Internal))
        }
    }
}

/// Where [`judge_apart`]'s result holds a drop reason.
const DROP_SHIFT: u32 = 8;

/// [`stages`] as a function of its own in BPF too, because one program's 512 bytes of stack do not hold
/// the reading of a packet and its rewriting. BPF functions return one register.
#[inline(never)]
fn judge_apart<F: Frame>(frame: &F, own: SlotId) -> u32 {
    match stages(frame, own) {
        Ok(permit) => permit as u32,
        Err(reason) => (reason as u32) << DROP_SHIFT,
    }
}

/// The whole decision; what speaks first wins.
#[inline(always)]
fn stages<F: Frame>(frame: &F, own: SlotId) -> Result<Permit, DropReason> {
    // Stage 1, frame, and stage 4, header sanity.
    let packet = match scratch::parse(frame)? {
        Parsed::Arp(arp, eth_src) => return check_arp(&arp, eth_src, own),
        Parsed::Ip(packet) => packet,
    };
    // Stage 3, identity.
    check_source(packet, own)?;
    // Stage 5, DNS to any address whatsoever.
    if packet.dst_port_be == DNS && matches!(packet.protocol, UDP | TCP) {
        return Ok(Permit::Redirect);
    }
    // Stage 6, encrypted DNS.
    if packet.dst_port_be == ENCRYPTED_DNS {
        match packet.protocol {
            TCP => return Err(DropReason::DnsOverTls),
            UDP => return Err(DropReason::DnsOverQuic),
            _ => {} // an ICMP identifier
        }
    }
    // Stages 7 to 9, the place, the state and the rule for that place.
    check_destination(packet, own)
}

/// RFC 826: Ethernet and IPv4 only, the sender's MAC as in the frame, the sender's address the
/// slot's own or 0.0.0.0 (a probe, RFC 5227 section 1.1).
#[inline(always)]
fn check_arp(arp: &ArpHdr, eth_src: [u8; 6], own: SlotId) -> Result<Permit, DropReason> {
    let sane = arp.htype == [0, 1] && arp.ptype == [8, 0] && arp.hlen == 6 && arp.plen == 4;
    if !sane {
        return Err(DropReason::BadHeader);
    }
    let sender = Address::v4(arp.spa);
    if arp.sha != eth_src || !(sender.is_unspecified() || is_own(sender, own)) {
        return Err(DropReason::ArpSpoof);
    }
    Ok(Permit::Pass)
}

/// The source is the slot's own, or one that IPv6 autoconfiguration needs: link-local, or `::` for
/// the questions of duplicate address detection (RFC 4862 section 5.4.2, RFC 3810 section 5.2.13).
/// So is the address that a neighbour advertisement or such a question claims.
#[inline(always)]
fn check_source(packet: &Packet, own: SlotId) -> Result<(), DropReason> {
    let from_nowhere = packet.src == Address::UNSPECIFIED && is_link_upkeep(packet);
    let good_source = from_nowhere || packet.src.is_v6_link_local() || is_own(packet.src, own);
    if !good_source {
        return Err(DropReason::SpoofedSource);
    }
    let claims = match (packet.protocol, packet.icmp_type) {
        (ICMPV6, ND_ADVERTISE) => true,
        (ICMPV6, ND_SOLICIT) => from_nowhere,
        _ => false, // nothing else speaks of an address as the sender's
    };
    let target = packet.nd_target;
    if claims && !target.is_v6_link_local() && !is_own(target, own) {
        return Err(DropReason::NdSpoof);
    }
    Ok(())
}

#[inline(always)]
fn is_own(address: Address, own: SlotId) -> bool {
    policy::place_of(address)
        .is_some_and(|entry| entry.place == Place::Slot as u16 && entry.slot_id == own)
}

#[inline(always)]
fn check_destination(packet: &Packet, own: SlotId) -> Result<Permit, DropReason> {
    let entry = policy::place_of(packet.dst).ok_or(DropReason::UnknownAddress)?;
    let place = Place::from_raw(entry.place).ok_or(DropReason::UnknownAddress)?;
    if entry.slot_id != own && entry.slot_id != NO_SLOT {
        return Err(DropReason::CrossSlot);
    }
    match place {
        Place::Slot | Place::Gateway | Place::LinkLocal | Place::Multicast
            if is_link_upkeep(packet) =>
        {
            Ok(Permit::Pass)
        }
        Place::Internet | Place::Slot => check_icmp(packet).map(|()| Permit::Route),
        Place::Gateway if is_ping_or_error(packet) => Ok(Permit::Pass),
        Place::Gateway | Place::Host => reply_or(packet, own, DropReason::Host),
        Place::Management => reply_or(packet, own, DropReason::Management),
        Place::LinkLocal => Err(DropReason::LinkLocal),
        Place::Multicast => Err(DropReason::Multicast),
        Place::Metadata => Err(DropReason::Metadata),
        Place::Private => Err(DropReason::PrivateDestination),
    }
}

/// Stage 8: a reply within a connection that was allowed in passes where nothing else does.
#[inline(always)]
fn reply_or(packet: &Packet, own: SlotId, reason: DropReason) -> Result<Permit, DropReason> {
    if flows::is_reply(packet, own) { Ok(Permit::Pass) } else { Err(reason) }
}

/// ICMP may ask (echo) and report errors (RFC 792, RFC 4443); redirects, timestamps and the rest
/// stay in the slot, and so does what belongs to the link.
#[inline(always)]
fn check_icmp(packet: &Packet) -> Result<(), DropReason> {
    match packet.protocol {
        ICMP | ICMPV6 if !is_ping_or_error(packet) => Err(DropReason::IcmpType),
        IGMP => Err(DropReason::Protocol),
        _ => Ok(()), // TCP and UDP have no types
    }
}

#[inline(always)]
fn is_ping_or_error(packet: &Packet) -> bool {
    match packet.protocol {
        // Echo and its reply, unreachable, time exceeded, parameter problem.
        ICMP => matches!(packet.icmp_type, 0 | 3 | 8 | 11 | 12),
        // The same four errors with "packet too big", echo and its reply.
        ICMPV6 => matches!(packet.icmp_type, 1..=4 | 128 | 129),
        _ => false,
    }
}

/// What keeps the link itself working: router solicitation, neighbour solicitation and advertisement
/// (RFC 4861), and the MLD and IGMP messages that a snooping bridge listens to (RFC 2710, RFC 3810,
/// RFC 3376). Router advertisements and redirects are not a guest's to send.
#[inline(always)]
fn is_link_upkeep(packet: &Packet) -> bool {
    match (packet.protocol, packet.icmp_type) {
        (ICMPV6, ROUTER_SOLICIT | ND_SOLICIT | ND_ADVERTISE) => true,
        // The query is a router's to send, not a guest's.
        (ICMPV6, MLD_QUERY) => false,
        (ICMPV6, MLD_QUERY..=MLD_DONE | MLD_REPORT) | (IGMP, _) => packet.dst.is_multicast(),
        _ => false, // nothing that the link needs
    }
}
