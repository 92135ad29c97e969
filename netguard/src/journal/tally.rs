//! What became of queries, counted by slot. Each thread of the resolver counts for itself, and adds that to what all have counted when it
//! hands over its lines: no query waits for another thread's.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use foldhash::fast::RandomState;
use netguard_dns::QueryRecord;

use crate::queries::rcode;

/// The upper bounds of the ranges that latencies are counted by; what takes longer has a range of its own.
pub const LATENCIES: [Duration; 9] = [
    Duration::from_micros(100),
    Duration::from_millis(1),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(400),
    Duration::from_secs(1),
    Duration::from_secs(5),
];

/// What became of one slot's queries.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    rcodes: BTreeMap<u16, u64>,
    latencies: [u64; LATENCIES.len() + 1],
    latency_sum: Duration,
}

impl Tally {
    /// One query that was answered with that code, after that time.
    pub fn count(&mut self, rcode: u16, latency: Duration) {
        *self.rcodes.entry(rcode).or_default() += 1;
        let range = LATENCIES.iter().position(|bound| latency <= *bound);
        self.latencies[range.unwrap_or(LATENCIES.len())] += 1;
        self.latency_sum += latency;
    }

    fn add(&mut self, other: &Self) {
        for (rcode, count) in &other.rcodes {
            *self.rcodes.entry(*rcode).or_default() += count;
        }
        for (sum, count) in self.latencies.iter_mut().zip(other.latencies) {
            *sum += count;
        }
        self.latency_sum += other.latency_sum;
    }

    /// How many were answered with each code, by its name.
    pub fn rcodes(&self) -> impl Iterator<Item = (String, u64)> {
        self.rcodes.iter().map(|(code, count)| {
            let mut name = Vec::new();
            rcode(*code, &mut name);
            (String::from_utf8_lossy(&name).into_owned(), *count)
        })
    }

    /// How many took so long, by the ranges of [`LATENCIES`] and the one behind them.
    #[must_use]
    pub fn latencies(&self) -> &[u64] {
        &self.latencies
    }

    /// How long all of them have taken together.
    #[must_use]
    pub fn latency_sum(&self) -> Duration {
        self.latency_sum
    }
}

/// What all threads have counted, by slot; cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Tallies(Arc<Mutex<BTreeMap<String, Tally>>>);

impl Tallies {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Tally>> {
        // Who panicked here has at worst left out a query.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of it, of slots that are there; the others are forgotten.
    pub(super) fn of(&self, is_there: impl Fn(&str) -> bool) -> BTreeMap<String, Tally> {
        let mut tallies = self.lock();
        tallies.retain(|slot, _| is_there(slot));
        tallies.clone()
    }
}

/// What one thread has counted and not handed over.
#[derive(Default)]
pub(super) struct Own {
    slots: HashMap<String, Tally, RandomState>,
}

impl Own {
    pub(super) fn count(&mut self, record: &QueryRecord<'_>) {
        if let Some(tally) = self.slots.get_mut(record.slot) {
            tally.count(record.rcode, record.latency);
        } else {
            let tally = self.slots.entry(record.slot.to_owned()).or_default();
            tally.count(record.rcode, record.latency);
        }
    }

    pub(super) fn hand_over(&mut self, to: &Tallies) {
        let mut tallies = to.lock();
        for (slot, tally) in self.slots.drain() {
            tallies.entry(slot).or_default().add(&tally);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_is_counted_in_the_first_range_that_it_fits() {
        let mut tally = Tally::default();
        for micros in [0, 100, 101, 1000, 5_000_000, 5_000_001] {
            tally.count(0, Duration::from_micros(micros));
        }
        assert_eq!(tally.latencies(), [2, 2, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert_eq!(tally.latency_sum(), Duration::from_micros(10_001_202));
    }

    #[test]
    fn what_threads_hand_over_adds_up_and_goes_with_its_slot() {
        let all = Tallies::default();
        let mut own = Own::default();
        for (slot, rcode) in [("one", 0), ("two", 3), ("one", 99)] {
            let tally = own.slots.entry(slot.to_owned()).or_default();
            tally.count(rcode, Duration::from_millis(2));
            own.hand_over(&all);
        }
        assert!(own.slots.is_empty());
        let found = all.of(|_| true);
        let rcodes = |slot: &str| found[slot].rcodes().collect::<Vec<_>>();
        assert_eq!(rcodes("one"), [("NOERROR".to_owned(), 1), ("RCODE99".to_owned(), 1)]);
        assert_eq!(found["one"].latencies()[2], 2);
        assert_eq!(rcodes("two"), [("NXDOMAIN".to_owned(), 1)]);
        assert_eq!(all.of(|slot| slot == "one").len(), 1);
        assert_eq!(all.of(|_| true).len(), 1);
    }
}
