//! From bytes to a [`Packet`]: stages 1 (frame) and 4 (header sanity) of the packet's path.
//!
//! Length fields are claims: each is checked against the frame before anything is read through it.
//! Every header of a packet that gets through stands at a fixed offset, because options, extension
//! chains and fragments do not get through.

use netguard_common::{Address, DropReason};
use network_types::{
    arp::ArpHdr,
    eth::{EthHdr, EtherType},
    ip::{IpProto, Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
};

use crate::{
    cursor::{Cursor, Header},
    frame::{Frame, HEADERS_MAX},
};

pub const TCP: u8 = IpProto::Tcp as u8;
pub const UDP: u8 = IpProto::Udp as u8;
pub const ICMP: u8 = IpProto::Icmp as u8;
pub const ICMPV6: u8 = IpProto::Ipv6Icmp as u8;
pub const IGMP: u8 = IpProto::Igmp as u8;
const HOP_BY_HOP: u8 = IpProto::HopOpt as u8;
const ROUTING: u8 = IpProto::Ipv6Route as u8;
const FRAGMENT: u8 = IpProto::Ipv6Frag as u8;
const AUTHENTICATION: u8 = IpProto::Ah as u8;
const DESTINATION_OPTIONS: u8 = IpProto::Ipv6Opts as u8;

/// The most that is read of a frame (Ethernet, IPv6, the hop-by-hop header, ICMPv6 with a target) is
/// what a frame makes readable.
const _: () = assert!(
    EthHdr::LEN + Ipv6Hdr::LEN + 8 + size_of::<IcmpHeader>() + 16 == HEADERS_MAX
        && size_of::<TcpHeader>() <= size_of::<IcmpHeader>() + 16
);

/// The IPv4 option "router alert" (RFC 2113 section 2.1).
const ROUTER_ALERT: [u8; 4] = [0x94, 4, 0, 0];

/// Bits of [`Packet::tcp_flags`] (RFC 9293 section 3.1).
pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

/// Multicast listener query, report and done, and the report of version 2 (RFC 2710, RFC 3810).
pub const MLD_QUERY: u8 = 130;
pub const MLD_DONE: u8 = 132;
pub const MLD_REPORT: u8 = 143;
/// Router solicitation, neighbour solicitation and advertisement (RFC 4861).
pub const ROUTER_SOLICIT: u8 = 133;
pub const ND_SOLICIT: u8 = 135;
pub const ND_ADVERTISE: u8 = 136;

/// A frame that netguard understands.
pub enum Parsed {
    /// ARP, with the Ethernet source.
    Arp(ArpHdr, [u8; 6]),
    /// IPv4 or IPv6 with one whole transport header.
    Ip(&'static Packet),
}

/// An IPv4 or IPv6 packet: what verdicts depend on. One form for both families.
#[derive(Clone, Copy)]
pub struct Packet {
    pub eth_src: [u8; 6],
    pub src: Address,
    pub dst: Address,
    /// The port in network order, or the identifier of an ICMP echo.
    pub src_port_be: u16,
    /// The port in network order, or the identifier of an ICMP echo.
    pub dst_port_be: u16,
    /// [`TCP`], [`UDP`], [`ICMP`], [`ICMPV6`] or [`IGMP`].
    pub protocol: u8,
    /// What a neighbour solicitation or advertisement is about; unspecified in all else.
    pub nd_target: Address,
    /// Zero unless ICMP or IGMP.
    pub icmp_type: u8,
    /// Zero unless TCP.
    pub tcp_flags: u8,
    /// Where the transport header starts, in bytes from the Ethernet header on.
    pub transport_offset: u8,
}

impl Packet {
    /// True for the first packet of a TCP connection.
    #[inline(always)]
    pub fn opens_tcp(&self) -> bool {
        self.protocol == TCP && self.tcp_flags & (SYN | ACK) == SYN
    }
}

/// RFC 9293 section 3.1, as bytes.
#[derive(Clone, Copy)]
#[repr(C)]
struct TcpHeader {
    src_port: [u8; 2],
    dst_port: [u8; 2],
    sequence: [u8; 4],
    acknowledgment: [u8; 4],
    data_offset: u8,
    flags: u8,
    window: [u8; 2],
    checksum: [u8; 2],
    urgent: [u8; 2],
}
// SAFETY: bytes.
unsafe impl Header for TcpHeader {}

/// RFC 792 and RFC 4443 section 2.1: type, code, checksum, and four bytes by type.
#[derive(Clone, Copy)]
#[repr(C)]
struct IcmpHeader {
    icmp_type: u8,
    code: u8,
    checksum: [u8; 2],
    identifier: [u8; 2],
    sequence: [u8; 2],
}
// SAFETY: bytes.
unsafe impl Header for IcmpHeader {}

/// Reads the frame's headers; an IP packet goes into the memory given.
#[inline(always)]
pub fn parse<F: Frame>(frame: &F, packet: &'static mut Packet) -> Result<Parsed, DropReason> {
    if frame.has_offloaded_vlan_tag() {
        return Err(DropReason::VlanTag);
    }
    let mut cursor = Cursor::new(frame.memory());
    let eth = cursor.take::<EthHdr>()?;
    let claimable = frame.length().saturating_sub(EthHdr::LEN as u32);

    const IPV4: u16 = EtherType::Ipv4 as u16;
    const IPV6: u16 = EtherType::Ipv6 as u16;
    const ARP: u16 = EtherType::Arp as u16;
    const DOT1Q: u16 = EtherType::Ieee8021q as u16;
    const DOT1AD: u16 = EtherType::Ieee8021ad as u16;
    const QINQ1: u16 = EtherType::Ieee8021QinQ1 as u16;
    const QINQ2: u16 = EtherType::Ieee8021QinQ2 as u16;
    const QINQ3: u16 = EtherType::Ieee8021QinQ3 as u16;
    match eth.ether_type {
        IPV4 => {
            packet.eth_src = eth.src_addr;
            parse_ipv4(cursor, claimable, packet)?;
            Ok(Parsed::Ip(packet))
        }
        IPV6 => {
            packet.eth_src = eth.src_addr;
            parse_ipv6(cursor, claimable, packet)?;
            Ok(Parsed::Ip(packet))
        }
        ARP => Ok(Parsed::Arp(cursor.take()?, eth.src_addr)),
        DOT1Q | DOT1AD | QINQ1 | QINQ2 | QINQ3 => Err(DropReason::VlanTag),
        _ => Err(DropReason::EtherType), // LLC lengths, LLDP, PPPoE, EAPOL: none has a slot's rule
    }
}

/// RFC 791 section 3.1. `claimable` is the frame's length behind the Ethernet header. The one option
/// that passes is IGMP's router alert (RFC 3376 section 4): a bridge that snoops must hear it.
#[inline(always)]
fn parse_ipv4(mut cursor: Cursor, claimable: u32, packet: &mut Packet) -> Result<(), DropReason> {
    let ip = cursor.take::<Ipv4Hdr>()?;
    let mut header = Ipv4Hdr::LEN as u32;
    match ip.vihl {
        0x45 => {}
        0x46 if ip.proto == IGMP && cursor.take::<[u8; 4]>()? == ROUTER_ALERT => header += 4,
        0x46..=0x4f => return Err(DropReason::IpOptions),
        _ => return Err(DropReason::BadHeader), // another version, or a header below 20 bytes
    }
    let total = u32::from(u16::from_be_bytes(ip.tot_len));
    if total < header || total > claimable {
        return Err(DropReason::BadHeader);
    }
    // Bit 13 is "more fragments", the low 13 bits are the offset; "don't fragment" may be set.
    if u16::from_be_bytes(ip.frags) & 0x3fff != 0 {
        return Err(DropReason::Fragment);
    }
    if ip.proto == ICMPV6 {
        return Err(DropReason::Protocol);
    }
    packet.src = Address::v4(ip.src_addr);
    packet.dst = Address::v4(ip.dst_addr);
    packet.protocol = ip.proto;
    parse_transport(cursor, packet, total - header)
}

/// RFC 8200 section 3. The one extension header that passes is an eight-byte hop-by-hop header in
/// front of ICMPv6: every MLD message carries it (RFC 3810 section 5), and a bridge that snoops
/// needs those to deliver neighbour discovery.
#[inline(always)]
fn parse_ipv6(mut cursor: Cursor, claimable: u32, packet: &mut Packet) -> Result<(), DropReason> {
    let ip = cursor.take::<Ipv6Hdr>()?;
    if ip.vcf[0] >> 4 != 6 {
        return Err(DropReason::BadHeader);
    }
    let mut payload = u32::from(u16::from_be_bytes(ip.payload_len));
    if payload + Ipv6Hdr::LEN as u32 > claimable {
        return Err(DropReason::BadHeader);
    }
    packet.src = Address(ip.src_addr);
    packet.dst = Address(ip.dst_addr);
    if packet.src.is_v4() || packet.dst.is_v4() {
        // RFC 4291 section 2.5.5.2: never on the wire, and it would alias our form of IPv4.
        return Err(DropReason::BadHeader);
    }
    let mut protocol = ip.next_hdr;
    match protocol {
        HOP_BY_HOP => {
            let [next, length, ..] = cursor.take::<[u8; 8]>()?;
            if next != ICMPV6 || length != 0 || payload < 8 {
                return Err(DropReason::Ipv6Extension);
            }
            protocol = next;
            payload -= 8;
        }
        FRAGMENT => return Err(DropReason::Fragment),
        ROUTING | AUTHENTICATION | DESTINATION_OPTIONS => return Err(DropReason::Ipv6Extension),
        ICMP => return Err(DropReason::Protocol),
        _ => {} // a transport protocol: decided below
    }
    let behind_options = ip.next_hdr == HOP_BY_HOP;
    packet.protocol = protocol;
    parse_transport(cursor, packet, payload)?;
    if behind_options && !matches!(packet.icmp_type, MLD_QUERY..=MLD_DONE | MLD_REPORT) {
        return Err(DropReason::Ipv6Extension);
    }
    Ok(())
}

/// `payload` is what the IP header claims to carry, already checked against the frame.
#[inline(always)]
fn parse_transport(
    mut cursor: Cursor,
    packet: &mut Packet,
    payload: u32,
) -> Result<(), DropReason> {
    packet.transport_offset = cursor.offset() as u8;
    packet.src_port_be = 0;
    packet.dst_port_be = 0;
    packet.nd_target = Address::UNSPECIFIED;
    packet.icmp_type = 0;
    packet.tcp_flags = 0;
    match packet.protocol {
        TCP => {
            let tcp = cursor.take::<TcpHeader>()?;
            let header = u32::from(tcp.data_offset >> 4) * 4;
            if header < size_of::<TcpHeader>() as u32 || header > payload {
                return Err(DropReason::BadHeader);
            }
            packet.src_port_be = u16::from_ne_bytes(tcp.src_port);
            packet.dst_port_be = u16::from_ne_bytes(tcp.dst_port);
            packet.tcp_flags = tcp.flags;
        }
        UDP => {
            let udp = cursor.take::<UdpHdr>()?;
            let length = u32::from(u16::from_be_bytes(udp.len));
            if length < UdpHdr::LEN as u32 || length > payload {
                return Err(DropReason::BadHeader);
            }
            packet.src_port_be = u16::from_ne_bytes(udp.src);
            packet.dst_port_be = u16::from_ne_bytes(udp.dst);
        }
        ICMP | ICMPV6 => {
            let icmp = cursor.take::<IcmpHeader>()?;
            if payload < size_of::<IcmpHeader>() as u32 {
                return Err(DropReason::BadHeader);
            }
            packet.icmp_type = icmp.icmp_type;
            packet.src_port_be = u16::from_ne_bytes(icmp.identifier);
            packet.dst_port_be = packet.src_port_be;
            // RFC 4861 sections 4.3 and 4.4: the target follows the first eight bytes.
            if packet.protocol == ICMPV6 && matches!(icmp.icmp_type, ND_SOLICIT | ND_ADVERTISE) {
                if payload < size_of::<IcmpHeader>() as u32 + 16 {
                    return Err(DropReason::BadHeader);
                }
                packet.nd_target = Address(cursor.take()?);
            }
        }
        IGMP => packet.icmp_type = cursor.take::<[u8; 8]>()?[0], // to multicast only, see egress
        _ => return Err(DropReason::Protocol), // tunnels and raw protocols: no rule can name them
    }
    Ok(())
}
