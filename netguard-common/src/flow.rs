//! Tracked connections and fragments: their layouts, where they stand in their map, and the states that a connection
//! goes through.

use crate::{
    Address, Direction, SlotId,
    maps::{Layout, SlotEntry},
    translation::Translation,
};

/// How many entries a bucket of the map `FLOWS` has. A flow may stand in either of two buckets.
pub const WAYS: u32 = 4;

/// How many entries the buckets of `FLOWS` have together for so many flows: four times as many, because two buckets of four
/// take every flow only up to about half of that, and shares are powers of two.
#[must_use]
pub const fn flow_entries(flows_max: u32) -> u32 {
    match flows_max.checked_mul(4) {
        Some(entries) => entries.next_power_of_two(),
        None => 1 << 31,
    }
}

/// Who a flow is between, as one comparable whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C, align(8))]
pub struct FlowKey {
    /// The guest's address.
    pub guest: Address,
    /// The other side's address.
    pub peer: Address,
    /// The guest's port in network order; the identifier of an ICMP echo.
    pub guest_port_be: u16,
    /// The other side's port in network order; the identifier of an ICMP echo.
    pub peer_port_be: u16,
    /// The slot.
    pub slot_id: SlotId,
    /// The IP protocol number.
    pub protocol: u8,
    /// Zero: keys are compared as words.
    pub _reserved: u8,
}
const _: () = assert!(size_of::<FlowKey>() == 40);
// SAFETY: `repr(C)`, integers only, sizes add up to the asserted total.
unsafe impl Layout for FlowKey {}

impl FlowKey {
    /// The key as words.
    #[must_use]
    #[inline(always)]
    pub const fn words(&self) -> [u64; 5] {
        // SAFETY: the key is 40 bytes of integers without padding, aligned to 8.
        unsafe { *(&raw const *self).cast() }
    }

    /// Where the flow may stand in a share: a bucket by each half. Multiply and fold, word by word. A slot that makes
    /// its own flows collide only fills its own buckets.
    #[must_use]
    #[inline(always)]
    pub const fn hash(&self) -> u64 {
        let [a, b, c, d, e] = self.words();
        finish(fold(fold(fold(fold(fold(0, a), b), c), d), e))
    }
}

/// Multiply and fold: a hash with one word more.
#[inline(always)]
pub(crate) const fn fold(hash: u64, word: u64) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mixed = (hash ^ word).wrapping_mul(ODD);
    mixed ^ (mixed >> 29)
}

/// Once more, because a multiplication takes no bit further down: only so all of the last word reaches both halves.
#[inline(always)]
pub(crate) const fn finish(hash: u64) -> u64 {
    fold(hash, 0)
}

/// How many places a flow may have: two buckets of [`WAYS`] each.
pub const PLACES: u32 = 2 * WAYS;

/// The number of one of the places of a slot's flow with that hash, bucket by bucket: the first four are the bucket of the
/// hash's low half, the others that of its high half.
#[must_use]
#[inline(always)]
pub const fn place(slot: &SlotEntry, hash: u64, number: u32) -> u32 {
    let half = if number < WAYS { hash as u32 } else { (hash >> 32) as u32 };
    slot.flows_first + (half & slot.flows_mask) * WAYS + (number & (WAYS - 1))
}

/// The value of the map `FLOWS`. A look at its first cache line tells which of the flows may be the one that is asked for, and
/// which one a new flow may take the place of; the others are in lines of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Bucket {
    /// How the flows stand.
    pub heads: [Head; WAYS as usize],
    /// What they are.
    pub flows: [Flow; WAYS as usize],
}
const _: () = assert!(size_of::<Bucket>() == 64 + 4 * 64);
// SAFETY: `repr(C)`, integers only, sizes add up to the asserted total.
unsafe impl Layout for Bucket {}

/// How a flow stands, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Head {
    /// `CLOCK_MONOTONIC` in nanoseconds of the latest packet of either side.
    pub seen_ns: u64,
    /// How it stands.
    pub standing: Standing,
}

impl Head {
    /// True if nothing is left of the flow: it timed out, or there never was one.
    #[must_use]
    #[inline(always)]
    pub const fn is_over(&self, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.seen_ns) >= FlowState::timeout_ns(self.standing.state)
    }
}

/// What changes as a flow goes on; one word, which is compared and swapped whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Standing {
    /// A [`FlowState`] as a number.
    pub state: u8,
    /// Who opened it: a [`Direction`] as a number.
    pub opened: u8,
    /// [`FIN_OPENER`] and [`FIN_OTHER`].
    pub fins: u8,
    /// 1 if nothing but a pin allowed it: it outlives the pin.
    pub pinned: u8,
    /// [`tag`] of the key's hash.
    pub tag: u32,
}

impl Standing {
    /// The entry holds no flow.
    pub const EMPTY: Self =
        Self { state: FlowState::Empty as u8, opened: 0, fins: 0, pinned: 0, tag: 0 };
    /// The entry is being written.
    pub const CLAIMED: Self = Self { state: FlowState::Claimed as u8, ..Self::EMPTY };

    /// As one word.
    #[must_use]
    #[inline(always)]
    pub const fn word(self) -> u64 {
        // SAFETY: 8 bytes of integers without padding.
        unsafe { core::mem::transmute(self) }
    }

    /// What a word says.
    #[must_use]
    #[inline(always)]
    pub const fn of_word(word: u64) -> Self {
        // SAFETY: every bit pattern is a standing.
        unsafe { core::mem::transmute(word) }
    }

    /// True if the slot opened the flow, false if the other side did.
    #[must_use]
    #[inline(always)]
    pub const fn is_slots(self) -> bool {
        self.opened == Direction::Egress as u8
    }
}

/// What of a key's hash stands in the bucket's first line: flows with another one need not be looked at.
#[must_use]
#[inline(always)]
pub const fn tag(hash: u64) -> u32 {
    (hash >> 32) as u32
}

/// What one tracked connection is: one cache line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Flow {
    /// Between whom.
    pub key: FlowKey,
    /// What it looks like outside.
    pub translation: Translation,
    /// The policy under which it was allowed.
    pub generation: u32,
    /// Zero.
    pub _reserved: u32,
}
const _: () = assert!(size_of::<Flow>() == 64);

/// The side that opened the connection has sent its last byte.
pub const FIN_OPENER: u8 = 1;
/// The other side has.
pub const FIN_OTHER: u8 = 2;

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum FlowState {
    /// The entry holds no flow.
    Empty = 0,
    /// The entry is being written.
    Claimed = 1,
    /// TCP: the opener has sent its SYN.
    SynSent = 2,
    /// TCP: the other side has answered it.
    SynReceived = 3,
    /// TCP: the opener has confirmed.
    Established = 4,
    /// TCP: both sides have sent their FIN, or one a RST.
    Closed = 5,
    /// UDP and ICMP echo: no reply yet.
    Asked = 6,
    /// UDP and ICMP echo: with a reply.
    Answered = 7,
}

const SECOND_NS: u64 = 1_000_000_000;

impl FlowState {
    /// Every state, by number.
    pub const ALL: [Self; 8] = [
        Self::Empty,
        Self::Claimed,
        Self::SynSent,
        Self::SynReceived,
        Self::Established,
        Self::Closed,
        Self::Asked,
        Self::Answered,
    ];

    /// How long a flow may be silent in the state of that number; no time at all where there is no flow.
    ///
    /// RFC 5382 REQ-5: an established connection may be silent for two hours and four minutes. RFC 4787
    /// REQ-5 asks for two minutes or more for UDP that is answered; Linux gives 30 s without an answer.
    #[must_use]
    #[inline(always)]
    pub const fn timeout_ns(state: u8) -> u64 {
        SECOND_NS
            * match state {
                2 | 3 => 60,
                4 => 7440,
                5 | 6 => 30,
                7 => 180,
                _ => 0, // empty, or another CPU is writing it
            }
    }

    /// True if an entry in the state of that number holds no flow.
    #[must_use]
    pub const fn holds_none(state: u8) -> bool {
        state <= Self::Claimed as u8
    }

    /// The word in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Claimed => "claimed",
            Self::SynSent => "syn-sent",
            Self::SynReceived => "syn-received",
            Self::Established => "established",
            Self::Closed => "closed",
            Self::Asked => "asked",
            Self::Answered => "answered",
        }
    }
}

/// How many packets in fragments a slot can have on their way at once, each way; a power of two.
pub const FRAGMENTS_PER_SLOT: u32 = 8;

/// A packet in fragments whose first one passed: the value of the map `FRAGMENTS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Fragment {
    /// The source.
    pub src: Address,
    /// The destination.
    pub dst: Address,
    /// `CLOCK_MONOTONIC` in nanoseconds of the first fragment; 0 if the entry holds none.
    pub seen_ns: u64,
    /// The identification that all fragments share, as it is on the wire.
    pub identification: u32,
    /// Where the next fragment must start, in bytes from the end of the IP header on.
    pub next_offset: u32,
    /// The slot.
    pub slot_id: SlotId,
    /// The IP protocol number.
    pub protocol: u8,
    /// A [`Direction`] as a number.
    pub direction: u8,
    /// 1 more than the number of the flow, if its packets take the fast path; else 0.
    pub translated: u32,
}
const _: () = assert!(size_of::<Fragment>() == 56);
// SAFETY: `repr(C)`, integers only, sizes add up to the asserted total.
unsafe impl Layout for Fragment {}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A flow of a guest's with one of many peers.
    pub fn key_to(peer: u16, peer_port: u16, port: u16) -> FlowKey {
        let [high, low] = peer.to_be_bytes();
        FlowKey {
            guest: Address::v4([10, 1, 0, 2]),
            peer: Address::v4([203, 0, high, low]),
            guest_port_be: port.to_be(),
            peer_port_be: peer_port.to_be(),
            slot_id: 1,
            protocol: 6,
            _reserved: 0,
        }
    }

    /// Lets flows that differ a little find buckets of eight, of which each has two in the mean: hardly one finds its own full.
    pub fn assert_spread(hash: impl Fn(u16, u16, u16) -> u32) {
        const BUCKETS: u32 = 1 << 15;
        for (peers, peer_ports) in [
            (1, 1),
            (4, 1),
            (1, 4),
            (64, 1),
            (1, 64),
            (16, 16),
            (128, 256),
            (1 << 15, 1),
            (1, 1 << 15),
        ] {
            let mut used = [0_u32; BUCKETS as usize];
            for flow in 0..2 * BUCKETS {
                let (peer, rest) = (flow % peers, flow / peers);
                let (peer_port, port) = (rest % peer_ports, rest / peer_ports);
                let hash = hash(peer as u16, 443 + peer_port as u16, port as u16);
                used[(hash % BUCKETS) as usize] += 1;
            }
            let left_out: u32 = used.iter().map(|used| used.saturating_sub(8)).sum();
            assert!(left_out < 2 * BUCKETS / 1000, "{peers} {peer_ports}: {left_out}");
        }
    }

    #[test]
    fn flows_that_differ_a_little_stand_in_buckets_of_their_own() {
        assert_spread(|peer, peer_port, port| key_to(peer, peer_port, port).hash() as u32);
        assert_spread(|peer, peer_port, port| (key_to(peer, peer_port, port).hash() >> 32) as u32);
    }

    #[test]
    fn states_have_the_numbers_that_their_timeouts_go_by() {
        let minutes = |state: FlowState| FlowState::timeout_ns(state as u8) / SECOND_NS;
        assert_eq!(FlowState::ALL.map(minutes), [0, 0, 60, 60, 7440, 30, 30, 180]);
    }
}
