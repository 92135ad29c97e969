//! Running other programs: cargo with the right tools in reach, and root where it must be.

use std::{
    env,
    ffi::{OsStr, OsString},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::tools::{self, Toolchain};

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap_or_else(|_| ".".into())
}

/// One line that says what happens now.
pub fn step(what: &str) {
    eprintln!("==> {what}");
}

/// True for the superuser.
pub fn is_root() -> bool {
    // `id` instead of a system call: xtask stays free of dependencies that compile long.
    let output = Command::new("id").arg("-u").output();
    output.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

/// A command that runs as root.
pub fn elevated(program: impl AsRef<OsStr>) -> Command {
    if is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.arg("--preserve-env=NETGUARD_NO_SKIP,RUST_LOG,RUST_BACKTRACE").arg(program);
    command
}

/// Becomes the command, so that signals and exit codes are its own.
pub fn replace(mut command: Command) -> Result<()> {
    let error = command.exec();
    Err(error).with_context(|| format!("cannot start {}", command.get_program().display()))
}

/// Runs a command to its end; its failure is ours.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    if !status.success() {
        let arguments: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
        bail!("{} {} failed: {status}", command.get_program().display(), arguments.join(" "));
    }
    Ok(())
}

/// What a command prints, if it succeeds.
pub fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// cargo in this repository, with bpf-linker in reach.
#[derive(Clone)]
pub struct Cargo {
    program: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
}

impl Cargo {
    /// The stable cargo that runs this program.
    pub fn new(toolchain: &Toolchain) -> Self {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        Self { program: vec![cargo], environment: Vec::new() }
            .env("PATH", tools::path())
            .env("NETGUARD_BPF_TOOLCHAIN", toolchain.name())
    }

    /// The nightly cargo that compiles the kernel programs, with the flags that aya-build gives.
    pub fn bpf(toolchain: &Toolchain) -> Self {
        let program = ["rustup", "run", toolchain.name(), "cargo"].map(OsString::from).to_vec();
        let architecture = format!("--cfg=bpf_target_arch=\"{}\"", env::consts::ARCH);
        Self { program, environment: Vec::new() }
            .env("PATH", tools::path())
            .env("CARGO_ENCODED_RUSTFLAGS", architecture)
            .env("CARGO_TARGET_DIR", root().join("target/bpf-clippy"))
    }

    /// With a further variable.
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((key.into(), value.into()));
        self
    }

    /// With test binaries that run as root.
    pub fn tests_as_root(self) -> Self {
        let target = format!("CARGO_TARGET_{}_UNKNOWN_LINUX_GNU_RUNNER", env::consts::ARCH);
        self.env(target.to_uppercase(), "sudo --preserve-env")
    }

    /// Runs cargo with arguments.
    pub fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Result<()> {
        let Some((program, first)) = self.program.split_first() else { bail!("no program") };
        let mut command = Command::new(program);
        command.current_dir(root()).args(first).args(arguments);
        // `cargo xtask` runs under one toolchain; what it starts chooses its own.
        command.env_remove("RUSTUP_TOOLCHAIN").envs(self.environment.iter().cloned());
        run(&mut command)
    }
}
