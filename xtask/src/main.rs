//! `cargo xtask`: every step that a person or CI takes, with nothing to install by hand.

mod bench;
mod cargo;
mod command;
mod deb;
mod fuzz;
mod guest;
mod packages;
mod peers;
mod profiles;
mod servers;
mod tools;
mod trial;

use std::{ffi::OsString, path::PathBuf, time::Instant};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

use cargo::Cargo;
use command::{is_root, root, step};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Builds, runs, tests and checks netguard")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build netguard in release mode and start it; without arguments it guards the lab
    Run {
        /// Arguments of `netguard run`, as in: cargo xtask run -- --config FILE
        #[arg(last = true)]
        arguments: Vec<OsString>,
    },
    /// Build netguard in release mode into target/release
    Build,
    /// Build the Debian package into target/deb
    Deb {
        /// Install it into a clean Debian 12 that boots with systemd, try it there, and write docs/debian-12.md
        #[arg(long = "try")]
        is_tried: bool,
    },
    /// Run every test; those that need the kernel run as root
    Test {
        /// Arguments of `cargo test`, as in: cargo xtask test -- --test lab
        #[arg(last = true)]
        arguments: Vec<OsString>,
    },
    /// Measure, in release mode, beside peers that do the same job: one benchmark or all, into target/bench
    Bench {
        /// Which
        #[arg(value_parser = bench::NAMES)]
        name: Option<String>,
        /// Compare what programs cost with the committed baseline instead, in minutes; fails beyond 1.5 times of it
        #[arg(long, conflicts_with_all = ["name", "readme"])]
        quick: bool,
        /// Write what was measured into the README's table instead
        #[arg(long, conflicts_with = "name")]
        readme: bool,
    },
    /// Throw hostile bytes at what reads guests' queries and upstreams' answers
    Fuzz {
        /// For how long, each target
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
    /// What CI runs: format, clippy on host and BPF code, documentation, tests, a minute of fuzzing, the Debian package
    Ci,
    /// Run netguard on Debian's kernel in a virtual machine: its verifier, and the end-to-end tests
    Vm {
        /// Another kernel's image
        #[arg(long, value_name = "FILE")]
        kernel: Option<PathBuf>,
        /// Its modules, uncompressed (/lib/modules/RELEASE); without them it has virtio_blk, ext4, bridge, veth, tun,
        /// nf_tables and clsact built in
        #[arg(long, value_name = "FOLDER", requires = "kernel")]
        modules: Option<PathBuf>,
    },
    /// Install what the other tasks need, and nothing else
    Setup,
}

fn main() -> Result<()> {
    let started = Instant::now();
    match Cli::parse().task {
        Task::Run { arguments } => return run(&arguments),
        Task::Build => build_release()?,
        Task::Deb { is_tried } => package(is_tried)?,
        Task::Test { arguments } => test(&arguments)?,
        Task::Bench { quick: true, .. } => bench::guard()?,
        Task::Bench { readme: true, .. } => bench::write_readme()?,
        Task::Bench { name, .. } => bench::run(name.as_deref())?,
        Task::Fuzz { seconds } => fuzz::run(&tools::for_build()?, seconds)?,
        Task::Ci => ci()?,
        Task::Vm { kernel, modules } => vm(kernel, modules)?,
        Task::Setup => {
            tools::for_build()?;
            tools::for_tests()?;
            guest::unpack()?;
            servers::unpack()?;
        }
    }
    step(&format!("done in {:.0} s", started.elapsed().as_secs_f64()));
    Ok(())
}

fn build_release() -> Result<()> {
    let toolchain = tools::for_build()?;
    step("building netguard (release)");
    Cargo::new(&toolchain).run(["build", "--release", "--package", "netguard"])
}

fn package(is_tried: bool) -> Result<()> {
    build_release()?;
    let package = deb::build()?;
    let size = std::fs::metadata(&package)?.len().div_ceil(1024);
    step(&format!("built {} ({size} KiB)", package.display()));
    if is_tried {
        let transcript = trial::run_with(&package)?;
        std::fs::write(root().join("docs/debian-12.md"), transcript)?;
        step("written: docs/debian-12.md");
    }
    Ok(())
}

fn run(arguments: &[OsString]) -> Result<()> {
    build_release()?;
    tools::ensure(&[tools::IPROUTE2, tools::NFTABLES])?;
    step("starting netguard");
    let mut command = command::elevated(root().join("target/release/netguard"));
    command.arg("run").args(arguments);
    command::replace(command)
}

fn test(arguments: &[OsString]) -> Result<()> {
    let toolchain = tools::for_build()?;
    tools::for_tests()?;
    guest::unpack()?;
    servers::unpack()?;
    test_with(Cargo::new(&toolchain), arguments)
}

/// The test programs that the guest runs; `tests/vm.rs` says which of their tests.
const IN_GUEST: [&str; 10] = [
    "lab",
    "lifecycle",
    "clsact",
    "denial",
    "explain",
    "verify",
    "doctor",
    "kernel_denials",
    "fast_path",
    "firewall",
];

fn vm(kernel: Option<PathBuf>, modules: Option<PathBuf>) -> Result<()> {
    let toolchain = tools::for_build()?;
    tools::for_tests()?;
    guest::unpack()?;
    // Whoever asks wants an answer, not a skip.
    let mut cargo = Cargo::new(&toolchain).env("NETGUARD_NO_SKIP", "1");
    for (name, path) in [("NETGUARD_VM_KERNEL", kernel), ("NETGUARD_VM_MODULES", modules)] {
        if let Some(path) = path {
            let found = path.canonicalize();
            cargo = cargo.env(name, found.with_context(|| format!("no {}", path.display()))?);
        }
    }
    step("building the tests that the guest runs");
    let tests = IN_GUEST.iter().flat_map(|test| ["--test", test]);
    cargo.run(["test", "--package", "netguard-tests", "--no-run"].into_iter().chain(tests))?;
    for test in [["--test", "guest", "debians_kernel"].as_slice(), &["--test", "vm"]] {
        let line = test.iter().chain(&["--", "--nocapture"]).map(OsString::from);
        test_with(cargo.clone(), &line.collect::<Vec<_>>())?;
    }
    Ok(())
}

fn test_with(cargo: Cargo, arguments: &[OsString]) -> Result<()> {
    step("building netguard (dev)");
    cargo.run(["build", "--package", "netguard"])?;
    step("testing");
    let cargo = if is_root() { cargo } else { cargo.tests_as_root() };
    let mut line: Vec<OsString> = vec!["test".into()];
    if arguments.is_empty() {
        line.extend(["--workspace".into(), "--exclude".into(), "netguard-ebpf".into()]);
    } else {
        line.extend(["--package".into(), "netguard-tests".into()]);
        line.extend(arguments.iter().cloned());
    }
    cargo.run(line)
}

/// How many seconds each target is fuzzed in CI.
const FUZZ_SMOKE: u32 = 60;

fn ci() -> Result<()> {
    let toolchain = tools::for_build()?;
    let cargo = Cargo::new(&toolchain);
    step("format");
    cargo.run(["fmt", "--all", "--check"])?;
    step("clippy on host code");
    cargo.run([
        "clippy",
        "--workspace",
        "--exclude",
        "netguard-ebpf",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ])?;
    // No part of all targets: it is tested by `vm` alone.
    let apart = ["clippy", "--package", "netguard-tests", "--test", "vm", "--", "-D", "warnings"];
    cargo.run(apart)?;
    step("clippy on BPF code");
    Cargo::bpf(&toolchain).run([
        "clippy",
        "--package",
        "netguard-ebpf",
        "--release",
        "--target",
        "bpfel-unknown-none",
        "-Z",
        "build-std=core",
        "--",
        "-D",
        "warnings",
    ])?;
    step("documentation");
    Cargo::new(&toolchain).env("RUSTDOCFLAGS", "-D warnings").run([
        "doc",
        "--workspace",
        "--exclude",
        "netguard-ebpf",
        "--no-deps",
        "--document-private-items",
    ])?;
    // A test that cannot run must fail here, not pass by.
    let no_skip = cargo.env("NETGUARD_NO_SKIP", "1");
    step("the README's test command");
    no_skip.run(["xtask", "test"])?;
    bench::guard()?;
    fuzz::run(&toolchain, FUZZ_SMOKE)?;
    step("the Debian package");
    build_release()?;
    if packages::available(&["x86_64", "aarch64"]) {
        let package = deb::build()?;
        if is_root() {
            trial::run_with(&package)?;
        } else {
            step("not tried: its trial makes namespaces and mounts, as root");
        }
    } else {
        step("no package: it is built and tried on Debian");
    }
    Ok(())
}
