//! How many queries are told one by one: so many a second of each slot and outcome, by each thread that answers. What a flood has
//! more costs a comparison and a count, which is told when its second is over; the journal has all of it.

use std::time::{Duration, SystemTime};

use netguard_common::SlotId;
use netguard_dns::{Moment, QueryRecord};

use super::{Outcome, Suppressed, parts};

/// How many of one slot and outcome.
const PER_SLOT: u32 = 256;
/// How many of one outcome, of all slots that have asked within the second before.
const IN_ALL: u32 = 8192;
/// The least of one slot and outcome, however many slots ask.
const LEAST: u32 = 4;
const WINDOW: Duration = Duration::from_secs(1);

/// What one thread has left to tell.
#[derive(Debug, Default)]
pub(crate) struct Allowance {
    /// In ascending order of their numbers.
    slots: Vec<Used>,
    /// The one that asked last: queries come in batches of one slot.
    last: usize,
    share: u32,
    ends: Moment,
    has_more: bool,
}

/// What one slot has used of its own.
#[derive(Debug)]
struct Used {
    slot_id: SlotId,
    slot: Box<str>,
    runtime: Box<str>,
    told: [u32; Outcome::COUNT],
    more: [u64; Outcome::COUNT],
}

impl Used {
    fn new(record: &QueryRecord<'_>) -> Self {
        Self {
            slot_id: record.slot_id,
            slot: record.slot.into(),
            runtime: record.runtime.into(),
            told: [0; Outcome::COUNT],
            more: [0; Outcome::COUNT],
        }
    }
}

impl Allowance {
    /// True if the query is to be told; else it is counted.
    pub(crate) fn take(&mut self, record: &QueryRecord<'_>) -> bool {
        let outcome = parts(&record.decision).0 as usize;
        let share = self.share;
        let used = self.of(record);
        if used.told[outcome] < share {
            used.told[outcome] += 1;
            return true;
        }
        used.more[outcome] += 1;
        self.has_more = true;
        false
    }

    fn of(&mut self, record: &QueryRecord<'_>) -> &mut Used {
        let id = record.slot_id;
        if self.slots.get(self.last).is_none_or(|used| used.slot_id != id) {
            self.last = match self.slots.binary_search_by_key(&id, |used| used.slot_id) {
                Ok(at) => at,
                Err(at) => {
                    self.slots.insert(at, Used::new(record));
                    at
                }
            };
        }
        &mut self.slots[self.last]
    }

    /// True if another second has begun: [`Self::begin`].
    pub(crate) fn is_over(&self, now: Moment) -> bool {
        now >= self.ends
    }

    /// How long it is until something must be told, if something must.
    pub(crate) fn left(&self, now: Moment) -> Option<Duration> {
        self.has_more.then(|| self.ends.since(now))
    }

    /// Begins another second, and tells what the one before had more.
    pub(crate) fn begin(
        &mut self,
        now: Moment,
        time: SystemTime,
        mut tell: impl FnMut(Suppressed),
    ) {
        let asked = self.slots.len().max(1) as u32;
        self.share = (IN_ALL / asked).clamp(LEAST, PER_SLOT);
        self.ends = now.after(WINDOW);
        self.has_more = false;
        for used in self.slots.drain(..) {
            let more = Outcome::ALL.into_iter().zip(used.more).filter(|(_, count)| *count > 0);
            for (outcome, count) in more {
                let (slot, runtime) = (used.slot.clone(), used.runtime.clone());
                tell(Suppressed { time, slot, runtime, outcome, count });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use netguard_dns::{Decision, Denial};

    use super::{super::samples, *};

    fn take(allowance: &mut Allowance, slot_id: SlotId, is_denied: bool) -> bool {
        let edit = |record: &mut QueryRecord<'_>| {
            (record.slot_id, record.slot) = (slot_id, if slot_id == 7 { "seven" } else { "other" });
            if is_denied {
                record.decision = Decision::Denied(Denial::Unlisted, None);
            }
        };
        samples::with(edit, |record| allowance.take(record))
    }

    fn begin(allowance: &mut Allowance, now: Moment) -> Vec<(String, Outcome, u64)> {
        let mut told = Vec::new();
        allowance.begin(now, SystemTime::UNIX_EPOCH, |more| {
            told.push((more.slot.into(), more.outcome, more.count));
        });
        told
    }

    #[test]
    fn what_a_flood_has_more_is_counted_and_takes_nobody_elses_room() {
        let mut allowance = Allowance::default();
        let start = Moment::from_ns(5_000_000_000);
        assert!(allowance.is_over(start) && begin(&mut allowance, start).is_empty());
        let told = (0..1000).filter(|_| take(&mut allowance, 7, true)).count();
        assert_eq!(told, PER_SLOT as usize);
        assert!(take(&mut allowance, 7, false), "another outcome");
        assert!(take(&mut allowance, 3, true), "another slot");
        assert!(!take(&mut allowance, 7, true));
        let now = start.after(Duration::from_millis(400));
        assert!(!allowance.is_over(now));
        assert_eq!(allowance.left(now), Some(Duration::from_millis(600)));
        let now = start.after(WINDOW);
        assert!(allowance.is_over(now));
        assert_eq!(begin(&mut allowance, now), [("seven".to_owned(), Outcome::Deny, 745)]);
        assert_eq!(allowance.left(now), None);
        assert!(take(&mut allowance, 7, true), "in another second");
        assert!(begin(&mut allowance, now.after(WINDOW)).is_empty());
    }

    #[test]
    fn where_many_slots_ask_each_is_told_less() {
        let mut allowance = Allowance::default();
        begin(&mut allowance, Moment::from_ns(1));
        for slot in (1..=1024).rev() {
            assert!(take(&mut allowance, slot, false));
        }
        begin(&mut allowance, Moment::from_ns(2));
        let told = (0..1000).filter(|_| take(&mut allowance, 7, false)).count();
        assert_eq!(told, 8);
    }
}
