//! The profiles of AppArmor and SELinux, compiled by the tools of their Debian packages, which are unpacked into `target/profiles`.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};

use crate::{
    command::{root, run, step},
    packages::{Download, available, update_list},
};

const PACKAGES: [&str; 3] = ["apparmor", "checkpolicy", "semodule-utils"];

fn unpack() -> Result<()> {
    let packages = root().join("target/profiles/packages");
    if packages.exists() {
        return Ok(());
    }
    let names = PACKAGES.join(" ");
    ensure!(
        available(&["x86_64", "aarch64"]),
        "profiles are compiled by Debian's packages {names}; run this on Debian"
    );
    update_list()?;
    step(&format!("unpacking Debian packages into target/profiles: {names}"));
    let download = Download::into("profiles")?;
    download.with_dependencies(&PACKAGES)?;
    download.unpack(&packages)
}

/// Compiles both profiles, AppArmor's to see that it is one, SELinux's into `folder` as `netguard.pp`.
pub fn compile(folder: &Path) -> Result<()> {
    unpack()?;
    step("compiling the profiles of AppArmor and SELinux");
    let packages = root().join("target/profiles/packages");
    let dist = root().join("dist");
    let tool = |path: &str| {
        let mut command = Command::new(packages.join(path));
        command.env(
            "LD_LIBRARY_PATH",
            packages.join("usr/lib").join(format!("{}-linux-gnu", std::env::consts::ARCH)),
        );
        command
    };
    let features = packages.join("etc/apparmor.d/abi/3.0");
    let mut parser = tool("sbin/apparmor_parser");
    // -Q: not into this kernel. -K: no cache. The kernel's own features are not asked for either.
    parser.args(["--config-file=/dev/null", "-Q", "-K", "--warn=all", "--Werror=all"]);
    parser.arg("--policy-features").arg(&features).arg("--kernel-features").arg(&features);
    parser.arg("--base").arg(packages.join("etc/apparmor.d"));
    run(parser.arg(dist.join("apparmor/usr.bin.netguard")))?;

    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let module = root().join("target/profiles/netguard.mod");
    run(tool("usr/bin/checkmodule")
        .args(["-M", "-m", "-o"])
        .arg(&module)
        .arg(dist.join("selinux/netguard.te")))?;
    run(tool("usr/bin/semodule_package")
        .arg("-o")
        .arg(folder.join("netguard.pp"))
        .arg("-m")
        .arg(&module)
        .arg("-f")
        .arg(dist.join("selinux/netguard.fc")))
}
