//! The filters of system calls, compiled and installed; what they say is `system_calls`.

use std::{env, fs, io};

use seccompiler::{BackendError, BpfProgram, SeccompAction, SeccompFilter};

use super::{
    Confinement, Error,
    system_calls::{Calls, allowed, hidden, unknown},
};

/// What the kernel answers to a call, where that is no answer to an attack.
const EPERM: SeccompAction = SeccompAction::Errno(libc::EPERM as u32);
const EACCES: SeccompAction = SeccompAction::Errno(libc::EACCES as u32);
const ENOSYS: SeccompAction = SeccompAction::Errno(libc::ENOSYS as u32);

/// Installs the filters in every thread of the process, which must have no_new_privs. Of several filters' answers the
/// sternest counts, so the list of what is allowed comes last and lets through what the others answer.
///
/// A refused call gets an error and is logged; nothing is killed for it: who can make this process ask could also make it end,
/// and with it go the answers that guests wait for.
///
/// # Errors
///
/// The kernel takes no filters.
pub fn install(confinement: &Confinement) -> Result<(), Error> {
    let (unknown, hidden) = (unknown(), hidden(confinement));
    let mut allowed = allowed(confinement, std::process::id())?;
    for call in unknown.keys().chain(hidden.keys()) {
        allowed.entry(*call).or_default();
    }
    let logged = libc::SECCOMP_FILTER_FLAG_LOG;
    // Not logged: glibc asks for clone3 with each thread, and goes on to clone.
    put(&compile(unknown, SeccompAction::Allow, ENOSYS)?, 0)?;
    put(&compile(hidden, SeccompAction::Allow, EACCES)?, logged)?;
    put(&compile(allowed, EPERM, SeccompAction::Allow)?, logged)
}

/// True if the kernel logs the calls that a filter answers with an error, where a filter wants that.
pub(super) fn is_audited() -> bool {
    let actions = fs::read_to_string("/proc/sys/kernel/seccomp/actions_logged");
    actions.is_ok_and(|actions| actions.split_whitespace().any(|action| action == "errno"))
}

/// The program that answers calls of the list in one way and others in another.
fn compile(
    calls: Calls,
    others: SeccompAction,
    listed: SeccompAction,
) -> Result<BpfProgram, BackendError> {
    SeccompFilter::new(calls, others, listed, env::consts::ARCH.try_into()?)?.try_into()
}

fn put(program: &BpfProgram, flags: libc::c_ulong) -> Result<(), Error> {
    /// linux/seccomp.h, with the program as a pointer to whatever structure has its form.
    #[repr(C)]
    struct Program {
        length: libc::c_ushort,
        steps: *const seccompiler::sock_filter,
    }
    let length = libc::c_ushort::try_from(program.len())
        .map_err(|_| BackendError::FilterTooLarge(program.len()))?;
    let program = Program { length, steps: program.as_ptr() };
    // SAFETY: the structure is `sock_fprog`; it and the steps, as many as it says, live until the kernel has copied them.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags | libc::SECCOMP_FILTER_FLAG_TSYNC,
            &raw const program,
        )
    };
    match answer {
        0 => Ok(()),
        -1 => Err(Error::Install(io::Error::last_os_error())),
        thread => {
            Err(Error::Install(io::Error::other(format!("thread {thread} has another filter"))))
        }
    }
}
