//! The early step: closes the bridges of a configuration before anything could use them, whatever becomes of the daemon
//! later. It attaches the daemon's own programs with every slot in lockdown, pins them as the daemon would, and ends.

use super::{Error, host};
use crate::{
    config::Config,
    datapath::{self, Datapath, Failed, LinkRow, PinDirectory},
    instance::{Instance, LockError},
    links::{self, Host},
    policy::{Facts, Plan, Policy},
};

/// What [`guard`] found or did.
#[derive(Debug, PartialEq, Eq)]
pub enum Guarded {
    /// A daemon runs as this instance: it guards, so nothing was changed.
    Running,
    /// What an earlier daemon has pinned enforces, so nothing was changed.
    Pinned {
        /// Bridges that are there and that it does not guard.
        open: Vec<String>,
    },
    /// Every slot is closed until a daemon takes over.
    Closed {
        /// Links that netguard has made.
        made: Vec<String>,
        /// Interfaces that are closed from now on.
        guarded: Vec<String>,
        /// Bridges that are not there, and ports that are not on theirs.
        absent: Vec<String>,
        /// Interfaces that could not be guarded.
        failed: Vec<Failed>,
    },
}

/// Closes every slot of the configuration on the bridges that are there. Leaves what is guarded already as it is.
///
/// # Errors
///
/// The configuration does not fit the host, or the kernel refuses the programs: nothing has changed then.
pub fn guard(config: Config, instance: &Instance) -> Result<Guarded, Error> {
    datapath::check_kernel()?;
    let _lock = match instance.lock() {
        Err(LockError::Taken(_)) => return Ok(Guarded::Running),
        lock => lock?,
    };
    let found = Host::read()?;
    let pins = PinDirectory::of(instance);
    let held = datapath::held(&pins)?;
    if !held.is_empty() {
        let open = open_bridges(&config.policy, &found.facts(), &held);
        return Ok(Guarded::Pinned { open });
    }
    let made = host::make_links(&config.policy, instance, &found)?;
    let closed = close(config.waiting_for_bridges(), instance, &made);
    if closed.is_err() {
        // The first error is the one to tell.
        let _ = links::take_back(&made);
    }
    closed
}

fn close(config: Config, instance: &Instance, made: &links::Made) -> Result<Guarded, Error> {
    let facts = Host::read()?.facts();
    host::check(&config, &facts)?;
    datapath::ensure_bpffs(instance)?;
    let mut policy = config.policy;
    for slot in &mut policy.slots {
        slot.lockdown = true;
    }
    let plan = Plan::compile(&policy, &facts);
    // Nothing leaves, so uplinks need no programs.
    let uplinks: Vec<_> = plan.uplinks.keys().copied().collect();
    let plan = plan.without_fast(uplinks);
    let mut datapath = Datapath::load(PinDirectory::of(instance), &plan)?;
    let changes = datapath.apply(plan)?;
    if changes.guarded.is_empty() {
        datapath.roll_back(); // nothing is there to close, so nothing is left
    }
    let absent = host::absent(&policy, &facts).into_iter().map(str::to_owned).collect();
    Ok(Guarded::Closed {
        made: made.created.clone(),
        guarded: changes.guarded,
        absent,
        failed: changes.failed,
    })
}

/// The bridges that are there and that no program is on.
fn open_bridges(policy: &Policy, facts: &Facts, held: &[LinkRow]) -> Vec<String> {
    let is_open = |name: &&String| {
        let holds = |index| held.iter().any(|it| it.ifindex == index && it.interface == **name);
        facts.interface(name).is_some_and(|bridge| !holds(bridge.index))
    };
    let mut open: Vec<_> =
        policy.slots.iter().map(|slot| &slot.bridge).filter(is_open).cloned().collect();
    open.dedup();
    open
}
