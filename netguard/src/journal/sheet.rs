//! What one thread of the resolver writes into the log: lines that are handed over together.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use netguard_common::EventKind;
use netguard_dns::{Moment, QueryLog, QueryRecord};

use super::{Event, Format, Journal, tally::Own};
use crate::{
    events,
    feed::Feed,
    paint::Paint,
    queries::{
        Allowance, Entry, Query, Timestamp, json,
        line::{self, Told},
    },
};

/// Where the resolver tells of queries: the log has all of them, who follows as many as there is room for.
pub struct Queries {
    journal: Journal,
    feed: Feed<Entry>,
}

/// Lines of one thread that are handed over together.
struct Sheet {
    journal: Journal,
    format: Format,
    feed: Feed<Entry>,
    allowance: Allowance,
    lines: Vec<u8>,
    count: u64,
    tally: Own,
    /// When lines were handed over the last time.
    flushed: Moment,
    clock: Timestamp,
    anchor: Anchor,
}

impl Queries {
    /// Of that log, and of who follows that feed.
    #[must_use]
    pub fn new(journal: Journal, feed: Feed<Entry>) -> Self {
        Self { journal, feed }
    }
}

impl netguard_dns::Journal for Queries {
    fn query_log(&self) -> Box<dyn QueryLog> {
        Box::new(Sheet {
            journal: self.journal.clone(),
            format: self.journal.format,
            feed: self.feed.clone(),
            allowance: Allowance::default(),
            lines: Vec::new(),
            count: 0,
            tally: Own::default(),
            flushed: Moment::default(),
            clock: Timestamp::default(),
            anchor: Anchor::drop(),
        })
    }

    fn over_limit(&self, slot: &str, message: String) {
        let event = events::Event::now(EventKind::OverLimit, Some(slot), message);
        self.journal.note(&Arc::new(event));
    }
}

/// As many bytes are handed over at once.
const ENOUGH: usize = 128 << 10;
/// How often lines are handed over at most, unless they are enough: a line that comes alone does not wait, those behind it
/// wait for each other.
const OLD: Duration = Duration::from_millis(50);

impl QueryLog for Sheet {
    fn write(&mut self, record: &QueryRecord<'_>) {
        if self.count == 0 {
            self.anchor = Anchor::drop();
            self.lines.reserve(ENOUGH + 1024);
        }
        let time = self.anchor.time_of(record.came);
        self.clock.set(time);
        let told = Told::of(record);
        match self.format {
            Format::Text => {
                line::text(&told, &self.clock, &Paint::PLAIN, None, &mut self.lines);
            }
            Format::Json => json::json(&told, &self.clock, None, &mut self.lines),
        }
        self.lines.push(b'\n');
        if self.allowance.is_over(record.came) {
            self.begin_second(record.came);
        }
        if self.allowance.take(record) {
            self.feed.add(&Arc::new(Entry::Query(Query::of(record, time))));
        }
        self.count += 1;
        self.tally.count(record);
        if self.lines.len() >= ENOUGH {
            self.flush_now();
        }
    }

    fn flush(&mut self, now: Moment) -> Option<Duration> {
        if self.allowance.left(now).is_some_and(|left| left.is_zero()) {
            self.begin_second(now);
        }
        let of_feed = self.allowance.left(now);
        if self.count == 0 {
            return of_feed;
        }
        let age = now.since(self.flushed);
        if age < OLD {
            return of_feed.into_iter().chain([OLD - age]).min();
        }
        self.flushed = now;
        self.flush_now();
        of_feed
    }

    fn flush_now(&mut self) {
        if self.count > 0 {
            self.tally.hand_over(&self.journal.tallies);
            let lines = std::mem::take(&mut self.lines);
            self.journal.write(Event::Lines(lines, std::mem::take(&mut self.count)));
        }
    }
}

impl Sheet {
    fn begin_second(&mut self, now: Moment) {
        let feed = &self.feed;
        let tell = |more| feed.add(&Arc::new(Entry::Suppressed(more)));
        self.allowance.begin(now, SystemTime::now(), tell);
    }
}

impl Drop for Sheet {
    /// What is counted is told.
    fn drop(&mut self) {
        self.begin_second(Moment::now());
    }
}

/// One moment on both clocks: the time of day of any other is then no question to the system.
struct Anchor {
    moment: Moment,
    time: SystemTime,
}

impl Anchor {
    fn drop() -> Self {
        Self { moment: Moment::now(), time: SystemTime::now() }
    }

    fn time_of(&self, moment: Moment) -> SystemTime {
        let later = self.time.checked_add(moment.since(self.moment));
        let time = later.and_then(|time| time.checked_sub(self.moment.since(moment)));
        time.unwrap_or(self.time)
    }
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, sync::mpsc::sync_channel};

    use netguard_dns::{Decision, Journal as _, Transport};

    use super::*;
    use crate::{journal::Tallies, queries::Filter};

    /// A query that came that long after the clock began.
    fn write(log: &mut dyn QueryLog, slot_id: u16, slot: &str, after: Duration) {
        log.write(&QueryRecord {
            slot_id,
            slot,
            runtime: "vm",
            client: IpAddr::from([10, 1, 0, 2]),
            transport: Transport::Udp,
            name: &[0],
            record_type: 1,
            decision: Decision::Local("localhost"),
            rcode: 0,
            addresses: &[],
            upstream: None,
            cached: false,
            came: Moment::from_ns(1).after(after),
            latency: Duration::ZERO,
        });
    }

    #[test]
    fn the_log_has_every_query_and_the_feed_a_count_of_those_that_it_lacks() {
        let (queue, events) = sync_channel(64);
        let journal = Journal {
            format: Format::Text,
            queue,
            backlog: Arc::default(),
            events: Feed::default(),
            tallies: Tallies::default(),
        };
        let feed = Feed::default();
        let mut log = Queries::new(journal, feed.clone()).query_log();
        let told = || {
            let entries = feed.last(&Filter::default(), usize::MAX);
            let count = |entry: &Arc<Entry>| match &**entry {
                Entry::Query(_) => 1,
                Entry::Suppressed(more) => more.count,
            };
            (entries.len(), entries.iter().map(count).sum::<u64>())
        };
        for _ in 0..1000 {
            write(&mut *log, 1, "loud", Duration::from_millis(10));
        }
        write(&mut *log, 2, "quiet", Duration::from_millis(20));
        assert_eq!(told(), (256 + 1, 256 + 1));
        let soon = Moment::from_ns(1).after(Duration::from_millis(510));
        assert_eq!(log.flush(soon), Some(Duration::from_millis(500)), "then something is to tell");
        assert_eq!(told(), (256 + 1, 256 + 1));
        let later = soon.after(Duration::from_millis(500));
        assert_eq!(log.flush(later), None);
        // The count has the place of the oldest of that slot.
        assert_eq!(told(), (256 + 1, 255 + 744 + 1));
        let lines: u64 = events.try_iter().map(|event| event.size().0).sum();
        assert_eq!(lines, 1001);
        for _ in 0..300 {
            write(&mut *log, 2, "quiet", Duration::from_secs(5));
        }
        drop(log);
        let last = feed.last(&Filter::default(), 1);
        let Some(Entry::Suppressed(more)) = last.first().map(|it| &**it) else { panic!("a count") };
        assert_eq!((&*more.slot, more.count), ("quiet", 44));
    }
}
