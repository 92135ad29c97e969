//! What the process that talks to guests may ask of the kernel: next to nothing.
//!
//! Each step is a file of its own and holds alone, so that one that a kernel lacks, or that somebody finds a way around,
//! leaves the others. This file knows their order. The sandbox knows nothing of DNS, maps or policies.

mod access;
mod filter;
mod identity;
mod memory;
mod privileges;
mod system_calls;

use std::{fmt, fs, io, path::PathBuf};

pub use access::restrict as restrict_access;
pub use filter::install as install_filter;
pub use identity::{become_user, drop_capabilities, keep_capabilities};
pub use memory::{no_new_privileges, refuse_new_code};
pub use privileges::{Privileges, table};

/// What is left to a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Confinement {
    /// The user that it becomes.
    pub uid: u32,
    /// Its only group.
    pub gid: u32,
    /// Files, and directories with all below them, that it may read. Everything else is out of sight.
    pub readable: Vec<PathBuf>,
    /// The TCP ports that it may bind; `None` for any.
    pub tcp_bind: Option<Vec<u16>>,
    /// The TCP ports that it may connect to; `None` for any.
    pub tcp_connect: Option<Vec<u16>>,
}

/// What took hold; the rest always does, or there is an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confined {
    /// The kernel's Landlock ABI; `None` if it has no Landlock.
    pub landlock: Option<i32>,
    /// No memory becomes code (`PR_SET_MDWE`, Linux 6.3).
    pub no_new_code: bool,
    /// The kernel logs the system calls that it refuses.
    pub audited: bool,
}

impl fmt::Display for Confined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let missing = |is_there: bool| if is_there { "" } else { "no " };
        match self.landlock {
            Some(abi) => write!(f, "Landlock ABI {abi}")?,
            None => write!(f, "no Landlock")?,
        }
        write!(f, ", {}MDWE", missing(self.no_new_code))?;
        write!(f, ", seccomp, {}audit of refusals", missing(self.audited))
    }
}

/// Why a process is not confined; it may be in part, and must not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Other threads would keep what this one gives up.
    #[error(
        "cannot confine a process that has {0} threads; confine it before it starts the second"
    )]
    Threads(usize),
    /// Root stays mighty without any capability: most files are its own.
    #[error("uid 0 and gid 0 are not unprivileged; name another user and group")]
    Root,
    /// The kernel refuses the user or the group.
    #[error("cannot become uid {uid}, gid {gid}; this needs CAP_SETUID and CAP_SETGID")]
    Identity {
        /// The user.
        uid: u32,
        /// The group.
        gid: u32,
        /// The kernel's answer.
        source: nix::Error,
    },
    /// The kernel refuses to forget capabilities.
    #[error("cannot drop the {set:?} capabilities; this needs CAP_SETPCAP")]
    Capabilities {
        /// Which of the sets.
        set: caps::CapSet,
        /// What went wrong.
        source: caps::errors::CapsError,
    },
    /// A file in /proc cannot be read.
    #[error("cannot read {path}; is /proc mounted?")]
    Proc {
        /// The file.
        path: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A control of the process itself is refused.
    #[error("cannot set {0}")]
    Control(&'static str, #[source] io::Error),
    /// A path that may be read is not there.
    #[error("cannot open what the worker may read; make it readable for its user")]
    Readable(#[from] landlock::PathFdError),
    /// Landlock is there and refuses its rules.
    #[error("cannot restrict access by Landlock")]
    Landlock(#[from] landlock::RulesetError),
    /// The filter of system calls cannot be compiled.
    #[error("cannot compile the filter of system calls")]
    Filter(#[from] seccompiler::BackendError),
    /// The kernel does not take the filter.
    #[error("cannot install the filter of system calls; this needs CONFIG_SECCOMP_FILTER")]
    Install(#[source] io::Error),
}

/// Confines the process for good. To be called by its first thread, before there is a second.
///
/// # Errors
///
/// A step fails that every supported kernel has. Steps before it are not taken back: the process must end.
pub fn confine(confinement: &Confinement) -> Result<Confined, Error> {
    let threads = "/proc/self/task";
    match fs::read_dir(threads).map(Iterator::count) {
        Ok(1) => {}
        Ok(count) => return Err(Error::Threads(count)),
        Err(source) => return Err(Error::Proc { path: threads.to_owned(), source }),
    }
    let audited = filter::is_audited();
    become_user(confinement.uid, confinement.gid)?;
    drop_capabilities()?;
    no_new_privileges()?;
    let no_new_code = refuse_new_code()?;
    let landlock = restrict_access(confinement)?;
    install_filter(confinement)?;
    Ok(Confined { landlock, no_new_code, audited })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_took_hold_fits_a_line() {
        let full = Confined { landlock: Some(7), no_new_code: true, audited: true };
        assert_eq!(full.to_string(), "Landlock ABI 7, MDWE, seccomp, audit of refusals");
        let least = Confined { landlock: None, no_new_code: false, audited: false };
        assert_eq!(least.to_string(), "no Landlock, no MDWE, seccomp, no audit of refusals");
    }

    #[test]
    fn a_process_with_threads_and_root_are_refused() {
        // The harness is another thread than this test.
        let nobody = Confinement { uid: 65534, gid: 65534, ..Confinement::default() };
        assert!(matches!(confine(&nobody), Err(Error::Threads(2..))));
        for (uid, gid) in [(0, 65534), (65534, 0)] {
            assert!(matches!(become_user(uid, gid), Err(Error::Root)), "{uid}:{gid}");
        }
    }
}
