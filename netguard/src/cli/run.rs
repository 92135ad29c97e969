//! `netguard run`: the daemon on a host, or in the lab.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use netguard::{
    config::Config,
    daemon,
    datapath::Tc,
    instance::{BadName, Instance},
    journal::Format,
    lab::{self, Lab, PortKind},
};

use super::tell;

#[derive(Args)]
pub(super) struct RunArgs {
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

pub(super) fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
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
pub(super) fn must_not_be_labs(instance: &Instance) -> Result<(), BadName> {
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
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
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
