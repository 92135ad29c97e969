//! The command line: arguments, dispatch, exit codes.

mod dns;
mod doctor;
mod drops;
mod events;
mod explain;
mod follow;
mod guard;
mod loaded;
mod manual;
mod orders;
mod state;
mod top;
mod verify;

use std::{
    ffi::OsString,
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};
use netguard::{
    config::{Config, Problems},
    control, daemon,
    datapath::{self, PinDirectory, Tc},
    doctor as doctored,
    drops::BadTo,
    explain as explained,
    instance::{BadName, Instance},
    journal::Format,
    lab::{self, Lab, PortKind},
    listing,
    pinned::NoSlot,
    policy::Matrix,
    verify as verified,
};

/// A check has found something.
const HOLE: u8 = 3;

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 failed, 2 bad usage or bad configuration, 3 a check found a hole or a packet would be dropped, \
4 not permitted.";

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
    Run(RunArgs),
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
    Deny(SayArgs),
    /// Allow a name or a prefix to a slot, now, beside what the configuration allows
    Allow(SayArgs),
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
        command: SlotCommand,
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
    Lab(LabArgs),
}

#[derive(Args)]
struct SayArgs {
    /// The slot
    slot: String,
    /// A name, which covers all below it, or a prefix: example.com, "203.0.113.0/24 tcp/443"
    what: String,
    /// For how long, as in 10m [default: for good]
    #[arg(long = "for", value_name = "TIME")]
    time: Option<humantime::Duration>,
    /// The instance [default: the one that is loaded]
    #[arg(long)]
    instance: Option<Instance>,
}

#[derive(Subcommand)]
enum SlotCommand {
    /// Every slot, and what was ordered about it
    List {
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// Make a slot; it is remembered across restarts
    Add {
        /// A file with the keys of one [[slot]] entry, in TOML or JSON; - for standard input
        file: PathBuf,
    },
    /// Remove a slot that was made so
    Remove {
        /// Its name
        slot: String,
    },
}

#[derive(Args)]
struct RunArgs {
    /// The configuration (netguard.toml)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How log lines look
    #[arg(long, value_enum, default_value_t)]
    log: Format,
    /// The name under which programs and maps are pinned [default: host]
    #[arg(long, requires = "config")]
    instance: Option<Instance>,
    /// Start also while bridges are missing: each is guarded when it appears
    #[arg(long, requires = "config")]
    wait: bool,
    /// Start no process that answers guests, but await the one of `netguard worker --instance NAME`, as netguard-worker.service
    /// starts it: by the user netguard, or nobody where there is none
    #[arg(long)]
    await_worker: bool,
    /// What the lab's ports are made of (without --config)
    #[arg(long, value_enum, default_value_t, conflicts_with = "config")]
    ports: PortKind,
    /// Guard the lab of that name, which is up: what `lab up` starts in the background
    #[arg(long, hide = true, conflicts_with = "config")]
    lab: Option<String>,
    /// How TC programs are kept on interfaces, whatever the kernel has besides: for tests
    #[arg(long, hide = true)]
    tc: Option<Tc>,
}

#[derive(Args)]
struct LabArgs {
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

impl Cli {
    /// Does what the arguments say.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Run(args) => run(&args),
            Command::Guard { config, instance } => guard::close(&config, &instance),
            Command::Check { file, kernel } => check(file.as_deref(), kernel),
            Command::Policy { file, matrix, json } => policy(&file, matrix, json),
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
            Command::Lab(args) => lab(&args),
        }
    }
}

fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    if let Some(path) = &args.config {
        let instance = args.instance.clone().unwrap_or_else(Instance::host);
        must_not_be_labs(&instance)?;
        let config = Config::read(path)?;
        let config = if args.wait { config.waiting_for_bridges() } else { config };
        guard(config, &instance, args)?;
        tell("stopped; the programs stay attached and enforce until `netguard unload`");
    } else if let Some(name) = &args.lab {
        let lab = Lab::new(name)?;
        lab::enter(&lab.namespace("hv"))?;
        guard(lab.config().clone(), lab.instance(), args)?;
    } else {
        let lab = Lab::of_default(lab::DEFAULT_NAME)?;
        tell("building the lab (Ctrl-C stops and removes it)");
        lab.build(args.ports)?;
        tell(&things_to_try());
        // The daemon's threads live in the hypervisor's namespace, this one stays outside.
        let guarded = std::thread::scope(|scope| {
            let daemon = scope.spawn(|| {
                lab::enter(&lab.namespace("hv"))?;
                guard(lab.config().clone(), lab.instance(), args)
            });
            daemon.join()
        });
        tell("removing the lab");
        let removed = lab::down(lab::DEFAULT_NAME);
        match guarded {
            Ok(result) => result?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
        removed?;
    }
    Ok(ExitCode::SUCCESS)
}

/// `lab down` removes what bears the name of a lab.
fn must_not_be_labs(instance: &Instance) -> Result<(), BadName> {
    if instance.is_lab() { Err(BadName::LabsOwn(instance.to_string())) } else { Ok(()) }
}

/// What a person types next, with the name under which their shell finds this program.
fn things_to_try() -> String {
    let on_path = std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|directory| directory.join("netguard").is_file())
    });
    let here = std::env::current_dir().unwrap_or_default();
    let program = match std::env::current_exe() {
        Ok(program) if !on_path => program.strip_prefix(here).unwrap_or(&program).to_path_buf(),
        _ => "netguard".into(),
    };
    let lines = [
        "lab exec slot1 -- dig github.com @8.8.8.8",
        "lab exec slot1 -- dig evil.example",
        "lab exec slot1 -- ping -c 1 10.2.0.2",
        "lab exec slot1 -- kdig +tls @1.1.1.1 github.com",
        "status",
    ];
    let lines = lines.map(|line| format!("\n  {} {line}", program.display()));
    format!("the lab is up; in another terminal try{}", lines.concat())
}

fn guard(config: Config, instance: &Instance, args: &RunArgs) -> anyhow::Result<()> {
    daemon::give_up_privileges(instance)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    // The foreground lab goes with whoever has started it.
    let ends_with_terminal = args.config.is_none() && args.lab.is_none();
    let options = daemon::Options {
        format: args.log,
        tc: args.tc,
        ends_with_terminal,
        outside_worker: args.await_worker,
    };
    runtime.block_on(daemon::run(config, instance, options))?;
    Ok(())
}

fn check(file: Option<&Path>, kernel: bool) -> anyhow::Result<ExitCode> {
    if let Some(file) = file {
        check_file(file)?;
    }
    if kernel {
        check_kernel()?;
    }
    Ok(ExitCode::SUCCESS)
}

fn check_kernel() -> anyhow::Result<()> {
    let programs = datapath::verify()?;
    let (kernel, tc) = (datapath::kernel_release(), Tc::of_kernel().name());
    print(&format!("kernel {kernel}: good: takes every program, and keeps TC programs by {tc}"))?;
    print(&format!("{:<16} {:<16} {:>9}", "program", "tag", "verified"))?;
    for program in programs {
        let verified = program.verified_instructions.map_or("-".to_owned(), |it| it.to_string());
        print(&format!("{:<16} {:<16} {verified:>9}", program.name, program.tag))?;
    }
    Ok(())
}

fn check_file(file: &Path) -> anyhow::Result<()> {
    let policy = Config::read(file)?.policy;
    print(&format!(
        "{}: good: {} slots, {} upstreams, {} names allowed",
        file.display(),
        policy.slots.len(),
        policy.dns.upstreams.len(),
        policy.dns.names_max(),
    ))
}

fn policy(file: &Path, matrix: bool, json: bool) -> anyhow::Result<ExitCode> {
    let policy = Config::read(file)?.policy;
    let text = match (matrix, json) {
        (true, false) => Matrix::new(&policy).text(),
        (true, true) => listing::matrix_json(&Matrix::new(&policy)).to_string(),
        (false, false) => listing::slots_text(&policy),
        (false, true) => listing::slots_json(&policy).to_string(),
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
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

fn lab(args: &LabArgs) -> anyhow::Result<ExitCode> {
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

/// Reports an error and says how the process ends.
pub fn fail(error: &anyhow::Error) -> ExitCode {
    tell(&format!("netguard: {error:#}"));
    ExitCode::from(exit_code(error))
}

/// By the first cause that says more than "failed".
fn exit_code(error: &anyhow::Error) -> u8 {
    const FAILED: u8 = 1;
    const BAD_USAGE: u8 = 2;
    const NOT_PERMITTED: u8 = 4;
    for cause in error.chain() {
        if cause.is::<Problems>()
            || cause.is::<BadName>()
            || cause.is::<NoSlot>()
            || cause.is::<BadTo>()
        {
            return BAD_USAGE;
        }
        if cause.is::<state::OtherSlot>() {
            return BAD_USAGE;
        }
        if let Some(control::Error::Refused { is_bad_order: true, .. }) = cause.downcast_ref() {
            return BAD_USAGE;
        }
        match cause.downcast_ref() {
            Some(explained::Error::Datapath(datapath::Error::Permission)) => return NOT_PERMITTED,
            Some(error) if error.is_bad_question() => return BAD_USAGE,
            _ => {} // the others are failures
        }
        match cause.downcast_ref() {
            Some(
                verified::Error::NoSlot(_) | verified::Error::Orders(daemon::Error::Config(_)),
            ) => {
                return BAD_USAGE;
            }
            Some(verified::Error::Datapath(datapath::Error::Permission)) => return NOT_PERMITTED,
            _ => {} // the others are failures
        }
        match cause.downcast_ref() {
            Some(doctored::Error::Orders(daemon::Error::Config(_))) => return BAD_USAGE,
            Some(doctored::Error::Datapath(datapath::Error::Permission)) => return NOT_PERMITTED,
            _ => {} // the others are failures
        }
        match cause.downcast_ref() {
            Some(daemon::Error::Config(_)) => return BAD_USAGE,
            Some(daemon::Error::Datapath(datapath::Error::Permission)) => return NOT_PERMITTED,
            _ => {} // the others are failures, or their causes say more
        }
        match cause.downcast_ref() {
            Some(lab::Error::NoHost { .. } | lab::Error::Name(_)) => return BAD_USAGE,
            Some(lab::Error::Permission | lab::Error::Datapath(datapath::Error::Permission)) => {
                return NOT_PERMITTED;
            }
            _ => {} // the others are failures
        }
        match cause.downcast_ref() {
            Some(datapath::Error::Permission) => return NOT_PERMITTED,
            // The verifier's refusal ends in EACCES, which is no want of rights.
            Some(datapath::Error::Program { .. } | datapath::Error::Load(_)) => return FAILED,
            _ => {} // the others are failures, or their causes say more
        }
        let io = cause.downcast_ref::<std::io::Error>();
        if io.is_some_and(|error| error.kind() == ErrorKind::PermissionDenied) {
            return NOT_PERMITTED;
        }
    }
    FAILED
}
