//! How the process ends, and what it says then.

use std::{io::ErrorKind, process::ExitCode};

use netguard::{
    config::Problems, control, daemon, datapath, doctor as doctored, drops::BadTo,
    explain as explained, instance::BadName, lab, pinned::NoSlot, verify as verified,
};

use super::{state, tell};

/// A check has found something.
pub(super) const HOLE: u8 = 3;

pub(super) const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 failed, 2 bad usage or bad configuration, 3 a check found a hole or a packet would be dropped, \
4 not permitted.";

/// Reports an error and says how the process ends.
pub fn fail(error: &anyhow::Error) -> ExitCode {
    tell(&format!("netguard: {error:#}"));
    ExitCode::from(exit_code(error))
}

/// By the first cause that says more than "failed".
fn exit_code(error: &anyhow::Error) -> u8 {
    const FAILED: u8 = 1;
    const BAD_USAGE: u8 = 2;
    const NOT_PERMITTED: u8 = 4;
    for cause in error.chain() {
        if cause.is::<Problems>()
            || cause.is::<BadName>()
            || cause.is::<NoSlot>()
            || cause.is::<BadTo>()
        {
            return BAD_USAGE;
        }
        if cause.is::<state::OtherSlot>() {
            return BAD_USAGE;
        }
        if let Some(control::Error::Refused { is_bad_order: true, .. }) = cause.downcast_ref() {
            return BAD_USAGE;
        }
        match cause.downcast_ref() {
            Some(explained::Error::Datapath(datapath::Error::Permission)) => return NOT_PERMITTED,
            Some(error) if error.is_bad_question() => return BAD_USAGE,
            _ => {} // the others are failures
        }
        match cause.downcast_ref() {
            Some(
                verified::Error::NoSlot(_) | verified::Error::Orders(daemon::Error::Config(_)),
            ) => {
                return BAD_USAGE;
            }
            Some(verified::Error::Datapath(datapath::Error::Permission)) => return NOT_PERMITTED,
            _ => {} // the others are failures
        }
        match cause.downcast_ref() {
            Some(doctored::Error::Orders(daemon::Error::Config(_))) => return BAD_USAGE,
            Some(doctored::Error::Datapath(datapath::Error::Permission)) => return NOT_PERMITTED,
            _ => {} // the others are failures
        }
        match cause.downcast_ref() {
            Some(daemon::Error::Config(_)) => return BAD_USAGE,
            Some(daemon::Error::Datapath(datapath::Error::Permission)) => return NOT_PERMITTED,
            _ => {} // the others are failures, or their causes say more
        }
        match cause.downcast_ref() {
            Some(lab::Error::NoHost { .. } | lab::Error::Name(_)) => return BAD_USAGE,
            Some(lab::Error::Permission | lab::Error::Datapath(datapath::Error::Permission)) => {
                return NOT_PERMITTED;
            }
            _ => {} // the others are failures
        }
        match cause.downcast_ref() {
            Some(datapath::Error::Permission) => return NOT_PERMITTED,
            // The verifier's refusal ends in EACCES, which is no want of rights.
            Some(datapath::Error::Program { .. } | datapath::Error::Load(_)) => return FAILED,
            _ => {} // the others are failures, or their causes say more
        }
        let io = cause.downcast_ref::<std::io::Error>();
        if io.is_some_and(|error| error.kind() == ErrorKind::PermissionDenied) {
            return NOT_PERMITTED;
        }
    }
    FAILED
}
