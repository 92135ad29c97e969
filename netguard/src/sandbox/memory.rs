//! What the process can become: nothing with more rights, nothing with other code.

use std::io;

use nix::errno::Errno;

use super::Error;

/// No program that is executed has more rights than this one (`PR_SET_NO_NEW_PRIVS`).
///
/// # Errors
///
/// The kernel refuses.
pub fn no_new_privileges() -> Result<(), Error> {
    control(libc::PR_SET_NO_NEW_PRIVS, 1).map_err(|source| {
        Error::Control("no_new_privs", source) // since Linux 3.5
    })
}

/// No memory becomes code that is not code already (`PR_SET_MDWE`, Linux 6.3). False if the kernel does not know how; the filter
/// of system calls says the same.
///
/// # Errors
///
/// The kernel knows how and refuses.
pub fn refuse_new_code() -> Result<bool, Error> {
    match control(libc::PR_SET_MDWE, libc::PR_MDWE_REFUSE_EXEC_GAIN.into()) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => Ok(false),
        Err(error) => Err(Error::Control("PR_SET_MDWE", error)),
    }
}

/// True if [`refuse_new_code`] holds for the calling process: of another one the kernel does not tell.
pub(super) fn refuses_new_code() -> bool {
    let none: libc::c_ulong = 0;
    // SAFETY: this command reads a flag of the process; its arguments must be zero and point nowhere.
    let flags = unsafe { libc::prctl(libc::PR_GET_MDWE, none, none, none, none) };
    u32::try_from(flags).is_ok_and(|flags| flags & libc::PR_MDWE_REFUSE_EXEC_GAIN != 0)
}

fn control(command: libc::c_int, value: libc::c_ulong) -> io::Result<()> {
    let none: libc::c_ulong = 0;
    // SAFETY: these commands set a flag of the process and take no pointer; arguments that they do not use must be zero.
    let refused = unsafe { libc::prctl(command, value, none, none, none) };
    if refused == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
