//! What netguard costs when nothing happens: the packaged configuration and allowlist, five slots up, nobody sends anything.
//! `cargo xtask bench idle`; NETGUARD_BENCH_QUICK=1 for a short look.

use std::{fs, thread, time::Duration};

use netguard_tests::{
    lab::Lab,
    report::{Bound, Report, Row, is_quick, machine},
    spread::Spread,
};
use nix::{
    time::{clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};

/// What is promised of both processes together: percents of one processor, and memory in MB.
const CPU_MAX: f64 = 0.1;
const MEMORY_MAX: f64 = 40.0;
/// How often a stretch of doing nothing is looked at.
const ROUNDS: u32 = 6;

fn main() {
    // What cargo adds to the arguments of a benchmark is not for us.
    println!("{}", machine());
    let seconds = if is_quick() { 10 } else { 60 };
    let lab = Lab::with(include_str!("../../dist/netguard.toml"), "veth");
    let (monitor, worker) = lab.processes();
    // What a start leaves to do is done.
    thread::sleep(Duration::from_secs(5));
    let round = Duration::from_secs(seconds) / ROUNDS;
    let mut shares: [Vec<f64>; 3] = Default::default();
    for _ in 0..ROUNDS {
        let before = [monitor, worker].map(processor_time);
        thread::sleep(round);
        let after = [monitor, worker].map(processor_time);
        let [monitor, worker] =
            [0, 1].map(|it| (after[it] - before[it]).as_secs_f64() / round.as_secs_f64() * 100.0);
        for (shares, share) in shares.iter_mut().zip([monitor + worker, monitor, worker]) {
            shares.push(share);
        }
    }
    let [both, of_monitor, of_worker] = shares.map(Spread::of);
    let mut report = Report::new("idle");
    let unit = "% of a core";
    let row = Row::new("idle, five slots: processor, both processes", unit, both);
    report.add(row.bound(Bound::Below(CPU_MAX)));
    report.add(Row::new("monitor", unit, of_monitor));
    report.add(Row::new("worker", unit, of_worker));
    let [monitor, worker] = [monitor, worker].map(Memory::of);
    let resident =
        Row::new("idle, five slots: memory (RSS), both processes", "MB", monitor.rss + worker.rss);
    report.add(resident.bound(Bound::Below(MEMORY_MAX)));
    for (name, memory) in [("monitor", monitor), ("worker", worker)] {
        report.add(Row::new(format!("{name}, RSS"), "MB", memory.rss));
        report.add(Row::new(
            format!("{name}, RSS without files (anonymous)"),
            "MB",
            memory.anonymous,
        ));
        report.add(Row::new(format!("{name}, PSS"), "MB", memory.pss));
    }
    report.finish();
}

/// What a process has had of processors so far, all threads together, also those that have ended.
fn processor_time(process: u32) -> Duration {
    let pid = Pid::from_raw(process.cast_signed());
    let clock = clock_getcpuclockid(pid).expect("the process's clock");
    clock_gettime(clock).expect("its time").into()
}

/// What a process has in memory, in MB (proc_pid_smaps(5)).
#[derive(Clone, Copy)]
struct Memory {
    /// All of it, also what it shares with others.
    rss: f64,
    /// What is no file's.
    anonymous: f64,
    /// The same as `rss` with only its part of what is shared.
    pss: f64,
}

impl Memory {
    fn of(process: u32) -> Self {
        let text = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).expect("its memory");
        let of = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key)).expect("a line");
            let kibibytes: f64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
            kibibytes * 1024.0 / 1e6
        };
        Self { rss: of("Rss:"), anonymous: of("Anonymous:"), pss: of("Pss:") }
    }
}
