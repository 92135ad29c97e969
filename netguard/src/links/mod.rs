//! The host's interfaces and addresses, over rtnetlink: what there is, the news that it changed, and
//! the links that netguard makes itself.

mod error;
mod link;
mod make;
mod port;
mod removal;
mod steps;
mod tap;

use futures_util::StreamExt as _;
use rtnetlink::{Handle, MulticastGroup, new_multicast_connection};

pub use error::Error;
pub use make::{Made, Wanted, make, remove_owned, remove_stale, take_back};
pub use port::isolate;
pub(crate) use tap::open as open_tap;

use crate::policy::{Facts, InterfaceFact};
use link::{Kind, Link};

/// True if netguard may make an interface of that name: Linux's rule (dev_valid_name in
/// net/core/dev.c), less `%`, which makes a name a pattern, and less what names all interfaces
/// under `/proc/sys/net`.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let bad = |c: char| c.is_whitespace() || matches!(c, '/' | ':' | '%' | '\0');
    (1..libc::IFNAMSIZ).contains(&name.len())
        && !name.contains(bad)
        && !matches!(name, "." | ".." | "all" | "default")
}

/// A setting of this network namespace, by its name for `sysctl`: `net.ipv4.ip_forward`. `None` if the
/// kernel has no such setting.
#[must_use]
pub fn setting(key: &str) -> Option<String> {
    let value = std::fs::read_to_string(format!("/proc/sys/{}", key.replace('.', "/"))).ok()?;
    Some(value.trim().to_owned())
}

/// A subscription to changes of the network namespace that opened it.
pub struct Watcher {
    handle: Handle,
    news: Box<dyn futures_util::Stream<Item = ()> + Send + Unpin>,
}

impl Watcher {
    /// Subscribes. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// The kernel refuses the netlink socket.
    pub fn open() -> Result<Self, Error> {
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
        let (connection, handle, messages) =
            new_multicast_connection(&groups).map_err(Error::read)?;
        tokio::spawn(connection);
        Ok(Self { handle, news: Box::new(messages.map(|_| ())) })
    }

    /// Waits for a change and swallows all others that are already there. `None` if the
    /// subscription broke.
    pub async fn changed(&mut self) -> Option<()> {
        self.news.next().await?;
        while let Some(next) = futures_util::FutureExt::now_or_never(self.news.next()) {
            next?;
        }
        Some(())
    }

    /// What the host has now.
    ///
    /// # Errors
    ///
    /// The kernel does not answer.
    pub async fn facts(&self) -> Result<Facts, Error> {
        let links = Link::all(&self.handle).await?;
        let addresses = link::addresses(&self.handle).await?;
        Ok(Facts { interfaces: links.into_iter().map(InterfaceFact::from).collect(), addresses })
    }
}

impl From<Link> for InterfaceFact {
    fn from(link: Link) -> Self {
        Self {
            index: link.index,
            name: link.name,
            mac: link.mac,
            controller: link.controller,
            is_bridge: link.kind == Kind::Bridge,
            isolated: link.isolated,
        }
    }
}
