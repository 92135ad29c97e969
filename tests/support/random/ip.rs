//! Bytes of packets that need not be right: more than a builder of good ones can say.

use std::net::IpAddr;

pub(super) const FIN: u8 = 1;
pub(super) const SYN: u8 = 2;
pub(super) const RST: u8 = 4;
pub(super) const ACK: u8 = 16;

pub(super) const ICMP: u8 = 1;
pub(super) const IGMP: u8 = 2;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMPV6: u8 = 58;

/// An IP packet in the making. Checksums of transports are zero: the policy is not about them.
pub(super) struct Ip {
    pub(super) protocol: u8,
    pub(super) payload: Vec<u8>,
    /// Offset in bytes, whether more follow, identification.
    pub(super) fragment: Option<(usize, bool, u16)>,
    /// IPv4 only.
    pub(super) options: Vec<u8>,
    /// IPv6 only: with a router alert.
    pub(super) hop_by_hop: bool,
}

impl Ip {
    pub(super) fn new(protocol: u8, payload: Vec<u8>) -> Self {
        Self { protocol, payload, fragment: None, options: Vec::new(), hop_by_hop: false }
    }

    pub(super) fn bytes(self, src: IpAddr, dst: IpAddr) -> Vec<u8> {
        match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => self.ipv4(src.octets(), dst.octets()),
            (IpAddr::V6(src), IpAddr::V6(dst)) => self.ipv6(src.octets(), dst.octets()),
            _ => panic!("addresses of two families"),
        }
    }

    fn ipv4(self, src: [u8; 4], dst: [u8; 4]) -> Vec<u8> {
        let header = 20 + self.options.len();
        let (offset, more, identification) = self.fragment.unwrap_or((0, false, 1));
        let word = u16::try_from(offset / 8).expect("an offset") | if more { 0x2000 } else { 0 };
        let mut bytes = vec![0x40 | low_byte(header / 4), 0];
        bytes.extend(length(header + self.payload.len()));
        bytes.extend(identification.to_be_bytes());
        bytes.extend(word.to_be_bytes());
        bytes.extend([64, self.protocol, 0, 0]);
        bytes.extend(src);
        bytes.extend(dst);
        bytes.extend(self.options);
        let sum: u32 = bytes
            .chunks_exact(2)
            .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
            .sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        let checksum = !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or(u16::MAX);
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
        bytes.extend(self.payload);
        bytes
    }

    fn ipv6(self, src: [u8; 16], dst: [u8; 16]) -> Vec<u8> {
        let (mut next, mut rest) = (self.protocol, self.payload);
        if let Some((offset, more, identification)) = self.fragment {
            let word = u16::try_from(offset & !7).expect("an offset") | u16::from(more);
            let [a, b] = word.to_be_bytes();
            let [c, d] = identification.to_be_bytes();
            rest.splice(0..0, [next, 0, a, b, 0, 0, c, d]);
            next = 44;
        }
        if self.hop_by_hop {
            rest.splice(0..0, [next, 0, 5, 2, 0, 0, 1, 0]);
            next = 0;
        }
        let mut bytes = vec![0x60, 0, 0, 0];
        bytes.extend(length(rest.len()));
        bytes.extend([next, 255]);
        bytes.extend(src);
        bytes.extend(dst);
        bytes.extend(rest);
        bytes
    }
}

fn low_byte(number: usize) -> u8 {
    u8::try_from(number & 0xff).expect("it was cut to a byte")
}

fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).expect("a short packet").to_be_bytes()
}

pub(super) fn ethernet(dst: [u8; 6], src: [u8; 6], ip: &[u8]) -> Vec<u8> {
    let ether_type =
        if ip.first().is_some_and(|byte| byte >> 4 == 6) { 0x86dd_u16 } else { 0x0800 };
    [&dst[..], &src, &ether_type.to_be_bytes(), ip].concat()
}

pub(super) fn tcp((src, dst): (u16, u16), flags: u8, data: usize) -> Vec<u8> {
    let [a, b] = src.to_be_bytes();
    let [c, d] = dst.to_be_bytes();
    let mut bytes = vec![a, b, c, d, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0];
    bytes.resize(20 + data, b'x');
    bytes
}

pub(super) fn udp((src, dst): (u16, u16), data: usize) -> Vec<u8> {
    let [a, b] = src.to_be_bytes();
    let [c, d] = dst.to_be_bytes();
    let [e, f] = length(8 + data);
    let mut bytes = vec![a, b, c, d, e, f, 0, 0];
    bytes.resize(8 + data, b'x');
    bytes
}

pub(super) fn echo(kind: u8, identifier: u16, data: usize) -> Vec<u8> {
    let [a, b] = identifier.to_be_bytes();
    let mut bytes = vec![kind, 0, 0, 0, a, b, 0, 1];
    bytes.resize(8 + data, b'x');
    bytes
}
