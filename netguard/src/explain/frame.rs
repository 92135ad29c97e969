//! The packet that is asked about, built as its sender would: the first one of a connection, with nothing wrong in it.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use etherparse::{PacketBuilder, err::packet::BuildWriteError};

/// What it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carried {
    /// A SYN from a port to a port.
    Tcp(u16, u16),
    /// A datagram from a port to a port.
    Udp(u16, u16),
    /// An echo request with an identifier.
    Ping(u16),
}

/// A packet from one address to another of the same family.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    /// The Ethernet source.
    pub from_mac: [u8; 6],
    /// The Ethernet destination.
    pub to_mac: [u8; 6],
    /// The source.
    pub src: IpAddr,
    /// The destination.
    pub dst: IpAddr,
    /// What it carries.
    pub carried: Carried,
}

/// The two addresses cannot stand in one packet.
#[derive(Debug, thiserror::Error)]
#[error("no packet can go from {src} to {dst}; name an address of the slot's own family")]
pub struct OtherFamily {
    src: IpAddr,
    dst: IpAddr,
}

impl Packet {
    /// Its bytes.
    ///
    /// # Errors
    ///
    /// Its addresses are of two families.
    pub fn build(&self) -> Result<Vec<u8>, OtherFamily> {
        let Self { from_mac, to_mac, src, dst, carried } = *self;
        let ethernet = PacketBuilder::ethernet2(from_mac, to_mac);
        let ip = match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => ethernet.ipv4(src.octets(), dst.octets(), 64),
            (IpAddr::V6(src), IpAddr::V6(dst)) => ethernet.ipv6(src.octets(), dst.octets(), 64),
            _ => return Err(OtherFamily { src, dst }),
        };
        let mut frame = Vec::with_capacity(128);
        let written: Result<(), BuildWriteError> = match carried {
            Carried::Tcp(from, to) => ip.tcp(from, to, 1, u16::MAX).syn().write(&mut frame, &[]),
            Carried::Udp(from, to) => ip.udp(from, to).write(&mut frame, b"netguard"),
            Carried::Ping(identifier) if src.is_ipv4() => {
                ip.icmpv4_echo_request(identifier, 1).write(&mut frame, b"netguard")
            }
            Carried::Ping(identifier) => {
                ip.icmpv6_echo_request(identifier, 1).write(&mut frame, b"netguard")
            }
        };
        // Nothing of it is too long, and memory takes every byte.
        written.map_err(|_| OtherFamily { src, dst })?;
        Ok(frame)
    }
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { src, dst, .. } = *self;
        let end = |address: IpAddr, port: u16| SocketAddr::from((address, port));
        match self.carried {
            Carried::Tcp(from, to) => write!(f, "tcp {} -> {}", end(src, from), end(dst, to)),
            Carried::Udp(from, to) => write!(f, "udp {} -> {}", end(src, from), end(dst, to)),
            Carried::Ping(_) => write!(f, "ping {src} -> {dst}"),
        }
    }
}
