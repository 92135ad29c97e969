//! `netguard events`: what the daemon remembers of what happened to itself, and what comes.

use std::process::ExitCode;

use clap::Args;
use netguard::{control, events::View, instance::Instance};

use super::{drops::print_stream, orders::the_instance};

#[derive(Args)]
pub(super) struct EventsArgs {
    /// Go on with those that come
    #[arg(short, long)]
    follow: bool,
    /// How many of the latest [default: 20, or with --since all]
    #[arg(long, value_name = "NUMBER")]
    last: Option<usize>,
    /// Only those of the last while: 10m, 2h
    #[arg(long, value_name = "TIME")]
    since: Option<humantime::Duration>,
    /// Only those about this slot
    #[arg(long)]
    slot: Option<String>,
    /// Only those of this name: lock, detach-alarm
    #[arg(long, value_name = "NAME")]
    event: Option<String>,
    /// How lines look
    #[arg(short, long, value_enum, default_value_t)]
    output: View,
    /// The instance [default: the one that is loaded]
    #[arg(long)]
    instance: Option<Instance>,
}

pub(super) fn events(args: &EventsArgs) -> anyhow::Result<ExitCode> {
    const LAST: usize = 20;
    let instance = the_instance(args.instance.clone())?;
    let mut path = format!("events?follow={}&format={}", args.follow, args.output.name());
    let last = args.last.or_else(|| args.since.is_none().then_some(LAST));
    let texts = [
        ("last", last.map(|last| last.to_string())),
        ("since", args.since.map(|since| since.to_string())),
        ("slot", args.slot.clone()),
        ("event", args.event.clone()),
    ];
    for (key, value) in texts {
        if let Some(value) = value {
            path += &format!("&{key}={}", control::encode(&value));
        }
    }
    print_stream(&instance, path, None)
}
