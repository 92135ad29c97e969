//! Where workers come from: the monitor starts them, from its own binary; or a service manager does, as the user without any
//! right that a worker is, and they come to the monitor's door. Whichever way, a worker is the other end of a channel.

use std::{io, path::Path, process::Stdio, time::Duration};

use nix::unistd::User;
use tokio::{
    process::{Child, Command},
    time::timeout,
};
use tokio_seqpacket::UnixSeqpacketListener;

use super::channel::Channel;
use crate::socket_file::SocketFile;

/// How long a daemon that starts waits for the first worker to come.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where they come from.
pub(super) enum Workers {
    /// From this process.
    Own,
    /// From somebody else, to a door.
    Outside(Door),
}

/// A worker that has been told nothing yet.
pub(super) struct Newcomer {
    pub(super) channel: Channel,
    /// None if it is somebody else's child.
    pub(super) process: Option<Child>,
}

/// A socket in the run directory to which one user may come.
pub(super) struct Door {
    listener: UnixSeqpacketListener,
    file: SocketFile,
    /// Whom a worker must be.
    uid: u32,
}

impl Workers {
    /// Opens the door. Needs a tokio runtime.
    pub(super) fn to_door(path: &Path) -> io::Result<Self> {
        let user = user()?;
        let (file, listener) =
            SocketFile::make(path, Some(user.gid), |path| UnixSeqpacketListener::bind(path))?;
        Ok(Self::Outside(Door { listener, file, uid: user.uid.as_raw() }))
    }

    /// The next worker. Whoever stops waiting for it loses none.
    pub(super) async fn next(&mut self) -> io::Result<Newcomer> {
        let door = match self {
            Self::Own => return start(),
            Self::Outside(door) => door,
        };
        loop {
            let caller = door.listener.accept().await?;
            let uid = caller.peer_cred()?.uid();
            if uid == door.uid {
                return Ok(Newcomer { channel: Channel::with(caller), process: None });
            }
            // Who may come here may give orders over the other socket, but not be the one who carries them.
            log::warn!("uid {uid} has come as a worker, who must be uid {}: sent away", door.uid);
        }
    }

    /// The first worker, who must not keep a start waiting for ever.
    pub(super) async fn first(&mut self) -> io::Result<Newcomer> {
        let door = match self {
            Self::Own => return start(),
            Self::Outside(door) => door.file.path().to_owned(),
        };
        timeout(PATIENCE, self.next()).await.unwrap_or_else(|_| {
            let message = format!(
                "no worker has come to {} in {} s; start one: systemctl start netguard-worker",
                door.display(),
                PATIENCE.as_secs()
            );
            Err(io::Error::new(io::ErrorKind::TimedOut, message))
        })
    }
}

fn start() -> io::Result<Newcomer> {
    let (channel, other) = Channel::pair()?;
    let mut command = Command::new("/proc/self/exe");
    let process = command.arg("worker").stdin(Stdio::from(other)).kill_on_drop(true).spawn()?;
    Ok(Newcomer { channel, process: Some(process) })
}

/// Whom the worker is: the user that the package makes, else nobody.
pub(super) fn user() -> io::Result<User> {
    for name in ["netguard", "nobody"] {
        if let Some(user) = User::from_name(name)? {
            return Ok(user);
        }
    }
    Err(io::Error::other("there is neither a user netguard nor a user nobody"))
}
