//! Fuzzing with cargo-fuzz (libFuzzer), which is installed into `target/tools`.

use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{
    cargo::Cargo,
    command::{output, root, step},
    tools::{self, Toolchain},
};

const TARGETS: [&str; 2] = ["guest_query", "upstream_answer"];
/// Longer inputs say nothing new: a guest's query is refused from there on.
const INPUT_MAX: u32 = 1300;
const VERSION: &str = "0.13.2";

/// Fuzzes each target for so many seconds; what breaks is left in `fuzz/artifacts`.
pub fn run(toolchain: &Toolchain, seconds: u32) -> Result<()> {
    tools::ensure(&[tools::CXX])?;
    install(toolchain)?;
    for target in TARGETS {
        step(&format!("fuzzing {target} for {seconds} s"));
        let limits = [format!("-max_total_time={seconds}"), format!("-max_len={INPUT_MAX}")];
        // What is new is written to the first folder, and is the repository's only when somebody puts it there.
        let found = root().join("target/fuzz/corpus").join(target);
        std::fs::create_dir_all(&found)
            .with_context(|| format!("cannot create {}", found.display()))?;
        let folders = [found.to_string_lossy().into_owned(), format!("fuzz/corpus/{target}")];
        let fuzz = ["fuzz", "run", "--fuzz-dir", "fuzz", "--target-dir", "target/fuzz", target];
        let quiet = ["--", "-verbosity=0", "-print_final_stats=1"].map(str::to_owned);
        let arguments = fuzz.map(str::to_owned).into_iter().chain(folders).chain(quiet);
        Cargo::nightly(toolchain).run(arguments.chain(limits))?;
    }
    Ok(())
}

fn install(toolchain: &Toolchain) -> Result<()> {
    let tools = root().join("target/tools");
    let version = output(Command::new(tools.join("bin/cargo-fuzz")).arg("--version"));
    if version.is_some_and(|version| version.trim().ends_with(VERSION)) {
        return Ok(());
    }
    step(&format!("installing cargo-fuzz {VERSION} into target/tools (once)"));
    let folder = tools.to_string_lossy().into_owned();
    let install = ["install", "cargo-fuzz", "--locked", "--version", VERSION, "--root", &folder];
    Cargo::new(toolchain).run(install)
}
