//! What grows with the number of slots, rules, names, flows, pins and readers: time, memory, and what breaks first.
//! `cargo xtask bench scale`; NETGUARD_WRITE_DOCS=1 writes docs/scaling.md.

#[path = "scale/flows.rs"]
mod flows;
#[path = "dns/lookups.rs"]
mod lookups;
#[path = "scale/memory.rs"]
mod memory;
#[path = "scale/names.rs"]
mod names;
#[path = "scale/pins.rs"]
mod pins;
#[path = "decide/policy.rs"]
mod policy;
#[path = "scale/readers.rs"]
mod readers;
#[path = "scale/rules.rs"]
mod rules;
#[path = "scale/slots.rs"]
mod slots;
#[path = "scale/table.rs"]
mod table;
#[path = "dns/words.rs"]
mod words;

use std::{env, fs, path::Path, process::Command};

use netguard_common::{Hook, NO_SLOT, vouched_by};
use netguard_tests::{
    programs::Programs,
    report::{Report, machine},
    spread::Spread,
};
use table::Table;

/// How often each figure is taken.
const ROUNDS: usize = 7;
/// How many packets, of which each is another one, a round has.
const SINGLE: usize = 2000;
const WEB: &str = "203.0.113.9";
const GUEST: &str = "10.0.1.2";

fn main() {
    // What cargo adds to the arguments of a benchmark is not for us.
    let arguments: Vec<_> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [names::MEASURE, length] => return names::measure(length),
        [readers::MEASURE, number] => return readers::measure(number),
        [flows::MEASURE, number] => return flows::measure(number),
        _ => {}
    }
    println!("{}\n", machine());
    let mut report = Report::new("scale");
    let mut text = format!(
        "# What grows\n\n`NETGUARD_WRITE_DOCS=1 cargo xtask bench scale` has written this: {}, medians of {ROUNDS} rounds. Times of \
         programs are those that BPF_PROG_TEST_RUN tells; memory is what the kernel charges for netguard's maps, or what the process has \
         more than before.\n",
        machine()
    );
    let tables: [fn(&mut Report) -> Table; 6] =
        [slots::table, rules::table, names::table, flows::table, pins::table, readers::table];
    for table in tables {
        let table = table(&mut report).to_string();
        println!("{table}");
        text += &format!("\n{table}");
    }
    if env::var_os("NETGUARD_WRITE_DOCS").is_some() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/scaling.md");
        fs::write(&file, text).expect("docs/scaling.md is written");
    }
    report.finish();
}

/// The figures that this program prints as a process of its own, so that one's memory is not the other's.
fn apart(arguments: [&str; 2]) -> Vec<f64> {
    let mut command = Command::new(env::current_exe().expect("this program"));
    let output = command.args(arguments).stderr(std::process::Stdio::inherit()).output();
    let output = output.expect("it starts");
    assert!(output.status.success(), "{arguments:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    let words = text.split_whitespace();
    words.map(|word| word.parse().unwrap_or_else(|_| panic!("{text:?}"))).collect()
}

/// The median of some rounds.
fn median(mut round: impl FnMut() -> f64) -> f64 {
    Spread::of((0..ROUNDS).map(|_| round()).collect()).median
}

/// Nanoseconds of a packet that is one of many in a row.
fn in_a_row(programs: &Programs, hook: Hook, frame: &[u8], mark: u32) -> f64 {
    const RUNS: u32 = 100_000;
    median(|| {
        let took = programs.datapath.time(hook, frame, mark, RUNS);
        took.expect("the program runs").as_nanos() as f64
    })
}

/// Nanoseconds of packets that a slot sends, each of which comes once. The program that does nothing tells what the clock costs.
fn one_by_one(programs: &Programs, mut frame: impl FnMut() -> Vec<u8>) -> f64 {
    let time = |hook, frame: &[u8]| {
        let took = programs.datapath.time(hook, frame, 0, 1);
        took.expect("the program runs").as_nanos() as f64
    };
    median(|| {
        let packets = (0..SINGLE).map(|_| {
            let frame = frame();
            time(Hook::PortEgress, &frame) - time(Hook::BridgeIngress, &frame)
        });
        packets.sum::<f64>() / SINGLE as f64
    })
}

const FROM_HOST: u32 = vouched_by(NO_SLOT);
