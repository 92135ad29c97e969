//! The host as it is now: a look at all of it, and then the news.

use std::{collections::BTreeSet, mem, sync::Arc};

use rtnetlink::{
    MulticastGroup, packet_core::NetlinkPayload, packet_route::RouteNetlinkMessage as Message,
};

use super::{Error, Host};
use crate::{netlink::News, policy::Facts};

/// A subscription to changes of the network namespace that opened it.
pub struct Watcher {
    news: News,
    host: Host,
    facts: Arc<Facts>,
    /// What [`Self::changed`] has not told yet.
    untold: Changed,
}

/// What is other than before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Interfaces or addresses.
    pub host: bool,
    /// TC's filters on these interfaces, by number.
    pub filters: BTreeSet<u32>,
}

impl Watcher {
    /// Subscribes. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// The kernel refuses the netlink socket, or does not answer.
    pub fn open() -> Result<Self, Error> {
        let news = News::of(&[
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Tc,
        ]);
        let news = news.map_err(Error::read)?;
        let host = Host::read()?;
        let facts = Arc::new(host.facts());
        Ok(Self { news, host, facts, untold: Changed::default() })
    }

    /// Waits until something is other than before. Whoever stops waiting misses nothing.
    ///
    /// # Errors
    ///
    /// The kernel does not tell any more.
    pub async fn changed(&mut self) -> Result<Changed, Error> {
        while self.untold == Changed::default() {
            self.news.wait().await.map_err(Error::read)?;
            self.catch_up()?;
        }
        Ok(mem::take(&mut self.untold))
    }

    /// Takes in all that has happened until now: what this process has changed is known then. [`Self::changed`] tells of it
    /// nevertheless.
    ///
    /// # Errors
    ///
    /// The kernel does not tell any more.
    pub fn catch_up(&mut self) -> Result<(), Error> {
        let mut has_changed = false;
        loop {
            match self.news.next() {
                Ok(None) => break,
                Ok(Some(messages)) => {
                    for message in messages {
                        has_changed |= self.hear(message.payload)?;
                    }
                }
                // More has happened than there was room for.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    self.host = Host::read()?;
                    has_changed = true;
                }
                Err(error) => return Err(Error::read(error)),
            }
        }
        if has_changed {
            self.facts = Arc::new(self.host.facts());
            self.untold.host = true;
        }
        Ok(())
    }

    /// True if interfaces or addresses are other than before.
    fn hear(&mut self, news: NetlinkPayload<Message>) -> Result<bool, Error> {
        let NetlinkPayload::InnerMessage(news) = news else { return Ok(false) };
        match news {
            Message::DelQueueDiscipline(message)
            | Message::DelTrafficFilter(message)
            | Message::NewTrafficFilter(message) => {
                self.untold.filters.insert(message.header.index.cast_unsigned());
                Ok(false)
            }
            news => self.host.hear(news),
        }
    }

    /// What the host had when news were last taken in.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The same, as far as policy depends on it.
    #[must_use]
    pub fn facts(&self) -> &Arc<Facts> {
        &self.facts
    }
}
