//! Who the process is: an unprivileged user without a single capability.

use caps::{CapSet, Capability, CapsHashSet};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use super::Error;

/// Becomes that user, with that group and no other, for good. The bounding set goes first: afterwards nobody is there
/// who may empty it.
///
/// # Errors
///
/// It is root, or the kernel refuses.
pub fn become_user(uid: u32, gid: u32) -> Result<(), Error> {
    if uid == 0 || gid == 0 {
        return Err(Error::Root);
    }
    clear(CapSet::Bounding)?;
    let refused = |source| Error::Identity { uid, gid, source };
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(gid));
    setgroups(&[]).map_err(refused)?;
    setresgid(group, group, group).map_err(refused)?;
    setresuid(user, user, user).map_err(refused)
}

/// Empties every other set of capabilities: of what a process may do or allow itself nothing is left.
///
/// # Errors
///
/// The kernel refuses.
pub fn drop_capabilities() -> Result<(), Error> {
    for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        clear(set)?;
    }
    Ok(())
}

/// Keeps these capabilities, of those that this thread has, and forgets all others: of itself and of the threads and programs
/// that it starts. Forgetting is everybody's right, but for the bounding set, which stays as it is without CAP_SETPCAP.
///
/// # Errors
///
/// The kernel refuses.
pub fn keep_capabilities(kept: &[Capability]) -> Result<(), Error> {
    let kept: CapsHashSet = kept.iter().copied().collect();
    let held = |set| caps::read(None, set).map_err(|source| Error::Capabilities { set, source });
    if held(CapSet::Effective)?.contains(&Capability::CAP_SETPCAP) {
        for capability in held(CapSet::Bounding)?.difference(&kept) {
            let set = CapSet::Bounding;
            caps::drop(None, set, *capability)
                .map_err(|source| Error::Capabilities { set, source })?;
        }
    }
    for set in [CapSet::Ambient, CapSet::Inheritable] {
        clear(set)?;
    }
    for set in [CapSet::Effective, CapSet::Permitted] {
        let rest = held(set)?.intersection(&kept).copied().collect();
        caps::set(None, set, &rest).map_err(|source| Error::Capabilities { set, source })?;
    }
    Ok(())
}

fn clear(set: CapSet) -> Result<(), Error> {
    caps::clear(None, set).map_err(|source| Error::Capabilities { set, source })
}
