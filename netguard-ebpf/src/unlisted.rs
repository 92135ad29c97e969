//! The answer to a query that `names` denies: NXDOMAIN, or nothing of that type for what lies above a listed name, byte for byte what
//! the resolver says (`netguard-dns/src/reply.rs`). The query's frame becomes it, and goes back by the port that it came by.

use netguard_common::names::{DENIAL_OPT, DENIAL_SOA, OPT_FLAGS_AT};

use crate::{
    denial::{self, Answer, ETHERNET, IPV4, IPV6},
    frame::Frame,
    names::Question,
    packet::{Packet, UDP},
    scratch,
};

const UDP_WORDS: usize = 2;
const UDP_BYTES: u32 = 8;
const DNS_HEADER: u32 = 12;
/// The longest header and question: a name of 255 bytes, its type and class.
const ASKED_MAX: u32 = DNS_HEADER + 255 + 4;
const SOA: u32 = DENIAL_SOA.len() as u32;
const OPT: u32 = DENIAL_OPT.len() as u32;
const TAIL: usize = DENIAL_SOA.len() + DENIAL_OPT.len();

/// What every answer ends with.
const WORDS: [u64; TAIL / 8] = {
    assert!(TAIL.is_multiple_of(8));
    let mut words = [0; TAIL / 8];
    let mut index = 0;
    while index < words.len() {
        let (mut word, mut byte) = ([0; 8], 0);
        while byte < 8 {
            let at = index * 8 + byte;
            word[byte] = if at < DENIAL_SOA.len() {
                DENIAL_SOA[at]
            } else {
                DENIAL_OPT[at - DENIAL_SOA.len()]
            };
            byte += 1;
        }
        words[index] = u64::from_ne_bytes(word);
        index += 1;
    }
    words
};

/// Makes the frame the answer to itself. False if the kernel refuses: then it is as good as lost.
#[inline(always)]
pub fn write<F: Frame>(frame: &F) -> bool {
    write_apart(frame) == 1
}

/// A function of its own in BPF too, for its stack.
#[inline(never)]
fn write_apart<F: Frame>(frame: &F) -> u32 {
    let Ok(scratch) = scratch::memory() else { return 0 };
    let (packet, question, answer) = (&scratch.packet, &scratch.question, &mut scratch.answer);
    let written = if packet.src.is_v4() {
        write_in::<F, IPV4>(frame, packet, question, answer)
    } else {
        write_in::<F, IPV6>(frame, packet, question, answer)
    };
    written.map_or(0, |()| 1)
}

#[inline(always)]
fn write_in<F: Frame, const IP: usize>(
    frame: &F,
    packet: &Packet,
    question: &Question,
    answer: &mut Answer,
) -> Option<()> {
    let transport = (ETHERNET + IP * 4) as u32;
    // As in `report::record`: this form of a minimum is what Linux 6.1 to 6.5 believe.
    let asked = (DNS_HEADER + question.asked()).wrapping_sub(1).min(ASKED_MAX - 1) + 1;
    let message = IP + UDP_WORDS;
    let asked_at = (&raw mut answer.words[message]).cast::<u8>();
    let has_opt = question.has_opt == 1;
    let tail = if has_opt { SOA + OPT } else { SOA };
    // SAFETY: there is room for the longest question, the tail and a word.
    unsafe {
        if !frame.copy(transport + UDP_BYTES, asked_at, asked) {
            return None;
        }
        put_tail(asked_at.add(asked as usize), tail, question.dnssec_ok);
    }
    let bytes = UDP_BYTES + asked + tail;
    denial::put_ip::<IP>(answer, packet.dst, packet.src, UDP, bytes);
    let ports = [packet.dst_port_be, packet.src_port_be].map(u16::to_ne_bytes);
    let [[a, b], [c, d]] = ports;
    answer.words[IP] = u32::from_ne_bytes([a, b, c, d]);
    answer.words[IP + 1] = (bytes << 16).to_be();
    // A response, recursion available; what the guest asked for (RFC 1035 section 4.1.1, RFC 4035 section 3.2.2).
    let flags0 = 0x80 | question.flags0 & 0x01;
    let flags1 = 0x80 | question.flags1 & 0x10 | question.rcode as u8;
    let [id0, id1] = question.id_be.to_ne_bytes();
    answer.words[message] = u32::from_ne_bytes([id0, id1, flags0, flags1]);
    answer.words[message + 1] = 0x0001_0000_u32.to_be();
    answer.words[message + 2] = (0x0001_0000 | u32::from(has_opt)).to_be();
    let pseudo = denial::pseudo_sum(answer);
    let rest = denial::sum(&raw mut answer.words[IP], (bytes + 3) & !3);
    let checksum = if F::FILLS_IN {
        // Where the checksum is partial this is it; where it is full, what follows makes it so.
        denial::fold(pseudo)
    } else {
        match !denial::fold(rest + pseudo) {
            0 => 0xffff, // 0 says "no checksum"
            sum => sum,
        }
    };
    answer.words[IP + 1] |= denial::second_half(checksum);
    let length = ETHERNET as u32 + IP as u32 * 4 + bytes;
    let written = frame.resize(length)
        // SAFETY: the buffer is as long as the answer.
        && unsafe { frame.store(0, answer.frame(), length) };
    (written && frame.complete(transport + 6, denial::fold(rest + 2 * pseudo))).then_some(())
}

/// Puts the tail behind the question, at any address, and zeros behind it: sums take whole words.
///
/// # Safety
///
/// There must be room for all of the tail, and for a word.
#[inline(always)]
unsafe fn put_tail(to: *mut u8, length: u32, dnssec_ok: u32) {
    // SAFETY: the caller promises the room, and words at any address may be written (`build.rs`).
    unsafe {
        for (index, word) in WORDS.into_iter().enumerate() {
            to.cast::<u64>().add(index).write_unaligned(word);
        }
        to.add(DENIAL_SOA.len() + OPT_FLAGS_AT).write(dnssec_ok as u8);
        to.add(length as usize).cast::<u32>().write_unaligned(0);
    }
}
