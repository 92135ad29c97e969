//! Subcommands about an instance that is loaded: what it holds, and its end.

use std::{process::ExitCode, time::Duration};

use anyhow::Context as _;
use netguard::{
    control,
    datapath::{self, PinDirectory},
    firewall,
    instance::Instance,
    lab::{self, Lab},
    links,
    pinned::Pinned,
    status::{self, Status},
};

use super::{orders::wait_for, print, tell};

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
            if status.daemon_pid().is_some() {
                print(&of_daemon(instance))?;
            }
        }
    }
    Ok(if hidden { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What only the daemon knows, or that it does not say.
fn of_daemon(instance: &Instance) -> String {
    /// A daemon that hangs must not keep the kernel's counters from whoever wants to see them.
    const PATIENCE: Duration = Duration::from_secs(3);
    let asked = wait_for(async {
        let late = |_| Err(control::Error::late(instance));
        tokio::time::timeout(PATIENCE, control::status(instance)).await.unwrap_or_else(late)
    });
    match asked {
        Ok(status) => format!("\n{}", status::daemon_text(&status["daemon"])),
        Err(error) => format!("\nthe daemon does not say how it is: {error:#}"),
    }
}

/// `netguard unload`
pub(super) fn unload(instance: &Instance) -> anyhow::Result<ExitCode> {
    let pins = PinDirectory::of(instance);
    anyhow::ensure!(pins.has_pins(), "no instance {instance} is loaded");
    if let Some(pid) = instance.running_pid() {
        anyhow::bail!("netguard runs as instance {instance} (pid {pid}); stop it first");
    }
    // The pins go last: as long as something is left, so is the instance, and unload can be tried again.
    match firewall::remove(&firewall::Table::name_of(instance)) {
        Err(firewall::Error::Missing) | Ok(_) => {} // without nft there is no table of ours
        Err(error) => return Err(error.into()),
    }
    let removed = links::remove_owned(instance.as_str())?;
    pins.remove()?;
    if !instance.is_lab() {
        instance.clean_up();
    }
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
    let mut pinned = Pinned::read(&the_pinned_instance(instance)?)?;
    if let Some(slot) = slot {
        pinned = pinned.of_slot(slot)?;
    }
    print(&if json { pinned.json().to_string() } else { pinned.text() })?;
    Ok(ExitCode::SUCCESS)
}

/// Puts this process into the network namespace that an instance guards: a lab's hypervisor, or that of the daemon.
pub(super) fn enter(instance: &Instance) -> anyhow::Result<()> {
    if let Some(name) = instance.lab_name() {
        let lab = Lab::new(name)?;
        lab::enter(&lab.namespace("hv"))?;
    } else if let Some(pid) = instance.running_pid() {
        datapath::enter_of_process(pid).context("cannot enter the daemon's network namespace")?;
    }
    Ok(())
}

/// The instance that is meant, of those that have something in the kernel.
pub(super) fn the_pinned_instance(named: Option<Instance>) -> anyhow::Result<Instance> {
    let has_pins = |instance: &Instance| PinDirectory::of(instance).has_pins();
    the_instance(named, has_pins, PinDirectory::instances)
}

/// The instance that is meant: the one that is named, or the only one; of those that are loaded.
pub(super) fn the_instance(
    named: Option<Instance>,
    is_loaded: impl FnOnce(&Instance) -> bool,
    all: impl FnOnce() -> Vec<Instance>,
) -> anyhow::Result<Instance> {
    if let Some(instance) = named {
        anyhow::ensure!(is_loaded(&instance), "no instance {instance} is loaded");
        return Ok(instance);
    }
    let mut instances = all();
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
