//! From a frame's bytes to what the policy speaks of. Reads slices and owns no decision beyond "this is
//! no packet that a rule could speak of". No byte of a frame is trusted and none can make it panic.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netguard_common::DropReason::{self, BadHeader, IpOptions, Ipv6Extension, Truncated, VlanTag};

use super::{
    opening::Traffic,
    transport::{icmp, tcp, udp},
};
use crate::policy::Protocol;

pub(super) const FIN: u8 = 0x01;
pub(super) const SYN: u8 = 0x02;
pub(super) const RST: u8 = 0x04;
pub(super) const ACK: u8 = 0x10;

const ETHERNET: usize = 14;
pub(super) const ICMP: u8 = 1;
const IGMP: u8 = 2;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMPV6: u8 = 58;

/// A frame that the policy speaks of.
#[derive(Debug)]
pub(super) struct Frame {
    /// The Ethernet source.
    pub(super) mac: [u8; 6],
    /// What the frame carries.
    pub(super) content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    Arp(Arp),
    Ip(Packet),
}

/// RFC 826, as far as it is judged.
#[derive(Debug)]
pub(super) struct Arp {
    /// True for IPv4 on Ethernet.
    pub(super) is_ipv4_on_ethernet: bool,
    pub(super) sender_mac: [u8; 6],
    pub(super) sender: Ipv4Addr,
}

/// An IPv4 or IPv6 packet.
#[derive(Debug)]
pub(super) struct Packet {
    pub(super) src: IpAddr,
    pub(super) dst: IpAddr,
    /// The IP protocol number behind all extension headers.
    pub(super) protocol: u8,
    /// The bytes that the IP header claims behind its own and its extensions' headers.
    pub(super) payload: usize,
    pub(super) fragment: Option<Fragment>,
    pub(super) transport: Transport,
}

/// RFC 791 section 3.1, RFC 8200 section 4.5.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fragment {
    /// In bytes; 0 for the first one.
    pub(super) offset: usize,
    /// False for the last one.
    pub(super) more: bool,
    pub(super) identification: u32,
}

#[derive(Debug)]
pub(super) enum Transport {
    /// `flags`: FIN, SYN, RST and ACK only.
    Tcp {
        src: u16,
        dst: u16,
        flags: u8,
    },
    Udp {
        src: u16,
        dst: u16,
    },
    /// ICMP and ICMPv6.
    Icmp(Icmp),
    Igmp,
    /// Of a later fragment nothing is read.
    Unread,
}

#[derive(Debug)]
pub(super) struct Icmp {
    pub(super) kind: u8,
    pub(super) identifier: u16,
    /// What a neighbour solicitation or advertisement is about.
    pub(super) target: Option<Ipv6Addr>,
    /// The packet that an error is about, if it can be read.
    pub(super) quote: Option<Quote>,
}

/// The start of a packet within an ICMP error.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quote {
    pub(super) src: IpAddr,
    pub(super) dst: IpAddr,
    pub(super) protocol: u8,
    pub(super) ports: Ports,
}

/// What tells the flows between two addresses apart.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ports {
    /// Source and destination.
    Of(u16, u16),
    /// Either side may ask under one identifier: those are two exchanges.
    Echo { identifier: u16, is_request: bool },
}

impl Packet {
    pub(super) fn is_later_fragment(&self) -> bool {
        matches!(self.transport, Transport::Unread)
    }

    /// What rules can say of it.
    pub(super) fn traffic(&self) -> Traffic {
        let (protocol, port) = match &self.transport {
            Transport::Tcp { dst, .. } => (Some(Protocol::Tcp), *dst),
            Transport::Udp { dst, .. } => (Some(Protocol::Udp), *dst),
            Transport::Icmp(_) => (Some(Protocol::Icmp), 0),
            Transport::Igmp | Transport::Unread => (None, 0),
        };
        Traffic { protocol, port, is_echo_request: self.is_echo_request() }
    }

    pub(super) fn icmp(&self) -> Option<&Icmp> {
        match &self.transport {
            Transport::Icmp(icmp) => Some(icmp),
            _ => None,
        }
    }

    /// The type of an ICMPv6 message.
    pub(super) fn icmpv6_kind(&self) -> Option<u8> {
        self.icmp().filter(|_| self.src.is_ipv6()).map(|icmp| icmp.kind)
    }

    /// The type of an ICMP message over IPv4.
    pub(super) fn icmpv4_kind(&self) -> Option<u8> {
        self.icmp().filter(|_| self.src.is_ipv4()).map(|icmp| icmp.kind)
    }

    pub(super) fn is_echo_request(&self) -> bool {
        self.icmpv4_kind() == Some(8) || self.icmpv6_kind() == Some(128)
    }

    pub(super) fn is_echo_reply(&self) -> bool {
        self.icmpv4_kind() == Some(0) || self.icmpv6_kind() == Some(129)
    }

    pub(super) fn is_icmp_error(&self) -> bool {
        self.icmp().is_some_and(|icmp| is_error(self.src.is_ipv4(), icmp.kind))
    }

    /// The ports of TCP and UDP.
    pub(super) fn ports(&self) -> Option<(u16, u16)> {
        match self.transport {
            Transport::Tcp { src, dst, .. } | Transport::Udp { src, dst } => Some((src, dst)),
            Transport::Icmp(_) | Transport::Igmp | Transport::Unread => None,
        }
    }
}

pub(super) fn is_error(v4: bool, kind: u8) -> bool {
    if v4 { matches!(kind, 3 | 11 | 12) } else { matches!(kind, 1..=4) }
}

pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

pub(super) fn byte(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

pub(super) fn number(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_be_bytes)
}

/// The longest packet that IP can reassemble.
const PACKET_MAX: usize = 65535;

/// The part of `bytes` from an offset on; empty if there is none.
pub(super) fn from(bytes: &[u8], at: usize) -> &[u8] {
    bytes.get(at..).unwrap_or_default()
}

/// Reads a frame, or says why nobody may send such a thing.
pub(super) fn parse(bytes: &[u8]) -> Result<Frame, DropReason> {
    let header = bytes.get(..ETHERNET).ok_or(Truncated)?;
    let mac = array(header, 6).ok_or(Truncated)?;
    let body = from(bytes, ETHERNET);
    let content = match number(header, 12).ok_or(Truncated)? {
        0x8100 | 0x88a8 | 0x9100 | 0x9200 | 0x9300 => return Err(VlanTag),
        0x0806 => Content::Arp(arp(body).ok_or(Truncated)?),
        0x0800 => Content::Ip(ipv4(body)?),
        0x86dd => Content::Ip(ipv6(body)?),
        _ => return Err(DropReason::EtherType), // nothing else has a rule
    };
    Ok(Frame { mac, content })
}

fn arp(body: &[u8]) -> Option<Arp> {
    let body = body.get(..28)?;
    Some(Arp {
        is_ipv4_on_ethernet: body.starts_with(&[0, 1, 8, 0, 6, 4]),
        sender_mac: array(body, 8)?,
        sender: array::<4>(body, 14)?.into(),
    })
}

fn ipv4(body: &[u8]) -> Result<Packet, DropReason> {
    let header = body.get(..20).ok_or(Truncated)?;
    let field = |at| number(header, at).ok_or(Truncated);
    let protocol = byte(header, 9).ok_or(Truncated)?;
    let header_length = match byte(header, 0).ok_or(Truncated)? {
        0x45 => 20,
        0x46 if protocol == IGMP => {
            let router_alert = array(body, 20).ok_or(Truncated)? == [0x94, 4, 0, 0];
            if router_alert { 24 } else { return Err(IpOptions) }
        }
        0x46..=0x4f => return Err(IpOptions),
        _ => return Err(BadHeader), // another version, or a header below 20 bytes
    };
    let total = usize::from(field(2)?);
    if total < header_length || total > body.len() {
        return Err(BadHeader);
    }
    if protocol == ICMPV6 {
        return Err(DropReason::Protocol);
    }
    let word = field(6)?;
    let (offset, more) = (usize::from(word & 0x1fff) * 8, word & 0x2000 != 0);
    let fragment = Fragment { offset, more, identification: u32::from(field(4)?) };
    let address = |at| array::<4>(header, at).map(IpAddr::from).ok_or(Truncated);
    let packet = Packet {
        src: address(12)?,
        dst: address(16)?,
        protocol,
        payload: total - header_length,
        fragment: (offset != 0 || more).then_some(fragment),
        transport: Transport::Unread,
    };
    with_transport(packet, from(body, header_length))
}

fn ipv6(body: &[u8]) -> Result<Packet, DropReason> {
    let header = body.get(..40).ok_or(Truncated)?;
    if byte(header, 0).ok_or(Truncated)? >> 4 != 6 {
        return Err(BadHeader);
    }
    let mut payload = usize::from(number(header, 4).ok_or(Truncated)?);
    if payload + 40 > body.len() {
        return Err(BadHeader);
    }
    let address = |at| array::<16>(header, at).map(Ipv6Addr::from).ok_or(Truncated);
    let (src, dst) = (address(8)?, address(24)?);
    if src.to_ipv4_mapped().is_some() || dst.to_ipv4_mapped().is_some() {
        return Err(BadHeader);
    }
    let mut rest = from(body, 40);
    let mut protocol = byte(header, 6).ok_or(Truncated)?;
    let mut fragment = None;
    let mut behind_hop_by_hop = false;
    match protocol {
        0 => {
            let [next, length, ..] = array::<8>(rest, 0).ok_or(Truncated)?;
            if next != ICMPV6 || length != 0 || payload < 8 {
                return Err(Ipv6Extension);
            }
            (protocol, payload, rest) = (next, payload - 8, from(rest, 8));
            behind_hop_by_hop = true;
        }
        44 => {
            let [next, _, high, low, identification @ ..] = array::<8>(rest, 0).ok_or(Truncated)?;
            if payload < 8 {
                return Err(BadHeader);
            }
            (protocol, payload, rest) = (next, payload - 8, from(rest, 8));
            let word = u16::from_be_bytes([high, low]);
            let (offset, more) = (usize::from(word & 0xfff8), word & 1 != 0);
            if offset == 0 && !more {
                return Err(DropReason::Fragment); // atomic, RFC 6946: nobody needs it
            }
            if offset == 0 && matches!(next, 0 | 43 | 44 | 51 | 60) {
                return Err(Ipv6Extension);
            }
            let identification = u32::from_be_bytes(identification);
            fragment = Some(Fragment { offset, more, identification });
        }
        43 | 51 | 60 => return Err(Ipv6Extension),
        _ => {} // a transport protocol or none: judged with the transport
    }
    if matches!(protocol, ICMP | IGMP) {
        return Err(DropReason::Protocol); // the other family's
    }
    let (src, dst) = (src.into(), dst.into());
    let packet = Packet { src, dst, protocol, payload, fragment, transport: Transport::Unread };
    let packet = with_transport(packet, rest)?;
    if behind_hop_by_hop && !matches!(packet.icmpv6_kind(), Some(130..=132 | 143)) {
        return Err(Ipv6Extension);
    }
    Ok(packet)
}

/// Adds what is behind the IP headers, unless it is a later fragment's.
fn with_transport(packet: Packet, rest: &[u8]) -> Result<Packet, DropReason> {
    let later = packet.fragment.filter(|fragment| fragment.offset != 0);
    if let Some(Fragment { offset, more, .. }) = later {
        if !matches!(packet.protocol, TCP | UDP | ICMP | ICMPV6) {
            return Err(DropReason::Protocol);
        }
        if packet.payload == 0 {
            return Err(BadHeader);
        }
        // RFC 1858 section 3: it would overwrite the TCP header.
        // Over the transport header, odd in the middle, or beyond what IP can put together.
        let is_odd = more && !packet.payload.is_multiple_of(8);
        let is_bad = offset == 8 || is_odd || offset + packet.payload > PACKET_MAX;
        return if is_bad { Err(DropReason::Fragment) } else { Ok(packet) };
    }
    let transport = match packet.protocol {
        TCP => tcp(rest, packet.payload)?,
        UDP => udp(rest, packet.payload, packet.fragment.is_some())?,
        ICMP | ICMPV6 => Transport::Icmp(icmp(rest, packet.payload, packet.src.is_ipv4())?),
        IGMP => {
            rest.get(..8).ok_or(Truncated)?;
            if packet.payload < 8 {
                return Err(BadHeader);
            }
            if packet.fragment.is_some() {
                return Err(DropReason::Protocol);
            }
            Transport::Igmp
        }
        _ => return Err(DropReason::Protocol), // tunnels and raw protocols: no rule can name them
    };
    if packet.fragment.is_some() && !packet.payload.is_multiple_of(8) {
        return Err(DropReason::Fragment);
    }
    Ok(Packet { transport, ..packet })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipv4_frame(protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
        let total = u16::try_from(20 + payload.len()).expect("a short packet");
        let mut frame = vec![2; 12];
        frame.extend([8, 0, 0x45, 0]);
        frame.extend(total.to_be_bytes());
        frame.extend([0, 7]);
        frame.extend(fragment.to_be_bytes());
        frame.extend([64, protocol, 0, 0, 10, 1, 0, 2, 203, 0, 113, 9]);
        frame.extend(payload);
        frame
    }

    fn tcp_header(flags: u8) -> Vec<u8> {
        let mut header = vec![0; 20];
        header[12] = 0x50;
        header[13] = flags;
        header
    }

    #[test]
    fn what_is_no_packet_has_a_reason() {
        let udp = |length: u8| vec![0, 1, 0, 2, 0, length, 0, 0];
        let cases = [
            ("a SYN", ipv4_frame(TCP, 0, &tcp_header(SYN)), None),
            ("flags that do not count", ipv4_frame(TCP, 0, &tcp_header(SYN | 0xe8)), None),
            ("SYN and FIN", ipv4_frame(TCP, 0, &tcp_header(SYN | FIN)), Some(DropReason::TcpFlags)),
            ("FIN alone", ipv4_frame(TCP, 0, &tcp_header(FIN)), Some(DropReason::TcpFlags)),
            ("half a TCP header", ipv4_frame(TCP, 0, &[0; 10]), Some(Truncated)),
            ("a datagram", ipv4_frame(UDP, 0, &udp(8)), None),
            ("a datagram that is short", ipv4_frame(UDP, 0, &udp(9)), Some(BadHeader)),
            ("its first fragment", ipv4_frame(UDP, 0x2000, &udp(200)), None),
            ("a tiny fragment", ipv4_frame(UDP, 1, &udp(8)), Some(DropReason::Fragment)),
            ("a later fragment", ipv4_frame(UDP, 2, &udp(8)), None),
            ("an empty fragment", ipv4_frame(UDP, 2, &[]), Some(BadHeader)),
            ("fragmented IGMP", ipv4_frame(IGMP, 0x2000, &[0; 8]), Some(DropReason::Protocol)),
            ("odd first fragment", ipv4_frame(UDP, 0x2000, &[udp(99), vec![0; 3]].concat()), {
                Some(DropReason::Fragment)
            }),
            ("ICMPv6 over IPv4", ipv4_frame(ICMPV6, 0, &[0; 8]), Some(DropReason::Protocol)),
            ("nothing", Vec::new(), Some(Truncated)),
        ];
        for (name, frame, expected) in cases {
            assert_eq!(parse(&frame).err(), expected, "{name}");
        }
    }

    #[test]
    fn no_prefix_of_a_packet_is_one() {
        let frame = ipv4_frame(TCP, 0, &tcp_header(SYN));
        for length in 0..frame.len() {
            let reason = parse(&frame[..length]).expect_err("a prefix");
            assert!(matches!(reason, Truncated | BadHeader), "{length} bytes: {reason:?}");
        }
    }
}
