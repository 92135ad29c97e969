//! The transport headers and the packets that ICMP errors quote. `rest` is the frame from the transport
//! header on, with whatever trails the packet; `payload` is what the IP header claims of it.

use std::net::IpAddr;

use netguard_common::DropReason::{self, BadHeader, Truncated};

use super::packet::{
    ACK, FIN, ICMP, ICMPV6, Icmp, Ports, Quote, RST, SYN, TCP, Transport, UDP, array, byte, from,
    is_error, number,
};

pub(super) fn tcp(rest: &[u8], payload: usize) -> Result<Transport, DropReason> {
    let header = rest.get(..20).ok_or(Truncated)?;
    let length = usize::from(byte(header, 12).ok_or(Truncated)? >> 4) * 4;
    if length < 20 || length > payload {
        return Err(BadHeader);
    }
    let flags = byte(header, 13).ok_or(Truncated)? & (FIN | SYN | RST | ACK);
    const CONNECTIONS: [u8; 6] = [SYN, SYN | ACK, ACK, FIN | ACK, RST, RST | ACK];
    if !CONNECTIONS.contains(&flags) {
        return Err(DropReason::TcpFlags);
    }
    let (src, dst) = (number(header, 0).ok_or(Truncated)?, number(header, 2).ok_or(Truncated)?);
    Ok(Transport::Tcp { src, dst, flags })
}

pub(super) fn udp(rest: &[u8], payload: usize, is_fragment: bool) -> Result<Transport, DropReason> {
    let header = rest.get(..8).ok_or(Truncated)?;
    let length = usize::from(number(header, 4).ok_or(Truncated)?);
    if length < 8 || payload < 8 || (length > payload && !is_fragment) {
        return Err(BadHeader);
    }
    let (src, dst) = (number(header, 0).ok_or(Truncated)?, number(header, 2).ok_or(Truncated)?);
    Ok(Transport::Udp { src, dst })
}

pub(super) fn icmp(rest: &[u8], payload: usize, v4: bool) -> Result<Icmp, DropReason> {
    let header = rest.get(..8).ok_or(Truncated)?;
    if payload < 8 {
        return Err(BadHeader);
    }
    let kind = byte(header, 0).ok_or(Truncated)?;
    let identifier = number(header, 4).ok_or(Truncated)?;
    let mut target = None;
    if !v4 && matches!(kind, 135 | 136) {
        if payload < 24 {
            return Err(BadHeader);
        }
        target = Some(array::<16>(rest, 8).ok_or(Truncated)?.into());
    }
    // What is behind the packet's claimed end is no part of the quote.
    let claimed = rest.get(..payload).unwrap_or(rest);
    let quote = if is_error(v4, kind) { quote(from(claimed, 8), v4) } else { None };
    Ok(Icmp { kind, identifier, target, quote })
}

/// The quoted packet's header and the eight bytes behind it that every error carries (RFC 792); none
/// if no flow can be meant. Flows have no IP options and extension headers, so no quote of one has.
fn quote(bytes: &[u8], v4: bool) -> Option<Quote> {
    let (protocol, src, dst, rest);
    if v4 {
        if byte(bytes, 0)? != 0x45 || number(bytes, 6)? & 0x1fff != 0 {
            return None;
        }
        protocol = byte(bytes, 9)?;
        src = IpAddr::from(array::<4>(bytes, 12)?);
        dst = IpAddr::from(array::<4>(bytes, 16)?);
        rest = array::<8>(bytes, 20)?;
    } else {
        if byte(bytes, 0)? >> 4 != 6 {
            return None;
        }
        protocol = byte(bytes, 6)?;
        src = IpAddr::from(array::<16>(bytes, 8)?);
        dst = IpAddr::from(array::<16>(bytes, 24)?);
        rest = array::<8>(bytes, 40)?;
    }
    let ports = match (protocol, v4, rest[0]) {
        (TCP | UDP, ..) => Ports::Of(number(&rest, 0)?, number(&rest, 2)?),
        (ICMP, true, 0 | 8) | (ICMPV6, false, 128 | 129) => {
            Ports::Echo { identifier: number(&rest, 4)?, is_request: matches!(rest[0], 8 | 128) }
        }
        _ => return None, // no flow has it
    };
    Some(Quote { src, dst, protocol, ports })
}
