//! What may leave a slot. [`judge`] is the whole decision, stage by stage; the first stage that
//! speaks wins, and `ARCHITECTURE.md` lists the same numbers.

use aya_ebpf::programs::TcContext;
use netguard_common::{Address, DropReason, NO_SLOT, SlotId, maps::Place};
use network_types::arp::ArpHdr;

use crate::{
    dns, flows,
    frame::Frame,
    packet::{self, ICMP, ICMPV6, IGMP, ND_ADVERTISE, ND_SOLICIT, Packet, Parsed, TCP, UDP},
    policy,
    report::Verdict,
    routing,
};

const DNS: u16 = 53_u16.to_be();
const ENCRYPTED_DNS: u16 = 853_u16.to_be();

/// A packet that may leave, and how.
enum Permit {
    /// To the link: the gateway, a guest of the same slot that the bridge reaches, a reply.
    Pass,
    /// By the host's routing, if that does not take it for the host itself.
    Route(Packet),
    /// As a query to the slot's resolver.
    Redirect(Packet),
}

/// The verdict that needs neither the packet's rewriting nor the host's routing.
#[inline(always)]
pub fn decide<F: Frame>(frame: &F) -> (SlotId, Verdict) {
    let Some(slot_id) = policy::slot_of(frame) else {
        return (NO_SLOT, Verdict::Drop(DropReason::UnknownPort));
    };
    match judge(frame, slot_id) {
        Ok(_) => (slot_id, Verdict::Continue),
        Err(reason) => (slot_id, Verdict::Drop(reason)),
    }
}

/// The whole verdict, and the packet rewritten if it is a DNS query.
#[inline(always)]
pub fn decide_and_redirect(ctx: &TcContext) -> (SlotId, Verdict) {
    let Some(slot_id) = policy::slot_of(ctx) else {
        return (NO_SLOT, Verdict::Drop(DropReason::UnknownPort));
    };
    match carry_out(ctx, slot_id) {
        Ok(verdict) => (slot_id, verdict),
        Err(reason) => (slot_id, Verdict::Drop(reason)),
    }
}

#[inline(always)]
fn carry_out(ctx: &TcContext, slot_id: SlotId) -> Result<Verdict, DropReason> {
    let slot = policy::slot(slot_id).ok_or(DropReason::Internal)?;
    match judge(ctx, slot_id)? {
        Permit::Pass => Ok(Verdict::Pass),
        Permit::Route(packet) if routing::is_local(ctx, slot.bridge_ifindex, &packet) => {
            Err(DropReason::Host)
        }
        Permit::Route(_) => Ok(Verdict::Pass),
        Permit::Redirect(query) => {
            dns::redirect(ctx, slot_id, slot, &query)?;
            Ok(Verdict::Redirect)
        }
    }
}

#[inline(always)]
fn judge<F: Frame>(frame: &F, own: SlotId) -> Result<Permit, DropReason> {
    // Stage 1, frame, and stage 4, header sanity.
    let packet = match packet::parse(frame)? {
        Parsed::Arp(arp, eth_src) => return check_arp(&arp, eth_src, own),
        Parsed::Ip(packet) => packet,
    };
    // Stage 3, identity.
    check_source(&packet, own)?;
    // Stage 5, DNS to any address whatsoever.
    if packet.dst_port_be == DNS && matches!(packet.protocol, UDP | TCP) {
        return Ok(Permit::Redirect(packet));
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
fn check_destination(packet: Packet, own: SlotId) -> Result<Permit, DropReason> {
    let entry = policy::place_of(packet.dst).ok_or(DropReason::UnknownAddress)?;
    let place = Place::from_raw(entry.place).ok_or(DropReason::UnknownAddress)?;
    if entry.slot_id != own && entry.slot_id != NO_SLOT {
        return Err(DropReason::CrossSlot);
    }
    match place {
        Place::Slot | Place::Gateway | Place::LinkLocal | Place::Multicast
            if is_link_upkeep(&packet) =>
        {
            Ok(Permit::Pass)
        }
        Place::Internet | Place::Slot => check_icmp(&packet).map(|()| Permit::Route(packet)),
        Place::Gateway if is_ping_or_error(&packet) => Ok(Permit::Pass),
        Place::Gateway | Place::Host => reply_or(&packet, own, DropReason::Host),
        Place::Management => reply_or(&packet, own, DropReason::Management),
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
    match packet.protocol {
        ICMPV6 => matches!(packet.icmp_type, 131 | 132 | 133 | 135 | 136 | 143),
        IGMP => true,
        _ => false,
    }
}
