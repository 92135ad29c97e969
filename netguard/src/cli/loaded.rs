//! Subcommands about an instance that is loaded: what it holds, what is denied at run time, and its end.

use std::{process::ExitCode, time::Duration};

use netguard::{
    control, datapath::PinDirectory, firewall, instance::Instance, links, pinned::Pinned,
    status::Status,
};
use netguard_dns::DomainName;

use super::{print, tell};

/// `netguard status`
pub(super) fn status(json: bool, instance: Option<Instance>) -> anyhow::Result<ExitCode> {
    let instances = instance.map_or_else(PinDirectory::instances, |name| vec![name]);
    if instances.is_empty() {
        anyhow::bail!("nothing is loaded; start with `netguard run` or `netguard lab up`");
    }
    let only = instances.len() == 1;
    let mut hidden = false;
    for (index, instance) in instances.iter().enumerate() {
        let status = match Status::read(instance) {
            Err(error) if !only => {
                // One that is just starting or half removed must not hide the others.
                tell(&format!("netguard: instance {instance}: {:#}", anyhow::Error::from(error)));
                hidden = true;
                continue;
            }
            status => status?,
        };
        if json {
            print(&status.json().to_string())?;
        } else {
            if index > 0 {
                print("")?;
            }
            print(&status.text())?;
        }
    }
    Ok(if hidden { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// `netguard unload`
pub(super) fn unload(instance: &Instance) -> anyhow::Result<ExitCode> {
    let pins = PinDirectory::of(instance);
    anyhow::ensure!(pins.path().exists(), "no instance {instance} is loaded");
    if let Some(pid) = instance.running_pid() {
        anyhow::bail!("netguard runs as instance {instance} (pid {pid}); stop it first");
    }
    // The pins go last: as long as something is left, so is the instance, and unload can be tried again.
    match firewall::remove(&firewall::Table::name_of(instance)) {
        Err(firewall::Error::Missing) | Ok(_) => {} // without nft there is no table of ours
        Err(error) => return Err(error.into()),
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let removed = runtime.block_on(links::remove_owned(instance.as_str()))?;
    pins.remove()?;
    print(&format!("unloaded {instance}: nothing is enforced"))?;
    if !removed.is_empty() {
        print(&format!("removed {}", removed.join(" ")))?;
    }
    Ok(ExitCode::SUCCESS)
}

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
    let removed = wait_for(control::deny(&instance, slot, name, time))?;
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
    wait_for(control::allow(&instance, slot, name))?;
    print(&format!("{name} is no longer denied to {slot}"))?;
    Ok(ExitCode::SUCCESS)
}

/// `netguard reload`
pub(super) fn reload(confirm: Option<u64>, instance: Option<Instance>) -> anyhow::Result<ExitCode> {
    let instance = the_instance(instance)?;
    let time = confirm.map(Duration::from_secs);
    let changes = wait_for(control::reload(&instance, time))?;
    print(changes["text"].as_str().unwrap_or_default())?;
    if let Some(seconds) = confirm {
        print(&format!("in force for {seconds} s; keep it with `netguard confirm`"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// `netguard confirm`
pub(super) fn confirm(instance: Option<Instance>) -> anyhow::Result<ExitCode> {
    wait_for(control::confirm(&the_instance(instance)?))?;
    print("the latest reload stays in force")?;
    Ok(ExitCode::SUCCESS)
}

/// `netguard diff`
pub(super) fn diff(json: bool, instance: Option<Instance>) -> anyhow::Result<ExitCode> {
    let changes = wait_for(control::diff(&the_instance(instance)?))?;
    if json {
        print(&changes.to_string())?;
    } else {
        print(changes["text"].as_str().unwrap_or_default())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn wait_for<T>(answer: impl Future<Output = Result<T, control::Error>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(answer)?)
}
