//! Followers of the feed of queries.

use std::{fs::File, io::Write as _, os::fd::AsFd as _, sync::Arc, thread, time::Instant};

use netguard::{
    feed::{Feed, Follower},
    journal::{Format, Journal, Queries},
    queries::{Entry, Filter, Query},
};
use netguard_dns::{Decision, Denial, Journal as _, Moment, QueryRecord, Transport};
use netguard_tests::report::Report;
use nix::unistd::{dup, dup2_stdout};

use super::{
    apart, median, memory,
    memory::MB,
    table::{Table, column},
};

/// The first argument of the process; then comes the number.
pub const MEASURE: &str = "measure-readers";
const READERS: [usize; 4] = [0, 1, 10, 100];
const QUERIES: u32 = 200_000;
/// Fewer than a follower may have waiting.
const TOLD: u32 = 500;

pub fn table(_: &mut Report) -> Table {
    let columns = vec![
        column("let in", 0),
        column("a denied query in a flood, ns", 0),
        column("one that is told, ns", 0),
        column("memory where nobody reads, MB", 2),
    ];
    let mut table = Table::new("Readers of the log of queries", columns);
    let mut let_in = 0.0;
    for readers in READERS {
        let figures = apart([MEASURE, &readers.to_string()]);
        let_in = figures[0];
        table.add(readers, figures);
    }
    let refused = Feed::<Entry>::default();
    let all: Vec<_> = (0..=let_in as usize).map(|_| refused.follow(Filter::default(), 0)).collect();
    let error = all.into_iter().find_map(Result::err).map(|error| error.to_string());
    table.breaks = format!(
        "reader {}: `{}`. Who reads too slowly loses items, is told how many, and nobody waits for him.",
        let_in + 1.0,
        error.unwrap_or_default()
    );
    table
}

/// Prints one number's figures. Standard output is the journal's, so the lines go nowhere.
pub fn measure(number: &str) {
    let readers: usize = number.parse().expect("a number");
    let mut figures = File::from(dup(std::io::stdout().as_fd()).expect("a descriptor"));
    dup2_stdout(File::options().write(true).open("/dev/null").expect("/dev/null")).expect("stdout");
    let feed = Feed::<Entry>::default();
    let places: Vec<_> =
        (0..readers).map_while(|_| feed.follow(Filter::default(), 0).ok()).collect();
    let let_in = places.len();
    for (_, follower) in places {
        thread::spawn(move || read(&follower));
    }
    let journal = Journal::start(Format::Text, None).expect("the journal's thread").0;
    let mut log = Queries::new(journal, feed.clone()).query_log();
    let record = record();
    let flood = median(|| {
        let began = Instant::now();
        for number in 0..QUERIES {
            log.write(&record);
            if number % 32 == 0 {
                let _ = log.flush(Moment::now());
            }
        }
        log.flush_now();
        began.elapsed().as_nanos() as f64 / f64::from(QUERIES)
    });
    let item = Arc::new(Entry::Query(Query::of(&record, std::time::SystemTime::now())));
    let told = median(|| {
        let began = Instant::now();
        for _ in 0..TOLD {
            feed.add(&item);
        }
        began.elapsed().as_nanos() as f64 / f64::from(TOLD)
    });
    let memory = unread(readers, &record);
    writeln!(figures, "{let_in} {flood} {told} {}", memory / MB).expect("the figures");
}

/// What waits for readers that read nothing, each item made anew.
fn unread(readers: usize, record: &QueryRecord<'_>) -> f64 {
    let feed = Feed::<Entry>::default();
    let before = memory::resident();
    let places: Vec<_> =
        (0..readers).map_while(|_| feed.follow(Filter::default(), 0).ok()).collect();
    for _ in 0..QUERIES {
        feed.add(&Arc::new(Entry::Query(Query::of(record, std::time::SystemTime::now()))));
    }
    let after = memory::resident();
    drop(places);
    (after - before).max(0.0)
}

fn read(follower: &Follower<Entry>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        loop {
            let _ = follower.next().await;
        }
    });
}

fn record() -> QueryRecord<'static> {
    QueryRecord {
        slot_id: 1,
        slot: "slot1",
        runtime: "vm",
        client: [10, 1, 0, 2].into(),
        transport: Transport::Udp,
        name: b"\x04evil\x07example\0",
        record_type: 1,
        decision: Decision::Denied(Denial::Unlisted, None),
        rcode: 3,
        addresses: &[],
        upstream: None,
        cached: false,
        came: Moment::now(),
        latency: std::time::Duration::from_micros(20),
    }
}
