//! Records of the kernel on their way to the log and to who follows drops, and what a flood has more of.

use std::sync::Arc;

use super::Worker;
use crate::{
    control,
    daemon::records::Reader,
    drops::{Clock, Drop},
    journal::{Event as Entry, Journal},
};

/// How many drop records are read before other events have their turn.
const DROPS_AT_ONCE: usize = 256;

impl Worker {
    /// Logs the records that are ready, but not so many that a flood keeps other events waiting.
    pub(super) fn log_drops(&mut self) {
        let clock = Clock::read();
        self.more_drops = true;
        for _ in 0..DROPS_AT_ONCE {
            let Some(record) = self.drops.get_mut().next_ready() else {
                self.more_drops = false;
                return;
            };
            let Some(drop) = self.reader().read(&record, &clock) else { continue };
            let drop = self.floods.saw(&record, drop);
            self.learnt.saw(record.slot_id, &drop);
            tell(&self.feeds, &self.journal, drop);
        }
    }

    /// Logs how many drops have no record, where no record will say so.
    pub(super) fn log_rests(&mut self) {
        let counters = &self.counters;
        for rest in self.floods.rests(&Clock::read(), |key, cpu| counters.on(cpu, key)) {
            tell(&self.feeds, &self.journal, Arc::new(rest));
        }
    }

    /// Reads records, and what is asked about packets, by what is in force.
    pub(super) fn reader(&self) -> Reader<'_> {
        Reader {
            policy: &self.policy,
            whole: &self.whole,
            host: &self.host,
            resolver: &self.resolver,
            pins: &self.pins,
        }
    }
}

/// Tells who follows drops, and the log.
fn tell(feeds: &control::Feeds, journal: &Journal, drop: Arc<Drop>) {
    feeds.drops.add(&drop);
    journal.write(Entry::Drop(drop));
}
