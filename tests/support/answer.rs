//! Answers that a program has made of the frames that they answer.

use std::net::IpAddr;

use crate::packet::{BRIDGE_MAC, GUEST_MAC};

const ICMP: u8 = 1;
const ETHERNET: usize = 14;

/// An answer: its Ethernet addresses, and what is behind the IP header.
#[derive(Debug)]
pub struct Answer {
    /// Who answers.
    pub src: IpAddr,
    /// To whom.
    pub dst: IpAddr,
    /// What it is.
    pub protocol: u8,
    /// What is behind the IP header.
    pub payload: Vec<u8>,
}

/// The ones' complement sum (RFC 1071).
#[must_use]
pub fn sum(bytes: &[u8]) -> u32 {
    let words =
        bytes.chunks(2).map(|it| u32::from(it[0]) << 8 | it.get(1).map_or(0, |it| u32::from(*it)));
    let mut sum: u32 = words.sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}

/// Reads an answer, every checksum and length of which must be right.
///
/// # Panics
///
/// One is not.
#[must_use]
pub fn read(frame: &[u8]) -> Answer {
    assert_eq!((&frame[..6], &frame[6..12]), (&GUEST_MAC[..], &BRIDGE_MAC[..]), "the MACs");
    let packet = &frame[ETHERNET..];
    let length = |at: usize| usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
    let (addresses, protocol, payload): (&[u8], _, _) = match packet[0] {
        0x45 => {
            assert_eq!(sum(&packet[..20]), 0xffff, "the IPv4 header's checksum");
            assert_eq!((length(2), packet[8]), (packet.len(), 64), "length and time to live");
            (&packet[12..20], packet[9], &packet[20..])
        }
        0x60 => {
            assert_eq!((length(4), packet[7]), (packet.len() - 40, 64), "length and hops");
            (&packet[8..40], packet[6], &packet[40..])
        }
        other => panic!("version {other:#x}"),
    };
    let mut covered = payload.to_vec();
    if protocol != ICMP {
        covered.resize(payload.len().next_multiple_of(2), 0);
        covered.extend(addresses);
        covered.extend(u32::try_from(payload.len()).expect("a length").to_be_bytes());
        covered.extend([0, 0, 0, protocol]);
    }
    assert_eq!(sum(&covered), 0xffff, "the transport's checksum");
    let address = |bytes: &[u8]| match <[u8; 4]>::try_from(bytes) {
        Ok(v4) => IpAddr::from(v4),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(bytes).expect("an address")),
    };
    let (src, dst) = addresses.split_at(addresses.len() / 2);
    Answer { src: address(src), dst: address(dst), protocol, payload: payload.to_vec() }
}
