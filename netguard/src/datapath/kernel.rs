//! Which kernels netguard runs on, and what they lack.

use aya::programs::{ProgramError, SchedClassifier, TcAttachType};

use super::Error;

/// The oldest kernel on which netguard is tested (`cargo xtask vm`): Debian 12's, whose verifier takes the programs.
const KERNEL_MIN: (u32, u32) = (6, 1);

/// How TC programs are kept on interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Tc {
    /// By links that are pinned, as XDP programs are (tcx: Linux 6.6, commit e420bed02507).
    Tcx,
    /// By filters of a clsact qdisc.
    Clsact,
}

impl Tc {
    /// As options and messages name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }

    /// The best that the running kernel has.
    #[must_use]
    pub fn of_kernel() -> Self {
        // Asking needs no release's number, which says nothing of what was left out or ported back.
        match SchedClassifier::query_tcx("lo", TcAttachType::Ingress) {
            Err(ProgramError::SyscallError(error)) if is_unknown(&error.io_error) => Self::Clsact,
            _ => Self::Tcx, // what else fails here, fails with its reason when a program is attached
        }
    }
}

/// True if the kernel does not know what it was asked.
fn is_unknown(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(libc::EINVAL)
}

/// Checks the running kernel.
///
/// # Errors
///
/// It is too old.
pub fn check_kernel() -> Result<(), Error> {
    check_release(&release())
}

/// The running kernel's release, as `uname -r` prints it.
#[must_use]
pub fn release() -> String {
    nix::sys::utsname::uname()
        .map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn check_release(release: &str) -> Result<(), Error> {
    // "6.18.44-cloud-amd64" -> (6, 18); a release that cannot be read is left to the verifier.
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) < KERNEL_MIN => {
            Err(Error::KernelTooOld { found: release.to_owned(), needed: KERNEL_MIN })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_kernels_are_refused_with_what_is_needed() {
        for good in ["6.1.0-56-cloud-amd64", "6.18.44-cloud-amd64", "7.0-rc1", "10.1"] {
            assert!(check_release(good).is_ok(), "{good}");
        }
        let error = check_release("6.0.12-amd64").unwrap_err().to_string();
        assert_eq!(error, "kernel 6.0.12-amd64 is too old: netguard needs Linux 6.1 or later");
        assert!(check_release("5.15.0").is_err());
    }
}
