//! Which kernels netguard runs on.

use super::Error;

/// The oldest kernel whose TC programs hang on links that can be pinned (tcx: Linux 6.6, commit
/// e420bed02507).
const KERNEL_MIN: (u32, u32) = (6, 6);

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
        for good in ["6.6.0", "6.18.44-cloud-amd64", "7.0-rc1", "10.1"] {
            assert!(check_release(good).is_ok(), "{good}");
        }
        let error = check_release("6.1.0-13-amd64").unwrap_err().to_string();
        assert_eq!(error, "kernel 6.1.0-13-amd64 is too old: netguard needs Linux 6.6 or later");
        assert!(check_release("5.15.0").is_err());
    }
}
