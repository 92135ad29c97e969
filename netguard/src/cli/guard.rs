//! `netguard guard`: what it did, in words.

use std::{path::Path, process::ExitCode};

use netguard::{
    config::Config,
    daemon::{self, Guarded},
    datapath::{self, Failed, PinDirectory},
    instance::Instance,
};
use netguard_common::maps::PortKind;

use super::{print, run::must_not_be_labs, tell};

/// `netguard guard`
pub(super) fn close(config: &Path, instance: &Instance) -> anyhow::Result<ExitCode> {
    must_not_be_labs(instance)?;
    let config = Config::read(config).inspect_err(|_| {
        if datapath::held(&PinDirectory::of(instance)).is_ok_and(|held| !held.is_empty()) {
            tell("what an earlier netguard has pinned goes on enforcing");
        }
    })?;
    match daemon::guard(config, instance)? {
        Guarded::Running => {
            print(&format!("netguard runs as instance {instance}: nothing to do"))?;
        }
        Guarded::Pinned { open } => {
            print(&format!("instance {instance} is pinned and enforces: nothing to do"))?;
            if !open.is_empty() {
                print(&format!("not guarded until a daemon starts: {}", open.join(" ")))?;
            }
        }
        Guarded::Closed { made, guarded, absent, failed } => {
            for (what, names) in [
                ("made", made),
                ("closed until a daemon takes over:", guarded),
                ("not there yet, so guarded only by a daemon:", absent),
            ] {
                if !names.is_empty() {
                    print(&format!("{what} {}", names.join(" ")))?;
                }
            }
            let open = failed.iter().any(|failed| failed.kind == PortKind::Bridge);
            for Failed { interface, reason, .. } in failed {
                tell(&format!("netguard: cannot guard {interface}: {reason}"));
            }
            return Ok(if open { ExitCode::FAILURE } else { ExitCode::SUCCESS });
        }
    }
    Ok(ExitCode::SUCCESS)
}
