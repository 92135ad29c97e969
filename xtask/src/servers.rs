//! Servers that tests start for themselves, as Debian ships them, unpacked into `target`: an installed one would run as a
//! service and take its port.

use anyhow::Result;

use crate::{
    command::step,
    packages::{Download, available, unpack_once},
};

/// Upstreams, and a guest's resolver with the bus that its own client asks over.
const SERVERS: [&str; 4] = ["knot", "unbound", "systemd-resolved", "dbus-daemon"];
/// What reads metrics, and checks the rules that alerts are made by.
const PROMETHEUS: [&str; 1] = ["prometheus"];
/// What sends and receives TCP as fast as it can, and the libraries that it brings.
const IPERF3: [&str; 3] = ["iperf3", "libiperf0", "libsctp1"];

/// Unpacks the packages, once. Where there are none the tests of these servers say so themselves.
pub fn unpack() -> Result<()> {
    unpack_into("servers", &SERVERS, |download| download.with_dependencies(&SERVERS))?;
    // What else it depends on are pages for browsers.
    unpack_into("prometheus", &PROMETHEUS, |download| download.alone(&PROMETHEUS))
}

/// The same of what a benchmark measures with.
pub fn unpack_iperf3() -> Result<()> {
    unpack_into("iperf3", &IPERF3, |download| download.alone(&IPERF3))
}

fn unpack_into(
    folder: &str,
    names: &[&str],
    fetch: impl FnOnce(&Download) -> Result<()>,
) -> Result<()> {
    if available(&["x86_64", "aarch64"]) {
        return unpack_once(folder, names, fetch);
    }
    step(&format!("no servers for tests: they are Debian's packages {}", names.join(" ")));
    Ok(())
}
