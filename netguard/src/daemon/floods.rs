//! Drops that have no record of their own, because there were too many of their kind: the next record says how many, and where none
//! comes any more, what was counted does.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use netguard_common::{
    maps::{CounterKey, DropCounter},
    record::{DropRecord, WINDOW_NS},
};

use crate::drops::{Clock, Drop};

/// So long after the latest record its window is over for sure, and who still sends is told of by a new one.
const QUIET: Duration = Duration::from_nanos(2 * WINDOW_NS);

/// What records were read of, by slot, direction, reason and processor.
#[derive(Default)]
pub(super) struct Floods(BTreeMap<(CounterKey, u16), Seen>);

struct Seen {
    /// The latest record, until it is known what came behind it.
    latest: Option<(Duration, Arc<Drop>)>,
    /// How many without a record were told since then. The kernel's next record counts them too.
    told: u32,
}

impl Floods {
    /// Sees a record that was read. The drop says no more of others than was not told yet.
    pub(super) fn saw(&mut self, record: &DropRecord, mut drop: Drop) -> Arc<Drop> {
        let key = record.counter_key();
        let told = self.0.get(&(key, record.cpu)).map_or(0, |seen| seen.told);
        drop.suppressed = drop.suppressed.saturating_sub(told);
        let drop = Arc::new(drop);
        let latest = Some((Duration::from_nanos(record.time_ns), Arc::clone(&drop)));
        self.0.insert((key, record.cpu), Seen { latest, told: 0 });
        drop
    }

    /// What is left to tell of floods that are over: drops that stand for those behind the latest record. `counted` is what the
    /// kernel has counted on a processor.
    pub(super) fn rests(
        &mut self,
        clock: &Clock,
        counted: impl Fn(&CounterKey, u16) -> Option<DropCounter>,
    ) -> Vec<Drop> {
        let mut rests = Vec::new();
        self.0.retain(|(key, cpu), seen| {
            let is_over = |(time, _): &mut (Duration, _)| *time + QUIET <= clock.monotonic();
            if let Some((_, latest)) = seen.latest.take_if(is_over) {
                let suppressed = counted(key, *cpu).map_or(0, |counter| counter.suppressed);
                seen.told = suppressed;
                if suppressed > 0 {
                    rests.push(latest.rest(suppressed, clock));
                }
            }
            seen.latest.is_some() || seen.told > 0
        });
        rests
    }
}

#[cfg(test)]
mod tests {
    use netguard_common::{
        Direction, DropReason, Hook,
        record::{CAPTURE_LENGTH, RECORD_VERSION},
    };

    use super::*;

    fn record(time_ns: u64, cpu: u16, suppressed: u32) -> DropRecord {
        DropRecord {
            time_ns,
            ifindex: 1,
            frame_length: 60,
            slot_id: 1,
            captured: 0,
            version: RECORD_VERSION,
            reason: DropReason::Metadata as u8,
            direction: Direction::Egress as u8,
            hook: Hook::Xdp as u8,
            suppressed,
            cpu,
            passed: 0,
            packet: [0; CAPTURE_LENGTH],
        }
    }

    /// What the drop of such a record says of others.
    fn saw(floods: &mut Floods, time_ns: u64, cpu: u16, suppressed: u32) -> u32 {
        let record = record(time_ns, cpu, suppressed);
        let drop = Drop::read(&record, &Clock::read(), |_| None, |_| None).unwrap();
        floods.saw(&record, drop).suppressed
    }

    /// What is left to tell when so many are without a record on each processor.
    fn rests(floods: &mut Floods, suppressed: [u32; 2]) -> Vec<u32> {
        let counted = |key: &CounterKey, cpu: u16| {
            assert_eq!((key.slot_id, key.outcome), (1, DropReason::Metadata as u8));
            let suppressed = suppressed[usize::from(cpu)];
            Some(DropCounter { suppressed, ..DropCounter::default() })
        };
        let rests = floods.rests(&Clock::read(), counted);
        assert!(rests.iter().all(|rest| rest.is_rest));
        rests.iter().map(|rest| rest.suppressed).collect()
    }

    #[test]
    fn what_no_record_tells_is_told_once_its_flood_is_over() {
        let mut floods = Floods::default();
        let now = || Clock::read().monotonic().as_nanos() as u64;
        assert_eq!(saw(&mut floods, now(), 0, 0), 0);
        assert!(rests(&mut floods, [7, 0]).is_empty(), "the next record may tell it");
        assert_eq!(saw(&mut floods, now() - 2 * WINDOW_NS, 0, 7), 7);
        assert_eq!(saw(&mut floods, now() - 2 * WINDOW_NS, 1, 0), 0);
        assert_eq!(rests(&mut floods, [5, 9]), [5, 9]);
        assert!(rests(&mut floods, [5, 9]).is_empty(), "it was told");
        assert_eq!(saw(&mut floods, now(), 0, 5), 0, "nobody is told twice");
        assert_eq!(saw(&mut floods, now() - 2 * WINDOW_NS, 0, 3), 3);
        assert!(rests(&mut floods, [0, 9]).is_empty(), "there is nothing to tell");
        assert_eq!(saw(&mut floods, now(), 1, 9), 0, "it was told long ago");
    }
}
