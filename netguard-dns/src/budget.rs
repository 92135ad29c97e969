//! What one slot may ask: queries a second, and names and answer bytes a minute below each registered domain, so
//! that names cannot carry data out, nor answers in.

use std::{
    collections::{HashMap, HashSet},
    hash::BuildHasher as _,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use netguard_common::SlotId;

use crate::Moment;

/// How much a slot may ask; 0 means no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryLimits {
    /// Queries of any kind, with as many at once after a second of silence.
    pub queries_per_second: u32,
    /// Different names below one registered domain that are asked of upstreams.
    pub names_per_minute: u32,
    /// Bytes of upstreams' answers below one registered domain.
    pub answer_bytes_per_minute: u32,
}

impl Default for QueryLimits {
    fn default() -> Self {
        Self { queries_per_second: 1000, names_per_minute: 300, answer_bytes_per_minute: 256 << 10 }
    }
}

/// A slot has used up what it may ask of a domain this minute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exhausted {
    /// What there was too much of.
    pub what: &'static str,
    /// The registered domain.
    pub domain: String,
    /// True the first time in its minute: the one to tell.
    pub first: bool,
}

/// Where it is kept when each slot is even again (the generic cell rate algorithm, ITU-T I.371), as a [`Moment`] in nanoseconds. Who
/// else answers a slot's queries counts there too.
pub trait Meters: Send + Sync {
    /// That slot's; none if there can be no such slot.
    fn of(&self, slot: SlotId) -> Option<&AtomicU64>;
}

/// Of a single slot, whichever it is.
impl Meters for AtomicU64 {
    fn of(&self, _: SlotId) -> Option<&AtomicU64> {
        Some(self)
    }
}

/// How much one slot has asked of domains.
#[derive(Debug, Default)]
pub struct Budget {
    domains: Mutex<HashMap<Box<str>, Spent>>,
    hasher: foldhash::quality::RandomState,
}

/// What a slot has asked of one domain in the minute that began then.
#[derive(Debug)]
struct Spent {
    since: Moment,
    names: HashSet<u64>,
    bytes: u64,
    told: bool,
}

/// How long names and bytes count.
const MINUTE: Duration = Duration::from_secs(60);
/// How many domains are counted apart; what comes then is counted together.
const DOMAINS_MAX: usize = 4096;

/// Takes one query off; false if the slot has none left.
pub fn take_query(even_at_ns: &AtomicU64, limits: &QueryLimits, now: Moment) -> bool {
    const SECOND: u64 = 1_000_000_000;
    let Some(cost) = SECOND.checked_div(limits.queries_per_second.into()) else { return true };
    let now = now.ns();
    let take = |even_at: u64| {
        let next = even_at.max(now) + cost;
        (next - now <= SECOND).then_some(next)
    };
    even_at_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
}

impl Budget {
    /// Takes a name that is about to be asked of an upstream.
    ///
    /// # Errors
    ///
    /// Its domain has had too many names, or too many bytes.
    pub fn take_name(
        &self,
        name: &str,
        limits: &QueryLimits,
        now: Moment,
    ) -> Result<(), Exhausted> {
        self.with_domain(name, now, |domain, spent| {
            let may = |limit: u32, spent: u64| limit == 0 || spent < u64::from(limit);
            let hash = self.hasher.hash_one(name);
            let what = if !may(limits.answer_bytes_per_minute, spent.bytes) {
                "answer-bytes-per-minute"
            } else if spent.names.contains(&hash)
                || may(limits.names_per_minute, spent.names.len() as u64)
            {
                if limits.names_per_minute > 0 {
                    spent.names.insert(hash);
                }
                return Ok(());
            } else {
                "names-per-minute"
            };
            let first = !std::mem::replace(&mut spent.told, true);
            Err(Exhausted { what, domain: domain.to_owned(), first })
        })
    }

    /// Takes the bytes of an upstream's answer.
    pub fn take_bytes(&self, name: &str, bytes: usize, now: Moment) {
        self.with_domain(name, now, |_, spent| spent.bytes += bytes as u64);
    }

    fn with_domain<T>(
        &self,
        name: &str,
        now: Moment,
        use_it: impl FnOnce(&str, &mut Spent) -> T,
    ) -> T {
        // A panic while the lock was held leaves numbers that are still numbers.
        let mut domains = self.domains.lock().unwrap_or_else(PoisonError::into_inner);
        let mut domain = psl::domain_str(name).unwrap_or(name);
        if domains.len() >= DOMAINS_MAX && !domains.contains_key(domain) {
            domains.retain(|_, spent| now.since(spent.since) < MINUTE);
            if domains.len() >= DOMAINS_MAX {
                domain = ""; // together with all others
            }
        }
        let fresh = || Spent { since: now, names: HashSet::new(), bytes: 0, told: false };
        if !domains.contains_key(domain) {
            domains.insert(domain.into(), fresh());
        }
        let mut nobodys = fresh();
        let spent = domains.get_mut(domain).unwrap_or(&mut nobodys);
        if now.since(spent.since) >= MINUTE {
            *spent = fresh();
        }
        use_it(domain, spent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: QueryLimits =
        QueryLimits { queries_per_second: 10, names_per_minute: 3, answer_bytes_per_minute: 1000 };

    fn at(seconds: u64) -> Moment {
        Moment::from_ns((1000 + seconds) * 1_000_000_000)
    }

    #[test]
    fn a_second_of_silence_gives_a_second_of_queries() {
        let even_at = AtomicU64::default();
        let take = |limits, now| take_query(&even_at, limits, now);
        let burst = (0..100).filter(|_| take(&LIMITS, at(0))).count();
        assert_eq!(burst, 10);
        assert!(take(&LIMITS, at(0).after(Duration::from_millis(101))));
        assert!(!take(&LIMITS, at(0).after(Duration::from_millis(102))));
        let unlimited = QueryLimits { queries_per_second: 0, ..LIMITS };
        assert!((0..100).all(|_| take(&unlimited, at(0))));
    }

    #[test]
    fn different_names_below_a_registered_domain_are_counted_together() {
        let budget = Budget::default();
        let take = |name: &str, seconds| budget.take_name(name, &LIMITS, at(seconds));
        for name in ["a.x.example.co.uk", "b.example.co.uk", "example.co.uk", "b.example.co.uk"] {
            assert_eq!(take(name, 0), Ok(()), "{name}");
        }
        let exhausted = take("c.example.co.uk", 1).unwrap_err();
        assert_eq!(
            (exhausted.what, exhausted.domain.as_str()),
            ("names-per-minute", "example.co.uk")
        );
        assert!(exhausted.first);
        assert!(!take("d.example.co.uk", 2).unwrap_err().first, "told once a minute");
        assert_eq!(take("b.example.co.uk", 3), Ok(()), "a name that was asked before is no news");
        assert_eq!(take("c.other.co.uk", 3), Ok(()), "another domain has its own");
        assert_eq!(take("c.example.co.uk", 60), Ok(()), "the next minute");
    }

    #[test]
    fn bytes_of_answers_cut_a_domain_off_too() {
        let budget = Budget::default();
        budget.take_bytes("a.example.com", 999, at(0));
        assert_eq!(budget.take_name("a.example.com", &LIMITS, at(1)), Ok(()));
        budget.take_bytes("a.example.com", 1, at(1));
        let exhausted = budget.take_name("a.example.com", &LIMITS, at(2)).unwrap_err();
        assert_eq!(exhausted.what, "answer-bytes-per-minute");
        assert_eq!(budget.take_name("a.example.com", &LIMITS, at(60)), Ok(()));
    }

    #[test]
    fn domains_without_end_take_no_memory_without_end() {
        let budget = Budget::default();
        for number in 0..3 * DOMAINS_MAX {
            let _ = budget.take_name(&format!("d{number}.com"), &LIMITS, at(0));
        }
        assert!(budget.domains.lock().unwrap().len() <= DOMAINS_MAX + 1);
    }
}
