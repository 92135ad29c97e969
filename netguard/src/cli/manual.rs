//! The command line as it describes itself elsewhere: manual pages and what shells complete.

use std::{path::Path, process::ExitCode};

use anyhow::Context as _;
use clap::{Command, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, print};

/// `netguard man`
pub(super) fn pages(folder: &Path) -> anyhow::Result<ExitCode> {
    // With clap's own `help` there would be a page for the help of each command.
    let command = Cli::command().disable_help_subcommand(true);
    clap_mangen::generate_to(command, folder)
        .with_context(|| format!("cannot write into {}", folder.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// `netguard completions`
pub(super) fn completions(shell: Shell) -> anyhow::Result<ExitCode> {
    let mut command: Command = Cli::command();
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command, "netguard", &mut text);
    print(&String::from_utf8(text).context("a completion is no text")?)?;
    Ok(ExitCode::SUCCESS)
}
