//! Truthful denial: what the policy denies a slot with `denial = "reject"` is answered, so that its workload fails at once and
//! not after a time-out. The denied frame itself becomes the answer, and goes back by the very port that it came by.
//!
//! A frame's checksum may be partial (virtio, GSO): somebody will fill it in, or nobody, and no program can see which. The
//! answers are right either way: `bpf_l4_csum_replace` patches a full checksum and leaves a partial one alone.

use core::{mem::offset_of, ptr};

use aya_ebpf::{
    helpers::{bpf_csum_diff, bpf_redirect},
    programs::TcContext,
};
use netguard_common::{
    Address, DENIAL, DropReason,
    maps::{SlotEntry, slot_flags},
};

use crate::{
    cursor::Cursor,
    frame::Frame,
    icmp::{self, Kind},
    packet::{ACK, FIN, ICMP, ICMPV6, Packet, RST, SYN, TCP, UDP},
    scratch,
};

pub const ETHERNET: usize = 14;
/// The headers in words of 32 bits.
pub const IPV4: usize = 5;
pub const IPV6: usize = 10;
const TCP_WORDS: usize = 5;
const ICMP_WORDS: usize = 2;
/// How much of a denied packet is quoted, in bytes: as much as one call of `bpf_csum_diff` sums up with the header
/// before it (512), which RFC 1812 section 4.3.2.3 (576 in all) and RFC 4443 section 2.4 (c) have room for.
const QUOTE_MAX: u32 = 496;
const ANSWER_WORDS: usize = IPV6 + ICMP_WORDS + QUOTE_MAX as usize / 4 + 1;
const TTL: u32 = 64;
/// Destination unreachable, communication administratively prohibited: RFC 1812 section 5.2.7.1, RFC 4443 section 3.1.
const PROHIBITED: u32 = 3 << 24 | 13 << 16;
const PROHIBITED_V6: u32 = 1 << 24 | 1 << 16;

/// An answer that is being written.
#[repr(C)]
pub struct Answer {
    /// Who answers what has no connection: the slot's gateway.
    gateway: Address,
    /// Addresses, length and protocol, as checksums take them in (RFC 8200 section 8.1).
    pseudo: [u32; IPV6],
    /// So that the frame's words are words.
    _align: u16,
    ethernet: [u16; ETHERNET / 2],
    /// The answer from its IP header on.
    pub words: [u32; ANSWER_WORDS],
}

impl Answer {
    /// The frame.
    #[inline(always)]
    pub fn frame(&self) -> *const u8 {
        const { assert!(offset_of!(Self, ethernet) + ETHERNET == offset_of!(Self, words)) };
        (&raw const *self).cast::<u8>().wrapping_add(offset_of!(Self, ethernet))
    }
}

/// True if the slot wants to be told, and the packet is one that can be answered: no error, no later fragment, nothing
/// that ends a connection.
#[inline(always)]
pub fn is_wanted(packet: &Packet, slot: &SlotEntry, reason: DropReason) -> bool {
    if slot.flags & slot_flags::REJECT == 0 || !reason.is_of_policy() {
        return false;
    }
    let is_answerable = match packet.protocol {
        TCP => packet.tcp_flags & RST == 0 && !packet.more_fragments,
        UDP => true,
        ICMP | ICMPV6 => icmp::kind(packet) == Kind::Request,
        _ => false, // IGMP is for the link
    };
    let has_gateway = gateway_for(slot, packet) != Address::UNSPECIFIED;
    is_answerable && has_gateway && !packet.is_later_fragment()
}

/// Remembers what [`answer`] needs of the slot.
#[inline(always)]
pub fn prepare(scratch: &mut scratch::Scratch, slot: &SlotEntry) {
    scratch.answer.gateway = gateway_for(slot, &scratch.packet);
}

#[inline(always)]
fn gateway_for(slot: &SlotEntry, packet: &Packet) -> Address {
    if packet.src.is_v4() { slot.gateway4 } else { slot.gateway6 }
}

/// Makes the frame the answer to itself and says what takes it back; `None` if it cannot be answered.
#[inline(always)]
pub fn answer(ctx: &TcContext) -> Option<u32> {
    (write_apart(ctx) == 1).then(|| send_back(ctx))
}

/// Has an answer go back by the port that the frame came by.
#[inline(always)]
pub fn send_back(ctx: &TcContext) -> u32 {
    ctx.set_mark(DENIAL);
    // SAFETY: the helper only remembers the interface's number.
    unsafe { bpf_redirect(ctx.ifindex(), 0) as u32 }
}

/// True for an answer on its way back by the port that it came by, and so to who sent what was denied.
#[inline(always)]
pub fn is_answer(ctx: &TcContext) -> bool {
    // SAFETY: the verifier allows reads of these context fields.
    let (mark, from) = unsafe { ((*ctx.skb.skb).mark, (*ctx.skb.skb).ingress_ifindex) };
    mark == DENIAL && from == ctx.ifindex()
}

/// A function of its own in BPF too, for its stack.
#[inline(never)]
fn write_apart(ctx: &TcContext) -> u32 {
    write(ctx).map_or(0, |()| 1)
}

#[inline(always)]
fn write(ctx: &TcContext) -> Option<()> {
    let scratch = scratch::memory().ok()?;
    let (packet, answer) = (&scratch.packet, &mut scratch.answer);
    turn_around(ctx, answer)?;
    match (packet.src.is_v4(), packet.protocol == TCP) {
        (true, true) => reset::<IPV4>(ctx, packet, answer),
        (false, true) => reset::<IPV6>(ctx, packet, answer),
        (true, false) => prohibit::<IPV4>(ctx, packet, answer),
        (false, false) => prohibit::<IPV6>(ctx, packet, answer),
    }
}

/// The Ethernet header of the way back. None if the frame was sent to a group, which nobody answers (RFC 1122 section 3.2.2).
#[inline(always)]
pub fn turn_around<F: Frame>(frame: &F, answer: &mut Answer) -> Option<()> {
    let header = Cursor::new(frame.memory()).take::<[u16; ETHERNET / 2]>().ok()?;
    let [a, b, c, d, e, f, ether_type] = header;
    answer.ethernet = [d, e, f, a, b, c, ether_type];
    let [first, _] = a.to_ne_bytes();
    (first & 1 == 0).then_some(())
}

/// What a closed port would say (RFC 9293 section 3.10.7.1).
#[inline(always)]
fn reset<const IP: usize>(ctx: &TcContext, packet: &Packet, answer: &mut Answer) -> Option<()> {
    let transport = ETHERNET + IP * 4;
    if usize::from(packet.transport_offset) != transport {
        return None; // behind an extension header
    }
    let mut tcp = [0_u32; TCP_WORDS];
    // SAFETY: there is room for a header without options.
    if !unsafe { ctx.copy(transport as u32, tcp.as_mut_ptr().cast(), size_of_val(&tcp) as u32) } {
        return None;
    }
    let [ports, sequence, acknowledged, offset, _] = tcp;
    let flags = packet.tcp_flags;
    let header = (u32::from_be(offset) >> 28) * 4;
    let length = packet.payload.wrapping_sub(header)
        + u32::from(flags & SYN != 0)
        + u32::from(flags & FIN != 0);
    let (sequence, acknowledged, flags) = if flags & ACK != 0 {
        (acknowledged, 0, RST)
    } else {
        (0, u32::from_be(sequence).wrapping_add(length).to_be(), RST | ACK)
    };
    let bytes = (TCP_WORDS * 4) as u32;
    put_ip::<IP>(answer, packet.dst, packet.src, TCP, bytes);
    let offset = ((TCP_WORDS as u32) << 28 | u32::from(flags) << 16).to_be();
    for (index, word) in
        [ports.rotate_left(16), sequence, acknowledged, offset, 0].into_iter().enumerate()
    {
        answer.words[IP + index] = word;
    }
    let pseudo = pseudo_sum(answer);
    let rest = sum(&raw mut answer.words[IP], bytes);
    // Where the checksum is partial this is it; where it is full the helper makes it so.
    answer.words[IP + 4] = first_half(fold(pseudo));
    send(ctx, answer, IP * 4 + TCP_WORDS * 4)?;
    complete(ctx, transport + 16, fold(rest + 2 * pseudo))
}

/// What a router says that may not forward a packet.
#[inline(always)]
fn prohibit<const IP: usize>(ctx: &TcContext, packet: &Packet, answer: &mut Answer) -> Option<()> {
    let header = (IP + ICMP_WORDS) * 4;
    // As in `report::record`: this form of a minimum is what Linux 6.1 to 6.5 believe.
    let whole = u32::from(packet.transport_offset) - ETHERNET as u32 + packet.payload;
    let quoted = whole.wrapping_sub(1).min(QUOTE_MAX - 1) + 1;
    // The sum takes whole words.
    answer.words[IP + ICMP_WORDS + quoted as usize / 4] = 0;
    // SAFETY: there is room for the longest quote.
    if !unsafe {
        ctx.copy(ETHERNET as u32, (&raw mut answer.words[IP + ICMP_WORDS]).cast(), quoted)
    } {
        return None;
    }
    let (protocol, what) = if IP == IPV4 { (ICMP, PROHIBITED) } else { (ICMPV6, PROHIBITED_V6) };
    put_ip::<IP>(answer, answer.gateway, packet.src, protocol, ICMP_WORDS as u32 * 4 + quoted);
    answer.words[IP] = what.to_be();
    answer.words[IP + 1] = 0;
    let rest = sum(&raw mut answer.words[IP], ICMP_WORDS as u32 * 4 + ((quoted + 3) & !3));
    // ICMP of version 4 has no pseudo header.
    let pseudo = match IP {
        IPV4 => 0,
        _ => fold(pseudo_sum(answer)),
    };
    answer.words[IP] |= second_half(!fold(rest + u64::from(pseudo)));
    // A partial checksum is UDP's, whose place is in the field that nobody uses. Whoever fills it in makes the message add
    // up to nothing if the pseudo header's sum was there.
    answer.words[IP + 1] = second_half(pseudo);
    send(ctx, answer, header + quoted as usize)?;
    complete(ctx, ETHERNET + IP * 4 + 6, pseudo)
}

/// The IP header, and the pseudo header of what follows it.
#[inline(always)]
pub fn put_ip<const IP: usize>(
    answer: &mut Answer,
    src: Address,
    dst: Address,
    protocol: u8,
    bytes: u32,
) {
    let (from, to) = (words(src), words(dst));
    let protocol = u32::from(protocol);
    for (index, word) in from.into_iter().chain(to).enumerate() {
        answer.pseudo[index] = word;
    }
    answer.pseudo[8] = bytes.to_be();
    answer.pseudo[9] = protocol.to_be();
    if IP == IPV4 {
        const DO_NOT_FRAGMENT: u32 = 0x4000;
        let [_, _, _, from] = from;
        let [_, _, _, to] = to;
        answer.words[0] = (0x4500_0000 | (bytes + IPV4 as u32 * 4)).to_be();
        answer.words[1] = DO_NOT_FRAGMENT.to_be();
        answer.words[2] = (TTL << 24 | protocol << 16).to_be();
        answer.words[3] = from;
        answer.words[4] = to;
        let header = sum_of(&answer.words, IPV4);
        answer.words[2] |= second_half(!fold(header));
    } else {
        answer.words[0] = 0x6000_0000_u32.to_be();
        answer.words[1] = (bytes << 16 | protocol << 8 | TTL).to_be();
        for index in 0..8 {
            answer.words[2 + index] = answer.pseudo[index];
        }
    }
}

/// Makes the frame as long as the answer, and writes all of it.
#[inline(always)]
fn send(ctx: &TcContext, answer: &mut Answer, bytes: usize) -> Option<()> {
    let length = (ETHERNET + bytes) as u32;
    // SAFETY: the buffer has room for the longest answer.
    let written = ctx.resize(length) && unsafe { Frame::store(ctx, 0, answer.frame(), length) };
    written.then_some(())
}

/// Adds to a full checksum.
#[inline(always)]
fn complete(ctx: &TcContext, at: usize, difference: u16) -> Option<()> {
    ctx.l4_csum_replace(at, 0, difference.into(), 0).ok()
}

/// The sum of the pseudo header.
#[inline(always)]
pub fn pseudo_sum(answer: &Answer) -> u64 {
    sum_of(&answer.pseudo, IPV6)
}

/// The sum of some words, few enough that a helper would take longer.
#[inline(always)]
fn sum_of(words: &[u32], count: usize) -> u64 {
    let mut sum = 0;
    for word in words.iter().take(count) {
        sum += u64::from(*word);
    }
    sum
}

/// The ones' complement sum of some bytes, a multiple of four.
#[inline(always)]
pub fn sum(words: *mut u32, bytes: u32) -> u64 {
    // SAFETY: the callers have so many bytes there.
    let sum = unsafe { bpf_csum_diff(ptr::null_mut(), 0, words, bytes, 0) };
    sum as u64 & 0xffff_ffff
}

#[inline(always)]
pub fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// A half of a word in the order of memory.
#[inline(always)]
fn first_half(half: u16) -> u32 {
    u32::from(u16::from_be(half)).wrapping_shl(16).to_be()
}

#[inline(always)]
pub fn second_half(half: u16) -> u32 {
    u32::from(u16::from_be(half)).to_be()
}

#[inline(always)]
fn words(address: Address) -> [u32; 4] {
    let [high, low] = address.words();
    let ([a, b, c, d, e, f, g, h], [i, j, k, l, m, n, o, p]) =
        (high.to_ne_bytes(), low.to_ne_bytes());
    [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]].map(u32::from_ne_bytes)
}
