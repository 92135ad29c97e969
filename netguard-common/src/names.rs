//! Names as the programs look them up: a hash for each suffix of a name, and what the answer to one that is denied consists of.
//!
//! A name's suffixes are hashed label by label from the right. Two names that share a hash are no danger: what is listed is always found,
//! so whoever finds something in the place of another one only asks user space in vain.

use crate::{flow::fold, maps::Layout};

/// What is known of a suffix of a listed name.
pub mod name_kind {
    /// The name and all below it is listed, as allowed or as an exception.
    pub const TREE: u32 = 1 << 0;
    /// The name itself is listed.
    pub const EXACT: u32 = 1 << 1;
    /// Something below it is allowed: to deny its existence would deny that one's (RFC 8020).
    pub const ABOVE: u32 = 1 << 2;
}

/// The key of [`crate::maps::NAMES`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct NameKey {
    /// The set of names, a fingerprint of what it lists; with [`SET_LISTS_TOP`].
    pub set: u64,
    /// The hash of a suffix.
    pub hash: u64,
}
const _: () = assert!(size_of::<NameKey>() == 16);
// SAFETY: `repr(C)`, integers only, sizes add up to the asserted total.
unsafe impl Layout for NameKey {}

/// In a set's number: some top-level domain is listed, with all below it. In other sets no search begins with one: nearly every name
/// has one that something is listed below.
pub const SET_LISTS_TOP: u64 = 1;

/// How many sets of names a slot can have. One that has more is answered by user space alone.
pub const NAME_SETS: usize = 8;

/// The hash of a label, before its bytes.
#[must_use]
#[inline(always)]
pub const fn begin_label(length: u8) -> u64 {
    fold(0, length as u64)
}

/// The hash of a label with eight more of its bytes, as a number whose lowest byte is the first; behind the last one zeros.
#[must_use]
#[inline(always)]
pub const fn with_bytes(label: u64, bytes: u64) -> u64 {
    fold(label, bytes)
}

/// The hash of a suffix that is one label longer. The root's is 0.
#[must_use]
#[inline(always)]
pub const fn with_label(suffix: u64, label: u64) -> u64 {
    fold(suffix, label)
}

/// The hash of a label in lower case.
#[must_use]
pub const fn label_hash(label: &[u8]) -> u64 {
    let mut hash = begin_label(label.len() as u8);
    let mut at = 0;
    while at < label.len() {
        let mut word = 0;
        let mut byte = 0;
        while byte < 8 && at < label.len() {
            word |= (label[at] as u64) << (8 * byte);
            (at, byte) = (at + 1, byte + 1);
        }
        hash = with_bytes(hash, word);
    }
    hash
}

/// The last label of every name that user space answers though no list has it: reverse zones of private networks lie below it.
pub const ARPA: u64 = label_hash(b"arpa");
/// The same for names of the guest itself (RFC 6761 section 6.3).
pub const LOCALHOST: u64 = label_hash(b"localhost");

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x80 * ONES;

/// Up to eight bytes of a name in lower case, and whether names of hosts have each of them: letters, digits, hyphens and underscores.
/// Behind the last of `count` bytes must be zeros.
#[must_use]
#[inline(always)]
pub const fn lower(bytes: u64, count: u32) -> (u64, bool) {
    let there = u64::MAX >> (64 - 8 * count);
    let low = bytes & !HIGH;
    let upper = within(low, b'A', b'Z') & there;
    let lower = bytes | upper >> 2; // 0x20
    let low = lower & !HIGH;
    let usual = within(low, b'a', b'z')
        | within(low, b'0', b'9')
        | within(low, b'-', b'-')
        | within(low, b'_', b'_');
    (lower, (usual & !bytes | !there) & HIGH == HIGH)
}

/// The highest bit of each byte that is in a range; all of them below 128.
#[inline(always)]
const fn within(bytes: u64, first: u8, last: u8) -> u64 {
    let from = bytes + (0x80 - first as u64) * ONES;
    let behind = bytes + (0x7f - last as u64) * ONES;
    from & !behind & HIGH
}

/// How long a guest may remember that a name is not allowed, in seconds.
pub const DENIAL_TTL: u32 = 60;
/// What a guest that understands extended errors is told of a name that no list has.
pub const UNLISTED: &str = "not on netguard's allowlist";
/// The largest UDP reply, so that none is ever fragmented (RFC 9715 section 3).
pub const UDP_PAYLOAD_MAX: u16 = 1232;
/// Extended DNS error "Blocked" (RFC 8914 section 4.16).
pub const EDE_BLOCKED: u16 = 15;

/// `netguard.invalid.`
const ZONE: &[u8; 18] = b"\x08netguard\x07invalid\x00";

/// The record by which a denial is remembered (RFC 2308 section 3), of the name that is asked for (a pointer to the question, RFC
/// 1035 section 4.1.4).
pub const DENIAL_SOA: [u8; 68] = {
    let mut soa = [0; 68];
    let at = put(&mut soa, 0, &[0xc0, 12, 0, 6, 0, 1]);
    let at = put(&mut soa, at, &DENIAL_TTL.to_be_bytes());
    let at = put(&mut soa, at, &(2 * ZONE.len() as u16 + 20).to_be_bytes());
    // The primary server, and whom to write to.
    let at = put(&mut soa, at, ZONE);
    let mut at = put(&mut soa, at, ZONE);
    let numbers = [1, 3600, 600, 86400, DENIAL_TTL];
    let mut index = 0;
    while index < numbers.len() {
        let number: u32 = numbers[index];
        (at, index) = (put(&mut soa, at, &number.to_be_bytes()), index + 1);
    }
    assert!(at == soa.len());
    soa
};

/// Where in [`DENIAL_OPT`] the bit stands that repeats the guest's DO.
pub const OPT_FLAGS_AT: usize = 7;

/// netguard's OPT in such an answer, with DO unset: "Blocked", and why.
pub const DENIAL_OPT: [u8; 17 + UNLISTED.len()] = {
    let mut opt = [0; 17 + UNLISTED.len()];
    let size = UDP_PAYLOAD_MAX.to_be_bytes();
    let at = put(&mut opt, 0, &[0, 0, 41, size[0], size[1], 0, 0, 0, 0]);
    let at = put(&mut opt, at, &(6 + UNLISTED.len() as u16).to_be_bytes());
    let at = put(&mut opt, at, &[0, 15]); // the option of extended errors (RFC 8914 section 2)
    let at = put(&mut opt, at, &(2 + UNLISTED.len() as u16).to_be_bytes());
    let at = put(&mut opt, at, &EDE_BLOCKED.to_be_bytes());
    let at = put(&mut opt, at, UNLISTED.as_bytes());
    assert!(at == opt.len());
    opt
};

const fn put(to: &mut [u8], at: usize, bytes: &[u8]) -> usize {
    let mut index = 0;
    while index < bytes.len() {
        to[at + index] = bytes[index];
        index += 1;
    }
    at + bytes.len()
}
