//! The host's interfaces and addresses, asked over rtnetlink, and the news that they changed.

use futures_util::{StreamExt as _, TryStreamExt as _};
use rtnetlink::{
    Handle, MulticastGroup, new_multicast_connection,
    packet_route::{
        address::AddressAttribute,
        link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage},
    },
};

use crate::policy::{Facts, InterfaceFact};

/// A failed conversation with the kernel about interfaces.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the host's interfaces (rtnetlink)")]
pub struct Error(#[source] Box<dyn std::error::Error + Send + Sync>);

impl Error {
    fn new(source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self(Box::new(source))
    }
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
            new_multicast_connection(&groups).map_err(Error::new)?;
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
        let mut facts = Facts::default();
        let mut links = self.handle.link().get().execute();
        while let Some(link) = links.try_next().await.map_err(Error::new)? {
            facts.interfaces.push(interface(&link));
        }
        let mut addresses = self.handle.address().get().execute();
        while let Some(message) = addresses.try_next().await.map_err(Error::new)? {
            // On a point-to-point link Address is the peer and Local is ours; else they agree.
            let local = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(address) => Some(*address),
                _ => None, // labels, flags, cache information
            });
            let any = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Address(address) => Some(*address),
                _ => None, // labels, flags, cache information
            });
            let index = message.header.index;
            facts.addresses.extend(local.or(any).map(|address| (index, address)));
        }
        facts.interfaces.sort_by_key(|interface| interface.index);
        facts.addresses.sort();
        facts.addresses.dedup();
        Ok(facts)
    }
}

fn interface(link: &LinkMessage) -> InterfaceFact {
    let mut fact = InterfaceFact {
        index: link.header.index,
        name: String::new(),
        mac: [0; 6],
        controller: None,
        is_bridge: false,
    };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => fact.name.clone_from(name),
            LinkAttribute::Address(address) => {
                if let Ok(mac) = <[u8; 6]>::try_from(address.as_slice()) {
                    fact.mac = mac;
                }
            }
            LinkAttribute::Controller(index) => fact.controller = Some(*index),
            LinkAttribute::LinkInfo(infos) => {
                fact.is_bridge =
                    infos.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Bridge)));
            }
            _ => {} // statistics, queues, flags: nothing a plan depends on
        }
    }
    fact
}
