//! Network namespaces by the name that the kernel prints for them (`net:[4026531840]`, namespaces(7)): a
//! filter, unlike a pinned link, can be seen and removed only from within its own.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
};

use nix::sched::{CloneFlags, setns};

const OWN: &str = "/proc/thread-self/ns/net";

/// The name of the calling thread's namespace.
pub(super) fn own() -> io::Result<String> {
    Ok(fs::read_link(OWN)?.to_string_lossy().into_owned())
}

/// Puts the calling thread, and those that it starts, into the namespace of a process.
///
/// # Errors
///
/// The process is gone, or this one may not enter.
pub fn enter_of_process(pid: u32) -> io::Result<()> {
    let namespace = File::open(format!("/proc/{pid}/ns/net"))?;
    Ok(setns(namespace, CloneFlags::CLONE_NEWNET)?)
}

/// Does work within the namespace of that name, on a thread of its own if it is not this thread's. `None` if it is
/// gone: no process is in it, and none of `ip netns` is it.
pub(super) fn within<T: Send>(
    name: &str,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<Option<T>> {
    if own()? == name {
        return work().map(Some);
    }
    let Some(path) = find(name)? else { return Ok(None) };
    let namespace = File::open(path)?;
    let there = || {
        setns(&namespace, CloneFlags::CLONE_NEWNET)?;
        work().map(Some)
    };
    std::thread::scope(|scope| match scope.spawn(there).join() {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

fn find(name: &str) -> io::Result<Option<PathBuf>> {
    let device = fs::metadata(OWN)?.dev();
    let is_it = |path: &PathBuf| {
        let found = fs::metadata(path);
        found.is_ok_and(|it| it.dev() == device && format!("net:[{}]", it.ino()) == name)
    };
    let named = fs::read_dir("/run/netns").into_iter().flatten().flatten().map(|it| it.path());
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    Ok(named.chain(processes.map(|it| it.path().join("ns/net"))).find(is_it))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_that_is_gone_is_no_error() {
        assert_eq!(within(&own().unwrap(), || Ok(1)).unwrap(), Some(1));
        // Numbers of namespaces begin far above (PROC_DYNAMIC_FIRST in fs/proc/generic.c).
        assert_eq!(within("net:[1]", || Ok(1)).unwrap(), None);
        assert!(within(&own().unwrap(), || Err::<(), _>(io::ErrorKind::Other.into())).is_err());
    }
}
