//! The log on standard output: one event, one line.
//!
//! Lines are written by a thread of their own behind a bounded queue, so that a reader that stalls
//! costs lines, which are counted, and never the daemon's time: it has ports to guard and names to
//! answer.

mod journald;
mod line;
mod sheet;
mod tally;

use std::{
    collections::BTreeMap,
    io::{self, BufWriter, ErrorKind, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, TryRecvError, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use netguard_common::EventKind;

pub use self::journald::Journald;
pub use self::sheet::Queries;
use self::tally::Tallies;
pub use self::tally::{LATENCIES, Tally};
use crate::{drops::Drop, events, feed::Feed};

/// How many events may wait for the reader.
const QUEUE_LENGTH: usize = 16384;
/// How many bytes of [`Event::Lines`] may wait for the reader.
const QUEUE_BYTES: usize = 8 << 20;
/// How long the writer rests when the output refuses a line.
const AFTER_ERROR: Duration = Duration::from_millis(100);
/// How long a stopping daemon waits for the reader.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Aligned words.
    #[default]
    Text,
    /// One object a line.
    Json,
}

/// What is logged.
#[derive(Clone, Debug)]
pub enum Event {
    /// A packet was dropped.
    Drop(Arc<Drop>),
    /// Whole lines that a thread of the resolver has written itself, and how many.
    Lines(Vec<u8>, u64),
    /// Something happened to netguard itself.
    Note(Arc<events::Event>),
}

impl Event {
    /// How many lines it is, and how many bytes where lines are written already.
    fn size(&self) -> (u64, usize) {
        match self {
            Self::Lines(lines, count) => (*count, lines.len()),
            Self::Drop(_) | Self::Note(_) => (1, 0),
        }
    }
}

/// Where events are handed in; cheap to clone.
#[derive(Clone)]
pub struct Journal {
    format: Format,
    queue: SyncSender<Event>,
    backlog: Arc<Backlog>,
    events: Feed<events::Event>,
    tallies: Tallies,
}

/// What the queue itself does not tell.
#[derive(Default)]
struct Backlog {
    /// Lines that were lost since the last that was written.
    lost: AtomicU64,
    /// Lines that were lost since the journal began.
    lost_ever: AtomicU64,
    /// Bytes of [`Event::Lines`] in the queue.
    bytes: AtomicUsize,
}

impl Backlog {
    fn lose(&self, lines: u64) {
        self.lost.fetch_add(lines, Ordering::Relaxed);
        self.lost_ever.fetch_add(lines, Ordering::Relaxed);
    }
}

/// The thread behind a [`Journal`].
pub struct Writer {
    thread: JoinHandle<()>,
}

impl Journal {
    /// Starts the thread that writes to standard output, or to journald what has fields there.
    ///
    /// # Errors
    ///
    /// The system refuses a thread.
    pub fn start(format: Format, journald: Option<Journald>) -> io::Result<(Self, Writer)> {
        let (queue, events) = sync_channel(QUEUE_LENGTH);
        let backlog = Arc::new(Backlog::default());
        let events_told = Feed::default();
        let (shared, told) = (Arc::clone(&backlog), events_told.clone());
        let to = To { format, journald };
        let thread = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || write(&to, &events, &shared, &told))?;
        Ok((
            Self { format, queue, backlog, events: events_told, tallies: Tallies::default() },
            Writer { thread },
        ))
    }

    /// Hands in an event; never waits. If the queue is full the event is lost, and counted.
    pub fn write(&self, event: Event) {
        let (lines, bytes) = event.size();
        let waiting = self.backlog.bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits = waiting + bytes <= QUEUE_BYTES;
        if !fits || self.queue.try_send(event).is_err() {
            self.backlog.bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.backlog.lose(lines);
        }
    }

    /// How many lines were lost since the journal began.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.backlog.lost_ever.load(Ordering::Relaxed)
    }

    /// Hands in what happened to netguard itself, for the log and for who follows it.
    pub fn note(&self, event: &Arc<events::Event>) {
        self.events.add(event);
        self.write(Event::Note(Arc::clone(event)));
    }

    /// What became of queries, by slot, of those that are there.
    #[must_use]
    pub fn queries(&self, is_there: impl Fn(&str) -> bool) -> BTreeMap<String, Tally> {
        self.tallies.of(is_there)
    }

    /// What happened to netguard itself.
    #[must_use]
    pub fn events(&self) -> &Feed<events::Event> {
        &self.events
    }
}

impl Writer {
    /// Waits until everything is written, but not for a reader that has stalled. Every [`Journal`]
    /// must be gone.
    pub fn finish(self) {
        let deadline = Instant::now() + LAST_WORDS;
        while !self.thread.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Where and how events are written.
struct To {
    format: Format,
    journald: Option<Journald>,
}

impl To {
    fn write(&self, event: &Event, out: &mut impl Write) -> io::Result<()> {
        match &self.journald {
            Some(journald) if journald.send(self.format, event) => Ok(()),
            _ => self.format.write(event, out),
        }
    }
}

/// Ends when every journal is gone, or when there is no reader any more.
fn write(to: &To, events: &Receiver<Event>, backlog: &Backlog, told: &Feed<events::Event>) {
    let mut out = BufWriter::new(io::stdout());
    while let Some(event) = next(events, &mut out) {
        let missing = backlog.lost.swap(0, Ordering::Relaxed);
        let gap = (missing > 0).then(|| {
            let text = format!("{missing} log lines were lost: whoever reads them is too slow");
            Arc::new(events::Event::now(EventKind::LinesLost, None, text))
        });
        let (lines, bytes) = event.size();
        backlog.bytes.fetch_sub(bytes, Ordering::Relaxed);
        let gap = gap.inspect(|gap| told.add(gap)).map(Event::Note);
        for (event, is_gap) in gap.iter().map(|gap| (gap, true)).chain([(&event, false)]) {
            match to.write(event, &mut out) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return, // nobody reads
                Err(_) => {
                    // A full disk may have room again, and then the gap is told.
                    if is_gap {
                        backlog.lost.fetch_add(missing, Ordering::Relaxed);
                    } else {
                        backlog.lose(lines);
                    }
                    std::thread::sleep(AFTER_ERROR);
                }
            }
        }
    }
    let _ = out.flush(); // the reader is gone, or the daemon: nobody is left to tell
}

/// The next event; what is written is flushed before waiting for it.
fn next(events: &Receiver<Event>, out: &mut impl Write) -> Option<Event> {
    match events.try_recv() {
        Ok(event) => return Some(event),
        Err(TryRecvError::Disconnected) => return None,
        // What cannot be flushed now stays in the buffer, and the next write tells why.
        Err(TryRecvError::Empty) => drop(out.flush()),
    }
    events.recv().ok()
}
