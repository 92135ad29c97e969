//! What commands that show a feed have in common: how much of it, whose, and how it looks.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Write},
    path::Path,
    process::ExitCode,
};

use anstream::{AutoStream, ColorChoice};
use anyhow::Context as _;
use clap::Args;
use netguard::{control, instance::Instance};

use super::orders::{the_instance, wait_for};

#[derive(Args)]
pub(super) struct FollowArgs {
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
    /// The instance [default: the one that is loaded]
    #[arg(long)]
    instance: Option<Instance>,
}

/// Where it goes.
pub(super) enum Into<'a> {
    /// Lines, for people to read or for programs.
    Lines,
    /// Bytes that are nothing for a terminal, into a file; `-` is standard output.
    File(&'a Path),
}

impl FollowArgs {
    /// Shows what the daemon has of a feed, in a form, as far as it fits the conditions.
    pub(super) fn show(
        &self,
        feed: &str,
        format: &str,
        conditions: &[(&str, Option<&str>)],
        into: &Into<'_>,
    ) -> anyhow::Result<ExitCode> {
        const LAST: usize = 20;
        let instance = the_instance(self.instance.clone())?;
        let last = self.last.or_else(|| self.since.is_none().then_some(LAST));
        let (last, since) = (last.map(|it| it.to_string()), self.since.map(|it| it.to_string()));
        let mut path = format!("/v1/{feed}?follow={}&format={format}", self.follow);
        let own = [
            ("last", last.as_deref()),
            ("since", since.as_deref()),
            ("slot", self.slot.as_deref()),
        ];
        for (key, value) in own.iter().chain(conditions) {
            if let Some(value) = value {
                path += &format!("&{key}={}", control::encode(value));
            }
        }
        let file = match into {
            Into::Lines => None,
            Into::File(file) if *file == Path::new("-") => {
                anyhow::ensure!(
                    !io::stdout().is_terminal(),
                    "a capture file is nothing for a terminal; write --pcap FILE, or pipe it into tshark -r -"
                );
                None
            }
            Into::File(file) => Some(*file),
        };
        // As everybody wants it: not in a pipe, not under NO_COLOR.
        if AutoStream::choice(&io::stdout()) != ColorChoice::Never {
            path += "&colored=true";
        }
        print(&instance, &path, file)
    }
}

fn print(instance: &Instance, path: &str, file: Option<&Path>) -> anyhow::Result<ExitCode> {
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
    wait_for(control::follow(instance, path, print))?;
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
