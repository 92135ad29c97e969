//! Headers as they lie in a frame, with fields as wide as BPF reads them: byte arrays would be copied byte by byte,
//! in loops. Together with `words` it took a verdict from 184 to 152 ns (`cargo xtask bench decide`).

use crate::cursor::Header;

/// IEEE 802.3 section 3.2.
#[derive(Clone, Copy)]
#[repr(C, packed)]
pub struct Ethernet {
    pub dst_high: u32,
    pub dst_low: u16,
    pub src_high: u32,
    pub src_low: u16,
    pub ether_type_be: u16,
}
// SAFETY: packed integers.
unsafe impl Header for Ethernet {}

/// RFC 826, with the lengths of IPv4 over Ethernet.
#[derive(Clone, Copy)]
#[repr(C, packed)]
pub struct Arp {
    pub hardware_be: u16,
    pub protocol_be: u16,
    pub hardware_length: u8,
    pub protocol_length: u8,
    pub operation_be: u16,
    pub sender_mac_high: u32,
    pub sender_mac_low: u16,
    pub sender: u32,
    pub target_mac_high: u32,
    pub target_mac_low: u16,
    pub target: u32,
}
// SAFETY: packed integers.
unsafe impl Header for Arp {}

/// RFC 791 section 3.1, without options.
#[derive(Clone, Copy)]
#[repr(C, packed)]
pub struct Ipv4 {
    pub version_and_length: u8,
    pub service: u8,
    pub total_length_be: u16,
    pub identification_be: u16,
    pub fragment_be: u16,
    pub time_to_live: u8,
    pub protocol: u8,
    pub checksum: u16,
    pub src: u32,
    pub dst: u32,
}
// SAFETY: packed integers.
unsafe impl Header for Ipv4 {}

/// RFC 8200 section 3.
#[derive(Clone, Copy)]
#[repr(C, packed)]
pub struct Ipv6 {
    pub version: u8,
    pub class_and_flow: [u8; 3],
    pub payload_length_be: u16,
    pub next_header: u8,
    pub hop_limit: u8,
    pub src: [u64; 2],
    pub dst: [u64; 2],
}
// SAFETY: packed integers.
unsafe impl Header for Ipv6 {}

/// RFC 9293 section 3.1, without options.
#[derive(Clone, Copy)]
#[repr(C, packed)]
pub struct Tcp {
    pub src_port_be: u16,
    pub dst_port_be: u16,
    pub sequence: u32,
    pub acknowledgment: u32,
    pub data_offset: u8,
    pub flags: u8,
    pub window: u16,
    pub checksum: u16,
    pub urgent: u16,
}
// SAFETY: packed integers.
unsafe impl Header for Tcp {}

/// RFC 768.
#[derive(Clone, Copy)]
#[repr(C, packed)]
pub struct Udp {
    pub src_port_be: u16,
    pub dst_port_be: u16,
    pub length_be: u16,
    pub checksum: u16,
}
// SAFETY: packed integers.
unsafe impl Header for Udp {}

/// RFC 792 and RFC 4443 section 2.1: type, code, checksum, and four bytes by type.
#[derive(Clone, Copy)]
#[repr(C, packed)]
pub struct Icmp {
    pub icmp_type: u8,
    pub code: u8,
    pub checksum: u16,
    pub identifier_be: u16,
    pub sequence_be: u16,
}
// SAFETY: packed integers.
unsafe impl Header for Icmp {}
