//! cargo in this repository, with the right toolchain and tools in reach.

use std::{
    env,
    ffi::{OsStr, OsString},
    process::Command,
};

use anyhow::{Result, bail};

use crate::{
    command::{root, run},
    tools::{self, Toolchain},
};

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
        let cargo = Self { program: vec![cargo], environment: Vec::new() }
            .env("PATH", tools::path())
            .env("NETGUARD_BPF_TOOLCHAIN", toolchain.name());
        // rustup's rustc would else take the one that the sources of a dependency name (convert_case has such a file).
        match env::var_os("RUSTUP_TOOLCHAIN") {
            Some(name) => cargo.env("RUSTUP_TOOLCHAIN", name),
            None => cargo,
        }
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

    /// The nightly cargo, for what stable cannot do.
    pub fn nightly(toolchain: &Toolchain) -> Self {
        let program = ["rustup", "run", toolchain.name(), "cargo"].map(OsString::from).to_vec();
        Self { program, environment: Vec::new() }.env("PATH", tools::path())
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
