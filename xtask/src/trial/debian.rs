//! A clean Debian 12, made once by debootstrap into `target/trial`, from where this machine's apt takes its packages.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result, ensure};

use crate::{
    command::{output, root, run, step},
    packages::{Download, available, update_list},
};

const RELEASE: &str = "bookworm";
/// What the trial calls there, besides what every Debian has; dnsmasq is its upstream.
const INCLUDE: &str =
    "systemd,systemd-sysv,dbus,iproute2,nftables,iputils-ping,bind9-dnsutils,dnsmasq-base,procps";

/// Makes it, once, and returns where it is.
pub fn unpack() -> Result<PathBuf> {
    let folder = root().join("target/trial");
    let debian = folder.join("debian");
    if debian.exists() {
        return Ok(debian);
    }
    ensure!(
        available(&["x86_64", "aarch64"]),
        "the trial needs Debian's packages; run this on Debian"
    );
    update_list()?;
    let packages = folder.join("packages");
    if !packages.exists() {
        let download = Download::into("trial")?;
        download.with_dependencies(&["debootstrap"])?;
        download.unpack(&packages)?;
    }
    let wanted =
        ["indextargets", "--format", "$(REPO_URI)", "Identifier: Packages", "Component: main"];
    let mut targets = Command::new("apt-get");
    targets.args(wanted).arg(format!("Release: {RELEASE}"));
    let targets = output(&mut targets).unwrap_or_default();
    let mirror = targets.lines().next().context("this machine's apt knows no Debian 12")?;
    step("making a Debian 12 in target/trial (once)");
    // Renamed when complete: an interrupted run starts again.
    let making = folder.join("making");
    run(Command::new("rm").arg("-rf").arg(&making))?;
    let program = packages.join("usr/sbin/debootstrap");
    let mut debootstrap = Command::new("sh");
    debootstrap.arg(program).env("DEBOOTSTRAP_DIR", packages.join("usr/share/debootstrap"));
    debootstrap.args(["--variant=minbase", "--include", INCLUDE, RELEASE]);
    run(debootstrap.arg(&making).arg(mirror).stdout(std::process::Stdio::null()))?;
    std::fs::rename(&making, &debian).context("cannot rename target/trial/making")?;
    Ok(debian)
}
