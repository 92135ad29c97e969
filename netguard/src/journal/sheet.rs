//! What one thread of the resolver writes into the log: lines that are handed over together.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use netguard_common::EventKind;
use netguard_dns::{Journal as Told, Moment, QueryLog, QueryRecord};

use super::{Event, Format, Journal, query, tally::Own};
use crate::events;

/// Lines of one thread that are handed over together.
struct Sheet {
    journal: Journal,
    format: Format,
    lines: Vec<u8>,
    count: u64,
    tally: Own,
    /// When lines were handed over the last time.
    flushed: Moment,
    clock: Timestamp,
    anchor: Anchor,
}

impl Told for Journal {
    fn query_log(&self) -> Box<dyn QueryLog> {
        Box::new(Sheet {
            journal: self.clone(),
            format: self.format,
            lines: Vec::new(),
            count: 0,
            tally: Own::default(),
            flushed: Moment::default(),
            clock: Timestamp::default(),
            anchor: Anchor::drop(),
        })
    }

    fn over_limit(&self, slot: &str, message: String) {
        self.note(&Arc::new(events::Event::now(EventKind::OverLimit, Some(slot), message)));
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
        self.clock.set(self.anchor.time_of(record.came));
        match self.format {
            Format::Text => query::text(record, &self.clock, &mut self.lines),
            Format::Json => query::json(record, &self.clock, &mut self.lines),
        }
        self.lines.push(b'\n');
        self.count += 1;
        self.tally.count(record);
        if self.lines.len() >= ENOUGH {
            self.flush_now();
        }
    }

    fn flush(&mut self, now: Moment) -> Option<Duration> {
        if self.count == 0 {
            return None;
        }
        let age = now.since(self.flushed);
        if age < OLD {
            return Some(OLD - age);
        }
        self.flushed = now;
        self.flush_now();
        None
    }

    fn flush_now(&mut self) {
        if self.count > 0 {
            self.tally.hand_over(&self.journal.tallies);
            let lines = std::mem::take(&mut self.lines);
            self.journal.write(Event::Lines(lines, std::mem::take(&mut self.count)));
        }
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

/// A moment as RFC 3339 has it, written anew once a second but for its milliseconds.
pub(super) struct Timestamp {
    second: u64,
    text: [u8; 24],
}

impl Default for Timestamp {
    fn default() -> Self {
        Self { second: 0, text: *b"1970-01-01T00:00:00.000Z" }
    }
}

impl Timestamp {
    pub(super) fn text(&self) -> &[u8] {
        &self.text
    }

    pub(super) fn set(&mut self, time: SystemTime) {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        if since.as_secs() != self.second {
            self.second = since.as_secs();
            let text = humantime::format_rfc3339_millis(time).to_string();
            if let Ok(text) = text.as_bytes().try_into() {
                self.text = text;
            }
        }
        let mut millis = since.subsec_millis();
        for digit in self.text[20..23].iter_mut().rev() {
            *digit = b'0' + (millis % 10) as u8;
            millis /= 10;
        }
    }
}
