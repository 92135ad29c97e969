//! What boots a guest: QEMU, a static busybox and Debian's cloud kernel, unpacked from their packages
//! into `target/vm`. Nothing of it is installed: an installed kernel would be what the machine boots
//! next, and QEMU might replace another version's tools.

use std::{env, fs, path::Path, process::Command};

use anyhow::{Context as _, Result};

use crate::{
    command::{elevated, is_root, output, root, run, step},
    tools::find,
};

/// Depends on the kernel's own package, whose name has its version.
const KERNEL: &str = "linux-image-cloud-amd64";
const BUSYBOX: &str = "busybox-static";
const QEMU: &str = "qemu-system-x86";
const QEMU_PROGRAM: &str = "qemu-system-x86_64";

/// Unpacks the packages, once. Where there are none the tests of guests say so themselves.
pub fn unpack() -> Result<()> {
    let vm = root().join("target/vm");
    let packages = vm.join("packages");
    if packages.exists() {
        return Ok(());
    }
    let system = fs::read_to_string("/etc/os-release").unwrap_or_default();
    if env::consts::ARCH != "x86_64" || !system.lines().any(|line| line == "ID=debian") {
        step("no guests: they need Debian's packages for x86-64");
        return Ok(());
    }
    let kernel = kernel_package()?;
    let has_qemu = find(QEMU_PROGRAM).is_some();
    let qemu = if has_qemu { "" } else { QEMU };
    step(&format!("unpacking Debian packages into target/vm: {kernel} {BUSYBOX} {qemu}"));

    let archives = vm.join("archives");
    fs::create_dir_all(archives.join("partial")).context("cannot create target/vm/archives")?;
    let mut download = Command::new("apt-get");
    // Root's download goes to a folder that apt's own user cannot write to.
    download.args(["download", "-qq", "-o", "APT::Sandbox::User=root", &kernel, BUSYBOX]);
    run(download.current_dir(&archives))?;
    if !has_qemu {
        // With the libraries that are missing here.
        let mut download = elevated("apt-get");
        download.args(["install", "-y", "-qq", "--no-install-recommends", "--download-only"]);
        download.arg("-o").arg(format!("Dir::Cache::archives={}", archives.display()));
        run(download.arg(QEMU).env("DEBIAN_FRONTEND", "noninteractive"))?;
    }
    // Renamed when complete: an interrupted run starts again.
    let unpacking = vm.join("unpacking");
    for entry in fs::read_dir(&archives).context("cannot read target/vm/archives")? {
        let archive = entry?.path();
        if archive.extension().is_some_and(|extension| extension == "deb") {
            run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&unpacking))?;
        }
    }
    fs::rename(&unpacking, &packages).context("cannot rename target/vm/unpacking")?;
    remove(&archives)
}

/// The package of the kernel that Debian's clouds run today.
fn kernel_package() -> Result<String> {
    let how = if is_root() { "" } else { " (with sudo)" };
    step(&format!("updating the list of Debian packages{how}"));
    run(elevated("apt-get").args(["update", "-qq"]))?;
    let depends = output(Command::new("apt-cache").args(["depends", KERNEL]));
    let mut lines = depends.as_deref().unwrap_or_default().lines();
    let name = lines.find_map(|line| {
        let name = line.trim().strip_prefix("Depends: ")?;
        name.starts_with("linux-image-").then(|| name.to_owned())
    });
    name.with_context(|| format!("apt-get knows no {KERNEL}; has it Debian's main section?"))
}

/// Removes what was downloaded; parts of it may be root's.
fn remove(directory: &Path) -> Result<()> {
    run(elevated("rm").arg("-r").arg(directory))
}
