//! `netguard state`: a slot as one document, from one daemon to another.

use std::{io::Read as _, process::ExitCode};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use netguard::{control, instance::Instance};
use serde_json::Value;

use super::{
    orders::{the_instance, wait_for},
    print,
};

#[derive(Subcommand)]
pub(super) enum StateCommand {
    /// Print all that there is of a slot, as one JSON document
    Export {
        /// The slot
        slot: String,
    },
    /// Have a slot take over what standard input says; it is made if it is not there
    Import(ImportArgs),
}

#[derive(Args)]
pub(super) struct ImportArgs {
    /// The slot that was exported
    slot: String,
    /// What it is called here [default: the same]
    #[arg(long = "as", value_name = "NAME")]
    name: Option<String>,
    /// Another subnet, of IPv4 or IPv6; may be given for both
    #[arg(long)]
    subnet: Vec<String>,
    /// Another bridge
    #[arg(long)]
    bridge: Option<String>,
    /// Another port
    #[arg(long)]
    port: Option<String>,
    /// Another MAC of the guest, or `any`
    #[arg(long)]
    mac: Option<String>,
}

/// The document is of another slot than the one that was meant.
#[derive(Debug, thiserror::Error)]
#[error(
    "standard input has the state of slot {found:?}; write `netguard state import {found} --as {wanted}`"
)]
pub(super) struct OtherSlot {
    found: String,
    wanted: String,
}

pub(super) fn state(
    command: &StateCommand,
    instance: Option<Instance>,
) -> anyhow::Result<ExitCode> {
    let instance = the_instance(instance)?;
    match command {
        StateCommand::Export { slot } => {
            print(&format!("{:#}", wait_for(control::export(&instance, slot))?))?;
        }
        StateCommand::Import(args) => import(&instance, args)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn import(instance: &Instance, args: &ImportArgs) -> anyhow::Result<()> {
    let mut document = String::new();
    std::io::stdin().read_to_string(&mut document).context("standard input cannot be read")?;
    // What is no document is the daemon's to refuse.
    let parsed: Value = serde_json::from_str(&document).unwrap_or_default();
    if let Some(found) = parsed["state"]["name"].as_str().filter(|found| *found != args.slot) {
        let (found, wanted) = (found.to_owned(), args.slot.clone());
        return Err(OtherSlot { found, wanted }.into());
    }
    let subnets = args.subnet.iter().map(|subnet| ("subnet", subnet.as_str()));
    let links = [("bridge", &args.bridge), ("port", &args.port), ("mac", &args.mac)];
    let links = links.into_iter().filter_map(|(key, link)| Some((key, link.as_deref()?)));
    let place: Vec<_> = subnets.chain(links).collect();
    let name = args.name.as_ref().unwrap_or(&args.slot);
    let slot = wait_for(control::import(instance, name, document, &place))?;
    let made = if slot["made"] == true { "is made and " } else { "" };
    let (taken, of) = (&slot["pins"]["taken"], &slot["pins"]["of"]);
    print(&format!("slot {name} {made}has taken over slot {} with {taken} of {of} pins", args.slot))
}
