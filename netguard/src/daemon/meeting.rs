//! A worker's way to the monitor, and its signs of life to whoever has started it. All of it is opened before the sandbox is
//! closed.

use std::{
    env, io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::net::UnixDatagram,
    },
    path::Path,
    thread::sleep,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket},
};

/// How often a door that is not there yet is tried again.
const RETRY: Duration = Duration::from_millis(50);

/// Comes to the monitor's door, which may open later than this process starts.
pub(super) fn come_to(door: &Path, signs: &SignsOfLife) -> io::Result<OwnedFd> {
    let address = UnixAddr::new(door)?;
    loop {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let own = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        match connect(own.as_raw_fd(), &address) {
            Ok(()) => return Ok(own),
            // No monitor has been there yet, none is now, or others wait.
            Err(Errno::ENOENT | Errno::ECONNREFUSED | Errno::EAGAIN) => {}
            Err(error) => {
                let message = format!("cannot come to {}: {error}", door.display());
                return Err(io::Error::new(io::Error::from(error).kind(), message));
            }
        }
        signs.give();
        sleep(RETRY);
    }
}

/// What a service manager wants to hear again and again (sd_notify(3), `WATCHDOG=1`). sd-notify opens a socket each time, which a
/// worker may not.
pub(super) struct SignsOfLife(Option<UnixDatagram>);

impl SignsOfLife {
    /// Nobody wants to hear any.
    pub(super) fn to_nobody() -> Self {
        Self(None)
    }

    /// To the one that has started this process, if it wants to hear them.
    pub(super) fn to_service_manager() -> io::Result<Self> {
        let Some(path) = env::var_os("NOTIFY_SOCKET") else { return Ok(Self::to_nobody()) };
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        socket.set_nonblocking(true)?;
        Ok(Self(Some(socket)))
    }

    /// The process works. That nobody listens is not its business.
    pub(super) fn give(&self) {
        if let Some(socket) = &self.0 {
            let _ = socket.send(b"WATCHDOG=1");
        }
    }
}
