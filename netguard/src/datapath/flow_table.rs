//! The memory of the map `FLOWS`, which programs read and write meanwhile: a flow is read until it says the same twice, and
//! written as the programs write it (`netguard-ebpf/src/flows.rs::open`): claimed, filled, published.

use std::{
    collections::BTreeMap,
    mem,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use aya::maps::MapData;
use netguard_common::{
    SlotId,
    flow::{Flow, FlowState, Head, Standing, WAYS},
    maps::FLOWS,
    translation::Translation,
};
use nix::time::{ClockId, clock_gettime};

use super::{Error, mapped::Mapped, pins::PinDirectory};

const WORD: usize = size_of::<u64>();
const SEEN: usize = mem::offset_of!(Head, seen_ns) / WORD;
const STANDING: usize = mem::offset_of!(Head, standing) / WORD;
const TRANSLATION: usize = mem::offset_of!(Flow, translation) / WORD;

/// The memory of a `Bucket` as its words, each of which is read and written whole.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct BucketWords {
    heads: [[AtomicU64; size_of::<Head>() / WORD]; WAYS as usize],
    flows: [[AtomicU64; size_of::<Flow>() / WORD]; WAYS as usize],
}

/// The memory of one entry.
#[derive(Clone, Copy)]
pub(super) struct Entry<'a> {
    head: &'a [AtomicU64; size_of::<Head>() / WORD],
    flow: &'a [AtomicU64; size_of::<Flow>() / WORD],
}

/// What an entry holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tracked {
    pub head: Head,
    pub flow: Flow,
}

/// How often an entry is read that says something else each time. Then the next look finds it.
const LOOKS: u32 = 8;
/// Larger tables are not counted: full, one of this size is a third of a gigabyte to read.
const COUNTED_MAX: usize = 1 << 22;

/// The memory of a map `FLOWS`.
pub(super) type Table = Mapped<BucketWords>;

/// The entry of that number.
pub(super) fn at(table: &[BucketWords], number: u32) -> Option<Entry<'_>> {
    let (bucket, way) = (table.get((number / WAYS) as usize)?, (number % WAYS) as usize);
    Some(Entry { head: &bucket.heads[way], flow: &bucket.flows[way] })
}

/// What all entries hold.
pub(super) fn flows(table: &[BucketWords]) -> impl Iterator<Item = Tracked> {
    let entries = table.iter().flat_map(|bucket| {
        bucket.heads.iter().zip(&bucket.flows).map(|(head, flow)| Entry { head, flow })
    });
    entries.filter_map(Entry::read)
}

impl Entry<'_> {
    /// One flow, whole, for whoever writes another one there writes another time. `None` if it holds none, or is never the same
    /// twice.
    pub(super) fn read(self) -> Option<Tracked> {
        let mut seen = None;
        for _ in 0..LOOKS {
            let load = |word: &AtomicU64| word.load(Ordering::Acquire);
            let head = self.head.each_ref().map(load);
            if FlowState::holds_none(Standing::of_word(head[STANDING]).state) {
                return None;
            }
            let words = (head, self.flow.each_ref().map(load));
            if seen == Some(words) {
                // SAFETY: every bit pattern is a head and a flow (`Layout`), and of this size.
                return Some(unsafe {
                    Tracked {
                        head: mem::transmute::<[u64; 2], Head>(words.0),
                        flow: mem::transmute::<[u64; 8], Flow>(words.1),
                    }
                });
            }
            seen = Some(words);
        }
        None
    }

    /// How what it holds stands.
    pub(super) fn standing(self) -> Standing {
        Standing::of_word(self.head[STANDING].load(Ordering::Acquire))
    }

    /// How it stands, if nothing is left of what it held.
    pub(super) fn free(self, now_ns: u64) -> Option<Standing> {
        let standing = self.standing();
        let head = Head { seen_ns: self.head[SEEN].load(Ordering::Relaxed), standing };
        (standing != Standing::CLAIMED && head.is_over(now_ns)).then_some(standing)
    }

    /// Writes a flow over an entry that stands so; false if somebody else was faster.
    pub(super) fn write(self, there: Standing, flow: &Tracked) -> bool {
        let (there, claimed) = (there.word(), Standing::CLAIMED.word());
        let (done, failed) = (Ordering::Acquire, Ordering::Relaxed);
        if self.head[STANDING].compare_exchange(there, claimed, done, failed).is_err() {
            return false;
        }
        self.head[SEEN].store(flow.head.seen_ns, Ordering::Relaxed);
        // SAFETY: a flow is so many words, without padding.
        let words = unsafe { mem::transmute::<Flow, [u64; 8]>(flow.flow) };
        for (word, value) in self.flow.iter().zip(words) {
            word.store(value, Ordering::Relaxed);
        }
        self.head[STANDING].store(flow.head.standing.word(), Ordering::Release);
        true
    }

    /// Gives the flow other looks outside.
    pub(super) fn translate(self, translation: Translation) {
        // SAFETY: a translation is so many words, without padding.
        let words = unsafe { mem::transmute::<Translation, [u64; 2]>(translation) };
        for (word, value) in self.flow[TRANSLATION..].iter().zip(words) {
            word.store(value, Ordering::Release);
        }
    }
}

/// As the programs' clock.
pub(super) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// How many flows each slot has that live; a slot without any is not there. None if the table is too large to count.
pub(super) fn living(pins: &PinDirectory) -> Result<Option<BTreeMap<SlotId, u64>>, Error> {
    let map = MapData::from_pin(pins.map(FLOWS)).map_err(|it| Error::map(FLOWS, it))?;
    let table = Table::of(FLOWS, &map)?;
    Ok((table.len() <= COUNTED_MAX / WAYS as usize).then(|| count(&table, now_ns())))
}

fn count(table: &[BucketWords], now_ns: u64) -> BTreeMap<SlotId, u64> {
    let mut slots = BTreeMap::new();
    for tracked in flows(table).filter(|it| !it.head.is_over(now_ns)) {
        *slots.entry(tracked.flow.key.slot_id).or_default() += 1;
    }
    slots
}

#[cfg(test)]
pub(super) mod tests {
    use std::{iter::repeat_with, thread};

    use netguard_common::{
        Address, Direction,
        flow::{FlowKey, tag},
    };

    use super::*;

    pub const SECOND: u64 = 1_000_000_000;
    pub const NOW: u64 = 10_000 * SECOND;

    /// Buckets that hold nothing.
    pub fn table(entries: u32) -> Vec<BucketWords> {
        repeat_with(BucketWords::default).take((entries / WAYS) as usize).collect()
    }

    /// A flow of a slot that was seen so many seconds ago.
    pub fn flow(slot_id: SlotId, port: u16, state: FlowState, ago: u64) -> Tracked {
        let key = FlowKey {
            guest: Address([1; 16]),
            peer: Address([2; 16]),
            guest_port_be: port.to_be(),
            peer_port_be: 443_u16.to_be(),
            slot_id,
            protocol: 6,
            _reserved: 0,
        };
        let standing = Standing {
            state: state as u8,
            opened: Direction::Egress as u8,
            fins: 0,
            pinned: 1,
            tag: tag(key.hash()),
        };
        let translation = Translation::default();
        Tracked {
            head: Head { seen_ns: NOW - ago * SECOND, standing },
            flow: Flow { key, translation, generation: 7, _reserved: 0 },
        }
    }

    #[test]
    fn only_what_lives_is_counted_for_its_slot() {
        use FlowState::{Asked, Claimed, Empty, Established};
        let table = table(8);
        for (number, tracked) in [
            flow(1, 1, Established, 5),
            flow(1, 2, Asked, 29),
            flow(1, 3, Asked, 30),
            flow(2, 4, Established, 7440),
            flow(3, 5, Established, 7439),
            flow(3, 6, Empty, 0),
            flow(3, 7, Claimed, 0),
        ]
        .iter()
        .enumerate()
        {
            assert!(at(&table, number as u32).unwrap().write(Standing::EMPTY, tracked));
        }
        assert_eq!(count(&table, NOW), BTreeMap::from([(1, 2), (3, 1)]));
    }

    #[test]
    fn entries_that_are_written_meanwhile_are_read_whole() {
        const ROUNDS: u64 = 200_000;
        let table = table(WAYS);
        let entry = at(&table, 2).unwrap();
        let of = |round: u64| {
            let mut tracked = if round.is_multiple_of(2) {
                flow(1, 1, FlowState::Established, 0)
            } else {
                flow(2, 1, FlowState::SynSent, 0)
            };
            (tracked.head.seen_ns, tracked.flow.generation) = (round, round as u32);
            tracked
        };
        assert!(entry.write(Standing::EMPTY, &of(0)));
        assert!(!entry.write(Standing::EMPTY, &of(1)), "it stands otherwise");
        thread::scope(|scope| {
            scope.spawn(|| {
                for round in 1..ROUNDS {
                    assert!(entry.write(of(round - 1).head.standing, &of(round)));
                }
            });
            for _ in 0..ROUNDS {
                let found = entry.read();
                assert!(found.is_none_or(|it| it == of(it.head.seen_ns)), "{found:?}");
            }
        });
    }
}
