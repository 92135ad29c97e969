//! What a captured frame was, in one line. For people: nothing here decides anything.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use etherparse::{
    ArpPacketSlice, EtherType, IpNumber, LaxNetSlice, LaxSlicedPacket, TransportSlice,
};

use crate::policy::{Protocol, Traffic};

/// How a ping is told.
const ECHO_REQUEST: &str = "echo-request";

/// The part of a packet that a log line tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// `tcp`, `udp`, `icmp`, `icmp6`, `arp`, a protocol number or an ether type.
    pub protocol: String,
    /// The source address, where the packet has one.
    pub src: Option<IpAddr>,
    /// The destination address, where the packet has one.
    pub dst: Option<IpAddr>,
    /// The source port, where the packet has one.
    pub src_port: Option<u16>,
    /// The destination port, where the packet has one.
    pub dst_port: Option<u16>,
    /// TCP flags, ICMP type and code, ARP operation.
    pub detail: Option<String>,
}

impl Summary {
    /// Reads as far as the bytes go; what cannot be read is left out.
    #[must_use]
    pub fn of(frame: &[u8]) -> Self {
        let Ok(packet) = LaxSlicedPacket::from_ethernet(frame) else {
            return Self { protocol: "truncated".into(), ..Self::default() };
        };
        let mut summary = Self::default();
        // The reader goes by the version in the header; where the ether type names the other one, nothing behind
        // it means anything.
        let is_other = match (&packet.net, frame.get(12..14)) {
            (Some(LaxNetSlice::Ipv4(_)), Some(kind)) => kind == EtherType::IPV6.0.to_be_bytes(),
            (Some(LaxNetSlice::Ipv6(_)), Some(kind)) => kind == EtherType::IPV4.0.to_be_bytes(),
            _ => false, // as it says, or behind a tag
        };
        if is_other {
            summary.protocol = ether_type(frame);
            return summary;
        }
        match &packet.net {
            Some(LaxNetSlice::Ipv4(ip)) => {
                summary.src = Some(ip.header().source_addr().into());
                summary.dst = Some(ip.header().destination_addr().into());
                summary.protocol = protocol_name(ip.payload_ip_number());
            }
            Some(LaxNetSlice::Ipv6(ip)) => {
                summary.src = Some(ip.header().source_addr().into());
                summary.dst = Some(ip.header().destination_addr().into());
                summary.protocol = protocol_name(ip.payload().ip_number);
            }
            Some(LaxNetSlice::Arp(arp)) => summary.read_arp(arp),
            None => summary.protocol = ether_type(frame),
        }
        summary.read_transport(packet.transport.as_ref());
        summary
    }

    /// What it is to rules.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        let protocol = match self.protocol.as_str() {
            "tcp" => Some(Protocol::Tcp),
            "udp" => Some(Protocol::Udp),
            "icmp" | "icmp6" => Some(Protocol::Icmp),
            _ => None, // no rule names it
        };
        let is_echo_request = self.detail.as_deref() == Some(ECHO_REQUEST);
        Traffic { protocol, port: self.dst_port.unwrap_or(0), is_echo_request }
    }

    fn read_arp(&mut self, arp: &ArpPacketSlice<'_>) {
        self.protocol = "arp".into();
        let address = |bytes: &[u8]| <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
        self.src = address(arp.sender_protocol_addr());
        self.dst = address(arp.target_protocol_addr());
        self.detail = Some(match arp.operation().0 {
            1 => "request".into(),
            2 => "reply".into(),
            other => format!("operation {other}"),
        });
    }

    fn read_transport(&mut self, transport: Option<&TransportSlice<'_>>) {
        match transport {
            Some(TransportSlice::Tcp(tcp)) => {
                self.src_port = Some(tcp.source_port());
                self.dst_port = Some(tcp.destination_port());
                let flags = [
                    (tcp.syn(), "syn"),
                    (tcp.ack(), "ack"),
                    (tcp.fin(), "fin"),
                    (tcp.rst(), "rst"),
                    (tcp.psh(), "psh"),
                    (tcp.urg(), "urg"),
                ];
                let set: Vec<_> =
                    flags.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect();
                self.detail = Some(if set.is_empty() { "no flags".into() } else { set.join("+") });
            }
            Some(TransportSlice::Udp(udp)) => {
                self.src_port = Some(udp.source_port());
                self.dst_port = Some(udp.destination_port());
            }
            Some(TransportSlice::Icmpv4(icmp)) => {
                self.detail = Some(icmp_detail(icmp.type_u8(), icmp.code_u8(), 8, 0));
            }
            Some(TransportSlice::Icmpv6(icmp)) => {
                self.detail = Some(icmp_detail(icmp.type_u8(), icmp.code_u8(), 128, 129));
            }
            _ => {} // other protocols have no ports
        }
    }
}

fn icmp_detail(kind: u8, code: u8, echo_request: u8, echo_reply: u8) -> String {
    if kind == echo_request {
        ECHO_REQUEST.into()
    } else if kind == echo_reply {
        "echo-reply".into()
    } else {
        format!("type {kind} code {code}")
    }
}

fn protocol_name(number: IpNumber) -> String {
    match number {
        IpNumber::TCP => "tcp".into(),
        IpNumber::UDP => "udp".into(),
        IpNumber::ICMP => "icmp".into(),
        IpNumber::IPV6_ICMP => "icmp6".into(),
        other => format!("protocol {}", other.0),
    }
}

fn ether_type(frame: &[u8]) -> String {
    match frame.get(12..14) {
        Some(&[high, low]) => {
            let number = u16::from_be_bytes([high, low]);
            match EtherType(number) {
                EtherType::VLAN_TAGGED_FRAME => "802.1q".into(),
                EtherType::PROVIDER_BRIDGING => "802.1ad".into(),
                _ if number < 0x0600 => "llc".into(), // a length, IEEE 802.3 section 3.2.6
                _ => format!("ether type {number:#06x}"),
            }
        }
        _ => "truncated".into(),
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = |address: Option<IpAddr>, port: Option<u16>| match (address, port) {
            (Some(address), Some(port)) => SocketAddr::new(address, port).to_string(),
            (Some(address), None) => address.to_string(),
            (None, _) => "?".into(),
        };
        f.write_str(&self.protocol)?;
        if self.src.is_some() || self.dst.is_some() {
            write!(f, " {} -> {}", end(self.src, self.src_port), end(self.dst, self.dst_port))?;
        }
        match &self.detail {
            Some(detail) => write!(f, " {detail}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_that_contradicts_the_ether_type_invents_no_addresses() {
        let mut frame = vec![0; 54];
        (frame[12], frame[13], frame[14]) = (0x86, 0xdd, 0x45);
        let summary = Summary::of(&frame);
        assert_eq!((summary.src, summary.dst), (None, None));
        assert_eq!(summary.to_string(), "ether type 0x86dd");
        (frame[12], frame[13], frame[17]) = (0x08, 0x00, 40);
        assert!(Summary::of(&frame).src.is_some(), "as it says");
    }
}
