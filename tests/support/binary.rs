//! The `netguard` binary that was built with these tests.

use std::{
    path::PathBuf,
    process::{Command, Output},
};

/// The binary beside the test's own, which cargo puts into `deps`.
#[must_use]
pub fn path() -> PathBuf {
    let mut path = std::env::current_exe().expect("a test knows its own path");
    path.pop();
    path.pop();
    path.push("netguard");
    assert!(path.exists(), "{} is missing: build it with cargo xtask test", path.display());
    path
}

/// A call of the binary.
#[must_use]
pub fn netguard(arguments: &[&str]) -> Command {
    let mut command = Command::new(path());
    command.args(arguments);
    command
}

/// What a call printed and how it ended.
#[derive(Debug)]
pub struct Ended {
    /// The exit code; -1 if a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Ended {
    /// Runs a command to its end.
    #[must_use]
    pub fn of(command: &mut Command) -> Self {
        let Output { status, stdout, stderr } = command.output().expect("the command starts");
        Self {
            code: status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&stdout).into_owned(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
        }
    }
}

impl Ended {
    /// Standard output, if the command succeeded.
    ///
    /// # Panics
    ///
    /// It did not.
    #[must_use]
    pub fn success(&self) -> &str {
        assert_eq!(self.code, 0, "{self:#?}");
        &self.stdout
    }
}
