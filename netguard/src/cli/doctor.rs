//! `netguard doctor`: what around netguard weakens or breaks it, and who drops packets.

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anstream::{AutoStream, ColorChoice};
use clap::Args;
use netguard::{
    config::Config,
    datapath::PinDirectory,
    doctor::{
        self, Machine,
        watch::{self, View, Watch},
    },
    instance::Instance,
};

use super::{
    HOLE,
    loaded::{enter, the_pinned_instance},
    print, tell,
    verify::config,
};

#[derive(Args)]
pub(super) struct DoctorArgs {
    /// Print packets of slots that the kernel drops, and who that is: netguard, another firewall, the routing
    #[arg(long)]
    watch: bool,
    /// Watch for so long, as in 10s [default: until Ctrl-C]
    #[arg(long = "for", value_name = "TIME", requires = "watch")]
    time: Option<humantime::Duration>,
    /// One JSON object; with --watch one a line: docs/doctor.md
    #[arg(long)]
    json: bool,
    /// The configuration [default: that of the instance]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The instance [default: the one that is loaded]
    #[arg(long)]
    instance: Option<Instance>,
}

pub(super) fn doctor(args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    // As everybody wants it: not in a pipe, not under NO_COLOR.
    let colored = AutoStream::choice(&io::stdout()) != ColorChoice::Never;
    // Settings that only the first network namespace has.
    let machine = Machine::read();
    let instance = instance(args)?;
    let config = match (&instance, &args.config) {
        (None, Some(file)) => Config::read(file)?,
        (Some(instance), file) => config(instance, file.as_deref())?,
        (None, None) => Config::read(Path::new(super::verify::CONFIG))?,
    };
    let Some(instance) = &instance else {
        return examine(None, &config, &machine, args.json, colored);
    };
    enter(instance)?;
    if args.watch {
        let view = View { json: args.json, colored };
        return watch(instance, &config, view, args.time.map(Duration::from));
    }
    examine(Some(instance), &config, &machine, args.json, colored)
}

/// The instance that is meant. A file that is named is no lab's, and may be of nothing that is loaded yet.
fn instance(args: &DoctorArgs) -> anyhow::Result<Option<Instance>> {
    let of_host = || PinDirectory::instances().into_iter().any(|instance| !instance.is_lab());
    let may_be_none = args.config.is_some() && args.instance.is_none() && !args.watch;
    if may_be_none && !of_host() {
        return Ok(None);
    }
    the_pinned_instance(args.instance.clone()).map(Some)
}

fn examine(
    instance: Option<&Instance>,
    config: &Config,
    machine: &Machine,
    json: bool,
    colored: bool,
) -> anyhow::Result<ExitCode> {
    let diagnosis = doctor::examine(instance, config, machine)?;
    print(&if json { diagnosis.json().to_string() } else { diagnosis.text(colored) })?;
    Ok(if diagnosis.is_good() { ExitCode::SUCCESS } else { ExitCode::from(HOLE) })
}

fn watch(
    instance: &Instance,
    config: &Config,
    view: View,
    time: Option<Duration>,
) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let watched = runtime.block_on(async {
        let watch = Watch::begin(instance, config, view)?;
        tell(&format!("watching what the kernel drops of {} slots (Ctrl-C ends)", watch.slots()));
        watch.run(time, &mut io::stdout()).await
    });
    match watched {
        Err(error) if !watch::is_end_of_reader(&error) => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}
