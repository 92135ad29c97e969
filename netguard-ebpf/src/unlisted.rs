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
pub type Tail = [u64; TAIL / 8];
const _: () = assert!(TAIL.is_multiple_of(8) && DENIAL_SOA.len().is_multiple_of(2));

/// Its bytes.
const BYTES: [u8; TAIL] = {
    let mut bytes = [0; TAIL];
    let mut at = 0;
    while at < TAIL {
        bytes[at] =
            if at < DENIAL_SOA.len() { DENIAL_SOA[at] } else { DENIAL_OPT[at - DENIAL_SOA.len()] };
        at += 1;
    }
    bytes
};
/// The same in words of memory.
const WORDS: Tail = {
    let mut words = [0; TAIL / 8];
    let mut index = 0;
    while index < words.len() {
        let (mut word, mut byte) = ([0; 8], 0);
        while byte < 8 {
            word[byte] = BYTES[index * 8 + byte];
            byte += 1;
        }
        words[index] = u64::from_ne_bytes(word);
        index += 1;
    }
    words
};
/// The sums of its halves of words: with an OPT whose DO is unset, and without one.
const SUM: u64 = sum_of(TAIL);
const SOA_SUM: u64 = sum_of(DENIAL_SOA.len());
/// Where the bit DO stands, and what it adds to the sum.
const FLAGS_AT: usize = DENIAL_SOA.len() + OPT_FLAGS_AT;
const FLAGS_SHIFT: u32 = (FLAGS_AT % 8) as u32 * 8;

const fn sum_of(length: usize) -> u64 {
    let (mut sum, mut at) = (0, 0);
    while at < length {
        sum += u16::from_ne_bytes([BYTES[at], BYTES[at + 1]]) as u64;
        at += 2;
    }
    sum
}

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
    // The sum takes whole words.
    answer.words[message + asked as usize / 4] = 0;
    // SAFETY: there is room for the longest question.
    if !unsafe { frame.copy(transport + UDP_BYTES, (&raw mut answer.words[message]).cast(), asked) }
    {
        return None;
    }
    let has_opt = question.has_opt == 1;
    let tail = if has_opt { SOA + OPT } else { SOA };
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
    put_tail(answer, question.dnssec_ok);
    let pseudo = denial::pseudo_sum(answer);
    let head = denial::sum(&raw mut answer.words[IP], (UDP_BYTES + asked + 3) & !3);
    let flags = [question.dnssec_ok as u8, 0];
    let flags = if FLAGS_AT.is_multiple_of(2) { flags } else { [flags[1], flags[0]] };
    let sum = if has_opt { SUM + u64::from(u16::from_ne_bytes(flags)) } else { SOA_SUM };
    let mut end = denial::fold(sum);
    if asked & 1 != 0 {
        end = end.swap_bytes(); // it stands at an odd place
    }
    let rest = head + u64::from(end);
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
    let front = IP as u32 * 4 + UDP_BYTES + asked;
    let written = frame.resize(ETHERNET as u32 + front + tail)
        // SAFETY: the buffers are as long as what is written of them.
        && unsafe {
            frame.store(0, answer.frame(), ETHERNET as u32 + front)
                && frame.store(ETHERNET as u32 + front, answer.tail.as_ptr().cast(), tail)
        };
    (written && frame.complete(transport + 6, denial::fold(rest + 2 * pseudo))).then_some(())
}

#[inline(always)]
fn put_tail(answer: &mut Answer, dnssec_ok: u32) {
    for (index, word) in WORDS.into_iter().enumerate() {
        answer.tail[index] = word;
    }
    answer.tail[FLAGS_AT / 8] |= (u64::from(dnssec_ok) << FLAGS_SHIFT).to_le();
}
