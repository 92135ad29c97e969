//! What can go wrong between netguard and the host's interfaces, with the way out in every message.

use std::io;

/// A failed conversation with the kernel about interfaces.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel does not tell what there is.
    #[error("cannot read the host's interfaces (rtnetlink)")]
    Read(#[source] io::Error),
    /// The process may not change interfaces.
    #[error(
        "not permitted to change the host's interfaces; run netguard as root or with CAP_NET_ADMIN"
    )]
    Permission(#[source] io::Error),
    /// No interface can have this name.
    #[error("{0:?} is no interface name; choose 1 to 15 bytes without spaces, '/', ':' or '%'")]
    Name(String),
    /// Something else has the name already.
    #[error(
        "{interface} exists and is no {wanted}; remove it (ip link del {interface}) or give the \
         slot another name"
    )]
    Kind {
        /// The name.
        interface: String,
        /// What it should be.
        wanted: &'static str,
    },
    /// A port serves something else.
    #[error(
        "{interface} is on something else than {bridge}; free it (ip link set {interface} \
         nomaster) or give the slot another port"
    )]
    Elsewhere {
        /// The port.
        interface: String,
        /// The bridge that it should be on.
        bridge: String,
    },
    /// The kernel refuses a change.
    #[error("cannot {action} {interface}")]
    Change {
        /// What was tried.
        action: &'static str,
        /// On which interface.
        interface: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel said yes and did nothing.
    #[error(
        "the kernel did not set the flag isolated of {0}; put it on its bridge first (Linux 4.18 \
         or later)"
    )]
    NotTaken(String),
}

impl Error {
    pub(super) fn read(source: io::Error) -> Self {
        Self::Read(source)
    }

    /// Names what was tried and on which interface.
    pub(super) fn change(action: &'static str, interface: &str) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::PermissionDenied => Self::Permission(source),
            _ => Self::Change { action, interface: interface.to_owned(), source },
        }
    }
}
