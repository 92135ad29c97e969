//! From bytes to a [`Packet`]: stages 1 (frame) and 4 (header sanity) of the packet's path.
//!
//! Length fields are claims: each is checked against the frame before anything is read through it.
//! Options and extension chains do not get through, but for those that the link itself needs. A later
//! fragment has no transport header: what it may do is `fragments`' business.

use netguard_common::{Address, DropReason};
use network_types::{eth::EtherType, ip::IpProto};

use crate::{
    cursor::Cursor,
    frame::{Frame, HEADERS_MAX},
    headers::{Arp, Ethernet, Icmp, Ipv4, Ipv6, Tcp, Udp},
    icmp,
    words::put_address,
};

pub const TCP: u8 = IpProto::Tcp as u8;
pub const UDP: u8 = IpProto::Udp as u8;
pub const ICMP: u8 = IpProto::Icmp as u8;
pub const ICMPV6: u8 = IpProto::Ipv6Icmp as u8;
pub const IGMP: u8 = IpProto::Igmp as u8;
pub const HOP_BY_HOP: u8 = IpProto::HopOpt as u8;
const ROUTING: u8 = IpProto::Ipv6Route as u8;
const FRAGMENT: u8 = IpProto::Ipv6Frag as u8;
const AUTHENTICATION: u8 = IpProto::Ah as u8;
const DESTINATION_OPTIONS: u8 = IpProto::Ipv6Opts as u8;

/// The most that is read of a frame (Ethernet, IPv6, the hop-by-hop header, ICMPv6 with a target) is
/// what a frame makes readable.
const _: () = assert!(
    size_of::<Ethernet>() + size_of::<Ipv6>() + 8 + size_of::<Icmp>() + 16 == HEADERS_MAX
        && size_of::<Tcp>() <= size_of::<Icmp>() + 16
);

/// The IPv4 option "router alert" (RFC 2113 section 2.1).
const ROUTER_ALERT: [u8; 4] = [0x94, 4, 0, 0];

/// Bits of [`Packet::tcp_flags`] (RFC 9293 section 3.1). The others say nothing about a connection's state.
pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

/// What a frame is, as [`parse`] says.
pub const IS_IP: u32 = 0;
pub const IS_ARP: u32 = 1;

/// An IPv4 or IPv6 packet: what verdicts depend on. One form for both families. Of an ARP packet only
/// the first four fields are filled in.
#[derive(Clone, Copy)]
pub struct Packet {
    pub eth_src: [u8; 6],
    pub arp_sender: [u8; 6],
    pub arp_is_sane: bool,
    pub src: Address,
    pub dst: Address,
    /// The port in network order, or the identifier of an ICMP echo.
    pub src_port_be: u16,
    /// The port in network order, or the identifier of an ICMP echo.
    pub dst_port_be: u16,
    /// [`TCP`], [`UDP`], [`ICMP`], [`ICMPV6`] or [`IGMP`].
    pub protocol: u8,
    /// What a neighbour solicitation or advertisement is about; of all else it says nothing.
    pub nd_target: Address,
    /// Zero unless ICMP or IGMP.
    pub icmp_type: u8,
    /// Zero unless TCP.
    pub tcp_flags: u8,
    /// How many routers it may still meet.
    pub time_to_live: u8,
    /// True if a router may make fragments of it.
    pub may_be_split: bool,
    /// The transport header's length in bytes: of TCP with its options.
    pub transport_length: u8,
    /// Where the transport header starts, in bytes from the Ethernet header on.
    pub transport_offset: u8,
    /// True unless this is the last or only fragment.
    pub more_fragments: bool,
    /// Where this fragment's payload stands in the whole packet's, in bytes.
    pub fragment_offset: u32,
    /// What all fragments of the packet share, as it is on the wire.
    pub identification: u32,
    /// The bytes behind the IP headers, transport header included, as the IP header claims.
    pub payload: u32,
}

impl Packet {
    /// True for the first packet of a TCP connection.
    #[inline(always)]
    pub fn opens_tcp(&self) -> bool {
        self.protocol == TCP && self.tcp_flags & (SYN | ACK) == SYN
    }

    /// True for every fragment, the first one too.
    #[inline(always)]
    pub fn is_fragment(&self) -> bool {
        self.more_fragments || self.fragment_offset != 0
    }

    /// True for a fragment that has no transport header.
    #[inline(always)]
    pub fn is_later_fragment(&self) -> bool {
        self.fragment_offset != 0
    }

    /// True for ICMP of either family.
    #[inline(always)]
    pub fn is_icmp(&self) -> bool {
        matches!(self.protocol, ICMP | ICMPV6)
    }
}

/// Reads the frame's headers into the memory given, and says whether it is [`IS_IP`] or [`IS_ARP`].
#[inline(always)]
pub fn parse<F: Frame>(frame: &F, packet: &mut Packet) -> Result<u32, DropReason> {
    const IPV4: u16 = EtherType::Ipv4 as u16;
    const IPV6: u16 = EtherType::Ipv6 as u16;
    const ARP: u16 = EtherType::Arp as u16;
    const DOT1Q: u16 = EtherType::Ieee8021q as u16;
    const DOT1AD: u16 = EtherType::Ieee8021ad as u16;
    const QINQ1: u16 = EtherType::Ieee8021QinQ1 as u16;
    const QINQ2: u16 = EtherType::Ieee8021QinQ2 as u16;
    const QINQ3: u16 = EtherType::Ieee8021QinQ3 as u16;

    if frame.has_offloaded_vlan_tag() {
        return Err(DropReason::VlanTag);
    }
    let mut cursor = Cursor::new(frame.memory());
    let eth = cursor.take::<Ethernet>()?;
    packet.eth_src = mac(eth.src_high, eth.src_low);
    let claimable = frame.length().saturating_sub(size_of::<Ethernet>() as u32);
    match eth.ether_type_be {
        IPV4 => parse_ipv4(cursor, claimable, packet)?,
        IPV6 => parse_ipv6(cursor, claimable, packet)?,
        ARP => {
            parse_arp(cursor, packet)?;
            return Ok(IS_ARP);
        }
        DOT1Q | DOT1AD | QINQ1 | QINQ2 | QINQ3 => return Err(DropReason::VlanTag),
        _ => return Err(DropReason::EtherType), // LLC lengths, LLDP, PPPoE, EAPOL: none has a slot's rule
    }
    Ok(IS_IP)
}

/// RFC 826; sane is IPv4 over Ethernet.
#[inline(always)]
fn parse_arp(mut cursor: Cursor, packet: &mut Packet) -> Result<(), DropReason> {
    let arp = cursor.take::<Arp>()?;
    packet.arp_is_sane = (arp.hardware_be, arp.protocol_be)
        == (1_u16.to_be(), EtherType::Ipv4 as u16)
        && (arp.hardware_length, arp.protocol_length) == (6, 4);
    packet.arp_sender = mac(arp.sender_mac_high, arp.sender_mac_low);
    put_address(&mut packet.src, Address::v4(arp.sender.to_ne_bytes()).words());
    Ok(())
}

/// An Ethernet address from its words in memory order.
#[inline(always)]
fn mac(high: u32, low: u16) -> [u8; 6] {
    let ([a, b, c, d], [e, f]) = (high.to_ne_bytes(), low.to_ne_bytes());
    [a, b, c, d, e, f]
}

/// RFC 791 section 3.1. `claimable` is the frame's length behind the Ethernet header. The one option
/// that passes is IGMP's router alert (RFC 3376 section 4): a bridge that snoops must hear it.
#[inline(always)]
fn parse_ipv4(mut cursor: Cursor, claimable: u32, packet: &mut Packet) -> Result<(), DropReason> {
    const MORE_FRAGMENTS: u16 = 0x2000;
    const DO_NOT_FRAGMENT: u16 = 0x4000;
    let ip = cursor.take::<Ipv4>()?;
    let mut header = size_of::<Ipv4>() as u32;
    match ip.version_and_length {
        0x45 => {}
        0x46 if ip.protocol == IGMP && cursor.take::<[u8; 4]>()? == ROUTER_ALERT => header += 4,
        0x46..=0x4f => return Err(DropReason::IpOptions),
        _ => return Err(DropReason::BadHeader), // another version, or a header below 20 bytes
    }
    let total = u32::from(u16::from_be(ip.total_length_be));
    if total < header || total > claimable {
        return Err(DropReason::BadHeader);
    }
    if ip.protocol == ICMPV6 {
        return Err(DropReason::Protocol);
    }
    let fragment = u16::from_be(ip.fragment_be);
    put_address(&mut packet.src, Address::v4(ip.src.to_ne_bytes()).words());
    put_address(&mut packet.dst, Address::v4(ip.dst.to_ne_bytes()).words());
    packet.protocol = ip.protocol;
    packet.more_fragments = fragment & MORE_FRAGMENTS != 0;
    packet.fragment_offset = u32::from(fragment & 0x1fff) * 8;
    packet.identification = u32::from(ip.identification_be);
    packet.time_to_live = ip.time_to_live;
    packet.may_be_split = fragment & DO_NOT_FRAGMENT == 0;
    packet.payload = total - header;
    parse_transport(cursor, packet)
}

/// RFC 8200 section 3. Two extension headers pass: the fragment header, and an eight-byte hop-by-hop
/// header in front of ICMPv6, because every MLD message carries it (RFC 3810 section 5), and a bridge
/// that snoops needs those to deliver neighbour discovery.
#[inline(always)]
fn parse_ipv6(mut cursor: Cursor, claimable: u32, packet: &mut Packet) -> Result<(), DropReason> {
    let ip = cursor.take::<Ipv6>()?;
    if ip.version >> 4 != 6 {
        return Err(DropReason::BadHeader);
    }
    let mut payload = u32::from(u16::from_be(ip.payload_length_be));
    if payload + size_of::<Ipv6>() as u32 > claimable {
        return Err(DropReason::BadHeader);
    }
    put_address(&mut packet.src, ip.src);
    put_address(&mut packet.dst, ip.dst);
    if packet.src.is_v4() || packet.dst.is_v4() {
        // RFC 4291 section 2.5.5.2: never on the wire, and it would alias our form of IPv4.
        return Err(DropReason::BadHeader);
    }
    packet.protocol = ip.next_header;
    packet.more_fragments = false;
    packet.fragment_offset = 0;
    packet.identification = 0;
    packet.time_to_live = ip.hop_limit;
    packet.may_be_split = false;
    match ip.next_header {
        HOP_BY_HOP => {
            let [next, length, ..] = cursor.take::<[u8; 8]>()?;
            if next != ICMPV6 || length != 0 || payload < 8 {
                return Err(DropReason::Ipv6Extension);
            }
            packet.protocol = next;
            payload -= 8;
        }
        FRAGMENT => {
            // RFC 8200 section 4.5: next header, reserved, offset and flags, identification.
            let [next, _, offset_high, offset_low, id @ ..] = cursor.take::<[u8; 8]>()?;
            if payload < 8 {
                return Err(DropReason::BadHeader);
            }
            let offset = u16::from_be_bytes([offset_high, offset_low]);
            packet.protocol = next;
            packet.more_fragments = offset & 1 != 0;
            packet.fragment_offset = u32::from(offset & 0xfff8);
            packet.identification = u32::from_ne_bytes(id);
            payload -= 8;
            if !packet.is_fragment() {
                return Err(DropReason::Fragment); // RFC 8021: atomic fragments are only good for attacks
            }
        }
        _ => {} // a transport protocol: decided below
    }
    match packet.protocol {
        HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS
            if !packet.is_later_fragment() =>
        {
            return Err(DropReason::Ipv6Extension);
        }
        ICMP | IGMP => return Err(DropReason::Protocol),
        _ => {} // a transport protocol: decided below
    }
    packet.payload = payload;
    parse_transport(cursor, packet)?;
    let behind_options = ip.next_header == HOP_BY_HOP;
    if behind_options
        && !matches!(packet.icmp_type, icmp::MLD_QUERY..=icmp::MLD_DONE | icmp::MLD_REPORT)
    {
        return Err(DropReason::Ipv6Extension);
    }
    Ok(())
}

#[inline(always)]
fn parse_transport(cursor: Cursor, packet: &mut Packet) -> Result<(), DropReason> {
    packet.transport_offset = cursor.offset() as u8;
    packet.src_port_be = 0;
    packet.dst_port_be = 0;
    packet.icmp_type = 0;
    packet.tcp_flags = 0;
    packet.transport_length = 8; // UDP's, ICMP's
    if packet.is_later_fragment() {
        return check_later_fragment(packet);
    }
    match packet.protocol {
        TCP => parse_tcp(cursor, packet)?,
        UDP => parse_udp(cursor, packet)?,
        ICMP | ICMPV6 => parse_icmp(cursor, packet)?,
        IGMP => parse_igmp(cursor, packet)?,
        _ => return Err(DropReason::Protocol), // tunnels and raw protocols: no rule can name them
    }
    if packet.more_fragments && !packet.payload.is_multiple_of(8) {
        return Err(DropReason::Fragment); // RFC 791 section 3.2: only the last one may end anywhere
    }
    Ok(())
}

/// A fragment in the middle or at the end of a packet.
#[inline(always)]
fn check_later_fragment(packet: &Packet) -> Result<(), DropReason> {
    if !matches!(packet.protocol, TCP | UDP | ICMP | ICMPV6) {
        return Err(DropReason::Protocol);
    }
    if packet.payload == 0 {
        return Err(DropReason::BadHeader);
    }
    // RFC 1858 section 4: at offset 8 it would overwrite what the first one was judged by. No packet is
    // longer than its length field can say.
    let end = packet.fragment_offset + packet.payload;
    let is_odd = packet.more_fragments && !packet.payload.is_multiple_of(8);
    if packet.fragment_offset == 8 || end > u32::from(u16::MAX) || is_odd {
        return Err(DropReason::Fragment);
    }
    Ok(())
}

#[inline(always)]
fn parse_tcp(mut cursor: Cursor, packet: &mut Packet) -> Result<(), DropReason> {
    const SYN_ACK: u8 = SYN | ACK;
    const FIN_ACK: u8 = FIN | ACK;
    const RST_ACK: u8 = RST | ACK;
    let tcp = cursor.take::<Tcp>()?;
    let header = u32::from(tcp.data_offset >> 4) * 4;
    if header < size_of::<Tcp>() as u32 || header > packet.payload {
        return Err(DropReason::BadHeader);
    }
    packet.transport_length = header as u8;
    packet.src_port_be = tcp.src_port_be;
    packet.dst_port_be = tcp.dst_port_be;
    packet.tcp_flags = tcp.flags & (FIN | SYN | RST | ACK);
    match packet.tcp_flags {
        SYN | SYN_ACK | ACK | FIN_ACK | RST | RST_ACK => Ok(()),
        _ => Err(DropReason::TcpFlags), // null, SYN+FIN, FIN alone: RFC 9293 has no use for them
    }
}

#[inline(always)]
fn parse_udp(mut cursor: Cursor, packet: &mut Packet) -> Result<(), DropReason> {
    let udp = cursor.take::<Udp>()?;
    let length = u32::from(u16::from_be(udp.length_be));
    // The length is the whole packet's: a first fragment holds less of it.
    let least = size_of::<Udp>() as u32;
    let is_short = length < least || packet.payload < least;
    if is_short || (length > packet.payload && !packet.more_fragments) {
        return Err(DropReason::BadHeader);
    }
    packet.src_port_be = udp.src_port_be;
    packet.dst_port_be = udp.dst_port_be;
    Ok(())
}

#[inline(always)]
fn parse_icmp(mut cursor: Cursor, packet: &mut Packet) -> Result<(), DropReason> {
    let header = cursor.take::<Icmp>()?;
    if packet.payload < size_of::<Icmp>() as u32 {
        return Err(DropReason::BadHeader);
    }
    packet.icmp_type = header.icmp_type;
    packet.src_port_be = header.identifier_be;
    packet.dst_port_be = packet.src_port_be;
    // RFC 4861 sections 4.3 and 4.4: the target follows the first eight bytes.
    if packet.protocol == ICMPV6
        && matches!(header.icmp_type, icmp::ND_SOLICIT | icmp::ND_ADVERTISE)
    {
        if packet.payload < size_of::<Icmp>() as u32 + 16 {
            return Err(DropReason::BadHeader);
        }
        put_address(&mut packet.nd_target, cursor.take()?);
    }
    Ok(())
}

/// To multicast only, see `icmp`.
#[inline(always)]
fn parse_igmp(mut cursor: Cursor, packet: &mut Packet) -> Result<(), DropReason> {
    packet.icmp_type = cursor.take::<[u8; 8]>()?[0];
    match (packet.payload < 8, packet.more_fragments) {
        (true, _) => Err(DropReason::BadHeader),
        (false, true) => Err(DropReason::Protocol),
        (false, false) => Ok(()),
    }
}
