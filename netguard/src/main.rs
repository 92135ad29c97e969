//! The `netguard` binary: see `cli`.

mod cli;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    // Diagnostics of the programs and the resolver; the events themselves are the journal's.
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("netguard=warn"))
        .init();
    match cli::Cli::parse().run() {
        Ok(code) => code,
        Err(error) => cli::fail(&error),
    }
}
