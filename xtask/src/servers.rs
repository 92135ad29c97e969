//! Servers that tests start for themselves, as Debian ships them, unpacked into `target/servers`: an installed one
//! would run as a service and take port 53.

use anyhow::Result;

use crate::{
    command::{root, step},
    packages::{Download, available, update_list},
};

/// Upstreams, and a guest's resolver with the bus that its own client asks over.
const PACKAGES: [&str; 4] = ["knot", "unbound", "systemd-resolved", "dbus-daemon"];

/// Unpacks the packages, once. Where there are none the tests of these servers say so themselves.
pub fn unpack() -> Result<()> {
    let packages = root().join("target/servers/packages");
    if packages.exists() {
        return Ok(());
    }
    let names = PACKAGES.join(" ");
    if !available(&["x86_64", "aarch64"]) {
        step(&format!("no servers for tests: they are Debian's packages {names}"));
        return Ok(());
    }
    update_list()?;
    step(&format!("unpacking Debian packages into target/servers: {names}"));
    let download = Download::into("servers")?;
    download.with_dependencies(&PACKAGES)?;
    download.unpack(&packages)
}
