//! Who the process is: an unprivileged user without a single capability.

use caps::CapSet;
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

fn clear(set: CapSet) -> Result<(), Error> {
    caps::clear(None, set).map_err(|source| Error::Capabilities { set, source })
}
