//! `netguard doctor`: what around netguard weakens or breaks it, and what to do. Facts are gathered in one place, here; what they
//! mean, a file for each concern decides from them alone. It reads and changes nothing. What netguard itself holds in the kernel
//! is `verify`'s business, and not repeated.
//!
//! [`watch`] is the other half: packets of slots that somebody else drops, as it happens.

mod addresses;
mod btf;
mod check;
mod firewalls;
mod kernel;
mod programs;
mod report;
mod resolver;
mod ruleset;
#[cfg(test)]
mod samples;
mod settings;
pub mod watch;
mod wires;

use std::{collections::BTreeSet, path::Path};

pub use check::Check;
pub use kernel::Machine;

use crate::{
    config::Config,
    daemon,
    datapath::{self, InForce, PinDirectory},
    firewall,
    instance::Instance,
    links::{self, Details, Host, Route, Table},
    policy::{Facts, Policy},
};
use firewalls::{Firewall, Names};
use programs::{Kind, Looked};
use ruleset::Ruleset;
use settings::Place;

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Something does not work, or is open.
    Broken,
    /// Something is weaker than it need be.
    Weak,
    /// Worth knowing.
    Note,
}

impl Severity {
    /// The word in output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Broken => "broken",
            Self::Weak => "weak",
            Self::Note => "note",
        }
    }
}

/// Something that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// By which check.
    pub check: Check,
    /// How bad it is.
    pub severity: Severity,
    /// The very thing.
    pub what: String,
    /// Why it matters.
    pub why: String,
    /// What to do.
    pub fix: String,
}

/// All that was found, the worst first.
#[derive(Clone, Debug)]
pub struct Diagnosis {
    instance: Option<Instance>,
    config: String,
    kernel: String,
    findings: Vec<Finding>,
}

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel does not answer.
    #[error(transparent)]
    Datapath(#[from] datapath::Error),
    /// The host does not tell of its interfaces and routes.
    #[error(transparent)]
    Links(#[from] links::Error),
    /// What was ordered at run time does not fit the configuration.
    #[error(transparent)]
    Orders(#[from] daemon::Error),
    /// The kernel does not describe itself.
    #[error(
        "/sys/kernel/btf/vmlinux does not tell of {0}: --watch needs a kernel with CONFIG_DEBUG_INFO_BTF"
    )]
    Btf(&'static str),
    /// A wait, a signal or the output failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Examines the host of a configuration, in the network namespace of this thread. With an instance, its orders and programs
/// count too.
///
/// # Errors
///
/// The kernel does not answer.
pub fn examine(
    instance: Option<&Instance>,
    config: &Config,
    machine: &Machine,
) -> Result<Diagnosis, Error> {
    let policy = policy(instance, config)?;
    let facts = Host::read()?.facts();
    let (links, routes) = (Details::all()?, Route::all()?);
    let firewall = firewall();
    let legacy = firewalls::legacy_tables();
    let mut findings = kernel::check(machine);
    findings.extend(addresses::check(
        &policy,
        &facts,
        &routes,
        &addresses::networks(Path::new("/")),
    ));
    findings.extend(of_settings(&policy, &facts, &routes, &firewall, &legacy));
    findings.extend(of_programs(instance, &policy, &links)?);
    let names = Names::new(&policy, ports(&facts, &policy));
    findings.extend(firewalls::check(&names, &firewall, &legacy));
    findings.extend(resolver::check(&policy, &resolver::listeners(policy.dns.port)));
    findings.extend(wires::check(&policy, &links));
    findings.sort_by_key(|finding| (finding.severity, finding.check));
    Ok(Diagnosis {
        instance: instance.cloned(),
        config: config.path().display().to_string(),
        kernel: datapath::kernel_release(),
        findings,
    })
}

fn policy(instance: Option<&Instance>, config: &Config) -> Result<Policy, Error> {
    Ok(match instance {
        Some(instance) => daemon::with_orders(config, instance)?,
        None => config.policy.clone(),
    })
}

/// What the host's firewall has besides netguard's own tables.
fn firewall() -> Firewall {
    match firewall::ruleset() {
        Ok(answer) => Firewall::Known(Ruleset::read(&answer, &firewall::is_own)),
        Err(error) => Firewall::Unknown(error.to_string()),
    }
}

fn of_settings(
    policy: &Policy,
    facts: &Facts,
    routes: &[Route],
    firewall: &Firewall,
    legacy: &[String],
) -> Vec<Finding> {
    let is_way_out = |route: &&Route| {
        route.net.prefix_len() == 0 && route.table == Table::Main && route.interface.is_some()
    };
    let ways = |v4: bool| {
        let ways = routes.iter().filter(is_way_out).filter(|it| it.net.addr().is_ipv4() == v4);
        ways.filter_map(|it| it.interface).collect::<BTreeSet<_>>().len()
    };
    let place = Place {
        ways_out: ways(true),
        has_way6: ways(false) > 0,
        has_rules: !legacy.is_empty()
            || matches!(firewall, Firewall::Known(ruleset) if !ruleset.rules.is_empty()),
        ..Place::new(policy, facts)
    };
    settings::check(&place, &setting)
}

/// The host's settings that will surprise whoever reads the drops, each in a sentence with what to do: what a daemon tells when
/// it starts.
#[must_use]
pub fn surprises(policy: &Policy) -> Vec<String> {
    // Of no interface: they come and go.
    let no_interfaces = Facts::default();
    let found = settings::check(&Place::new(policy, &no_interfaces), &setting);
    let tells = [Check::Forwarding, Check::BridgeNetfilter];
    let told = found.into_iter().filter(|finding| tells.contains(&finding.check));
    told.map(|Finding { what, why, fix, .. }| format!("{what}: {why} ({fix})")).collect()
}

/// The value of a setting by its path below `/proc/sys/net`.
fn setting(key: &str) -> Option<String> {
    let value = std::fs::read_to_string(format!("/proc/sys/net/{key}")).ok()?;
    Some(value.trim().to_owned())
}

/// The slots' ports that exist, each with its bridge.
fn ports<'a>(facts: &'a Facts, policy: &Policy) -> Vec<(&'a str, &'a str)> {
    let bridges: BTreeSet<_> = policy.slots.iter().map(|slot| slot.bridge.as_str()).collect();
    let bridges = bridges.into_iter().filter_map(|bridge| facts.interface(bridge));
    let ports = bridges.flat_map(|bridge| facts.ports_of(bridge.index).map(move |it| (bridge, it)));
    ports.map(|(bridge, port)| (bridge.name.as_str(), port.name.as_str())).collect()
}

fn of_programs(
    instance: Option<&Instance>,
    policy: &Policy,
    links: &[Details],
) -> Result<Vec<Finding>, Error> {
    let mut own = BTreeSet::new();
    if let Some(instance) = instance {
        let programs = InForce::open(&PinDirectory::of(instance))?.programs()?;
        own.extend(programs.into_iter().map(|program| program.id));
    }
    let bridges: BTreeSet<_> = policy.slots.iter().map(|slot| slot.bridge.as_str()).collect();
    let numbers = links.iter().filter(|link| bridges.contains(link.name.as_str()));
    let numbers: BTreeSet<_> = numbers.map(|link| link.index).collect();
    let mut looked = Vec::new();
    for link in links {
        let kind = if numbers.contains(&link.index) {
            Kind::Bridge
        } else if link.controller.is_some_and(|bridge| numbers.contains(&bridge)) {
            Kind::Port
        } else if policy.host.uplinks.contains(&link.name) {
            Kind::Uplink
        } else {
            continue;
        };
        looked.push(Looked { link, kind, others: datapath::others_on(link.index, &own)? });
    }
    Ok(programs::check(&looked, &own, &datapath::program_name))
}

/// Some names, and how many more there are.
fn list(names: &[&str]) -> String {
    const SHOWN: usize = 5;
    match names.len().checked_sub(SHOWN) {
        Some(more @ 1..) => format!("{} and {more} more", names[..SHOWN].join(", ")),
        _ => names.join(", "),
    }
}
