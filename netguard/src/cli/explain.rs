//! `netguard explain`: what would become of a packet.

use std::{net::IpAddr, process::ExitCode, str::FromStr};

use anyhow::Context as _;
use clap::Args;
use netguard::{
    control,
    daemon::Weighed,
    datapath::PinDirectory,
    drops::{Id, View},
    explain::{self, Protocol, Question, Recorded, dns_text},
    feed::Look,
    instance::Instance,
    journal::Format,
};
use netguard_common::Direction;
use serde_json::Value;

use super::{
    HOLE,
    loaded::{enter, the_pinned_instance},
    orders::wait_for,
    print,
};

#[derive(Args)]
pub(super) struct ExplainArgs {
    /// The slot
    #[arg(required_unless_present = "drop")]
    slot: Option<String>,
    /// Where to, an address or a name: 203.0.113.9:443, [2001:db8::9]:443, github.com [default port: 443]
    #[arg(required_unless_present = "drop")]
    dest: Option<Destination>,
    /// Explain a drop by what stands in brackets at the end of its line, and what would become of such a packet now
    #[arg(long, value_name = "ID", conflicts_with_all = ["slot", "dest", "proto", "name", "ingress"])]
    drop: Option<Id>,
    /// What the packet is of
    #[arg(long, value_enum, default_value_t)]
    proto: Protocol,
    /// The name that the address is asked for by: its DNS decision comes first
    #[arg(long)]
    name: Option<String>,
    /// From there into the slot
    #[arg(long = "in")]
    ingress: bool,
    /// How the answer looks
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// The instance [default: the one that is loaded]
    #[arg(long)]
    instance: Option<Instance>,
}

/// An address or a name, with a port or without.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Destination {
    host: String,
    port: Option<u16>,
}

impl FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad =
            || format!("{text:?} is none; write ADDRESS, ADDRESS:PORT, [ADDRESS]:PORT or a name");
        if text.parse::<IpAddr>().is_ok() {
            return Ok(Self { host: text.to_owned(), port: None });
        }
        let (host, port) = match text.rsplit_once(':') {
            _ if text.ends_with(']') => (text, None),
            Some((host, port)) => (host, Some(port.parse().map_err(|_| bad())?)),
            None => (text, None),
        };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if bare.is_empty() || (bare.contains(':') && bare.parse::<IpAddr>().is_err()) {
            return Err(bad());
        }
        Ok(Self { host: bare.to_owned(), port })
    }
}

pub(super) fn explain(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let instance = the_pinned_instance(args.instance.clone())?;
    match (&args.drop, &args.slot, &args.dest) {
        (Some(id), ..) => again(args, &instance, *id),
        (None, Some(slot), Some(dest)) => of_question(args, &instance, slot, dest),
        _ => anyhow::bail!("name a slot and where to, or --drop and a drop"), // clap has seen to it
    }
}

fn of_question(
    args: &ExplainArgs,
    instance: &Instance,
    slot: &str,
    dest: &Destination,
) -> anyhow::Result<ExitCode> {
    let address = dest.host.parse::<IpAddr>().ok();
    let name = match address {
        Some(_) => args.name.as_deref(),
        None => Some(args.name.as_deref().unwrap_or(&dest.host)),
    };
    let dns = name.map(|name| wait_for(control::judge(instance, slot, name))).transpose()?;
    let addresses = match (address, &dns) {
        (Some(address), _) => vec![address],
        (None, Some(dns)) => pinned(dns),
        (None, None) => Vec::new(),
    };
    let is_denied = dns.as_ref().is_some_and(|dns| dns["allowed"] != true);
    if addresses.is_empty() {
        let dns = dns.unwrap_or_default();
        show(args, &dns_text(&dns), &serde_json::json!({ "version": 1, "dns": dns }))?;
        if is_denied {
            return Ok(ExitCode::from(HOLE));
        }
        anyhow::bail!(
            "no address of it is pinned for {slot}: let the slot ask for it, or name an address with --name {}",
            dest.host
        );
    }
    let weigh = weigher(instance)?;
    enter(instance)?;
    let pins = PinDirectory::of(instance);
    let mut would_drop = is_denied && address.is_none();
    for (index, peer) in addresses.into_iter().enumerate() {
        let question = Question {
            slot: slot.to_owned(),
            peer,
            protocol: args.proto,
            port: dest.port.unwrap_or(443),
            direction: if args.ingress { Direction::Ingress } else { Direction::Egress },
        };
        let dns = dns.clone().filter(|_| index == 0);
        let explained = explain::ask(&pins, &question, dns, &weigh)?;
        would_drop |= explained.dropped().is_some();
        show(args, &explained.text(), &explained.json())?;
    }
    Ok(if would_drop { ExitCode::from(HOLE) } else { ExitCode::SUCCESS })
}

/// A drop that the daemon remembers, and what would become of its packet now.
fn again(args: &ExplainArgs, instance: &Instance, id: Id) -> anyhow::Result<ExitCode> {
    let fetch = |format: &str| {
        let mut bytes = Vec::new();
        let path = format!("/v1/drops?id={id}&last=1&format={format}");
        let take = |piece: &[u8]| {
            bytes.extend_from_slice(piece);
            Ok(())
        };
        wait_for(control::follow(instance, &path, take)).map(|()| bytes)
    };
    let record = serde_json::from_slice(&fetch(View::Lines(Look::Json).name())?)?;
    let recorded = Recorded::read(record, &fetch(View::Pcapng.name())?)?;
    let weigh = weigher(instance)?;
    enter(instance)?;
    let explained = explain::again(&PinDirectory::of(instance), recorded, &weigh)?;
    show(args, &explained.text(), &explained.json())?;
    Ok(if explained.dropped().is_some() { ExitCode::from(HOLE) } else { ExitCode::SUCCESS })
}

/// Asks the daemon which lines decide; without one nobody knows.
fn weigher(
    instance: &Instance,
) -> anyhow::Result<impl Fn(&Weighed) -> Result<Option<Value>, control::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(move |packet: &Weighed| match runtime.block_on(control::because(instance, packet)) {
        Err(control::Error::NoDaemon(_)) => Ok(None),
        told => told.map(Some),
    })
}

fn show(args: &ExplainArgs, text: &str, json: &Value) -> anyhow::Result<()> {
    match args.output {
        Format::Text => print(text),
        Format::Json => print(&json.to_string()),
    }
    .context("cannot print")
}

/// The addresses that a name has given the slot.
fn pinned(dns: &Value) -> Vec<IpAddr> {
    let pins = dns["pins"].as_array().into_iter().flatten();
    let mut addresses: Vec<_> =
        pins.filter_map(|pin| pin["address"].as_str()?.parse().ok()).collect();
    addresses.sort();
    addresses.dedup();
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_an_address_or_a_name_with_a_port_or_without() {
        for (text, host, port) in [
            ("203.0.113.9", "203.0.113.9", None),
            ("203.0.113.9:80", "203.0.113.9", Some(80)),
            ("2001:db8::9", "2001:db8::9", None),
            ("[2001:db8::9]:53", "2001:db8::9", Some(53)),
            ("[2001:db8::9]", "2001:db8::9", None),
            ("github.com", "github.com", None),
            ("github.com:22", "github.com", Some(22)),
        ] {
            let found: Destination = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(found, Destination { host: host.to_owned(), port }, "{text}");
        }
        for bad in ["", ":80", "203.0.113.9:http", "203.0.113.9:70000", "a:b:1"] {
            assert!(bad.parse::<Destination>().is_err(), "{bad:?}");
        }
    }
}
