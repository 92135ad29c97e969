//! What names cost in the kernel's map: how long they take to be there, and how much memory they have.

use std::{
    fs,
    os::fd::{AsFd as _, AsRawFd as _},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context as _, Result};
use aya::maps::MapData;
use netguard::{
    datapath::{Datapath, InForce, PinDirectory, ensure_bpffs},
    policy::Plan,
};
use netguard_common::maps::NAMES;
use netguard_dns::{Entry, NameSet};

const LENGTHS: [usize; 4] = [177, 10_000, 100_000, 1_000_000];
/// So many names lie below one domain.
const BELOW: usize = 5;

/// Prints one line for each length.
pub fn table() -> Result<()> {
    println!(
        "\n{:>9} {:>10}  {:>10}  {:>10}  {:>10}  {:>10}  {:>10}",
        "names", "suffixes", "hashed", "written", "looked at", "removed", "memory"
    );
    for length in LENGTHS {
        line(length)?;
    }
    Ok(())
}

fn line(length: usize) -> Result<()> {
    let instance = format!("bench{}", std::process::id()).parse()?;
    ensure_bpffs(&instance)?;
    let pins = PinDirectory::of(&instance);
    let names: NameSet = (0..length)
        .map(|number| format!("host{number}.domain{}.example", number / BELOW).parse::<Entry>())
        .collect::<Result<Vec<_>, _>>()?
        .into_iter()
        .collect();
    let began = Instant::now();
    let suffixes = Arc::clone(names.suffixes());
    let hashed = began.elapsed();
    let count = suffixes.len();
    let entries = u32::try_from(count * 2)?.next_power_of_two();
    let empty =
        Plan { flow_entries: 64, slot_entries: 2, name_entries: entries, ..Plan::default() };
    let full = Plan { names: [(suffixes.number(), suffixes)].into(), ..empty.clone() };
    let mut datapath = Datapath::load(pins.clone(), &empty)?;
    let began = Instant::now();
    datapath.apply(full.clone())?;
    let written = began.elapsed();
    let memory = memory(&pins)?;
    let began = Instant::now();
    let differs = InForce::open(&pins)?.differs_from(&full)?;
    let looked = began.elapsed();
    anyhow::ensure!(differs.is_none(), "{differs:?}");
    let began = Instant::now();
    datapath.apply(empty)?;
    while !datapath.settle()? {}
    let removed = began.elapsed();
    pins.remove()?;
    let ms = |time: std::time::Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
    println!(
        "{length:>9} {count:>10}  {:>10}  {:>10}  {:>10}  {:>10}  {memory:>6.1} MiB",
        ms(hashed),
        ms(written),
        ms(looked),
        ms(removed)
    );
    Ok(())
}

/// What the kernel says that the map takes (proc(5), fdinfo).
fn memory(pins: &PinDirectory) -> Result<f64> {
    let map = MapData::from_pin(pins.map(NAMES))?;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd()))?;
    let line = info.lines().find_map(|line| line.strip_prefix("memlock:")).context("no size")?;
    Ok(line.trim().parse::<f64>()? / f64::from(1 << 20))
}
