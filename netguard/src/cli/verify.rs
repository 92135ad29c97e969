//! `netguard verify`: whether what is loaded keeps to the configuration.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::Args;
use netguard::{config::Config, control, instance::Instance, lab::Lab, verify};

use super::{
    HOLE,
    loaded::{enter, the_pinned_instance},
    orders::wait_for,
    print,
};

/// Where the package's units have it.
pub(super) const CONFIG: &str = "/etc/netguard/netguard.toml";

#[derive(Args)]
pub(super) struct VerifyArgs {
    /// Only this slot
    slot: Option<String>,
    /// One JSON object
    #[arg(long)]
    json: bool,
    /// Write a report for auditors, one page of HTML; the programs' instructions are compared too
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// The configuration that counts [default: the daemon's; without a daemon /etc/netguard/netguard.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The instance [default: the one that is loaded]
    #[arg(long)]
    instance: Option<Instance>,
}

pub(super) fn verify(args: &VerifyArgs) -> anyhow::Result<ExitCode> {
    let instance = the_pinned_instance(args.instance.clone())?;
    let config = config(&instance, args.config.as_deref())?;
    enter(&instance)?;
    let verified = verify::verify(&instance, &config, args.slot.as_deref(), args.report.is_some())?;
    if let Some(file) = &args.report {
        std::fs::write(file, verified.html())
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    print(&if args.json { verified.json().to_string() } else { verified.text() })?;
    Ok(if verified.is_good() { ExitCode::SUCCESS } else { ExitCode::from(HOLE) })
}

/// The configuration that should be in force.
pub(super) fn config(instance: &Instance, named: Option<&Path>) -> anyhow::Result<Config> {
    if let Some(file) = named {
        return Ok(Config::read(file)?);
    }
    if let Some(lab) = instance.lab_name() {
        return Ok(Lab::new(lab)?.config().clone());
    }
    if instance.running_pid().is_some() {
        let status = wait_for(control::status(instance))?;
        if let Some(file) = status["daemon"]["config"].as_str() {
            return Ok(Config::read(Path::new(file))?);
        }
    }
    Ok(Config::read(Path::new(CONFIG))?)
}
