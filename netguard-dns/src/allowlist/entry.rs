//! One line of an allowlist: a name, how far it reaches, and the ports that it is bound to.

use std::str::FromStr;

use crate::{BadName, BadPorts, DomainName, Ports};

/// How far a listed name reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `name`: itself and everything below it.
    Tree,
    /// `=name`: itself only.
    Exact,
    /// `!name`: itself and everything below it are not allowed after all.
    Exception,
}

impl Kind {
    /// What stands before the name.
    #[must_use]
    pub const fn sign(self) -> &'static str {
        match self {
            Self::Tree => "",
            Self::Exact => "=",
            Self::Exception => "!",
        }
    }
}

/// `github.com`, `=github.com`, `!gist.github.com`, `github.com:22,443`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name.
    pub name: DomainName,
    /// How far it reaches.
    pub kind: Kind,
    /// The ports to which its addresses may be talked to, where that is by name; any if absent.
    pub ports: Option<Ports>,
}

/// A text that is no entry of an allowlist.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadEntry {
    /// The name is none.
    #[error(transparent)]
    Name(#[from] BadName),
    /// The ports are none.
    #[error("{entry:?}: {error}")]
    Ports {
        /// The whole text.
        entry: String,
        /// What is wrong with its ports.
        error: BadPorts,
    },
    /// An exception with ports.
    #[error(
        "{0:?}: an exception has no ports; write the name without \"!\" and the ports that it may have"
    )]
    ExceptionWithPorts(String),
}

impl Entry {
    /// The name with its sign, as whoever asks what decided is told it.
    #[must_use]
    pub fn rule(&self) -> String {
        format!("{}{}", self.kind.sign(), self.name)
    }
}

impl FromStr for Entry {
    type Err = BadEntry;

    fn from_str(text: &str) -> Result<Self, BadEntry> {
        let (kind, rest) = match text.split_at_checked(1) {
            Some(("=", rest)) => (Kind::Exact, rest),
            Some(("!", rest)) => (Kind::Exception, rest),
            _ => (Kind::Tree, text),
        };
        let (name, ports) = match rest.split_once(':') {
            // A scheme or an IPv6 address: the name's own error says more than the ports'.
            Some((name, ports)) if ports.starts_with(|c: char| c.is_ascii_digit()) => {
                (name, Some(ports))
            }
            _ => (rest, None),
        };
        let name = name.parse()?;
        let ports = ports.map(str::parse).transpose();
        let ports = ports.map_err(|error| BadEntry::Ports { entry: text.to_owned(), error })?;
        if kind == Kind::Exception && ports.is_some() {
            return Err(BadEntry::ExceptionWithPorts(text.to_owned()));
        }
        Ok(Self { name, kind, ports })
    }
}
