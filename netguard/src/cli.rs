//! The command line: arguments, dispatch, exit codes.

mod check;
mod dns;
mod doctor;
mod drops;
mod events;
mod exit;
mod explain;
mod follow;
mod guard;
mod lab;
mod loaded;
mod manual;
mod orders;
mod run;
mod state;
mod top;
mod verify;

use std::{
    io::{ErrorKind, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use netguard::{daemon, instance::Instance};

pub use self::exit::fail;
use self::exit::{EXIT_CODES, HOLE};

/// The firewall for hosts that run workloads nobody trusts.
#[derive(Parser)]
#[command(name = "netguard", version, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Guard the slots of a configuration; without one, build the lab and guard that
    Run(run::RunArgs),
    /// Close every slot of a configuration and end: for early at boot, until `run` takes over
    Guard {
        /// The configuration (netguard.toml)
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// The name under which programs and maps are pinned
        #[arg(long, default_value_t = Instance::host())]
        instance: Instance,
    },
    /// Check a configuration, this kernel or both; nothing is attached
    Check {
        /// The file
        #[arg(required_unless_present = "kernel")]
        file: Option<PathBuf>,
        /// Load every program to see whether this kernel's verifier takes it
        #[arg(long)]
        kernel: bool,
    },
    /// Show what a configuration means: its slots, or who may open what to whom
    Policy {
        /// The file
        file: PathBuf,
        /// Who may open connections to whom, runtime by runtime
        #[arg(long)]
        matrix: bool,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// Show slots, programs and counters as the kernel has them
    Status {
        /// One JSON object per instance
        #[arg(long)]
        json: bool,
        /// Only this instance
        #[arg(long)]
        instance: Option<Instance>,
    },
    /// Show the packets that were dropped of late, and those that are dropped from now on
    Drops(drops::DropsArgs),
    /// Show slots, drops, denied names and what programs cost, as it happens
    Top {
        /// The instance [default: the one that is loaded]
        #[arg(long)]
        instance: Option<Instance>,
    },
    /// Show what slots have asked the resolver of late and what they got, and what they ask from now on
    Dns(dns::DnsArgs),
    /// Show what has happened to netguard itself of late, and what happens from now on
    Events(events::EventsArgs),
    /// Say what would become of a packet, and why: put to the loaded programs, which keep no trace of it
    Explain(explain::ExplainArgs),
    /// Prove that what is loaded keeps to the configuration: every slot, every pair, programs, maps and bridges
    Verify(verify::VerifyArgs),
    /// Find what around netguard weakens or breaks it, each with what to do; or watch who drops packets
    Doctor(doctor::DoctorArgs),
    /// Show the addresses that DNS answers gave to slots, as the kernel has them
    Pins {
        /// Only this slot
        slot: Option<String>,
        /// One JSON object
        #[arg(long)]
        json: bool,
        /// The instance [default: the one that is loaded]
        #[arg(long)]
        instance: Option<Instance>,
    },
    /// Print what a slot with `mode = "audit"` did that its entry does not open, as the keys that would open it
    Suggest {
        /// The slot
        slot: String,
        /// The instance [default: the one that is loaded]
        #[arg(long)]
        instance: Option<Instance>,
    },
    /// Deny a name or a prefix to a slot, now, whatever the configuration says
    Deny(orders::SayArgs),
    /// Allow a name or a prefix to a slot, now, beside what the configuration allows
    Allow(orders::SayArgs),
    /// Take back what `allow` or `deny` has said
    Forget {
        /// The slot
        slot: String,
        /// The name or prefix, as it was written
        what: String,
        /// The instance [default: the one that is loaded]
        #[arg(long)]
        instance: Option<Instance>,
    },
    /// Take a slot's network away, open connections included
    Lock {
        /// The slot
        slot: String,
        /// The instance [default: the one that is loaded]
        #[arg(long)]
        instance: Option<Instance>,
    },
    /// Give a locked slot its network back
    Unlock {
        /// The slot
        slot: String,
        /// The instance [default: the one that is loaded]
        #[arg(long)]
        instance: Option<Instance>,
    },
    /// List slots, or make and remove some beside those of the configuration
    Slot {
        #[command(subcommand)]
        command: orders::SlotCommand,
        /// The instance [default: the one that is loaded]
        #[arg(long, global = true)]
        instance: Option<Instance>,
    },
    /// Carry a slot to another host or another name: its policy, what was ordered about it, its pins and its counters
    State {
        #[command(subcommand)]
        command: state::StateCommand,
        /// The instance [default: the one that is loaded]
        #[arg(long, global = true)]
        instance: Option<Instance>,
    },
    /// Have the daemon read its configuration again; a bad one changes nothing
    Reload {
        /// Go back to the policy before after so many seconds, unless `netguard confirm` comes first
        #[arg(long, value_name = "SECONDS")]
        confirm: Option<u64>,
        /// The instance [default: the one that is loaded]
        #[arg(long)]
        instance: Option<Instance>,
    },
    /// Keep what the latest `netguard reload --confirm` has put in force
    Confirm {
        /// The instance [default: the one that is loaded]
        #[arg(long)]
        instance: Option<Instance>,
    },
    /// Show what a reload would change
    Diff {
        /// One JSON object
        #[arg(long)]
        json: bool,
        /// The instance [default: the one that is loaded]
        #[arg(long)]
        instance: Option<Instance>,
    },
    /// Detach every program and remove every map of an instance: nothing is enforced any more
    Unload {
        /// The instance
        #[arg(long, default_value_t = Instance::host())]
        instance: Instance,
    },
    /// Write the manual's pages into a folder: what `cargo xtask deb` packs
    #[command(hide = true)]
    Man {
        /// The folder
        folder: PathBuf,
    },
    /// Print what completes this command in a shell
    #[command(hide = true)]
    Completions {
        /// Which
        shell: clap_complete::Shell,
    },
    /// Be the process that answers guests: what `run` starts beside itself, or awaits with --await-worker
    #[command(hide = true)]
    Worker {
        /// The instance that awaits it; without one, the daemon is at standard input
        #[arg(long)]
        instance: Option<Instance>,
    },
    /// A hypervisor, five guests and an internet in network namespaces, to try netguard in
    Lab(lab::LabArgs),
}

impl Cli {
    /// Does what the arguments say.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Run(args) => run::run(&args),
            Command::Guard { config, instance } => guard::close(&config, &instance),
            Command::Check { file, kernel } => check::check(file.as_deref(), kernel),
            Command::Policy { file, matrix, json } => check::policy(&file, matrix, json),
            Command::Status { json, instance } => loaded::status(json, instance),
            Command::Drops(args) => drops::drops(&args),
            Command::Top { instance } => top::top(instance),
            Command::Dns(args) => dns::dns(&args),
            Command::Events(args) => events::events(&args),
            Command::Explain(args) => explain::explain(&args),
            Command::Verify(args) => verify::verify(&args),
            Command::Doctor(args) => doctor::doctor(&args),
            Command::Pins { slot, json, instance } => loaded::pins(slot.as_deref(), json, instance),
            Command::Suggest { slot, instance } => orders::suggest(&slot, instance),
            Command::Deny(said) => orders::say(&said, false),
            Command::Allow(said) => orders::say(&said, true),
            Command::Forget { slot, what, instance } => orders::forget(&slot, &what, instance),
            Command::Lock { slot, instance } => orders::lock(&slot, true, instance),
            Command::Unlock { slot, instance } => orders::lock(&slot, false, instance),
            Command::Slot { command, instance } => orders::slot(&command, instance),
            Command::State { command, instance } => state::state(&command, instance),
            Command::Reload { confirm, instance } => orders::reload(confirm, instance),
            Command::Confirm { instance } => orders::confirm(instance),
            Command::Diff { json, instance } => orders::diff(json, instance),
            Command::Worker { instance } => {
                daemon::work(instance.as_ref())?;
                Ok(ExitCode::SUCCESS)
            }
            Command::Man { folder } => manual::pages(&folder),
            Command::Completions { shell } => manual::completions(shell),
            Command::Unload { instance } => loaded::unload(&instance),
            Command::Lab(args) => lab::lab(&args),
        }
    }
}

/// Prints lines. A reader that has gone has read enough.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{}", text.trim_end()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Tells the person at the terminal; if there is none, nobody.
fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
