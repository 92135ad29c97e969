//! Tracked connections and fragments: their layouts, where they stand in their map, and the states that a connection
//! goes through.

use crate::{
    Address, Direction, SlotId,
    maps::{Layout, SlotEntry},
};

/// How many entries a bucket of the map `FLOWS` has. A flow may stand in either of two buckets.
pub const WAYS: u32 = 4;

/// How many entries `FLOWS` has for so many flows: four times as many, because two buckets of four take every
/// flow only up to about a third of that, and shares are powers of two.
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
        fold(fold(fold(fold(fold(0, a), b), c), d), e)
    }
}

/// Multiply and fold: a hash with one word more.
#[inline(always)]
pub(crate) const fn fold(hash: u64, word: u64) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mixed = (hash ^ word).wrapping_mul(ODD);
    mixed ^ (mixed >> 29)
}

/// How many places a flow may have: two buckets of [`WAYS`] each.
pub const PLACES: u32 = 2 * WAYS;

/// The index in `FLOWS` of one of the places of a slot's flow with that hash: the first four are the bucket of the hash's
/// low half, the others that of its high half.
#[must_use]
#[inline(always)]
pub const fn place(slot: &SlotEntry, hash: u64, number: u32) -> u32 {
    let half = if number < WAYS { hash as u32 } else { (hash >> 32) as u32 };
    slot.flows_first + (half & slot.flows_mask) * WAYS + (number & (WAYS - 1))
}

/// True if nothing is left of a flow in that state: it timed out, or there never was one.
#[must_use]
#[inline(always)]
pub const fn is_over(state: u64, seen_ns: u64, now_ns: u64) -> bool {
    now_ns.saturating_sub(seen_ns) >= FlowState::timeout_ns(state)
}

/// One tracked connection: the value of the map `FLOWS`, one cache line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Flow {
    /// Between whom.
    pub key: FlowKey,
    /// `CLOCK_MONOTONIC` in nanoseconds of the latest packet of either side.
    pub seen_ns: u64,
    /// A [`FlowState`] as a number; 64 bits, because BPF without ALU32 compares and swaps no fewer.
    pub state: u64,
    /// The policy under which it was allowed.
    pub generation: u32,
    /// Who opened it: a [`Direction`] as a number.
    pub opened: u8,
    /// [`FIN_OPENER`] and [`FIN_OTHER`].
    pub fins: u8,
    /// 1 if nothing but a pin allowed it: it outlives the pin.
    pub pinned: u8,
    /// Zero.
    pub _reserved: u8,
}
const _: () = assert!(size_of::<Flow>() == 64);
// SAFETY: `repr(C)`, integers only, sizes add up to the asserted total.
unsafe impl Layout for Flow {}

/// The side that opened the connection has sent its last byte.
pub const FIN_OPENER: u8 = 1;
/// The other side has.
pub const FIN_OTHER: u8 = 2;

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u64)]
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
    pub const fn timeout_ns(state: u64) -> u64 {
        SECOND_NS
            * match state {
                2 | 3 => 60,
                4 => 7440,
                5 | 6 => 30,
                7 => 180,
                _ => 0, // empty, or another CPU is writing it
            }
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

impl Flow {
    /// True if the slot opened it, false if the other side did.
    #[must_use]
    #[inline(always)]
    pub const fn is_slots(&self) -> bool {
        self.opened == Direction::Egress as u8
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
mod tests {
    use super::*;

    #[test]
    fn states_have_the_numbers_that_their_timeouts_go_by() {
        let minutes = |state: FlowState| FlowState::timeout_ns(state as u64) / SECOND_NS;
        assert_eq!(FlowState::ALL.map(minutes), [0, 0, 60, 60, 7440, 30, 30, 180]);
    }
}
