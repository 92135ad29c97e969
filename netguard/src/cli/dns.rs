//! `netguard dns`: what the daemon remembers of what slots have asked and got, and what comes.

use std::process::ExitCode;

use clap::Args;
use netguard::feed::Look;

use super::follow::{FollowArgs, Into};

#[derive(Args)]
pub(super) struct DnsArgs {
    #[command(flatten)]
    of: FollowArgs,
    /// Only those of slots of this runtime
    #[arg(long)]
    runtime: Option<String>,
    /// Only queries for this name and all below it
    #[arg(long)]
    name: Option<String>,
    /// Only queries for this type: AAAA, TYPE35
    #[arg(long = "type", value_name = "TYPE")]
    record_type: Option<String>,
    /// Only those whose reply has this code: NXDOMAIN
    #[arg(long)]
    rcode: Option<String>,
    /// Only those that were denied or refused
    #[arg(long, conflicts_with = "allowed")]
    denied: bool,
    /// Only those that were asked of an upstream, or answered from the cache
    #[arg(long)]
    allowed: bool,
    /// How lines look; docs/dns.md describes the JSON
    #[arg(short, long, value_enum, default_value_t)]
    output: Look,
}

pub(super) fn dns(args: &DnsArgs) -> anyhow::Result<ExitCode> {
    let side = match (args.allowed, args.denied) {
        (true, _) => Some("allowed"),
        (_, true) => Some("denied"),
        (false, false) => None,
    };
    let conditions = [
        ("name", args.name.as_deref()),
        ("type", args.record_type.as_deref()),
        ("rcode", args.rcode.as_deref()),
        ("side", side),
        ("runtime", args.runtime.as_deref()),
    ];
    args.of.show("dns", args.output.name(), &conditions, &Into::Lines)
}
