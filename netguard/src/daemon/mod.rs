//! The daemon: two processes of one binary. The *monitor* holds what privileges netguard has; it decides what is in force and asks the
//! kernel for it. The *worker* has none; it reads what guests wrote and answers them, and whoever has a control socket.
//!
//! ```text
//! configuration, interfaces ──> monitor ──> kernel
//!                                  │ ▲
//!            policy, host, answers ▼ │ orders
//!        queries, drop records ──> worker ──> replies, pins, journal
//! ```
//!
//! Starting order: everything that can be refused is tried before the first program is attached, so
//! that a failed start changes nothing. Stopping changes nothing either: programs and maps stay
//! pinned and enforce until `netguard unload`.

mod account;
mod asked;
mod carried;
mod channel;
mod child;
mod chronicle;
mod floods;
mod guard;
mod host;
mod listening;
mod meeting;
mod monitor;
mod orders;
mod overlay;
mod records;
mod resolver;
mod state;
mod worker;
mod workers;

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, lchown},
    path::Path,
};

use caps::Capability;
use nix::{
    sys::resource::{Resource, getrlimit, setrlimit},
    unistd::Uid,
};

pub use asked::{Orders, Wanted};
pub use channel::{Answer, CarriedPin, Fault, Order, Refusal, SECONDS_MAX, Said, SlotState};
pub use guard::{Guarded, guard};
pub use overlay::Counted;
pub use records::Weighed;
pub use state::{StateError, carried};
pub use worker::run as work;

use crate::{
    config::{Config, Problems},
    datapath::{self, PinDirectory, Tc},
    firewall,
    instance::{Instance, LockError},
    journal::Format,
    links,
    policy::Policy,
    sandbox,
};
use monitor::Monitor;
use state::StateFile;

/// Why a daemon could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration does not fit the host.
    #[error(transparent)]
    Config(#[from] Problems),
    /// The kernel refused something.
    #[error(transparent)]
    Datapath(#[from] datapath::Error),
    /// The kernel did not tell about interfaces.
    #[error(transparent)]
    Links(#[from] links::Error),
    /// A bridge could not be guarded, so nothing behind it would be closed.
    #[error("cannot guard {bridge}: {reason}")]
    Unguarded {
        /// The bridge.
        bridge: String,
        /// The kernel's answer.
        reason: String,
    },
    /// The host's firewall did not take netguard's table.
    #[error(transparent)]
    Firewall(#[from] firewall::Error),
    /// The instance cannot be taken.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// What was ordered at run time cannot be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// Privileges cannot be given up.
    #[error(transparent)]
    Sandbox(#[from] sandbox::Error),
    /// The worker does not come up, for a reason that it tells.
    #[error("{0}")]
    Worker(String),
    /// A socket, a process, a signal handler or the log failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// How a daemon runs, beside what it guards.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// How log lines look.
    pub format: Format,
    /// How TC programs are kept on interfaces; as the kernel does it best without.
    pub tc: Option<Tc>,
    /// It lives no longer than the terminal that it was started from: SIGHUP ends it. Else that reads the configuration again.
    pub ends_with_terminal: bool,
    /// Somebody else starts the worker, which comes to a socket in the run directory.
    pub outside_worker: bool,
}

/// What the monitor may do, if whoever starts it has all of it. Loading programs, attaching them, making links and binding the
/// worker's port is its work; the rest is for a worker of its own: to make it powerless, to end it when it hangs, and to give its
/// socket to a group.
const CAPABILITIES: [Capability; 9] = [
    Capability::CAP_BPF,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_PERFMON,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_SETUID,
    Capability::CAP_SETGID,
    Capability::CAP_SETPCAP,
    Capability::CAP_KILL,
    Capability::CAP_CHOWN,
];

/// What nft needs, which the monitor executes: it has it from here if the monitor is not root.
const HANDED_ON: [Capability; 1] = [Capability::CAP_NET_ADMIN];

/// Gives up what the daemon needs for its first step or never. To be called before there is a second thread. Root takes over what
/// another user's daemon has left, while it may: units have users of their own.
///
/// # Errors
///
/// There is no file system for pins and none can be mounted, or the kernel refuses.
pub fn give_up_privileges(instance: &Instance) -> Result<(), Error> {
    datapath::ensure_bpffs(instance)?;
    if Uid::effective().is_root() {
        let pins = PinDirectory::of(instance);
        for left in [pins.path(), &instance.run_directory(), &instance.state_directory()] {
            take_over(left)?;
        }
    }
    Ok(sandbox::keep_capabilities(&CAPABILITIES, &HANDED_ON)?)
}

/// Makes a file, or a directory with all in it, this process's own.
fn take_over(path: &Path) -> io::Result<()> {
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    let own = Uid::effective().as_raw();
    if found.uid() != own {
        lchown(path, Some(own), None)?;
    }
    if found.is_dir() {
        for entry in fs::read_dir(path)? {
            take_over(&entry?.path())?;
        }
    }
    Ok(())
}

/// What a configuration means with what was ordered at run time about an instance's slots. Needs no daemon.
///
/// # Errors
///
/// What was ordered cannot be read, or does not fit the configuration.
pub fn with_orders(config: &Config, instance: &Instance) -> Result<Policy, Error> {
    let overlay = StateFile::of(&instance.state_directory()).read()?;
    let whole = config.with_slots(&overlay.entries())?;
    Ok(overlay.apply(&whole.policy))
}

/// Runs the daemon until it is asked to stop.
///
/// # Errors
///
/// The start is refused, with nothing changed; or the kernel stops answering.
pub async fn run(config: Config, instance: &Instance, options: Options) -> Result<(), Error> {
    let mut monitor = Monitor::start(config, instance, options).await?;
    monitor.tell_service_manager();
    give_back_memory();
    let ended = monitor.serve_until_stopped().await;
    // Without a service manager there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    monitor.finish().await;
    ended
}

/// Gives back what loading programs has used and nothing needs any more: the kernel's types and the programs before they were loaded.
fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it is about memory that nobody has.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Every query that waits for an upstream has a socket: as many as the system lets us have.
fn raise_file_limit() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // At worst the limit stays, and a flood of queries is refused sooner.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
