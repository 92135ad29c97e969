//! `netguard drops`: what the daemon remembers of dropped packets, and what comes.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anstream::{AutoStream, ColorChoice};
use anyhow::Context as _;
use clap::{Args, ValueEnum};
use netguard::{
    control,
    drops::{To, View},
    instance::Instance,
};

use super::orders::{the_instance, wait_for};

#[derive(Args)]
pub(super) struct DropsArgs {
    /// Go on with those that come
    #[arg(short, long)]
    follow: bool,
    /// How many of the latest [default: 20, or with --since all]
    #[arg(long, value_name = "NUMBER")]
    last: Option<usize>,
    /// Only those of the last while: 10m, 2h
    #[arg(long, value_name = "TIME")]
    since: Option<humantime::Duration>,
    /// Only those of this slot
    #[arg(long)]
    slot: Option<String>,
    /// Only those that were dropped for this reason: cross-slot, not-pinned
    #[arg(long)]
    reason: Option<String>,
    /// Only those of slots of this runtime
    #[arg(long)]
    runtime: Option<String>,
    /// Only those to this address, prefix, or DNS name with all below it
    #[arg(long, value_name = "DESTINATION")]
    to: Option<String>,
    /// How lines look
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// Write a capture file (pcapng) instead; `-` is standard output
    #[arg(long, value_name = "FILE", conflicts_with = "output")]
    pcap: Option<PathBuf>,
    /// The instance [default: the one that is loaded]
    #[arg(long)]
    instance: Option<Instance>,
}

#[derive(Clone, Copy, Default, ValueEnum)]
enum Output {
    /// Aligned words, as the journal has them; coloured on a terminal
    #[default]
    Text,
    /// Fewer words
    Compact,
    /// One object a line: docs/drops.md
    Json,
}

impl From<Output> for View {
    fn from(output: Output) -> Self {
        match output {
            Output::Text => Self::Text,
            Output::Compact => Self::Compact,
            Output::Json => Self::Json,
        }
    }
}

pub(super) fn drops(args: &DropsArgs) -> anyhow::Result<ExitCode> {
    const LAST: usize = 20;
    if let Some(to) = &args.to {
        to.parse::<To>()?;
    }
    let instance = the_instance(args.instance.clone())?;
    let view = if args.pcap.is_some() { View::Pcapng } else { args.output.into() };
    let mut query = format!("drops?follow={}&format={}", args.follow, view.name());
    let last = args.last.or_else(|| args.since.is_none().then_some(LAST));
    let texts = [
        ("last", last.map(|last| last.to_string())),
        ("since", args.since.map(|since| since.to_string())),
        ("slot", args.slot.clone()),
        ("reason", args.reason.clone()),
        ("runtime", args.runtime.clone()),
        ("to", args.to.clone()),
    ];
    for (key, value) in texts {
        if let Some(value) = value {
            query += &format!("&{key}={}", control::encode(&value));
        }
    }
    let to_stdout = args.pcap.as_deref().is_none_or(|file| file == Path::new("-"));
    if view == View::Pcapng && to_stdout && io::stdout().is_terminal() {
        anyhow::bail!(
            "a capture file is nothing for a terminal; write --pcap FILE, or pipe it into tshark -r -"
        );
    }
    print_stream(&instance, query, args.pcap.as_deref().filter(|_| !to_stdout))
}

/// Prints what a feed has to tell, into a file or on standard output.
pub(super) fn print_stream(
    instance: &Instance,
    mut path: String,
    file: Option<&Path>,
) -> anyhow::Result<ExitCode> {
    // As everybody wants it: not in a pipe, not under NO_COLOR.
    if AutoStream::choice(&io::stdout()) != ColorChoice::Never {
        path += "&colored=true";
    }
    let mut out: Option<Box<dyn Write>> = None;
    let mut failed = None;
    let print = |piece: &[u8]| {
        let written = match &mut out {
            Some(out) => write(out, piece),
            // Made only when there is something to write: who is refused finds no empty file.
            None => open(file).and_then(|opened| write(out.insert(opened), piece)),
        };
        written.map_err(|error| {
            let kind = error.kind();
            failed = Some(error);
            io::Error::from(kind)
        })
    };
    wait_for(control::stream(instance, &path, print))?;
    match failed {
        // A reader that has gone has read enough.
        Some(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            let file = file.unwrap_or(Path::new("standard output"));
            Err(error).with_context(|| format!("cannot write {}", file.display()))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// A file, or standard output.
fn open(file: Option<&Path>) -> io::Result<Box<dyn Write>> {
    Ok(match file {
        Some(file) => Box::new(File::create(file)?),
        None => Box::new(io::stdout().lock()),
    })
}

fn write(out: &mut impl Write, piece: &[u8]) -> io::Result<()> {
    out.write_all(piece).and_then(|()| out.flush())
}
