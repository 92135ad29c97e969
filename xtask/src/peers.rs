//! The programs that netguard is measured against, as Debian ships them, unpacked into `target`; nothing of them is installed.

use anyhow::{Result, ensure};

use crate::packages::{available, unpack_once};

/// dnsmasq-base is dnsmasq without its service.
const RESOLVERS: [&str; 3] = ["unbound", "dnsdist", "dnsmasq-base"];
const IPTABLES: [&str; 1] = ["iptables"];

/// Unpacks the resolvers into `target/peers`, once.
pub fn unpack_resolvers() -> Result<()> {
    unpack("peers", &RESOLVERS)
}

/// Unpacks iptables into `target/iptables`, once.
pub fn unpack_iptables() -> Result<()> {
    unpack("iptables", &IPTABLES)
}

fn unpack(folder: &str, names: &[&str]) -> Result<()> {
    ensure!(
        available(&["x86_64", "aarch64"]),
        "the peers are Debian's packages; run this on Debian, where it unpacks {}",
        names.join(" ")
    );
    unpack_once(folder, names, |download| download.with_dependencies(names))
}
