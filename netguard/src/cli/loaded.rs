//! Subcommands about an instance that is loaded: its pins, and what is denied at run time.

use std::{process::ExitCode, time::Duration};

use netguard::{control, datapath::PinDirectory, instance::Instance, pinned::Pinned};
use netguard_dns::DomainName;

use super::print;

/// `netguard pins`
pub(super) fn pins(
    slot: Option<&str>,
    json: bool,
    instance: Option<Instance>,
) -> anyhow::Result<ExitCode> {
    let mut pinned = Pinned::read(&the_instance(instance)?)?;
    if let Some(slot) = slot {
        pinned = pinned.of_slot(slot)?;
    }
    print(&if json { pinned.json().to_string() } else { pinned.text() })?;
    Ok(ExitCode::SUCCESS)
}

/// The instance that is meant: the one that is named, or the only one.
fn the_instance(named: Option<Instance>) -> anyhow::Result<Instance> {
    if let Some(instance) = named {
        let is_loaded = PinDirectory::of(&instance).path().exists();
        anyhow::ensure!(is_loaded, "no instance {instance} is loaded");
        return Ok(instance);
    }
    let mut instances = PinDirectory::instances();
    match (instances.pop(), instances.as_slice()) {
        (None, _) => {
            anyhow::bail!("nothing is loaded; start with `netguard run` or `netguard lab up`")
        }
        (Some(one), []) => Ok(one),
        (Some(last), others) => {
            let names: Vec<_> = others.iter().chain([&last]).map(ToString::to_string).collect();
            anyhow::bail!(
                "several instances are loaded; name one with --instance: {}",
                names.join(", ")
            )
        }
    }
}

/// `netguard deny`
pub(super) fn deny(
    slot: &str,
    name: &DomainName,
    time: Option<Duration>,
    instance: Option<Instance>,
) -> anyhow::Result<ExitCode> {
    let instance = the_instance(instance)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let removed = runtime.block_on(control::deny(&instance, slot, name, time))?;
    let pins = if removed == 1 { "pin" } else { "pins" };
    print(&format!("{name} is denied to {slot}: {removed} {pins} removed"))?;
    Ok(ExitCode::SUCCESS)
}

/// `netguard allow`
pub(super) fn allow(
    slot: &str,
    name: &DomainName,
    instance: Option<Instance>,
) -> anyhow::Result<ExitCode> {
    let instance = the_instance(instance)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(control::allow(&instance, slot, name))?;
    print(&format!("{name} is no longer denied to {slot}"))?;
    Ok(ExitCode::SUCCESS)
}
