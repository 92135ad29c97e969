//! `netguard top`: a running daemon on the screen.

use std::process::ExitCode;

use netguard::{instance::Instance, top};

use super::orders::the_instance;

pub(super) fn top(instance: Option<Instance>) -> anyhow::Result<ExitCode> {
    let instance = the_instance(instance)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let shown = runtime.block_on(top::run(&instance));
    // The thread that waits for keys ends with the process.
    runtime.shutdown_background();
    shown?;
    Ok(ExitCode::SUCCESS)
}
