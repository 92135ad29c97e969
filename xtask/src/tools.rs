//! What the tasks need and a bare machine lacks: a nightly with `rust-src` for the kernel programs,
//! bpf-linker, and the clients that tests call. Each is installed once and announced with one line.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::command::{elevated, is_root, output, root, run, step};

/// The bpf-linker that is known to work, and the LLVM that it is built against.
const LINKER_VERSION: &str = "0.10.4";
const LLVM_MAJOR: &str = "22";
/// A nightly of that LLVM (rustc 1.97.0), installed if the machine's own `nightly` has another.
const PINNED_NIGHTLY: &str = "nightly-2026-05-20";

/// A nightly toolchain that can compile the kernel programs.
pub struct Toolchain {
    name: String,
}

impl Toolchain {
    /// As rustup knows it.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// A program of a Debian package, or another file of it by its whole path.
pub struct Tool {
    program: &'static str,
    package: &'static str,
}

/// Builds the lab's namespaces.
pub const IPROUTE2: Tool = Tool { program: "ip", package: "iproute2" };

/// Replaces netguard's table in the host's own firewall.
pub const NFTABLES: Tool = Tool { program: "nft", package: "nftables" };

/// Compiles libFuzzer.
pub const CXX: Tool = Tool { program: "c++", package: "g++" };

/// The library that decodes what netguard answers, for the Python of Debian.
const DNSPYTHON: &str = "/usr/lib/python3/dist-packages/dns/message.py";

const TEST_TOOLS: &[Tool] = &[
    IPROUTE2,
    NFTABLES,
    Tool { program: "dig", package: "bind9-dnsutils" },
    Tool { program: "kdig", package: "knot-dnsutils" },
    Tool { program: "ping", package: "iputils-ping" },
    Tool { program: "curl", package: "curl" },
    Tool { program: "nc", package: "netcat-openbsd" },
    Tool { program: "python3", package: "python3" },
    Tool { program: "openssl", package: "openssl" },
    Tool { program: "bpftool", package: "bpftool" },
    Tool { program: "systemd-analyze", package: "systemd" },
    Tool { program: "musl-gcc", package: "musl-tools" },
    Tool { program: DNSPYTHON, package: "python3-dnspython" },
];

/// Everything that building needs.
pub fn for_build() -> Result<Toolchain> {
    let toolchain = nightly()?;
    linker()?;
    Ok(toolchain)
}

/// Everything that tests call.
pub fn for_tests() -> Result<()> {
    ensure(TEST_TOOLS)
}

/// The search path with the tools of this repository in front.
pub fn path() -> OsString {
    let own = [root().join("target/tools/bin")];
    let inherited = env::var_os("PATH").unwrap_or_default();
    let all = own.into_iter().chain(env::split_paths(&inherited));
    env::join_paths(all).unwrap_or(inherited)
}

fn nightly() -> Result<Toolchain> {
    let installed = output(Command::new("rustup").args(["toolchain", "list"]))
        .context("rustup is missing; install it from https://rustup.rs")?;
    let has = |name: &str| installed.lines().any(|line| line.starts_with(&format!("{name}-")));
    let fits = |name: &str| {
        let version = output(Command::new("rustup").args(["run", name, "rustc", "-vV"]));
        version.is_some_and(|text| text.contains(&format!("LLVM version: {LLVM_MAJOR}.")))
    };
    let name = if has("nightly") && fits("nightly") {
        "nightly"
    } else {
        if !has(PINNED_NIGHTLY) {
            step(&format!(
                "installing the Rust toolchain {PINNED_NIGHTLY} for the kernel programs"
            ));
            let arguments = ["toolchain", "install", "--profile", "minimal", PINNED_NIGHTLY];
            run(Command::new("rustup").args(arguments))?;
        }
        PINNED_NIGHTLY
    };
    for component in ["rust-src", "clippy"] {
        let list = ["component", "list", "--installed", "--toolchain", name];
        let components = output(Command::new("rustup").args(list)).unwrap_or_default();
        if !components.lines().any(|line| line.starts_with(component)) {
            step(&format!("adding the component {component} to {name}"));
            run(Command::new("rustup").args(["component", "add", component, "--toolchain", name]))?;
        }
    }
    Ok(Toolchain { name: name.to_owned() })
}

fn linker() -> Result<()> {
    let tools = root().join("target/tools");
    let version = output(Command::new(tools.join("bin/bpf-linker")).arg("--version"));
    if version.is_some_and(|version| version.trim().ends_with(LINKER_VERSION)) {
        return Ok(());
    }
    step(&format!(
        "installing bpf-linker {LINKER_VERSION} into target/tools (a few minutes, once)"
    ));
    let build = tools.join("build");
    run(Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["install", "bpf-linker", "--locked", "--force", "--version", LINKER_VERSION])
        .args(["--no-default-features", "--features", &format!("rust-llvm-{LLVM_MAJOR}")])
        .arg("--root")
        .arg(&tools)
        .arg("--target-dir")
        .arg(&build))?;
    std::fs::remove_dir_all(&build).with_context(|| format!("cannot remove {}", build.display()))
}

/// Installs the packages of tools that are missing.
pub fn ensure(tools: &[Tool]) -> Result<()> {
    let missing: Vec<_> = tools.iter().filter(|tool| find(tool.program).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<_> = missing.iter().map(|tool| tool.package).collect();
    if find("apt-get").is_none() {
        bail!("these programs are missing and there is no apt-get: install {}", packages.join(" "));
    }
    let how = if is_root() { "" } else { " (with sudo)" };
    step(&format!("installing Debian packages{how}: {}", packages.join(" ")));
    let apt = |arguments: &[&str]| {
        let mut command = elevated("apt-get");
        command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        run(&mut command)
    };
    apt(&["update", "-qq"])?;
    let install = ["install", "-y", "-qq", "--no-install-recommends"];
    apt(&install.iter().copied().chain(packages).collect::<Vec<_>>())
}

/// Also looks where root's programs are, which a user's path may lack. A whole path is taken as it is.
pub fn find(program: &str) -> Option<PathBuf> {
    let inherited = env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let directories = env::split_paths(&inherited).chain(sbin);
    directories.map(|directory| directory.join(program)).find(|path| Path::new(path).is_file())
}
