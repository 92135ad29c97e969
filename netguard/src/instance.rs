//! An instance: one daemon's name, under which it pins, locks and logs. Several can live on one host,
//! the labs beside the one that guards it.

use std::{
    fmt,
    fs::File,
    io::{self, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    str::FromStr,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, fcntl},
};

const LAB_PREFIX: &str = "lab-";
const NAME_MAX: usize = 32;
/// The run directories of all instances.
const RUN: &str = "/run/netguard";

/// A write lock of a whole file, which goes with the open file that took it (F_OFD_SETLK, fcntl(2)).
const WHOLE_FILE: libc::flock = libc::flock {
    l_type: libc::F_WRLCK as i16,
    l_whence: libc::SEEK_SET as i16,
    l_start: 0,
    l_len: 0,
    l_pid: 0,
};

/// The name of an instance; safe as the name of a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instance(String);

/// A text that names no instance or lab.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// An instance's name would not do as the name of a directory.
    #[error("{0:?} is no instance name: use 1 to {NAME_MAX} letters, digits, '-' or '_'")]
    Instance(String),
    /// Labs have these names, and `lab down` removes what bears them.
    #[error("instance names that start with {LAB_PREFIX} are the labs', and so is {0:?}")]
    LabsOwn(String),
    /// A lab's name would not do as the prefix of its namespaces.
    #[error("{0:?} is no lab name: use 1 to 16 lower-case letters and digits")]
    Lab(String),
}

/// Why an instance cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another daemon holds it.
    #[error(
        "another netguard already runs as instance {0:?}; stop it, or choose another name with \
         --instance"
    )]
    Taken(String),
    /// The run directory cannot be used.
    #[error("cannot use {path}")]
    RunDirectory {
        /// The path.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// An instance that is taken, until this is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
    path: PathBuf,
}

impl Drop for Lock {
    /// Leaves no file behind, and no directory that held nothing else.
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
        if let Some(directory) = self.path.parent() {
            let _ = std::fs::remove_dir(directory);
        }
    }
}

impl Instance {
    /// The one that guards the host's own bridges.
    #[must_use]
    pub fn host() -> Self {
        Self("host".to_owned())
    }

    /// The instance of a lab: no other can have its name.
    ///
    /// # Errors
    ///
    /// The lab's name would not do as the prefix of its namespaces.
    pub fn of_lab(name: &str) -> Result<Self, BadName> {
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        if name.is_empty() || name.len() > 16 || !name.chars().all(good) {
            return Err(BadName::Lab(name.to_owned()));
        }
        Ok(Self(format!("{LAB_PREFIX}{name}")))
    }

    /// True for the instance of a lab, which `lab down` removes.
    #[must_use]
    pub fn is_lab(&self) -> bool {
        self.0.starts_with(LAB_PREFIX)
    }

    /// The name of the lab that it is the instance of.
    #[must_use]
    pub fn lab_name(&self) -> Option<&str> {
        self.0.strip_prefix(LAB_PREFIX)
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// False if there is no daemon to give orders to. That one runs is told by nothing but its answer.
    #[must_use]
    pub fn may_have_a_daemon(&self) -> bool {
        match std::fs::metadata(self.control_socket()) {
            Ok(_) => true,
            Err(error) => error.kind() != io::ErrorKind::NotFound, // it is there for others than this user
        }
    }

    /// All of them.
    #[must_use]
    pub fn that_may_have_daemons() -> Vec<Self> {
        let entries = std::fs::read_dir(RUN).into_iter().flatten();
        let names = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        names.filter(Self::may_have_a_daemon).collect()
    }

    /// Where the instance keeps what it needs while it runs: its lock, and a lab's logs.
    #[must_use]
    pub fn run_directory(&self) -> PathBuf {
        Path::new(RUN).join(&self.0)
    }

    /// Where the instance keeps what must outlive a boot. A lab lives no longer than its run directory.
    #[must_use]
    pub fn state_directory(&self) -> PathBuf {
        if self.is_lab() {
            self.run_directory()
        } else {
            Path::new("/var/lib/netguard").join(&self.0)
        }
    }

    /// Where a daemon of the instance takes orders; see [`crate::control`].
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.run_directory().join("control.sock")
    }

    /// Where a worker comes that somebody else has started.
    #[must_use]
    pub fn worker_door(&self) -> PathBuf {
        self.run_directory().join("worker.sock")
    }

    /// Removes what a daemon that was killed has left in the run directory, and the directory if nothing else is in it. What is
    /// gone already, or somebody else's, is fine.
    pub fn clean_up(&self) {
        for left in [self.control_socket(), self.worker_door(), self.lock_file()] {
            let _ = std::fs::remove_file(left);
        }
        let _ = std::fs::remove_dir(self.run_directory());
    }

    /// Takes the instance for this process.
    ///
    /// # Errors
    ///
    /// Another process has it, or the run directory cannot be used.
    pub fn lock(&self) -> Result<Lock, LockError> {
        let path = self.lock_file();
        let failed = |source| LockError::RunDirectory { path: path.clone(), source };
        loop {
            std::fs::create_dir_all(self.run_directory()).map_err(failed)?;
            let mut options = File::options();
            let file =
                options.create(true).truncate(false).write(true).open(&path).map_err(failed)?;
            match fcntl(&file, FcntlArg::F_OFD_SETLK(&WHOLE_FILE)) {
                Ok(_) => {}
                Err(Errno::EAGAIN | Errno::EACCES) => {
                    return Err(LockError::Taken(self.0.clone()));
                }
                Err(error) => return Err(failed(error.into())),
            }
            // The one before removes its file at its end: a lock on that would keep nobody out.
            let locked = file.metadata().map_err(failed)?;
            if std::fs::metadata(&path).is_ok_and(|found| found.ino() == locked.ino()) {
                file.set_len(0).map_err(failed)?;
                write!(&file, "{}", std::process::id()).map_err(failed)?;
                return Ok(Lock { _file: file, path });
            }
        }
    }

    /// The process that has taken the instance, if one has. Only asks: it takes nothing itself.
    #[must_use]
    pub fn running_pid(&self) -> Option<u32> {
        let path = self.lock_file();
        let file = File::open(&path).ok()?;
        let mut found = WHOLE_FILE;
        fcntl(&file, FcntlArg::F_OFD_GETLK(&mut found)).ok()?;
        if i32::from(found.l_type) == libc::F_UNLCK {
            return None; // what stands in the file is an old daemon's
        }
        std::fs::read_to_string(&path).ok()?.trim().parse().ok()
    }

    fn lock_file(&self) -> PathBuf {
        self.run_directory().join("daemon.lock")
    }
}

impl FromStr for Instance {
    type Err = BadName;

    fn from_str(name: &str) -> Result<Self, BadName> {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(good) {
            return Err(BadName::Instance(name.to_owned()));
        }
        Ok(Self(name.to_owned()))
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_leave_their_directory_are_refused() {
        for bad in ["", ".", "..", "../host", "a/b", "a b", "ä", &"x".repeat(33)] {
            assert!(bad.parse::<Instance>().is_err(), "{bad:?}");
            assert!(Instance::of_lab(bad).is_err(), "{bad:?}");
        }
        assert_eq!("host".parse::<Instance>().unwrap().as_str(), "host");
        assert_eq!(Instance::of_lab("ng").unwrap().as_str(), "lab-ng");
        // A dash would make one lab's namespaces look like another's.
        assert!(Instance::of_lab("ng-x").is_err());
    }
}
