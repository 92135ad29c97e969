//! `netguard drops`: what the daemon remembers of dropped packets, and what comes.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use netguard::{
    drops::{To, View},
    feed::Look,
};

use super::follow::{FollowArgs, Into};

#[derive(Args)]
pub(super) struct DropsArgs {
    #[command(flatten)]
    of: FollowArgs,
    /// Only those of slots of this runtime
    #[arg(long)]
    runtime: Option<String>,
    /// Only those that were dropped for this reason: cross-slot, not-pinned
    #[arg(long)]
    reason: Option<String>,
    /// Only those to this address, prefix, or DNS name with all below it
    #[arg(long, value_name = "DESTINATION")]
    to: Option<String>,
    /// How lines look; docs/drops.md describes the JSON
    #[arg(short, long, value_enum, default_value_t)]
    output: Look,
    /// Write a capture file (pcapng) instead; `-` is standard output
    #[arg(long, value_name = "FILE", conflicts_with = "output")]
    pcap: Option<PathBuf>,
}

pub(super) fn drops(args: &DropsArgs) -> anyhow::Result<ExitCode> {
    if let Some(to) = &args.to {
        to.parse::<To>()?;
    }
    let (view, into) = match &args.pcap {
        Some(file) => (View::Pcapng, Into::File(file)),
        None => (View::Lines(args.output), Into::Lines),
    };
    let conditions = [
        ("reason", args.reason.as_deref()),
        ("to", args.to.as_deref()),
        ("runtime", args.runtime.as_deref()),
    ];
    args.of.show("drops", view.name(), &conditions, &into)
}
