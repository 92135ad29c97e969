//! Who the process is: an unprivileged user without a single capability.

use caps::{CapSet, Capability, CapsHashSet};
use nix::unistd::{Gid, Uid, getgroups, getresgid, getresuid, setgroups, setresgid, setresuid};

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
    if is_already(user, group).map_err(refused)? {
        return Ok(());
    }
    setgroups(&[]).map_err(refused)?;
    setresgid(group, group, group).map_err(refused)?;
    setresuid(user, user, user).map_err(refused)
}

/// True if whoever has started this process has left it nobody else to be.
fn is_already(user: Uid, group: Gid) -> nix::Result<bool> {
    let (users, groups) = (getresuid()?, getresgid()?);
    Ok([users.real, users.effective, users.saved] == [user; 3]
        && [groups.real, groups.effective, groups.saved] == [group; 3]
        && getgroups()?.iter().all(|it| *it == group))
}

/// Empties every other set of capabilities: of what a process may do or allow itself nothing is left.
///
/// # Errors
///
/// The kernel refuses.
pub fn drop_capabilities() -> Result<(), Error> {
    for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        // Who has none may be refused the very question.
        if !held(set)?.is_empty() {
            clear(set)?;
        }
    }
    Ok(())
}

/// Keeps these capabilities, of those that this thread has, and forgets all others: of itself and of the threads and programs
/// that it starts, which keep of those that this thread hands on (ambient) only `handed_on`. Forgetting is everybody's right, but
/// for the bounding set, which stays as it is without CAP_SETPCAP.
///
/// # Errors
///
/// The kernel refuses.
pub fn keep_capabilities(kept: &[Capability], handed_on: &[Capability]) -> Result<(), Error> {
    let [kept, handed_on] = [kept, handed_on].map(|them| CapsHashSet::from_iter(them.to_owned()));
    if held(CapSet::Effective)?.contains(&Capability::CAP_SETPCAP) {
        for capability in held(CapSet::Bounding)?.difference(&kept) {
            let set = CapSet::Bounding;
            caps::drop(None, set, *capability)
                .map_err(|source| Error::Capabilities { set, source })?;
        }
    }
    for (set, left) in [
        (CapSet::Ambient, &handed_on),
        (CapSet::Inheritable, &handed_on),
        (CapSet::Effective, &kept),
        (CapSet::Permitted, &kept),
    ] {
        let rest = held(set)?.intersection(left).copied().collect();
        caps::set(None, set, &rest).map_err(|source| Error::Capabilities { set, source })?;
    }
    Ok(())
}

fn held(set: CapSet) -> Result<CapsHashSet, Error> {
    caps::read(None, set).map_err(|source| Error::Capabilities { set, source })
}

fn clear(set: CapSet) -> Result<(), Error> {
    caps::clear(None, set).map_err(|source| Error::Capabilities { set, source })
}
