//! The memory of the map `FLOWS` and of what stands beside it, which programs read and write meanwhile: a flow is read until it
//! says the same twice.

use std::{
    collections::BTreeMap,
    mem,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use aya::maps::MapData;
use netguard_common::{
    SlotId,
    flow::{Flow, FlowState, is_over},
    maps::FLOWS,
};
use nix::time::{ClockId, clock_gettime};

use super::{Error, mapped::Mapped, pins::PinDirectory};

/// An entry of the table as its words, each of which is read and written whole.
pub(super) type Entry = [AtomicU64; size_of::<Flow>() / size_of::<u64>()];
pub(super) const SEEN: usize = mem::offset_of!(Flow, seen_ns) / size_of::<u64>();
pub(super) const STATE: usize = mem::offset_of!(Flow, state) / size_of::<u64>();
pub(super) const EMPTY: u64 = FlowState::Empty as u64;
pub(super) const CLAIMED: u64 = FlowState::Claimed as u64;

/// How often an entry is read that says something else each time. Then the next look finds it.
const LOOKS: u32 = 8;
/// Larger tables are not counted: a quarter of a gigabyte is read in some 50 ms.
const COUNTED_MAX: usize = 1 << 22;

/// The memory of a map `FLOWS`.
pub(super) type Table = Mapped<Entry>;

/// As the programs' clock.
pub(super) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// What an entry holds: one flow, whole, for whoever writes another one there writes another time. `None` if it holds none,
/// or is never the same twice.
pub(super) fn read(entry: &Entry) -> Option<Flow> {
    let mut seen = None;
    for _ in 0..LOOKS {
        let state = entry[STATE].load(Ordering::Acquire);
        if matches!(state, CLAIMED | EMPTY) {
            return None;
        }
        let words = entry.each_ref().map(|word| word.load(Ordering::Acquire));
        if seen == Some(words) {
            // SAFETY: every bit pattern is a flow (`Layout`), and of this size.
            return Some(unsafe { mem::transmute::<[u64; 8], Flow>(words) });
        }
        seen = Some(words);
    }
    None
}

/// How many flows each slot has that live; a slot without any is not there. None if the table is too large to count.
pub(super) fn living(pins: &PinDirectory) -> Result<Option<BTreeMap<SlotId, u64>>, Error> {
    let map = MapData::from_pin(pins.map(FLOWS)).map_err(|it| Error::map(FLOWS, it))?;
    let table = Table::of(FLOWS, &map)?;
    Ok((table.len() <= COUNTED_MAX).then(|| count(&table, now_ns())))
}

fn count(table: &[Entry], now_ns: u64) -> BTreeMap<SlotId, u64> {
    let mut slots = BTreeMap::new();
    let found = table.iter().filter_map(read);
    for flow in found.filter(|flow| !is_over(flow.state, flow.seen_ns, now_ns)) {
        *slots.entry(flow.key.slot_id).or_default() += 1;
    }
    slots
}

#[cfg(test)]
mod tests {
    use netguard_common::{Address, Direction, flow::FlowKey};

    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const NOW: u64 = 10_000 * SECOND;

    fn entry(slot_id: SlotId, state: u64, ago: u64) -> Entry {
        let key = FlowKey {
            guest: Address([1; 16]),
            peer: Address([2; 16]),
            guest_port_be: 1,
            peer_port_be: 2,
            slot_id,
            protocol: 6,
            _reserved: 0,
        };
        let flow = Flow {
            key,
            seen_ns: NOW - ago * SECOND,
            state,
            generation: 7,
            opened: Direction::Egress as u8,
            fins: 0,
            pinned: 0,
            _reserved: 0,
        };
        // SAFETY: a flow is so many words, without padding (`Layout`).
        let words = unsafe { mem::transmute::<Flow, [u64; 8]>(flow) };
        words.map(AtomicU64::new)
    }

    #[test]
    fn only_what_lives_is_counted_for_its_slot() {
        let established = FlowState::Established as u64;
        let table = [
            entry(1, established, 5),
            entry(1, FlowState::Asked as u64, 29),
            entry(1, FlowState::Asked as u64, 30),
            entry(2, established, 7440),
            entry(3, established, 7439),
            entry(3, EMPTY, 0),
            entry(3, CLAIMED, 0),
        ];
        assert_eq!(count(&table, NOW), BTreeMap::from([(1, 2), (3, 1)]));
    }
}
