//! Stage 5, names: whether a query is plainly for a name that the slot may not ask for. Whatever else it is, user space judges it.
//!
//! The message is copied to scratch memory, and so is everything that a loop goes on with: the verifier walks a callback of
//! `bpf_loop` (Linux 5.17) once, for all values that memory can have.

use core::{ffi::c_void, ptr};

use aya_ebpf::{bindings::BPF_ANY, helpers::bpf_loop};
use netguard_common::{
    Address,
    dns_denial::{DENIAL_VERSION, DnsDenial, NAME_MAX},
    maps::{SlotEntry, slot_flags},
    names::{self, NAME_SETS, NameKey, SET_LISTS_TOP, name_kind},
};

use crate::{
    frame::Frame,
    maps::{DENIALS, NAMES},
    packet::{Packet, UDP},
    scratch::Scratch,
};

const ETHERNET: u32 = 14;
const UDP_HEADER: u32 = 8;
const DNS_HEADER: usize = 12;
/// The longest message that is looked at: a question and an OPT of one option take two thirds of it.
const MESSAGE_MAX: u32 = 512;
/// What a message has in front of its name, UDP's header included.
const HEAD: usize = UDP_HEADER as usize + DNS_HEADER;
/// Where reads end up at most: so many bits, and a word.
const MASK: u32 = 511;
const WORD: usize = 8;
/// How often a name's loop turns at most: once for each eight bytes of each label.
const STEPS_MAX: u32 = NAME_MAX as u32 / 2 + 1;
const LABELS_MASK: u32 = 127;
const CLASS_IN: u32 = 1;
const OPT: u32 = 41;
const OPT_LENGTH: u32 = 11;

const NOERROR: u8 = 0;
const NXDOMAIN: u8 = 3;

/// One query, from its bytes to what is decided of it.
#[repr(C)]
pub struct Question {
    /// What will stand before the name in the record. The headers before the name are read into its end first.
    record: DnsDenial,
    /// The message from its name on.
    name: [u8; MASK as usize + 1 + WORD],
    /// The hashes of the labels, from left to right, and then of the suffixes that begin there.
    labels: [u64; LABELS_MASK as usize + 1],
    /// The hash of the suffix that was made last.
    suffix: u64,
    /// The hash of the label that is being read.
    label: u64,
    /// Where in the name the loop is, and how much of its label is left.
    at: u32,
    left: u32,
    /// How many labels there are.
    count: u32,
    /// The name is whole.
    is_whole: u32,
    /// The first of the labels that are suffixes by now.
    made: u32,
    /// Which set is searched, and which label is next.
    set: u32,
    next: u32,
    /// The end of the search: no set lists the name.
    is_unlisted: u32,
    /// A set lists something below it.
    is_above: u32,
    /// The message's number and flags, as on the wire.
    pub id_be: u16,
    pub flags0: u8,
    pub flags1: u8,
    /// How many bytes the question has, from the name to the class.
    asked: u32,
    /// The guest has sent an OPT, and 0x80 if DNSSEC is wanted in it.
    pub has_opt: u32,
    pub dnssec_ok: u32,
    /// The answer's code.
    pub rcode: u32,
}

impl Question {
    /// How many bytes the question has, from the name to the class.
    #[inline(always)]
    pub fn asked(&self) -> u32 {
        get(&raw const self.asked)
    }
}

/// What the search goes by.
#[repr(C)]
struct Search {
    question: *mut Question,
    slot: *const SlotEntry,
}

/// True if the query is plainly one for a name that the slot may not ask for.
#[inline(always)]
pub fn is_denied<F: Frame>(frame: &F, scratch: &mut Scratch, slot: &SlotEntry) -> bool {
    slot.flags & slot_flags::DENIES != 0
        && scratch.packet.protocol == UDP
        && judge_apart(frame, &scratch.packet, &mut scratch.question, slot) == 1
}

/// Leaves the record of a denial. False if there is no room, or another version of it: then user space answers.
#[inline(always)]
pub fn record(scratch: &mut Scratch, slot_id: u16) -> bool {
    record_apart(&scratch.packet, &mut scratch.question, slot_id.into(), scratch.now_ns) == 1
}

/// A function of its own in BPF too, for its stack.
#[inline(never)]
fn judge_apart<F: Frame>(
    frame: &F,
    packet: &Packet,
    question: &mut Question,
    slot: &SlotEntry,
) -> u32 {
    judge(frame, packet, question, slot).map_or(0, |()| 1)
}

#[inline(always)]
fn judge<F: Frame>(
    frame: &F,
    packet: &Packet,
    question: &mut Question,
    slot: &SlotEntry,
) -> Option<()> {
    let length = read(frame, packet, question)?;
    read_name(question)?;
    let end = get(&raw const question.at);
    if end > slot.name_max || !is_plain(question, end, length) {
        return None;
    }
    search(question, slot)?;
    let rcode = if get(&raw const question.is_above) == 1 { NOERROR } else { NXDOMAIN };
    question.rcode = rcode.into();
    Some(())
}

/// Copies the message, if its header is that of a query (see `netguard-dns/src/query.rs`). Returns its length from the name on.
#[inline(always)]
fn read<F: Frame>(frame: &F, packet: &Packet, question: &mut Question) -> Option<u32> {
    let transport: u32 = packet.transport_offset.into();
    let headers = ETHERNET + if packet.src.is_v4() { 20 } else { 40 };
    let length = packet.payload;
    let is_usual = transport == headers && frame.length() <= headers + UDP_HEADER + MESSAGE_MAX;
    if !is_usual || length < HEAD as u32 || length > UDP_HEADER + MESSAGE_MAX {
        return None;
    }
    let head = (&raw mut *question).cast::<u8>().wrapping_add(size_of::<DnsDenial>() - HEAD);
    // As in `report::record`: this form of a minimum is what Linux 6.1 to 6.5 believe, of a number of which the compiler knows nothing.
    let wanted =
        get(&raw const packet.payload).wrapping_sub(1).min(UDP_HEADER + MESSAGE_MAX - 1) + 1;
    // SAFETY: behind the place where the headers go there is room for the longest message.
    if !unsafe { frame.copy(transport, head, wanted) } {
        return None;
    }
    // SAFETY: the headers are there, and words at any address may be read (`build.rs`).
    let (udp, [numbers, counts, more]) = unsafe {
        let words = head.add(UDP_HEADER as usize).cast::<[u32; 3]>().read_unaligned();
        (head.add(4).cast::<u16>().read_unaligned(), words)
    };
    let [id0, id1, flags0, flags1] = numbers.to_ne_bytes();
    (question.id_be, question.flags0, question.flags1) =
        (u16::from_ne_bytes([id0, id1]), flags0, flags1);
    // One question, no answers; recursion desired, AD and CD are the only flags that a query has.
    let is_query = flags0 & 0xfe == 0
        && flags1 & 0xcf == 0
        && counts == 0x0001_0000_u32.to_be()
        && u32::from_be(more) <= 1
        && u32::from(u16::from_be(udp)) == length;
    question.has_opt = u32::from_be(more);
    is_query.then_some(length - HEAD as u32)
}

/// Reads the name: hashes of its labels, all of them plain.
#[inline(always)]
fn read_name(question: &mut Question) -> Option<()> {
    question.at = 0;
    question.left = 0;
    question.count = 0;
    question.is_whole = 0;
    let mut question = &raw mut *question;
    // SAFETY: the callback takes a pointer to what `question` is.
    unsafe {
        bpf_loop(STEPS_MAX, step as *mut c_void, (&raw mut question).cast(), BPF_ANY.into());
        (get(&raw const (*question).is_whole) == 1).then_some(())
    }
}

/// Up to eight bytes of a label; 1 ends the loop.
unsafe extern "C" fn step(_: u32, question: *mut *mut Question) -> i64 {
    // SAFETY: `read_name` gives a pointer to this CPU's scratch memory.
    let question = unsafe { &mut **question };
    let Question { mut at, mut left, mut label, count, .. } = *question;
    if left == 0 {
        left = word(question, at) as u32 & 0xff;
        at += 1;
        if left == 0 || left > 63 || at + left >= NAME_MAX as u32 {
            return 1;
        }
        label = names::begin_label(left as u8);
    }
    let taken = left.min(WORD as u32);
    let bytes = word(question, at) & u64::MAX >> (64 - 8 * taken);
    let (bytes, is_plain) = names::lower(bytes, taken);
    if !is_plain {
        return 1;
    }
    label = names::with_bytes(label, bytes);
    left -= taken;
    at += taken;
    question.at = at;
    question.left = left;
    question.label = label;
    if left == 0 {
        put_label(question, count, label);
        question.count = count + 1;
        // The root ends a name.
        if word(question, at) & 0xff == 0 {
            question.at = at + 1;
            question.is_whole = 1;
            return 1;
        }
    }
    0
}

/// True if what is behind the name is a type that names have, the internet's class, and no more than an OPT of version 0 with one
/// option or none. And the name is none that user space knows by itself.
#[inline(always)]
fn is_plain(question: &mut Question, end: u32, length: u32) -> bool {
    let [type0, type1, class0, class1, ..] = word(question, end).to_le_bytes();
    let record_type = u16::from_be_bytes([type0, type1]);
    let class = u32::from(u16::from_be_bytes([class0, class1]));
    // RFC 6895 section 3.1: OPT, and types that are about messages and zones.
    if matches!(record_type, 0 | 41 | 128..=254) || class != CLASS_IN {
        return false;
    }
    question.record.record_type = record_type;
    let asked = end + 4;
    question.asked = asked;
    question.dnssec_ok = 0;
    let mut all = asked;
    if question.has_opt == 1 {
        let [root, type0, type1, _, _, _, version, flags] = word(question, asked).to_le_bytes();
        let [_, length0, length1, _, _, option0, option1, _] =
            word(question, asked + WORD as u32).to_le_bytes();
        let options = u32::from(u16::from_be_bytes([length0, length1]));
        let option = u32::from(u16::from_be_bytes([option0, option1]));
        let is_opt = root == 0
            && u32::from(u16::from_be_bytes([type0, type1])) == OPT
            && version == 0
            && (options == 0 || option + 4 == options);
        if !is_opt {
            return false;
        }
        question.dnssec_ok = u32::from(flags & 0x80);
        all += OPT_LENGTH + options;
    }
    // Single labels are nobody's business outside.
    if all != length || question.count < 2 {
        return false;
    }
    let last = label(question, question.count - 1);
    last != names::ARPA && last != names::LOCALHOST
}

/// Asks each set of the slot for the name's suffixes, from the shortest that it may list on, until one is not there.
#[inline(always)]
fn search(question: &mut Question, slot: &SlotEntry) -> Option<()> {
    // The top-level domain is asked for in few sets, and made here for all: names have two labels and more.
    let top = question.count - 1;
    let hash = names::with_label(0, label(question, top));
    put_label(question, top, hash);
    question.suffix = hash;
    question.made = top;
    question.is_unlisted = 0;
    question.is_above = 0;
    if begin_set(question, slot, 0) == 1 {
        return Some(());
    }
    let mut search = Search { question: &raw mut *question, slot: ptr::from_ref(slot) };
    let steps = NAME_SETS as u32 * (LABELS_MASK + 1) + 1;
    // SAFETY: the callback takes a pointer to what `search` is.
    unsafe {
        bpf_loop(steps, ask as *mut c_void, (&raw mut search).cast(), BPF_ANY.into());
        (get(&raw const (*search.question).is_unlisted) == 1).then_some(())
    }
}

/// Asks one set for one suffix; 1 ends the loop.
unsafe extern "C" fn ask(_: u32, search: *mut Search) -> i64 {
    // SAFETY: `search` gives a pointer to this CPU's scratch memory and the slot's entry.
    let (question, slot) = unsafe { (&mut *(*search).question, &*(*search).slot) };
    let set = question.set;
    let number = set_of(slot, set);
    let next = question.next.wrapping_sub(1) & LABELS_MASK;
    let mut suffix = label(question, next);
    if next < question.made {
        suffix = names::with_label(question.suffix, suffix);
        question.suffix = suffix;
        question.made = next;
        put_label(question, next, suffix);
    }
    let key = NameKey { set: number, hash: suffix };
    // SAFETY: entries of a set that a slot has are not written to.
    let kind = unsafe { NAMES.get(key) }.copied();
    let Some(kind) = kind else { return begin_set(question, slot, set + 1) };
    let decides = if next == 0 { name_kind::TREE | name_kind::EXACT } else { name_kind::TREE };
    if kind & decides != 0 {
        return 1; // listed, in one way or another
    }
    question.next = next;
    if next == 0 {
        if kind & name_kind::ABOVE != 0 {
            question.is_above = 1;
        }
        return begin_set(question, slot, set + 1);
    }
    0
}

/// Goes on with a set; 1 if there is none.
#[inline(always)]
fn begin_set(question: &mut Question, slot: &SlotEntry, set: u32) -> i64 {
    let number = set_of(slot, set);
    question.set = set;
    question.next = question.count - u32::from(number & SET_LISTS_TOP == 0);
    let is_over = number == 0;
    question.is_unlisted = is_over.into();
    is_over.into()
}

/// The number of a set that the slot has, counted from 0 on; 0 if it has no more.
#[inline(always)]
fn set_of(slot: &SlotEntry, set: u32) -> u64 {
    // SAFETY: the mask keeps it within the slot's sets.
    let number = unsafe { slot.names.as_ptr().add(set as usize & (NAME_SETS - 1)).read() };
    if set < NAME_SETS as u32 { number } else { 0 }
}

#[inline(never)]
fn record_apart(packet: &Packet, question: &mut Question, slot_id: u32, now_ns: u64) -> u32 {
    let length = get(&raw const question.at);
    let record = &mut question.record;
    record.time_ns = now_ns;
    record.client = Address(packet.src.0);
    record.slot_id = slot_id as u16;
    record.version = DENIAL_VERSION;
    record.rcode = question.rcode as u8;
    record._reserved = 0;
    let name = length.wrapping_sub(1).min(NAME_MAX as u32 - 1) + 1;
    let whole = size_of::<DnsDenial>() as u32 + name;
    let from = (&raw mut *question).cast();
    // SAFETY: the record and the name behind it are readable.
    let left = unsafe { aya_ebpf::helpers::bpf_ringbuf_output(ring(), from, whole.into(), 0) };
    u32::from(left == 0)
}

#[inline(always)]
fn ring() -> *mut c_void {
    (&raw const DENIALS).cast_mut().cast()
}

/// Eight bytes of the name or what is behind it, the first one lowest.
#[inline(always)]
fn word(question: &Question, at: u32) -> u64 {
    let bytes = (&raw const question.name).cast::<u8>();
    // SAFETY: the mask keeps it within the bytes, and words at any address may be read (`build.rs`).
    u64::from_le(unsafe { bytes.add((at & MASK) as usize).cast::<u64>().read_unaligned() })
}

#[inline(always)]
fn label(question: &Question, index: u32) -> u64 {
    let labels = (&raw const question.labels).cast::<u64>();
    // SAFETY: the mask keeps it within the labels.
    unsafe { labels.add((index & LABELS_MASK) as usize).read() }
}

#[inline(always)]
fn put_label(question: &mut Question, index: u32, hash: u64) {
    let labels = (&raw mut question.labels).cast::<u64>();
    // SAFETY: the mask keeps it within the labels.
    unsafe { labels.add((index & LABELS_MASK) as usize).write(hash) };
}

/// What a callback has written: the compiler does not know that it runs.
#[inline(always)]
fn get(word: *const u32) -> u32 {
    // SAFETY: all callers have references to what holds the word.
    unsafe { word.read_volatile() }
}
