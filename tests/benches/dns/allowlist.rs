//! What looking a name up costs, by the length of the allowlist: each length in a process of its own, so that one's
//! memory is not the other's.

use std::{env, process::Command};

use anyhow::{Context as _, Result, ensure};

use super::lookups::{Figures, LOOKUPS, ROUNDS, figures};

/// The first argument of the process; then comes the length.
pub const MEASURE: &str = "measure-allowlist";
const LENGTHS: [usize; 4] = [177, 10_000, 100_000, 1_000_000];

/// Prints one line for each length.
pub fn compare() -> Result<()> {
    println!(
        "\nallowlist: ns per lookup, median (lowest to highest) of {ROUNDS} rounds of {LOOKUPS} names"
    );
    println!(
        "{:>9}  {:>9}  {:>10}  {:<22} {:<22}",
        "names", "build", "memory", "listed or below", "neither"
    );
    for length in LENGTHS {
        let status =
            Command::new(env::current_exe()?).args([MEASURE, &length.to_string()]).status();
        ensure!(status?.success(), "the allowlist of {length} names was not measured");
    }
    Ok(())
}

/// Measures one length and prints its line.
pub fn measure(length: &str) -> Result<()> {
    let length: usize = length.parse().context("no length")?;
    let Figures { build, memory, hit, miss } = figures(length)?;
    println!(
        "{length:>9}  {:>6.1} ms  {:>6.1} MiB  {hit:<22} {miss:<22}",
        build.as_secs_f64() * 1e3,
        memory as f64 / f64::from(1 << 20),
    );
    Ok(())
}
