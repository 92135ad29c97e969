//! Frames, built field by field and correct unless a test breaks them.

use std::net::IpAddr;

use etherparse::{IpNumber, PacketBuilder, PacketBuilderStep, ip_number};

/// The guest's MAC.
pub const GUEST_MAC: [u8; 6] = [2, 0, 0, 0, 1, 2];
/// The bridge's MAC, as the policy of [`crate::kernel`] knows it.
pub const BRIDGE_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];

/// A frame in the making: Ethernet and IP.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    eth_src: [u8; 6],
    eth_dst: [u8; 6],
    src: IpAddr,
    dst: IpAddr,
}

/// From one address to another, from the guest's MAC to the bridge's.
#[must_use]
pub fn ip(src: &str, dst: &str) -> Path {
    let address = |text: &str| text.parse().expect("an address");
    Path { eth_src: GUEST_MAC, eth_dst: BRIDGE_MAC, src: address(src), dst: address(dst) }
}

impl Path {
    /// From another MAC than the guest's.
    #[must_use]
    pub fn from_mac(mut self, mac: [u8; 6]) -> Self {
        self.eth_src = mac;
        self
    }

    /// To another MAC than the bridge's.
    #[must_use]
    pub fn to_mac(mut self, mac: [u8; 6]) -> Self {
        self.eth_dst = mac;
        self
    }

    fn ethernet(self) -> PacketBuilderStep<etherparse::IpHeaders> {
        let ethernet = PacketBuilder::ethernet2(self.eth_src, self.eth_dst);
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => ethernet.ipv4(src.octets(), dst.octets(), 64),
            (IpAddr::V6(src), IpAddr::V6(dst)) => ethernet.ipv6(src.octets(), dst.octets(), 64),
            _ => panic!("addresses of two families"),
        }
    }

    /// A datagram.
    #[must_use]
    pub fn udp(self, src_port: u16, dst_port: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        let builder = self.ethernet().udp(src_port, dst_port);
        builder.write(&mut frame, payload).expect("a frame");
        frame
    }

    /// A SYN.
    #[must_use]
    pub fn tcp_syn(self, src_port: u16, dst_port: u16) -> Vec<u8> {
        let mut frame = Vec::new();
        let builder = self.ethernet().tcp(src_port, dst_port, 1, 65535).syn();
        builder.write(&mut frame, &[]).expect("a frame");
        frame
    }

    /// A segment of an open connection.
    #[must_use]
    pub fn tcp_ack(self, src_port: u16, dst_port: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        let builder = self.ethernet().tcp(src_port, dst_port, 1, 65535).ack(1);
        builder.write(&mut frame, payload).expect("a frame");
        frame
    }

    /// A segment with exactly these flags (RFC 9293 section 3.1), its checksum right.
    #[must_use]
    pub fn tcp_flags(self, src_port: u16, dst_port: u16, flags: u8) -> Vec<u8> {
        let builder = self.ethernet().tcp(src_port, dst_port, 1, 65535);
        let builder = if flags & 0x01 != 0 { builder.fin() } else { builder };
        let builder = if flags & 0x02 != 0 { builder.syn() } else { builder };
        let builder = if flags & 0x04 != 0 { builder.rst() } else { builder };
        let builder = if flags & 0x08 != 0 { builder.psh() } else { builder };
        let builder = if flags & 0x10 != 0 { builder.ack(1) } else { builder };
        let builder = if flags & 0x20 != 0 { builder.urg(1) } else { builder };
        let mut frame = Vec::new();
        builder.write(&mut frame, &[]).expect("a frame");
        frame
    }

    /// An ICMP or ICMPv6 message with an identifier, by its type.
    #[must_use]
    pub fn icmp(self, kind: u8, identifier: u16) -> Vec<u8> {
        let [high, low] = identifier.to_be_bytes();
        let rest = [high, low, 0, 1];
        let mut frame = Vec::new();
        let built = if self.src.is_ipv4() {
            self.ethernet().icmpv4_raw(kind, 0, rest).write(&mut frame, b"payload")
        } else {
            self.ethernet().icmpv6_raw(kind, 0, rest).write(&mut frame, b"payload")
        };
        built.expect("a frame");
        frame
    }

    /// A neighbour solicitation or advertisement (135, 136) about an address.
    #[must_use]
    pub fn neighbour(self, kind: u8, target: &str) -> Vec<u8> {
        let target: std::net::Ipv6Addr = target.parse().expect("an address");
        let mut payload = vec![kind, 0, 0, 0, 0, 0, 0, 0];
        payload.extend(target.octets());
        self.protocol(ip_number::IPV6_ICMP.0, &payload)
    }

    /// An echo request of either family.
    #[must_use]
    pub fn ping(self, identifier: u16) -> Vec<u8> {
        self.icmp(if self.src.is_ipv4() { 8 } else { 128 }, identifier)
    }

    /// The answer to an echo request of either family.
    #[must_use]
    pub fn pong(self, identifier: u16) -> Vec<u8> {
        self.icmp(if self.src.is_ipv4() { 0 } else { 129 }, identifier)
    }

    /// An ICMP or ICMPv6 error of that type about a frame of the same family: it quotes the frame's packet
    /// from its IP header on.
    #[must_use]
    pub fn error(self, kind: u8, about: &[u8]) -> Vec<u8> {
        let mut payload = vec![kind, 0, 0, 0, 0, 0, 0, 0];
        payload.extend(&about[14..]);
        let number = if self.src.is_ipv4() { ip_number::ICMP } else { ip_number::IPV6_ICMP };
        self.protocol(number.0, &payload)
    }

    /// Any protocol with any payload.
    #[must_use]
    pub fn protocol(self, number: u8, payload: &[u8]) -> Vec<u8> {
        const NEXT_HEADER: usize = 14 + 6;
        let mut frame = Vec::new();
        // The builder would want to write IPv6 extension headers itself: give it a number that it
        // does not know (RFC 3692), and put the right one in its place.
        let stand_in = if self.src.is_ipv4() { IpNumber(number) } else { IpNumber(253) };
        self.ethernet().write(&mut frame, stand_in, payload).expect("a frame");
        if self.src.is_ipv6() {
            frame[NEXT_HEADER] = number;
        }
        frame
    }

    /// A fragment of a packet (RFC 791 section 3.2, RFC 8200 section 4.5). The offset counts units of eight
    /// bytes. The IPv4 identification is the mark's to set, see [`marked`]; IPv6 has `identification`.
    #[must_use]
    pub fn fragment(
        self,
        number: u8,
        identification: u8,
        offset: u16,
        more: bool,
        payload: &[u8],
    ) -> Vec<u8> {
        if self.src.is_ipv4() {
            let mut frame = self.protocol(number, payload);
            let field = offset | if more { 0x2000 } else { 0 };
            frame[20..22].copy_from_slice(&field.to_be_bytes());
            return frame;
        }
        let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
        let mut bytes = vec![number, 0, high, low, 0, 0, 0, identification];
        bytes.extend(payload);
        self.protocol(44, &bytes)
    }

    /// MLDv2 or any ICMPv6 message behind the hop-by-hop header with a router alert.
    #[must_use]
    pub fn behind_hop_by_hop(self, icmp_type: u8) -> Vec<u8> {
        let mut payload = vec![ip_number::IPV6_ICMP.0, 0, 5, 2, 0, 0, 1, 0];
        payload.extend([icmp_type, 0, 0, 0, 0, 0, 0, 0]);
        self.protocol(0, &payload)
    }
}

/// An ARP packet for IPv4: 1 asks, 2 answers.
#[must_use]
pub fn arp(operation: u8, sender_mac: [u8; 6], sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend([0xff; 6]);
    frame.extend(GUEST_MAC);
    frame.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, operation]);
    frame.extend(sender_mac);
    frame.extend(sender);
    frame.extend([0; 6]);
    frame.extend(target);
    frame
}

/// The frame with a mark by which [`carries`] knows it again wherever it arrives: the identification of
/// IPv4, which routers and address translation leave alone, the flow label of IPv6, and bytes behind the
/// end of everything else.
#[must_use]
pub fn marked(mut frame: Vec<u8>, mark: u16) -> Vec<u8> {
    let bytes = mark.to_be_bytes();
    match ether_type(&frame) {
        IPV4 if frame.len() >= 20 => {
            frame[18..20].copy_from_slice(&bytes);
            correct_checksum(&mut frame);
        }
        IPV6 if frame.len() >= 18 => frame[16..18].copy_from_slice(&bytes),
        _ => frame.extend(trailer(mark)), // no field is left to itself
    }
    frame
}

/// True if the frame has the mark.
#[must_use]
pub fn carries(frame: &[u8], mark: u16) -> bool {
    let bytes = mark.to_be_bytes();
    let trailer = trailer(mark);
    (ether_type(frame) == IPV4 && frame.get(18..20) == Some(&bytes))
        || (ether_type(frame) == IPV6 && frame.get(16..18) == Some(&bytes))
        || frame.windows(trailer.len()).any(|window| window == trailer)
}

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

fn ether_type(frame: &[u8]) -> u16 {
    frame.get(12..14).map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
}

fn trailer(mark: u16) -> Vec<u8> {
    format!("netguard's mark {mark:04x}").into_bytes()
}

/// RFC 1071, over an IPv4 header as long as it says, if it is all there.
fn correct_checksum(frame: &mut [u8]) {
    let end = 14 + usize::from(frame[14] & 0xf) * 4;
    if end < 34 || end > frame.len() {
        return;
    }
    frame[24..26].fill(0);
    let words = frame[14..end].chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    let mut sum: u32 = words.map(u32::from).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let checksum = !u16::try_from(sum).expect("folded");
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
}

/// The frame with a tag between its addresses and its type.
#[must_use]
pub fn tagged(frame: &[u8], ether_type: u16, tag: u16) -> Vec<u8> {
    let mut out = frame[..12].to_vec();
    out.extend(ether_type.to_be_bytes());
    out.extend(tag.to_be_bytes());
    out.extend(&frame[12..]);
    out
}

/// The frame with one byte replaced.
#[must_use]
pub fn with_byte(mut frame: Vec<u8>, offset: usize, value: u8) -> Vec<u8> {
    frame[offset] = value;
    frame
}

/// The IPv4 frame with options put behind its header, lengths corrected.
#[must_use]
pub fn with_ip_options(frame: &[u8], options: &[u8]) -> Vec<u8> {
    assert!(options.len().is_multiple_of(4), "options come in words");
    let mut out = frame[..34].to_vec();
    out.extend(options);
    out.extend(&frame[34..]);
    let words = u8::try_from(options.len() / 4).expect("at most 40 bytes of options");
    out[14] = 0x45 + words;
    let total = u16::try_from(out.len() - 14).expect("a short frame");
    out[16..18].copy_from_slice(&total.to_be_bytes());
    out
}
