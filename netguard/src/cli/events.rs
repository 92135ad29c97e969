//! `netguard events`: what the daemon remembers of what happened to itself, and what comes.

use std::process::ExitCode;

use clap::Args;
use netguard::events::View;

use super::follow::{FollowArgs, Into};

#[derive(Args)]
pub(super) struct EventsArgs {
    #[command(flatten)]
    of: FollowArgs,
    /// Only those of this name: lock, detach-alarm
    #[arg(long, value_name = "NAME")]
    event: Option<String>,
    /// How lines look; docs/codes.md describes the JSON
    #[arg(short, long, value_enum, default_value_t)]
    output: View,
}

pub(super) fn events(args: &EventsArgs) -> anyhow::Result<ExitCode> {
    let conditions = [("event", args.event.as_deref())];
    args.of.show("events", args.output.name(), &conditions, &Into::Lines)
}
