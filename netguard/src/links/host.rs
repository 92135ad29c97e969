//! The host's interfaces and addresses as they are known here, from one look at all of them and from the news since. It
//! changes nothing on the host.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use netguard_common::maps::LinkKind;
use rtnetlink::packet_route::{
    AddressFamily, RouteNetlinkMessage as Message,
    address::{AddressAttribute, AddressMessage},
};

use super::{
    Error,
    link::{Kind, Link},
};
use crate::{
    netlink::{self, payload},
    policy::{Facts, InterfaceFact},
};

/// What the host has.
#[derive(Default)]
pub struct Host {
    links: BTreeMap<u32, Link>,
    by_name: HashMap<String, u32>,
    addresses: BTreeSet<(u32, IpAddr)>,
}

impl Host {
    /// Looks at all of it.
    ///
    /// # Errors
    ///
    /// The kernel does not answer.
    pub fn read() -> Result<Self, Error> {
        let mut host = Self::default();
        for link in Link::all()? {
            host.put(link);
        }
        let all = Message::GetAddress(AddressMessage::default());
        for answer in netlink::list(all).map_err(Error::read)? {
            let message: AddressMessage = payload(&answer).map_err(Error::read)?;
            host.addresses.extend(own_address(&message));
        }
        Ok(host)
    }

    #[cfg(test)]
    pub(super) fn of(links: Vec<Link>, addresses: impl Iterator<Item = (u32, IpAddr)>) -> Self {
        let mut host = Self { addresses: addresses.collect(), ..Self::default() };
        for link in links {
            host.put(link);
        }
        host
    }

    /// What policy depends on.
    #[must_use]
    pub fn facts(&self) -> Facts {
        let interfaces = self.links.values().map(InterfaceFact::from).collect();
        Facts::new(interfaces, self.addresses.clone())
    }

    pub(super) fn links(&self) -> impl Iterator<Item = &Link> {
        self.links.values()
    }

    pub(super) fn link(&self, name: &str) -> Option<&Link> {
        self.links.get(self.by_name.get(name)?)
    }

    pub(super) fn has_address(&self, index: u32, address: IpAddr) -> bool {
        self.addresses.contains(&(index, address))
    }

    /// Takes in what the kernel says has changed. True if anything is other than before.
    pub(super) fn hear(&mut self, news: Message) -> Result<bool, Error> {
        match news {
            // Of a port's settings a bridge tells in its own words, and not all that there is to say.
            Message::NewLink(message) | Message::DelLink(message)
                if message.header.interface_family == AddressFamily::Bridge =>
            {
                let index = message.header.index;
                Ok(match Link::by_index(index)? {
                    Some(link) => self.put(link),
                    None => self.remove(index),
                })
            }
            Message::NewLink(message) => Ok(self.put(Link::from(&message))),
            Message::DelLink(message) => Ok(self.remove(message.header.index)),
            Message::NewAddress(message) => {
                Ok(own_address(&message).is_some_and(|it| self.addresses.insert(it)))
            }
            Message::DelAddress(message) => {
                Ok(own_address(&message).is_some_and(|it| self.addresses.remove(&it)))
            }
            _ => Ok(false), // other kinds of news of the same groups
        }
    }

    fn put(&mut self, link: Link) -> bool {
        let index = link.index;
        match self.links.get(&index) {
            Some(known) if *known == link => return false,
            Some(known) if known.name != link.name => self.forget_name(index),
            _ => {}
        }
        self.by_name.insert(link.name.clone(), index);
        self.links.insert(index, link);
        true
    }

    fn remove(&mut self, index: u32) -> bool {
        self.forget_name(index);
        self.addresses.retain(|(of, _)| *of != index);
        self.links.remove(&index).is_some()
    }

    /// The name may be another interface's by now.
    fn forget_name(&mut self, index: u32) {
        if let Some(link) = self.links.get(&index)
            && self.by_name.get(&link.name) == Some(&index)
        {
            self.by_name.remove(&link.name);
        }
    }
}

impl From<&Link> for InterfaceFact {
    fn from(link: &Link) -> Self {
        Self {
            index: link.index,
            name: link.name.clone(),
            mac: link.mac,
            controller: link.controller,
            is_bridge: link.kind == Kind::Bridge,
            link: match link.kind {
                Kind::Veth => LinkKind::Veth,
                Kind::Tap => LinkKind::Tap,
                Kind::Bridge | Kind::Other => LinkKind::Other,
            },
            isolated: link.isolated,
        }
    }
}

/// The host's own address, with the number of its interface. On a point-to-point link Address is the peer and Local is
/// ours; else they agree.
fn own_address(message: &AddressMessage) -> Option<(u32, IpAddr)> {
    let find = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| {
        message.attributes.iter().find_map(wanted)
    };
    let local = find(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None, // labels, flags, cache information
    });
    let other = || {
        find(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None, // labels, flags, cache information
        })
    };
    Some((message.header.index, local.or_else(other)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str) -> Link {
        Link {
            index,
            name: name.to_owned(),
            kind: Kind::Veth,
            mac: [0; 6],
            controller: None,
            isolated: false,
            is_up: true,
            alias: None,
            group: 0,
        }
    }

    #[test]
    fn a_name_that_changes_hands_is_the_new_ones() {
        let mut host = Host::default();
        assert!(host.put(link(1, "a")) && host.put(link(2, "b")));
        assert!(!host.put(link(1, "a")), "nothing is other than before");
        assert!(host.put(link(1, "c")) && host.put(link(2, "a")));
        let index = |name: &str| host.link(name).map(|link| link.index);
        assert_eq!((index("a"), index("b"), index("c")), (Some(2), None, Some(1)));
    }

    #[test]
    fn a_plan_is_told_veth_and_tap_apart() {
        let kind = |kind| InterfaceFact::from(&Link { kind, ..link(1, "a") }).link;
        assert_eq!(kind(Kind::Veth), LinkKind::Veth);
        assert_eq!(kind(Kind::Tap), LinkKind::Tap);
        assert_eq!([Kind::Bridge, Kind::Other].map(kind), [LinkKind::Other; 2]);
    }

    #[test]
    fn what_is_gone_takes_its_addresses_along() {
        let mut host = Host::default();
        host.put(link(1, "a"));
        let address = "10.0.0.1".parse().unwrap();
        host.addresses.insert((1, address));
        assert!(host.has_address(1, address));
        assert!(host.remove(1) && !host.remove(1));
        assert!(!host.has_address(1, address) && host.link("a").is_none());
    }
}
