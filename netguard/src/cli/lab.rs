//! `netguard lab`: build it, look at it, act in it, remove it.

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};
use netguard::{
    datapath::{PinDirectory, Tc},
    journal::Format,
    lab::{self, Lab, PortKind},
};

use super::{loaded, print};

#[derive(Args)]
pub(super) struct LabArgs {
    /// The lab's name: the prefix of its namespaces; its instance is lab-NAME
    #[arg(long, global = true, default_value = lab::DEFAULT_NAME)]
    name: String,
    #[command(subcommand)]
    command: LabCommand,
}

#[derive(Subcommand)]
enum LabCommand {
    /// Build the lab and guard it with a daemon in the background
    Up {
        /// What the slots' ports are made of
        #[arg(long, value_enum, default_value_t)]
        ports: PortKind,
        /// How the daemon's log lines look
        #[arg(long, value_enum, default_value_t)]
        log: Format,
        /// Build only: no daemon, nothing is guarded
        #[arg(long)]
        unguarded: bool,
        /// Build the hypervisor of this configuration [default: dist/examples/microvms.toml]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// The daemon's --tc: for tests
        #[arg(long, hide = true)]
        tc: Option<Tc>,
    },
    /// Remove the lab, whatever state it is in
    Down,
    /// Show the lab's hosts and what netguard did there
    Status,
    /// Run a command on a host of the lab: slot1 to slot5, hv, net or mgmt
    Exec {
        /// The host
        host: String,
        /// The command and its arguments
        #[arg(required = true, last = true)]
        command: Vec<OsString>,
    },
    /// Be the lab's internet: what `lab up` starts in the background
    #[command(hide = true)]
    Serve,
}

pub(super) fn lab(args: &LabArgs) -> anyhow::Result<ExitCode> {
    let name = &args.name;
    match &args.command {
        LabCommand::Up { ports, log, unguarded, config, tc } => {
            let lab = match config {
                Some(file) => Lab::of_file(name, file)?,
                None => Lab::of_default(name)?,
            };
            lab.build(*ports)?;
            if !unguarded {
                lab.guard(*log, *tc).inspect_err(|_| drop(lab::down(name)))?;
            }
            print(&lab.describe()?)?;
        }
        LabCommand::Down => {
            lab::down(name)?;
            print(&format!("lab {name:?} is gone"))?;
        }
        LabCommand::Status => {
            let lab = Lab::new(name)?;
            print(&lab.describe()?)?;
            if !PinDirectory::of(lab.instance()).has_pins() {
                print("nothing guards it")?;
                return Ok(ExitCode::SUCCESS);
            }
            print("")?;
            return loaded::status(false, Some(lab.instance().clone()));
        }
        LabCommand::Exec { host, command } => match Lab::new(name)?.exec(host, command)? {},
        LabCommand::Serve => lab::serve(&Lab::new(name)?)?,
    }
    Ok(ExitCode::SUCCESS)
}
