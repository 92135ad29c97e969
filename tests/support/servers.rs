//! Servers of others that tests start in namespaces: Debian's packages, as `cargo xtask setup` has unpacked them.

use std::path::{Path, PathBuf};

use crate::skip;

/// Where the packages are.
pub struct Servers(PathBuf);

impl Servers {
    /// What xtask has unpacked. Without it the test prints why it is skipped, and fails where a skip is not allowed.
    #[must_use]
    pub fn find() -> Option<Self> {
        Self::unpacked("servers")
    }

    /// The same of Prometheus.
    #[must_use]
    pub fn prometheus() -> Option<Self> {
        Self::unpacked("prometheus")
    }

    /// The same of iperf3, which `cargo xtask bench bulk` has unpacked.
    #[must_use]
    pub fn iperf3() -> Option<Self> {
        Self::unpacked("iperf3")
    }

    fn unpacked(folder: &str) -> Option<Self> {
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
        let packages = target.join(folder).join("packages");
        if !packages.exists() {
            skip("this test starts Debian's servers: run `cargo xtask setup` on Debian");
            return None;
        }
        Some(Self(packages))
    }

    /// What a shell calls to run the program at that path of its package, with the libraries that came with it.
    #[must_use]
    pub fn call(&self, program: &str) -> String {
        let root = self.0.display();
        let triplet = format!("{}-linux-gnu", std::env::consts::ARCH);
        let libraries = [
            format!("{root}/usr/lib/{triplet}"),
            format!("{root}/lib/{triplet}"),
            format!("{root}/usr/lib/{triplet}/systemd"),
        ];
        format!("env LD_LIBRARY_PATH={} {root}/{program}", libraries.join(":"))
    }
}
