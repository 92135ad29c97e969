//! What the process can name: Landlock takes away files, TCP ports, abstract Unix sockets and other processes.

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, LandlockStatus, NetPort, PathBeneath, PathFd, Ruleset,
    RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope,
};

use super::{Confinement, Error};

/// Rights of this ABI and older ones are taken away. Newer ones must be looked at first: a right that is new to the list is one
/// that the worker may need.
const KNOWN: ABI = ABI::V7;

/// Leaves what the confinement lists, as far as the kernel can take it away; returns the kernel's ABI, if it has one.
///
/// # Errors
///
/// A path of the list cannot be opened, or the kernel has Landlock and refuses: the process has neither no_new_privs nor
/// CAP_SYS_ADMIN.
pub fn restrict(confinement: &Confinement) -> Result<Option<i32>, Error> {
    let ports = [
        (AccessNet::BindTcp, &confinement.tcp_bind),
        (AccessNet::ConnectTcp, &confinement.tcp_connect),
    ];
    let ports = ports.into_iter().filter_map(|(access, ports)| Some((access, ports.as_ref()?)));
    let mut ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(KNOWN))?
        .scope(Scope::AbstractUnixSocket | Scope::Signal)?;
    for (access, _) in ports.clone() {
        ruleset = ruleset.handle_access(access)?;
    }
    let mut created = ruleset.create()?;
    let reading = AccessFs::ReadFile | AccessFs::ReadDir;
    for path in &confinement.readable {
        created = created.add_rule(PathBeneath::new(PathFd::new(path)?, reading))?;
    }
    for (access, ports) in ports {
        let rules = ports.iter().map(|port| Ok::<_, RulesetError>(NetPort::new(*port, access)));
        created = created.add_rules(rules)?;
    }
    // That is a step of its own.
    let status = created.no_new_privs(false).restrict_self()?;
    Ok(match status.landlock {
        LandlockStatus::Available { effective_abi, kernel_abi }
            if status.ruleset != RulesetStatus::NotEnforced =>
        {
            Some(kernel_abi.unwrap_or(effective_abi as i32))
        }
        _ => None,
    })
}
