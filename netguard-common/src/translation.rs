//! Network address translation of the fast path: what a flow looks like outside, and where its answers find it.
//!
//! A [`Translation`] is part of each flow. [`crate::maps::NAT`] leads from what an answer bears to the flow's number: a hash table
//! of buckets of [`NAT_WAYS`] words, each of which counts only as long as the flow that it names lives and looks like that
//! outside. So nobody cleans up.

use crate::{
    Address,
    flow::{FlowKey, finish, fold},
    maps::Layout,
};

/// The lowest port that a translated flow has outside; the others follow it. Below the ports that Linux gives to its own
/// connections (net.ipv4.ip_local_port_range), and above those of nearly every service.
pub const NAT_FIRST_PORT: u16 = 16_384;
/// How many; a power of two.
pub const NAT_PORTS: u16 = 16_384;

/// What the outside sees of a flow, and the way back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Translation {
    /// The slot's port, by interface number.
    pub port_ifindex: u32,
    /// The interface that the flow leaves by; its address is the flow's outside.
    pub uplink_ifindex: u32,
    /// The guest's Ethernet address.
    pub guest_mac: [u8; 6],
    /// The flow's port outside, in network order; 0 if it is not translated here.
    pub port_be: u16,
}
const _: () = assert!(size_of::<Translation>() == 16);

/// A flow as its answers name it; the key of the map `ELSEWHERE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Outside {
    /// The other side.
    pub peer: Address,
    /// The interface that both ways lead by.
    pub uplink_ifindex: u32,
    /// The other side's port in network order.
    pub peer_port_be: u16,
    /// The flow's own port in network order.
    pub port_be: u16,
    /// The IP protocol number.
    pub protocol: u8,
    /// Zero, but for [`Self::answered`]: hash keys compare every byte.
    pub _reserved: [u8; 7],
}
const _: () = assert!(size_of::<Outside>() == 32);
// SAFETY: `repr(C)`, integers only, sizes add up to the asserted total.
unsafe impl Layout for Outside {}

impl Outside {
    /// Of a flow that is translated so.
    #[must_use]
    #[inline(always)]
    pub const fn of(key: &FlowKey, translation: &Translation) -> Self {
        Self {
            peer: key.peer,
            uplink_ifindex: translation.uplink_ifindex,
            peer_port_be: key.peer_port_be,
            port_be: translation.port_be,
            protocol: key.protocol,
            _reserved: [0; 7],
        }
    }

    /// The key of the way back, where somebody else's connection had to be given another port.
    #[must_use]
    #[inline(always)]
    pub const fn answered(self) -> Self {
        const ANSWERED: u8 = 1;
        Self { _reserved: [ANSWERED, 0, 0, 0, 0, 0, 0], ..self }
    }

    /// Word by word: the compiler would compare bytes.
    #[must_use]
    #[inline(always)]
    pub const fn is_same(&self, other: &Self) -> bool {
        let ([a, b, c, d], [e, f, g, h]) = (self.words(), other.words());
        (a ^ e) | (b ^ f) | (c ^ g) | (d ^ h) == 0
    }

    #[inline(always)]
    const fn words(&self) -> [u64; 4] {
        // SAFETY: the key is 32 bytes of integers without padding, aligned to 8.
        unsafe { *(&raw const *self).cast() }
    }

    /// Which bucket it is found in, by the low half, and the tag that its word bears there, the high one.
    #[must_use]
    #[inline(always)]
    pub const fn hash(&self) -> u64 {
        let [high, low] = self.peer.words();
        let ports = self.port_be as u64
            | (self.peer_port_be as u64) << 16
            | (self.uplink_ifindex as u64) << 32;
        finish(fold(fold(fold(0, high), low), ports ^ (self.protocol as u64) << 56))
    }
}

/// True for a port, in host order, that translated flows have outside.
#[must_use]
#[inline(always)]
pub const fn is_nat_port(port: u16) -> bool {
    port & !(NAT_PORTS - 1) == NAT_FIRST_PORT
}

/// How many connections that are not slots' are remembered with such a port; the longest unused go first.
pub const ELSEWHERE_MAX: u32 = 16_384;

/// How many words the map `ELSEWHERE_PORTS` has.
pub const PORT_WORDS: u32 = NAT_PORTS as u32 / u64::BITS;

/// Which bit of which word stands for such a port.
#[must_use]
#[inline(always)]
pub const fn port_bit(port: u16) -> (u32, u64) {
    let number = (port & (NAT_PORTS - 1)) as u32;
    (number / u64::BITS, 1 << (number % u64::BITS))
}

/// How many words a bucket of `NAT` has.
pub const NAT_WAYS: u32 = 8;

/// How many words `NAT` has beside so many entries of `FLOWS`, of which a quarter is ever used.
#[must_use]
pub const fn nat_entries(flow_entries: u32) -> u32 {
    let entries = flow_entries / 2;
    if entries < NAT_WAYS { NAT_WAYS } else { entries }
}

/// What of the hash of an [`Outside`] says which bucket among so many words.
#[must_use]
pub const fn nat_mask(nat_entries: u32) -> u32 {
    nat_entries / NAT_WAYS - 1
}

/// The index in `NAT` of one of the words of that hash's bucket.
#[must_use]
#[inline(always)]
pub const fn nat_place(mask: u32, hash: u64, number: u32) -> u32 {
    (hash as u32 & mask) * NAT_WAYS + (number & (NAT_WAYS - 1))
}

/// The word for the flow of that number.
#[must_use]
#[inline(always)]
pub const fn nat_word(hash: u64, flow_index: u32) -> u64 {
    hash & TAG | (flow_index as u64 + 1)
}

/// The number of the flow that a word names. Of an empty word none that there is.
#[must_use]
#[inline(always)]
pub const fn nat_flow(word: u64) -> u32 {
    (word as u32).wrapping_sub(1)
}

/// True if the word may be of a flow of that hash.
#[must_use]
#[inline(always)]
pub const fn nat_matches(word: u64, hash: u64) -> bool {
    (word ^ hash) & TAG == 0 && word as u32 != 0
}

const TAG: u64 = 0xffff_ffff_0000_0000;

/// The port that a guest's own is tried as first, in host order: always the same one for a guest's socket, whoever it talks to (RFC
/// 4787 REQ-1), and another one for each port of a guest.
#[must_use]
#[inline(always)]
pub const fn preferred_port(key: &FlowKey) -> u16 {
    let [high, low] = key.guest.words();
    let guest = fold(fold(key.slot_id as u64, high), low);
    nat_port((guest >> 32) as u16 ^ u16::from_be(key.guest_port_be))
}

/// The one after it, and so on: away from the neighbours, which other sockets of the guest have.
#[must_use]
#[inline(always)]
pub const fn next_port(port: u16) -> u16 {
    const STEP: u16 = 4_999; // odd, so that all of them have their turn
    nat_port(port.wrapping_add(STEP))
}

#[inline(always)]
const fn nat_port(number: u16) -> u16 {
    NAT_FIRST_PORT + (number & (NAT_PORTS - 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::tests::{assert_spread, key_to};

    fn key(guest: u8, port: u16) -> FlowKey {
        FlowKey { guest: Address::v4([10, 1, 0, guest]), ..key_to(9, 443, port) }
    }

    #[test]
    fn flows_that_differ_a_little_have_words_in_buckets_of_their_own() {
        let hash = |peer, peer_port, port: u16| {
            let looks =
                Translation { uplink_ifindex: 3, port_be: port.to_be(), ..Translation::default() };
            Outside::of(&key_to(peer, peer_port, 1), &looks).hash()
        };
        assert_spread(|peer, peer_port, port| hash(peer, peer_port, port) as u32);
    }

    #[test]
    fn a_guests_ports_keep_out_of_each_others_way() {
        let mut seen = [false; NAT_PORTS as usize];
        for port in 40_000..40_000 + NAT_PORTS {
            let outside = preferred_port(&key(2, port));
            assert!(!core::mem::replace(&mut seen[usize::from(outside - NAT_FIRST_PORT)], true));
        }
        assert_ne!(preferred_port(&key(2, 1)), preferred_port(&key(3, 1)));
    }

    #[test]
    fn every_port_has_a_bit_of_its_own() {
        let mut words = [0; PORT_WORDS as usize];
        for port in (0..=u16::MAX).filter(|port| is_nat_port(*port)) {
            let (word, bit) = port_bit(port);
            assert_eq!(words[word as usize] & bit, 0, "{port}");
            words[word as usize] |= bit;
        }
        assert!(words.iter().all(|word| *word == u64::MAX));
    }

    #[test]
    fn every_port_has_its_turn() {
        let mut seen = [false; NAT_PORTS as usize];
        let mut port = preferred_port(&key(2, 1));
        for _ in 0..NAT_PORTS {
            assert!(!core::mem::replace(&mut seen[usize::from(port - NAT_FIRST_PORT)], true));
            port = next_port(port);
        }
    }

    #[test]
    fn a_word_names_its_flow_and_no_empty_one_does() {
        let translation = Translation { uplink_ifindex: 3, port_be: 99, ..Translation::default() };
        let hash = Outside::of(&key(2, 1), &translation).hash();
        for index in [0, 7, u32::MAX - 1] {
            let word = nat_word(hash, index);
            assert_eq!(nat_flow(word), index);
            assert!(nat_matches(word, hash));
            assert!(!nat_matches(word, !hash));
        }
        assert!(!nat_matches(0, 0), "an empty word");
        assert_eq!(nat_flow(0), u32::MAX);
    }
}
