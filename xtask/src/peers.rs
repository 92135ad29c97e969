//! The resolvers that netguard is measured against, as Debian ships them, unpacked into `target/peers`.

use anyhow::{Result, ensure};

use crate::{
    command::{root, step},
    packages::{Download, available, update_list},
};

/// dnsmasq-base is dnsmasq without its service.
const PACKAGES: [&str; 3] = ["unbound", "dnsdist", "dnsmasq-base"];

/// Unpacks the packages, once.
pub fn unpack() -> Result<()> {
    let packages = root().join("target/peers/packages");
    if packages.exists() {
        return Ok(());
    }
    let names = PACKAGES.join(" ");
    ensure!(
        available(&["x86_64", "aarch64"]),
        "the peers are Debian's packages; run this on Debian, where it unpacks {names}"
    );
    update_list()?;
    step(&format!("unpacking Debian packages into target/peers: {names}"));
    let download = Download::into("peers")?;
    download.with_dependencies(&PACKAGES)?;
    download.unpack(&packages)
}
