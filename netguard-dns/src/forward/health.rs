//! How fast and how well each upstream answers, and in which order to ask them. No I/O; the time is passed in.

use std::{
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// So many queries in a row without an answer make an upstream a failing one.
const FAILURES: u32 = 3;
/// How often a failing upstream is asked along with a query that another one answers.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// How one upstream is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Which one.
    pub address: SocketAddr,
    /// How long it takes to answer, smoothed; none before its first answer.
    pub latency: Option<Duration>,
    /// It has left three queries in a row unanswered and is asked last.
    pub failing: bool,
    /// How many queries it has been sent.
    pub asked: u64,
    /// How many it has answered, with whatever code.
    pub answered: u64,
}

/// What is known of all upstreams.
pub(super) struct Ledger(Mutex<Vec<Entry>>);

struct Entry {
    health: Health,
    failures: u32,
    /// When the latency was lowered last.
    aged: Instant,
    /// When it answered last.
    heard: Option<Instant>,
    /// When it was last asked although it fails.
    probed: Instant,
}

/// Whom to ask.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Order {
    /// Everyone, the best first.
    pub(super) upstreams: Vec<usize>,
    /// Who is asked along with the first, to see whether it still fails.
    pub(super) probe: Option<usize>,
}

/// What is new about an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    BeginsToFail,
    AnswersAgain,
}

impl Ledger {
    pub(super) fn new(addresses: impl Iterator<Item = SocketAddr>, now: Instant) -> Self {
        let entry = |address| Entry {
            health: Health { address, latency: None, failing: false, asked: 0, answered: 0 },
            failures: 0,
            aged: now,
            heard: None,
            probed: now,
        };
        Self(Mutex::new(addresses.map(entry).collect()))
    }

    fn entries(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn health(&self) -> Vec<Health> {
        self.entries().iter().map(|entry| entry.health.clone()).collect()
    }

    /// The failing ones last; of the others, those that have no latency yet first, so that they get one; then the
    /// fastest. Latencies shrink while nobody looks (BIND's `dns_adb_agesrtt`), so each gets its chance again.
    pub(super) fn order(&self, now: Instant) -> Order {
        let mut entries = self.entries();
        for entry in entries.iter_mut() {
            entry.age(now);
        }
        let mut upstreams: Vec<_> = (0..entries.len()).collect();
        upstreams.sort_by_key(|&which| {
            let health = &entries[which].health;
            let unknown_asked = health.latency.is_none().then_some(health.asked);
            (health.failing, health.latency, unknown_asked)
        });
        let is_due = |which: &usize| {
            let entry = &entries[*which];
            entry.health.failing && now.duration_since(entry.probed) >= PROBE_EVERY
        };
        let due = upstreams.iter().copied().skip(1).filter(is_due);
        let probe = due.min_by_key(|&which| entries[which].probed);
        if let Some(which) = probe {
            entries[which].probed = now;
        }
        Order { upstreams, probe }
    }

    pub(super) fn asked(&self, which: usize) {
        self.entries()[which].health.asked += 1;
    }

    /// It has answered what it was asked then.
    pub(super) fn answered(&self, which: usize, asked: Instant, now: Instant) -> Option<News> {
        let mut entries = self.entries();
        let entry = &mut entries[which];
        entry.observe(now.duration_since(asked));
        entry.heard = Some(now);
        entry.failures = 0;
        entry.health.answered += 1;
        let was_failing = std::mem::take(&mut entry.health.failing);
        was_failing.then_some(News::AnswersAgain)
    }

    /// It has not answered what it was asked then. If it has answered anything since, the name is to blame.
    pub(super) fn failed(&self, which: usize, asked: Instant, now: Instant) -> Option<News> {
        let mut entries = self.entries();
        let entry = &mut entries[which];
        if entry.heard.is_some_and(|heard| heard > asked) {
            return None;
        }
        entry.failures = entry.failures.saturating_add(1);
        if entry.failures < FAILURES || entry.health.failing {
            return None;
        }
        entry.health.failing = true;
        entry.probed = now;
        Some(News::BeginsToFail)
    }

    /// It has taken so long already that the next one is asked.
    pub(super) fn overtaken(&self, which: usize, after: Duration) {
        self.entries()[which].observe(after);
    }
}

impl Entry {
    /// Smooths as TCP does (RFC 6298 section 2).
    fn observe(&mut self, sample: Duration) {
        let latency = self.health.latency;
        self.health.latency = Some(latency.map_or(sample, |old| old * 7 / 8 + sample / 8));
    }

    /// By a 512th at most once a second.
    fn age(&mut self, now: Instant) {
        if now.duration_since(self.aged) >= Duration::from_secs(1) {
            self.aged = now;
            self.health.latency = self.health.latency.map(|latency| latency * 511 / 512);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn ledger(count: u16) -> (Ledger, Instant) {
        let now = Instant::now();
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        (Ledger::new((0..count).map(address), now), now)
    }

    fn answer(ledger: &Ledger, which: usize, now: Instant, latency: Duration) -> Option<News> {
        ledger.asked(which);
        ledger.answered(which, now, now + latency)
    }

    #[test]
    fn the_fastest_comes_first_but_who_has_no_figure_yet_before_it() {
        let (ledger, now) = ledger(3);
        assert_eq!(ledger.order(now).upstreams, [0, 1, 2], "the operator's order");
        ledger.asked(0);
        assert_eq!(ledger.order(now).upstreams, [1, 2, 0], "others that wait for a figure too");
        answer(&ledger, 0, now, 30 * MS);
        answer(&ledger, 1, now, 10 * MS);
        assert_eq!(ledger.order(now).upstreams, [2, 1, 0]);
        answer(&ledger, 2, now, 20 * MS);
        assert_eq!(ledger.order(now).upstreams, [1, 2, 0]);
    }

    #[test]
    fn one_slow_answer_is_smoothed() {
        let (ledger, now) = ledger(1);
        answer(&ledger, 0, now, 80 * MS);
        answer(&ledger, 0, now, 160 * MS);
        assert_eq!(ledger.health()[0].latency, Some(90 * MS));
        ledger.overtaken(0, 410 * MS);
        assert_eq!(ledger.health()[0].latency, Some(130 * MS));
        assert_eq!((ledger.health()[0].asked, ledger.health()[0].answered), (2, 2));
    }

    #[test]
    fn a_slow_one_gets_its_chance_again_with_time() {
        let (ledger, now) = ledger(2);
        answer(&ledger, 0, now, 100 * MS);
        answer(&ledger, 1, now, 99 * MS);
        assert_eq!(ledger.order(now).upstreams, [1, 0]);
        for second in 1..=20 {
            let now = now + Duration::from_secs(second);
            ledger.order(now);
            ledger.order(now); // once a second, however often it is asked
            answer(&ledger, 1, now, 99 * MS);
        }
        assert_eq!(ledger.order(now).upstreams, [0, 1]);
        let latency = ledger.health()[0].latency.unwrap();
        assert!(latency > 95 * MS && latency < 97 * MS, "{latency:?}");
    }

    #[test]
    fn three_failures_in_a_row_make_it_fail_and_one_answer_unmakes_it() {
        let (ledger, start) = ledger(2);
        answer(&ledger, 0, start, MS);
        answer(&ledger, 1, start, 50 * MS);
        let now = start + 60 * MS;
        assert_eq!(ledger.failed(0, now, now), None);
        assert_eq!(ledger.failed(0, now, now), None);
        assert_eq!(answer(&ledger, 0, now, MS), None);
        let now = now + 10 * MS;
        assert_eq!(ledger.failed(0, now, now), None);
        assert_eq!(ledger.failed(0, now, now), None);
        assert_eq!(ledger.order(now).upstreams, [0, 1], "not three in a row");
        assert_eq!(ledger.failed(0, now, now), Some(News::BeginsToFail));
        assert_eq!(ledger.failed(0, now, now), None, "told once");
        assert_eq!(ledger.order(now).upstreams, [1, 0]);
        assert!(ledger.health()[0].failing);
        assert_eq!(answer(&ledger, 0, now, MS), Some(News::AnswersAgain));
        assert_eq!(ledger.order(now).upstreams, [0, 1]);
    }

    #[test]
    fn a_name_that_nobody_can_resolve_does_not_make_an_upstream_fail() {
        let (ledger, asked) = ledger(1);
        answer(&ledger, 0, asked + MS, MS);
        for _ in 0..10 {
            assert_eq!(ledger.failed(0, asked, asked + 4000 * MS), None);
        }
        assert!(!ledger.health()[0].failing);
    }

    #[test]
    fn a_failing_one_is_probed_once_a_second() {
        let (ledger, now) = ledger(2);
        answer(&ledger, 1, now, MS);
        for _ in 0..3 {
            ledger.failed(0, now, now);
        }
        assert_eq!(ledger.order(now + 999 * MS).probe, None);
        assert_eq!(ledger.order(now + 1000 * MS).probe, Some(0));
        assert_eq!(ledger.order(now + 1999 * MS).probe, None);
        assert_eq!(ledger.order(now + 2000 * MS).probe, Some(0));
    }

    #[test]
    fn when_all_fail_the_first_is_asked_and_another_probed() {
        let (ledger, now) = ledger(2);
        for which in [0, 1, 0, 1, 0, 1] {
            ledger.failed(which, now, now);
        }
        let order = ledger.order(now + 1000 * MS);
        assert_eq!(order, Order { upstreams: vec![0, 1], probe: Some(1) });
    }
}
