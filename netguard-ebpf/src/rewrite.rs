//! Addresses and ports of a packet, rewritten where they stand, and the checksums that cover them.
//!
//! Checksums are patched, not recomputed, so that partial (virtio, GSO), full and absent (UDP 0) checksums all stay what they
//! were. What the transport's checksum is only the kernel knows, so a helper patches it; the rest is written directly.

use aya_ebpf::{
    bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR},
    programs::TcContext,
};
use netguard_common::{Address, DropReason};

use crate::{
    cursor::Window,
    packet::{Packet, TCP},
};

const ETHERNET: usize = 14;
/// Within IPv4's header.
const TIME_TO_LIVE: usize = 8;
const CHECKSUM: usize = 10;
const SRC: usize = 12;
const DST: usize = 16;
/// Within IPv6's header.
const HOP_LIMIT: usize = 7;
const SRC_V6: usize = 8;
const DST_V6: usize = 24;
/// Length of the headers without options.
const IPV4: usize = 20;
const IPV6: usize = 40;
const ICMP: usize = 8;

/// Which address is translated.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Source,
    Destination,
}

impl Side {
    const fn other(self) -> Self {
        match self {
            Self::Source => Self::Destination,
            Self::Destination => Self::Source,
        }
    }
}

/// What a packet's address and ports become.
pub struct Ends {
    pub address: Address,
    pub src_port_be: u16,
    pub dst_port_be: u16,
}

/// Whether the packet has come through a router that must count itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Hop {
    /// It stays on its link.
    None,
    /// One less to live, if there is one.
    Counted,
}

/// Rewrites the address of one side and both ports. A later fragment has no ports.
#[inline(always)]
pub fn translate(
    ctx: &TcContext,
    packet: &Packet,
    side: Side,
    to: &Ends,
    hop: Hop,
) -> Result<(), DropReason> {
    let from = match side {
        Side::Source => packet.src,
        Side::Destination => packet.dst,
    };
    let difference = difference(from, to.address);
    let transport = usize::from(packet.transport_offset);
    let has_ports = !packet.is_later_fragment();
    if has_ports {
        let (checksum, mangled) = match packet.protocol {
            TCP => (transport + 16, 0),
            _ => (transport + 6, u64::from(BPF_F_MARK_MANGLED_0)), // UDP, where 0 says "no checksum"
        };
        let ports = add(
            !word(packet.src_port_be, packet.dst_port_be),
            word(to.src_port_be, to.dst_port_be),
        );
        let of_addresses = u64::from(BPF_F_PSEUDO_HDR) | mangled;
        let patched = ctx
            .l4_csum_replace(checksum, 0, difference.into(), of_addresses)
            .and_then(|()| ctx.l4_csum_replace(checksum, 0, ports.into(), mangled));
        patched.map_err(|_| DropReason::Internal)?;
    }
    put_address(ctx, ETHERNET, side, to.address, difference, hop)?;
    if has_ports {
        Window::<4>::at(ctx, transport)?.store::<_, 0>([to.src_port_be, to.dst_port_be]);
    }
    Ok(())
}

/// Rewrites an ICMP error about a translated flow: one address of it, and in the packet that it quotes the other one, with that
/// one's port. `packet` is the error.
#[inline(always)]
pub fn translate_error(
    ctx: &TcContext,
    packet: &Packet,
    side: Side,
    address: Address,
    (from_port_be, to_port_be): (u16, u16),
) -> Result<(), DropReason> {
    let is_v4 = address.is_v4();
    let from = match side {
        Side::Source => packet.src,
        Side::Destination => packet.dst,
    };
    let addresses = difference(from, address);
    let port = add(!u32::from(from_port_be), u32::from(to_port_be));
    let transport = usize::from(packet.transport_offset);
    let quoted = transport + ICMP;
    let length = quoted + if is_v4 { IPV4 } else { IPV6 } + 4;
    ctx.pull_data(length as u32).map_err(|_| DropReason::Internal)?;
    // The quoted header's own checksum makes up for its address; ICMPv6 counts the pseudo header's, too.
    let sum = if is_v4 { port } else { add(port, add(addresses, addresses)) };
    let patched = ctx.l4_csum_replace(transport + 2, 0, sum.into(), 0);
    patched.map_err(|_| DropReason::Internal)?;
    put_address(ctx, ETHERNET, side, address, addresses, Hop::Counted)?;
    put_address(ctx, quoted, side.other(), address, addresses, Hop::None)?;
    let ports = Window::<4>::at(ctx, length - 4)?;
    match side {
        Side::Source => ports.store::<_, 2>(to_port_be),
        Side::Destination => ports.store::<_, 0>(to_port_be),
    }
    Ok(())
}

/// Tells routers that they must not make fragments of an IPv4 packet: who sent it is told that it is too long.
#[inline(always)]
pub fn forbid_splitting(ctx: &TcContext) -> Result<(), DropReason> {
    const FRAGMENT: usize = 6;
    const DO_NOT: u16 = 0x4000_u16.to_be();
    let header = Window::<IPV4>::at(ctx, ETHERNET)?;
    let field: u16 = header.load::<_, FRAGMENT>();
    header.store::<_, FRAGMENT>(field | DO_NOT);
    patch(&header, add(u32::from(!field), u32::from(field | DO_NOT)));
    Ok(())
}

/// Writes an address of the IP header at `at`, and what follows from that in the header.
#[inline(always)]
fn put_address(
    ctx: &TcContext,
    at: usize,
    side: Side,
    address: Address,
    difference: u32,
    hop: Hop,
) -> Result<(), DropReason> {
    if !address.is_v4() {
        let header = Window::<IPV6>::at(ctx, at)?;
        match side {
            Side::Source => header.store::<_, SRC_V6>(address.words()),
            Side::Destination => header.store::<_, DST_V6>(address.words()),
        }
        let limit: u8 = header.load::<_, HOP_LIMIT>();
        if hop == Hop::Counted && limit > 1 {
            header.store::<_, HOP_LIMIT>(limit - 1);
        }
        return Ok(());
    }
    let header = Window::<IPV4>::at(ctx, at)?;
    let word = u32::from_ne_bytes(address.v4_octets());
    match side {
        Side::Source => header.store::<_, SRC>(word),
        Side::Destination => header.store::<_, DST>(word),
    }
    let mut difference = difference;
    let limit: u8 = header.load::<_, TIME_TO_LIVE>();
    if hop == Hop::Counted && limit > 1 {
        header.store::<_, TIME_TO_LIVE>(limit - 1);
        difference = add(difference, u32::from(!0x0100_u16.to_be()));
    }
    patch(&header, difference);
    Ok(())
}

/// Adds to what an IPv4 header's checksum covers.
#[inline(always)]
fn patch(header: &Window<IPV4>, difference: u32) {
    let checksum: u16 = header.load::<_, CHECKSUM>();
    header.store::<_, CHECKSUM>(!fold(add(u32::from(!checksum), difference)));
}

/// What is added to a sum that covers one address to make it cover another (RFC 1624). One path for both families: the mapped
/// form's first twelve bytes are equal.
#[inline(always)]
fn difference(from: Address, to: Address) -> u32 {
    let ([a, b], [c, d]) = (from.words(), to.words());
    let half = |from: u64, to: u64| {
        let low = add(!(from as u32), to as u32);
        add(low, add(!((from >> 32) as u32), (to >> 32) as u32))
    };
    add(half(a, c), half(b, d))
}

/// Adds ones' complement numbers.
#[inline(always)]
fn add(one: u32, other: u32) -> u32 {
    let sum = u64::from(one) + u64::from(other);
    (sum as u32).wrapping_add((sum >> 32) as u32)
}

#[inline(always)]
fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// Two ports as they lie in a header.
#[inline(always)]
fn word(src_port_be: u16, dst_port_be: u16) -> u32 {
    let ([a, b], [c, d]) = (src_port_be.to_ne_bytes(), dst_port_be.to_ne_bytes());
    u32::from_ne_bytes([a, b, c, d])
}
