//! Named network namespaces, as iproute2 keeps them under `/run/netns`.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};

use super::Error;

const DIRECTORY: &str = "/run/netns";

pub(super) fn path(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

/// Puts the calling thread, and the threads and processes that it starts, into a namespace.
///
/// # Errors
///
/// There is no such namespace, or the process may not enter it.
pub fn enter(name: &str) -> Result<(), Error> {
    let action = format!("enter the network namespace {name}");
    let file = File::open(path(name)).map_err(Error::system(action.clone()))?;
    setns(file, CloneFlags::CLONE_NEWNET)
        .map_err(io::Error::from)
        .map_err(Error::privileged(action))
}

/// Runs `work` on a thread inside a namespace.
pub(super) fn within<T: Send>(
    name: &str,
    work: impl FnOnce() -> Result<T, Error> + Send,
) -> Result<T, Error> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            enter(name)?;
            work()
        });
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Tries whether this process may make namespaces, on a thread that ends with its own.
pub(super) fn may_make() -> Result<(), Error> {
    let tried = std::thread::scope(|scope| {
        scope.spawn(|| unshare(CloneFlags::CLONE_NEWNET)).join().unwrap_or(Ok(()))
    });
    tried.map_err(io::Error::from).map_err(Error::privileged("make a network namespace"))
}

/// Removes a namespace; the interfaces in it go with its last process.
pub(super) fn remove(name: &str) -> Result<(), Error> {
    let path = path(name);
    // A crash may have left the file without its mount.
    let _ = umount2(&path, MntFlags::MNT_DETACH);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::system(format!("remove the network namespace {name}"))(error))
        }
        _ => Ok(()),
    }
}

/// Shows this process and its children another `/etc/resolv.conf`; nobody else sees it.
pub(super) fn use_resolv_conf(file: &Path) -> Result<(), Error> {
    const RESOLV_CONF: &str = "/etc/resolv.conf";
    if !file.exists() || !Path::new(RESOLV_CONF).exists() {
        return Ok(()); // a host without a resolver of its own
    }
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    unshare(CloneFlags::CLONE_NEWNS)
        .and_then(|()| mount(None::<&str>, "/", None::<&str>, private, None::<&str>))
        .and_then(|()| mount(Some(file), RESOLV_CONF, None::<&str>, MsFlags::MS_BIND, None::<&str>))
        .map_err(io::Error::from)
        .map_err(Error::system("give the guest its resolv.conf"))
}
