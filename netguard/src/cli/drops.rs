//! `netguard drops`: what the daemon remembers of dropped packets, and what comes.

use std::{io::Write as _, process::ExitCode};

use clap::Args;
use netguard::{control, instance::Instance, journal::Format};

use super::orders::{the_instance, wait_for};

#[derive(Args)]
pub(super) struct DropsArgs {
    /// Go on with those that come
    #[arg(short, long)]
    follow: bool,
    /// How many of the latest
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    last: usize,
    /// Only those of this slot
    #[arg(long)]
    slot: Option<String>,
    /// Only those that were dropped for this reason: cross-slot, not-pinned
    #[arg(long)]
    reason: Option<String>,
    /// Only those of slots of this runtime
    #[arg(long)]
    runtime: Option<String>,
    /// How lines look
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// The instance [default: the one that is loaded]
    #[arg(long)]
    instance: Option<Instance>,
}

pub(super) fn drops(args: &DropsArgs) -> anyhow::Result<ExitCode> {
    let instance = the_instance(args.instance.clone())?;
    let format = match args.output {
        Format::Text => "text",
        Format::Json => "json",
    };
    let mut query = format!("last={}&follow={}&format={format}", args.last, args.follow);
    for (key, value) in [("slot", &args.slot), ("reason", &args.reason), ("runtime", &args.runtime)]
    {
        if let Some(value) = value {
            query += &format!("&{key}={}", control::encode(value));
        }
    }
    let mut out = std::io::stdout().lock();
    // A reader that has gone has read enough.
    let print = |lines: &[u8]| out.write_all(lines).and_then(|()| out.flush());
    wait_for(control::drops(&instance, &query, print))?;
    Ok(ExitCode::SUCCESS)
}
