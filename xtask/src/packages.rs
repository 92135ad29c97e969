//! Debian packages unpacked into a folder of `target`, with the libraries that are missing here. Nothing of them is
//! installed, no script of theirs runs, and so none of their services starts.

use std::{env, fs, path::Path, process::Command};

use anyhow::{Context as _, Result};

use crate::command::{elevated, is_root, root, run, step};

/// True where Debian's packages can be unpacked: on Debian, on one of the processors given.
pub fn available(architectures: &[&str]) -> bool {
    let system = fs::read_to_string("/etc/os-release").unwrap_or_default();
    architectures.contains(&env::consts::ARCH) && system.lines().any(|line| line == "ID=debian")
}

/// Brings apt's list of packages up to date.
pub fn update_list() -> Result<()> {
    let how = if is_root() { "" } else { " (with sudo)" };
    step(&format!("updating the list of Debian packages{how}"));
    run(elevated("apt-get").args(["update", "-qq"]))
}

/// Unpacks packages into `target/FOLDER/packages`, if that is not there.
pub fn unpack_once(
    folder: &str,
    names: &[&str],
    fetch: impl FnOnce(&Download) -> Result<()>,
) -> Result<()> {
    let packages = root().join("target").join(folder).join("packages");
    if packages.exists() {
        return Ok(());
    }
    update_list()?;
    let names = names.join(" ");
    step(&format!("unpacking Debian packages into target/{folder}: {names}"));
    let download = Download::into(folder)?;
    fetch(&download)?;
    download.unpack(&packages)
}

/// Archives that are to be unpacked into a folder.
pub struct Download {
    archives: std::path::PathBuf,
}

impl Download {
    /// Into `target/FOLDER/archives`.
    pub fn into(folder: &str) -> Result<Self> {
        let archives = root().join("target").join(folder).join("archives");
        fs::create_dir_all(archives.join("partial"))
            .with_context(|| format!("cannot create {}", archives.display()))?;
        Ok(Self { archives })
    }

    /// These packages alone.
    pub fn alone(&self, packages: &[&str]) -> Result<()> {
        let mut download = Command::new("apt-get");
        // Root's download goes to a folder that apt's own user cannot write to.
        download.args(["download", "-qq", "-o", "APT::Sandbox::User=root"]).args(packages);
        run(download.current_dir(&self.archives))
    }

    /// These packages, also if they are installed, and what they depend on that is not.
    pub fn with_dependencies(&self, packages: &[&str]) -> Result<()> {
        let mut download = elevated("apt-get");
        download.args(["install", "-y", "-qq", "--no-install-recommends"]);
        download.args(["--download-only", "--reinstall"]);
        download.arg("-o").arg(format!("Dir::Cache::archives={}", self.archives.display()));
        run(download.args(packages).env("DEBIAN_FRONTEND", "noninteractive"))
    }

    /// Unpacks all of them into `to` and removes the archives.
    pub fn unpack(self, to: &Path) -> Result<()> {
        // Renamed when complete: an interrupted run starts again.
        let unpacking = to.with_file_name("unpacking");
        for entry in fs::read_dir(&self.archives).context("cannot read the archives")? {
            let archive = entry?.path();
            if archive.extension().is_some_and(|extension| extension == "deb") {
                run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&unpacking))?;
            }
        }
        fs::rename(&unpacking, to)
            .with_context(|| format!("cannot rename {}", unpacking.display()))?;
        // Parts of what was downloaded may be root's.
        run(elevated("rm").arg("-r").arg(&self.archives))
    }
}
