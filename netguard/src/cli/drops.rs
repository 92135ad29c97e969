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

use super::{loaded::the_instance, orders::wait_for};

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
    let mut query = format!("follow={}&format={}", args.follow, view.name());
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
    let mut out: Box<dyn Write> = match args.pcap.as_deref() {
        Some(file) if file != Path::new("-") => {
            Box::new(File::create(file).with_context(|| format!("cannot make {}", file.display()))?)
        }
        Some(_) if io::stdout().is_terminal() => {
            anyhow::bail!(
                "a capture file is nothing for a terminal; write --pcap FILE, or pipe it into tshark -r -"
            )
        }
        _ => Box::new(io::stdout().lock()),
    };
    // As everybody wants it: not in a pipe, not under NO_COLOR.
    if AutoStream::choice(&io::stdout()) != ColorChoice::Never {
        query += "&colored=true";
    }
    let mut failed = None;
    let print = |piece: &[u8]| {
        let written = out.write_all(piece).and_then(|()| out.flush());
        written.inspect_err(|error| failed = Some(error.kind()))
    };
    wait_for(control::drops(&instance, &query, print))?;
    match failed {
        // A reader that has gone has read enough.
        None | Some(io::ErrorKind::BrokenPipe) => Ok(ExitCode::SUCCESS),
        Some(kind) => Err(io::Error::from(kind)).context("cannot write what was dropped"),
    }
}
