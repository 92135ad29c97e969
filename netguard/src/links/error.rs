//! What can go wrong between netguard and the host's interfaces, with the way out in every message.

use std::io;

/// A failed conversation with the kernel about interfaces.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel does not tell what there is.
    #[error("cannot read the host's interfaces (rtnetlink)")]
    Read(#[source] Box<dyn std::error::Error + Send + Sync>),
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
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The kernel said yes and did nothing.
    #[error(
        "the kernel did not set the flag isolated of {0}; put it on its bridge first (Linux 4.18 \
         or later)"
    )]
    NotTaken(String),
}

impl Error {
    pub(super) fn read(source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Read(Box::new(source))
    }

    /// Names what was tried and on which interface.
    pub(super) fn change<E: Into<Refusal>>(
        action: &'static str,
        interface: &str,
    ) -> impl FnOnce(E) -> Self {
        move |refusal| match refusal.into() {
            Refusal::System(source) if source.kind() == io::ErrorKind::PermissionDenied => {
                Self::Permission(source)
            }
            Refusal::System(source) => {
                Self::Change { action, interface: interface.to_owned(), source: source.into() }
            }
            Refusal::Netlink(source) => {
                Self::Change { action, interface: interface.to_owned(), source: source.into() }
            }
        }
    }
}

/// The kernel's answer, whichever way it was asked.
pub(super) enum Refusal {
    /// An error number, from a system call or a netlink message.
    System(io::Error),
    /// The conversation itself failed.
    Netlink(rtnetlink::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

impl From<rtnetlink::Error> for Refusal {
    fn from(error: rtnetlink::Error) -> Self {
        match error {
            rtnetlink::Error::NetlinkError(message) => Self::System(message.to_io()),
            other => Self::Netlink(other),
        }
    }
}
