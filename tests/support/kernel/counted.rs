//! What the programs have counted and recorded, read back.

use aya::maps::{Map, MapData, PerCpuHashMap};
use netguard::datapath::{counters, processors};
use netguard_common::{
    Direction, SlotId,
    maps::{COUNTERS, CounterKey, DropCounter},
    record::{DropRecord, RECORDS_PER_WINDOW},
};

use super::Kernel;

impl Kernel {
    /// Forgets what was counted of drops before there are more of a kind than the programs record in a second: who reads
    /// verdicts off records wants one of each.
    pub(super) fn leave_room_for_records(&mut self) {
        self.probed += 1;
        if self.probed < RECORDS_PER_WINDOW {
            return;
        }
        self.forget_drops();
    }

    /// Forgets what was counted of drops: as many are recorded again as in a new second.
    ///
    /// # Panics
    ///
    /// The kernel refuses.
    pub fn forget_drops(&mut self) {
        self.probed = 0;
        let map = MapData::from_pin(self.pins.map(COUNTERS)).expect("the counters");
        let mut map: PerCpuHashMap<_, [u8; 4], [u64; 4]> =
            PerCpuHashMap::try_from(Map::PerCpuHashMap(map)).expect("a hash");
        let keys: Vec<_> = map.keys().collect::<Result<_, _>>().expect("their keys");
        for key in keys {
            map.remove(&key).expect("a counter");
        }
    }

    pub(super) fn counted(&self) -> Vec<(u8, u64)> {
        let slots = self.config.policy.slots.iter().map(|slot| slot.id);
        let rows = counters(&self.pins, slots).expect("the pins");
        rows.iter().map(|row| (row.outcome, row.counter.packets)).fold(
            Vec::new(),
            |mut sums: Vec<(u8, u64)>, (outcome, packets)| {
                match sums.iter_mut().find(|(other, _)| *other == outcome) {
                    Some((_, sum)) => *sum += packets,
                    None => sums.push((outcome, packets)),
                }
                sums
            },
        )
    }

    pub(super) fn records_of_drops(&mut self) -> Vec<DropRecord> {
        self.records().into_iter().filter(|record| record.passed == 0).collect()
    }

    /// The records that came since the last time.
    pub fn records(&mut self) -> Vec<DropRecord> {
        std::iter::from_fn(|| self.drops.next_ready()).collect()
    }

    /// What was counted of a slot's egress of which that became, on each processor.
    #[must_use]
    pub fn drop_counters(&self, slot_id: SlotId, outcome: u8) -> Vec<DropCounter> {
        let key = CounterKey { slot_id, direction: Direction::Egress as u8, outcome };
        let cpus = u16::try_from(processors()).expect("a number of processors");
        (0..cpus).filter_map(|cpu| self.counters.on(cpu, &key)).collect()
    }
}
