//! ICMP, ICMPv6, IGMP and MLD: which messages keep the link alive, which ask, which report an error about
//! whom, and how long they may be.

use netguard_common::{Address, Direction, DropReason, SlotId, maps::SlotEntry};

use crate::{
    flows,
    frame::Frame,
    packet::{ICMP, ICMPV6, IGMP, Packet, TCP, UDP},
    scratch::Scratch,
    words::put_address,
};

/// RFC 792 and RFC 4443.
const ECHO_REPLY: u8 = 0;
const REDIRECT: u8 = 5;
const ECHO_REQUEST: u8 = 8;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;
/// Multicast listener query and done, and the report of version 2 (RFC 2710, RFC 3810).
pub const MLD_QUERY: u8 = 130;
pub const MLD_DONE: u8 = 132;
pub const MLD_REPORT: u8 = 143;
/// Router solicitation and advertisement, neighbour solicitation and advertisement, redirect (RFC 4861).
const ROUTER_SOLICIT: u8 = 133;
const ROUTER_ADVERTISE: u8 = 134;
pub const ND_SOLICIT: u8 = 135;
pub const ND_ADVERTISE: u8 = 136;
const REDIRECT_V6: u8 = 137;

/// The longest error: RFC 4443 section 2.4 (c) fills them up to the least MTU of IPv6.
const ERROR_BYTES_MAX: u32 = 1280;

/// What an ICMP message is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An echo request.
    Request,
    /// An echo reply.
    Reply,
    /// Unreachable, too big, time exceeded, parameter problem.
    Error,
    /// Everything else.
    Other,
}

/// What the message is for; of packets that are no ICMP [`Kind::Other`].
#[inline(always)]
pub fn kind(packet: &Packet) -> Kind {
    match (packet.protocol, packet.icmp_type) {
        (ICMP, ECHO_REQUEST) | (ICMPV6, ECHO_REQUEST_V6) => Kind::Request,
        (ICMP, ECHO_REPLY) | (ICMPV6, ECHO_REPLY_V6) => Kind::Reply,
        (ICMP, 3 | 11 | 12) | (ICMPV6, 1..=4) => Kind::Error,
        _ => Kind::Other, // timestamps, redirects, neighbour discovery
    }
}

/// What no packet may do that crosses a slot's border, either way: redirects (RFC 792, RFC 4861), and
/// from a slot router advertisements.
#[inline(always)]
pub fn check_type(packet: &Packet, direction: Direction) -> Result<(), DropReason> {
    match (packet.protocol, packet.icmp_type) {
        (ICMPV6, ROUTER_ADVERTISE) if direction == Direction::Egress => Err(DropReason::RogueRa),
        (ICMP, REDIRECT) | (ICMPV6, REDIRECT_V6) => Err(DropReason::IcmpType),
        _ => Ok(()), // what is left is decided by what it is for
    }
}

/// Long messages are how tunnels carry much: only errors may be longer than the slot's limit, and no
/// ICMP that a slot needs comes in fragments.
#[inline(always)]
pub fn check_size(packet: &Packet, slot: &SlotEntry) -> Result<(), DropReason> {
    if !packet.is_icmp() {
        return Ok(());
    }
    let limit = match kind(packet) {
        Kind::Error => ERROR_BYTES_MAX,
        _ => u32::from(slot.icmp_max_bytes), // what else there is asks, answers or keeps the link
    };
    if packet.is_fragment() || packet.payload > limit { Err(DropReason::IcmpSize) } else { Ok(()) }
}

/// What a slot sends to keep its link working: router solicitation, neighbour solicitation and
/// advertisement (RFC 4861), and the MLD and IGMP messages that a snooping bridge listens to (RFC 2710,
/// RFC 3810, RFC 3376). Queries are a router's to send, not a guest's.
#[inline(always)]
pub fn is_link_upkeep(packet: &Packet) -> bool {
    match (packet.protocol, packet.icmp_type) {
        (ICMPV6, ROUTER_SOLICIT | ND_SOLICIT | ND_ADVERTISE) => true,
        (ICMPV6, MLD_QUERY) => false,
        (ICMPV6, MLD_QUERY..=MLD_DONE | MLD_REPORT) | (IGMP, _) => packet.dst.is_multicast(),
        _ => false, // nothing that the link needs
    }
}

/// What the host and its bridge send to keep a slot's link working.
#[inline(always)]
pub fn is_link_upkeep_of_host(packet: &Packet) -> bool {
    match (packet.protocol, packet.icmp_type) {
        (ICMPV6, MLD_QUERY..=ND_ADVERTISE | MLD_REPORT) => true,
        (IGMP, _) => packet.dst.is_multicast(),
        _ => false, // nothing that the link needs
    }
}

/// True for the questions about group membership that a bridge which snoops asks.
#[inline(always)]
pub fn is_membership_query(packet: &Packet) -> bool {
    const IGMP_QUERY: u8 = 0x11; // RFC 3376 section 4
    matches!((packet.protocol, packet.icmp_type), (ICMPV6, MLD_QUERY) | (IGMP, IGMP_QUERY))
        && packet.dst.is_multicast()
}

/// How much of an error's quoted packet is read: an IPv6 header and the ports behind it.
const QUOTE_LENGTH: usize = 48;
/// The same for IPv4.
const QUOTE_LENGTH_V4: usize = 28;
pub type Quote = [u8; QUOTE_LENGTH];

/// What an error quotes, as far as it tells a flow.
#[derive(Clone, Copy)]
pub struct Quoted {
    pub src: Address,
    pub dst: Address,
    pub src_port_be: u16,
    pub dst_port_be: u16,
    pub protocol: u8,
    /// True for an echo request.
    pub is_request: bool,
}

/// True if the error quotes a packet of a tracked flow of the slot (RFC 5508 section 4): one that the slot
/// has received if the error leaves, one that it has sent if the error enters. Whoever is told of the error
/// must be who sent that packet, else an error could be sent to anybody.
#[inline(always)]
pub fn quotes_tracked_flow<F: Frame>(
    frame: &F,
    scratch: &mut Scratch,
    slot_id: SlotId,
    slot: &SlotEntry,
    direction: Direction,
) -> bool {
    let quoted_way = match direction {
        Direction::Egress => Direction::Ingress,
        Direction::Ingress => Direction::Egress,
    };
    read_quoted(frame, scratch)
        && scratch.quoted.src == scratch.packet.dst
        && flows::find_quoted(scratch, slot_id, slot, quoted_way)
}

/// Reads what an error quotes into the scratch memory; false if it is nothing that flows are made of.
#[inline(always)]
pub fn read_quoted<F: Frame>(frame: &F, scratch: &mut Scratch) -> bool {
    read_quote_apart(frame, scratch) == 1
}

/// A function of its own in BPF too, for its stack.
#[inline(never)]
fn read_quote_apart<F: Frame>(frame: &F, scratch: &mut Scratch) -> u32 {
    read_quote(frame, scratch).map_or(0, |()| 1)
}

#[inline(always)]
fn read_quote<F: Frame>(frame: &F, scratch: &mut Scratch) -> Option<()> {
    const ICMP_HEADER: u32 = 8;
    let is_v4 = scratch.packet.protocol == ICMP;
    let length = if is_v4 { QUOTE_LENGTH_V4 } else { QUOTE_LENGTH };
    if scratch.packet.payload < ICMP_HEADER + length as u32 {
        return None;
    }
    let at = u32::from(scratch.packet.transport_offset) + ICMP_HEADER;
    let bytes = scratch.quote.as_mut_ptr();
    // SAFETY: the quote's memory has room for either length.
    let read = unsafe {
        if is_v4 {
            frame.copy(at, bytes, QUOTE_LENGTH_V4 as u32)
        } else {
            frame.copy(at, bytes, QUOTE_LENGTH as u32)
        }
    };
    if !read {
        return None;
    }
    let (quote, quoted) = (&scratch.quote, &mut scratch.quoted);
    let [version] = field::<0, 1>(quote);
    let head = if is_v4 {
        let [fragment_high, fragment_low] = field::<6, 2>(quote);
        // Without options, and the first fragment: else the ports are not where they are read.
        if version != 0x45 || fragment_high & 0x1f != 0 || fragment_low != 0 {
            return None;
        }
        put_address(&mut quoted.src, Address::v4(field::<12, 4>(quote)).words());
        put_address(&mut quoted.dst, Address::v4(field::<16, 4>(quote)).words());
        [quoted.protocol] = field::<9, 1>(quote);
        field::<20, 6>(quote)
    } else {
        if version >> 4 != 6 {
            return None;
        }
        put_address(&mut quoted.src, Address(field::<8, 16>(quote)).words());
        put_address(&mut quoted.dst, Address(field::<24, 16>(quote)).words());
        [quoted.protocol] = field::<6, 1>(quote);
        field::<40, 6>(quote)
    };
    // Ports, or type, code, checksum and identifier.
    let [a, b, c, d, e, f] = head;
    quoted.is_request = false;
    match (quoted.protocol, a) {
        (TCP | UDP, _) => {
            quoted.src_port_be = u16::from_ne_bytes([a, b]);
            quoted.dst_port_be = u16::from_ne_bytes([c, d]);
        }
        (ICMP, ECHO_REQUEST | ECHO_REPLY) | (ICMPV6, ECHO_REQUEST_V6 | ECHO_REPLY_V6) => {
            quoted.src_port_be = u16::from_ne_bytes([e, f]);
            quoted.dst_port_be = quoted.src_port_be;
            quoted.is_request = matches!(a, ECHO_REQUEST | ECHO_REQUEST_V6);
        }
        _ => return None, // nothing that flows are made of
    }
    Some(())
}

/// Some bytes of a quote.
#[inline(always)]
fn field<const AT: usize, const LENGTH: usize>(quote: &Quote) -> [u8; LENGTH] {
    const { assert!(AT + LENGTH <= QUOTE_LENGTH) };
    // SAFETY: the bytes lie within the quote, as asserted, and bytes are valid whatever they are.
    unsafe { (&raw const *quote).byte_add(AT).cast::<[u8; LENGTH]>().read() }
}
