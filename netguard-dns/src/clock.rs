//! The clock that pins, caches and budgets go by: the kernel programs' own.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// A moment of `CLOCK_MONOTONIC`, as `bpf_ktime_get_ns` reads it. Passed in wherever time matters, so that
/// tests can let a day go by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(u64);

impl Moment {
    /// This very moment.
    #[must_use]
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from);
        now.map_or(Self(0), |now| Self(now.as_nanos() as u64))
    }

    /// So many nanoseconds after the clock began.
    #[must_use]
    pub const fn from_ns(ns: u64) -> Self {
        Self(ns)
    }

    /// Nanoseconds since the clock began.
    #[must_use]
    pub const fn ns(self) -> u64 {
        self.0
    }

    /// How long ago `earlier` was; nothing if it is yet to come.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// So much later.
    #[must_use]
    pub const fn after(self, time: Duration) -> Self {
        Self(self.0.saturating_add(time.as_nanos() as u64))
    }
}
