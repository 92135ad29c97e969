//! What boots a guest: QEMU, a static busybox and Debian's cloud kernel, unpacked from their packages
//! into `target/vm`. Nothing of it is installed: an installed kernel would be what the machine boots
//! next, and QEMU might replace another version's tools.

use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{
    command::{output, root, step},
    packages::{Download, available, update_list},
    tools::find,
};

/// Depends on the kernel's own package, whose name has its version.
const KERNEL: &str = "linux-image-cloud-amd64";
const BUSYBOX: &str = "busybox-static";
const QEMU: &str = "qemu-system-x86";
const QEMU_PROGRAM: &str = "qemu-system-x86_64";

/// Unpacks the packages, once. Where there are none the tests of guests say so themselves.
pub fn unpack() -> Result<()> {
    let packages = root().join("target/vm/packages");
    if packages.exists() {
        return Ok(());
    }
    if !available(&["x86_64"]) {
        step("no guests: they need Debian's packages for x86-64");
        return Ok(());
    }
    let kernel = kernel_package()?;
    let has_qemu = find(QEMU_PROGRAM).is_some();
    let qemu = if has_qemu { "" } else { QEMU };
    step(&format!("unpacking Debian packages into target/vm: {kernel} {BUSYBOX} {qemu}"));

    let download = Download::into("vm")?;
    download.alone(&[&kernel, BUSYBOX])?;
    if !has_qemu {
        download.with_dependencies(&[QEMU])?;
    }
    download.unpack(&packages)
}

/// The package of the kernel that Debian's clouds run today.
fn kernel_package() -> Result<String> {
    update_list()?;
    let depends = output(Command::new("apt-cache").args(["depends", KERNEL]));
    let mut lines = depends.as_deref().unwrap_or_default().lines();
    let name = lines.find_map(|line| {
        let name = line.trim().strip_prefix("Depends: ")?;
        name.starts_with("linux-image-").then(|| name.to_owned())
    });
    name.with_context(|| format!("apt-get knows no {KERNEL}; has it Debian's main section?"))
}
