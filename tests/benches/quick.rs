//! What programs cost on their hot ways, in times of a calibration program that runs between them, against the committed baseline.
//! Fails only where the best of many rounds is beyond [`LIMIT`]. `cargo xtask bench --quick`; NETGUARD_WRITE_BASELINE=1 writes the
//! baseline anew.

use std::{collections::BTreeMap, fs, path::Path, process::ExitCode};

use aya::programs::ProgramInfo;
use netguard_common::{Hook, record::RECORDS_PER_WINDOW};
use netguard_tests::{
    kernel::{FROM_HOST, FROM_SLOT1, Kernel},
    packet::ip,
    raw::Calibration,
    report::{columns, machine},
};
use serde_json::{Value, json};

/// So many times the baseline's ratio is a regression.
const LIMIT: f64 = 1.5;
const ROUNDS: u16 = 60;
const RUNS: u32 = 20_000;
/// How many flows are opened in a round.
const OPENED: u16 = 256;
const GUEST: &str = "10.1.0.2";
const NEIGHBOUR: &str = "10.2.0.2";
const WEB: &str = "203.0.113.9";
const PRIVATE: &str = "192.168.9.9";

/// One hot way of a program.
struct Way {
    hook: Hook,
    what: &'static str,
    frame: Vec<u8>,
    mark: u32,
    how: How,
}

/// How often a frame is put to the program.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    /// Many times.
    Flood,
    /// As often as drops are recorded.
    Recorded,
    /// Once, and then another one: its duration has the clock's in it.
    Opening,
}

fn main() -> ExitCode {
    // What cargo adds to the arguments of a benchmark is not for us.
    let ways = ways();
    let mut kernel = Kernel::new();
    let calibration = Calibration::load().expect("the kernel takes the calibration");
    let (mut unit, mut lowest) = (f64::INFINITY, vec![f64::INFINITY; ways.len()]);
    open_a_flow(&mut kernel);
    for round in 0..ROUNDS {
        for (way, lowest) in ways.iter().zip(&mut lowest) {
            let took = calibration.time(RUNS).expect("it runs").as_nanos() as f64;
            unit = unit.min(took);
            *lowest = lowest.min(time(&mut kernel, way, round));
        }
    }
    let ratios: BTreeMap<String, f64> =
        ways.iter().zip(&lowest).map(|(way, ns)| (way.name(), round_off(ns / unit))).collect();
    let sizes = sizes(&kernel);
    println!("{}: the calibration takes {unit:.0} ns; the best of {ROUNDS} rounds", machine());
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/baseline.json");
    if std::env::var_os("NETGUARD_WRITE_BASELINE").is_some() {
        let text = json!({ "machine": machine(), "ratios": ratios, "instructions": sizes });
        fs::write(&file, format!("{text:#}\n")).expect("the baseline is written");
    }
    let text =
        fs::read_to_string(&file).expect("the baseline: NETGUARD_WRITE_BASELINE=1 writes it");
    let baseline: Value = serde_json::from_str(&text).expect("JSON");
    let is_good = print_ways(&ways, &lowest, &ratios, &baseline);
    print_sizes(&sizes, &baseline);
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Way {
    fn name(&self) -> String {
        format!("{}: {}", self.hook.program(), self.what)
    }
}

fn ways() -> Vec<Way> {
    use How::{Flood, Opening, Recorded};
    let way = |hook, what, frame, mark, how| Way { hook, what, frame, mark, how };
    let data = ip(GUEST, WEB).tcp_ack(40_000, 443, &[0; 64]);
    let reply = ip(WEB, GUEST).tcp_ack(443, 40_000, &[0; 64]);
    let neighbour = ip(GUEST, NEIGHBOUR).tcp_syn(40_000, 80);
    let private = ip(GUEST, PRIVATE).tcp_syn(40_000, 80);
    vec![
        way(Hook::Xdp, "a tracked flow goes on", data.clone(), 0, Flood),
        way(Hook::Xdp, "a flood to a private network is dropped", private, 0, Flood),
        way(Hook::Xdp, "to a neighbour, dropped and recorded", neighbour.clone(), 0, Recorded),
        way(Hook::PortEgress, "a tracked flow goes on", data.clone(), 0, Flood),
        way(Hook::PortEgress, "a flow is opened", Vec::new(), 0, Opening),
        way(Hook::PortEgress, "to a neighbour, dropped and recorded", neighbour, 0, Recorded),
        way(Hook::BridgeEgress, "what a port has vouched for", data, FROM_SLOT1, Flood),
        way(Hook::BridgeIngress, "what the host sends", reply.clone(), 0, Flood),
        way(Hook::PortIngress, "a tracked flow's reply", reply, FROM_HOST, Flood),
    ]
}

fn open_a_flow(kernel: &mut Kernel) {
    let _ = kernel.egress(&ip(GUEST, WEB).tcp_syn(40_000, 443));
    let _ = kernel.ingress(&ip(WEB, GUEST).tcp_flags(443, 40_000, 0x12));
    let _ = kernel.egress(&ip(GUEST, WEB).tcp_ack(40_000, 443, &[]));
}

/// Nanoseconds for each frame.
fn time(kernel: &mut Kernel, way: &Way, round: u16) -> f64 {
    let mut run = |frame: &[u8], repeat| {
        let took = kernel.datapath().time(way.hook, frame, way.mark, repeat);
        took.expect("the program runs").as_nanos() as f64
    };
    match way.how {
        How::Flood => run(&way.frame, RUNS),
        How::Recorded => {
            let took = run(&way.frame, RECORDS_PER_WINDOW);
            // The next round's have room, too.
            kernel.forget_drops();
            let _ = kernel.records();
            took
        }
        How::Opening => {
            let opened = (0..OPENED).map(|flow| {
                run(&ip(GUEST, WEB).udp(1024 + round * OPENED + flow, 9_000, &[0; 18]), 1)
            });
            opened.sum::<f64>() / f64::from(OPENED)
        }
    }
}

fn round_off(ratio: f64) -> f64 {
    (ratio * 1e3).round() / 1e3
}

/// Prints the table; false if something is beyond the limit.
fn print_ways(
    ways: &[Way],
    lowest: &[f64],
    ratios: &BTreeMap<String, f64>,
    baseline: &Value,
) -> bool {
    let mut lines = vec![["way", "ns", "ratio", "baseline", ""].map(str::to_owned)];
    let mut is_good = true;
    for (way, ns) in ways.iter().zip(lowest) {
        let name = way.name();
        let ratio = ratios[&name];
        let before = baseline["ratios"][&name].as_f64();
        let verdict = match before.map(|before| ratio / before) {
            None => "new: NETGUARD_WRITE_BASELINE=1".to_owned(),
            Some(times) if times > LIMIT => {
                is_good = false;
                format!("{times:.2}x: SLOWER than {LIMIT}x")
            }
            Some(times) => format!("{times:.2}x"),
        };
        let before = before.map_or_else(String::new, |before| format!("{before:.3}"));
        lines.push([name, format!("{ns:.0}"), format!("{ratio:.3}"), before, verdict]);
    }
    println!("{}", columns(&lines));
    is_good
}

/// Of each program how many instructions it has, and how many the verifier has walked.
fn sizes(kernel: &Kernel) -> BTreeMap<&'static str, [u32; 2]> {
    let size = |hook: Hook| {
        let info = ProgramInfo::from_pin(kernel.pins().program(hook)).expect("the program");
        let translated = info.size_translated().unwrap_or_default() / size_of::<u64>() as u32;
        (hook.program(), [translated, info.verified_instruction_count().unwrap_or_default()])
    };
    Hook::ALL.into_iter().map(size).collect()
}

fn print_sizes(sizes: &BTreeMap<&str, [u32; 2]>, baseline: &Value) {
    let head = ["program", "instructions", "baseline", "verified", "baseline"].map(str::to_owned);
    let lines = sizes.iter().map(|(name, [size, verified])| {
        let before = |index: usize| baseline["instructions"][name][index].to_string();
        [(*name).to_owned(), size.to_string(), before(0), verified.to_string(), before(1)]
    });
    println!("{}", columns(&[head].into_iter().chain(lines).collect::<Vec<_>>()));
}
