//! One interface as the kernel describes it, and how it is asked. It changes nothing.

use std::net::IpAddr;

use futures_util::TryStreamExt as _;
use rtnetlink::{
    Handle, LinkGetRequest, new_connection,
    packet_route::{
        address::{AddressAttribute, AddressMessage},
        link::{
            InfoBridgePort, InfoKind, InfoPortData, LinkAttribute, LinkFlags, LinkInfo,
            LinkLayerType, LinkMessage,
        },
    },
};

use super::Error;

/// What netguard tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bridge,
    /// A TUN device in its Ethernet mode.
    Tap,
    Veth,
    Other,
}

/// One interface.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub index: u32,
    pub name: String,
    pub kind: Kind,
    pub mac: [u8; 6],
    /// What it is a port of, by number.
    pub controller: Option<u32>,
    /// The flag of a bridge's port.
    pub isolated: bool,
    /// As an operator would set it; the carrier is another matter.
    pub is_up: bool,
    pub alias: Option<String>,
    /// The number of the group that it is in; 0 unless somebody has moved it.
    pub group: u32,
}

impl From<&LinkMessage> for Link {
    fn from(message: &LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            kind: Kind::Other,
            mac: [0; 6],
            controller: None,
            isolated: false,
            is_up: message.header.flags.contains(LinkFlags::Up),
            alias: None,
            group: 0,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()),
                LinkAttribute::Address(address) => {
                    if let Ok(mac) = <[u8; 6]>::try_from(address.as_slice()) {
                        link.mac = mac;
                    }
                }
                LinkAttribute::Group(group) => link.group = *group,
                LinkAttribute::Controller(index) => link.controller = Some(*index),
                LinkAttribute::LinkInfo(infos) => {
                    let is_ethernet = message.header.link_layer_type == LinkLayerType::Ether;
                    infos.iter().for_each(|info| link.learn(info, is_ethernet));
                }
                _ => {} // statistics, queues, flags: nothing that netguard depends on
            }
        }
        link
    }
}

impl Link {
    fn learn(&mut self, info: &LinkInfo, is_ethernet: bool) {
        match info {
            LinkInfo::Kind(InfoKind::Bridge) => self.kind = Kind::Bridge,
            LinkInfo::Kind(InfoKind::Veth) => self.kind = Kind::Veth,
            LinkInfo::Kind(InfoKind::Tun) if is_ethernet => self.kind = Kind::Tap,
            LinkInfo::PortData(InfoPortData::BridgePort(settings)) => {
                self.isolated = settings.contains(&InfoBridgePort::Isolated(true));
            }
            _ => {} // other kinds and their details
        }
    }

    /// The interface of that number. `None` if it is gone.
    pub(super) async fn by_index(handle: &Handle, index: u32) -> Result<Option<Self>, Error> {
        Self::one(handle.link().get().match_index(index)).await
    }

    /// The interface of that name. `None` if there is none.
    pub(super) async fn by_name(handle: &Handle, name: &str) -> Result<Option<Self>, Error> {
        Self::one(handle.link().get().match_name(name)).await
    }

    async fn one(request: LinkGetRequest) -> Result<Option<Self>, Error> {
        match request.execute().try_next().await {
            Ok(message) => Ok(message.as_ref().map(Self::from)),
            Err(error) if is_absence(&error) => Ok(None),
            Err(error) => Err(Error::read(error)),
        }
    }

    /// Every interface of the namespace, in the order of their numbers.
    pub(super) async fn all(handle: &Handle) -> Result<Vec<Self>, Error> {
        let mut links = Vec::new();
        let mut answers = handle.link().get().execute();
        while let Some(message) = answers.try_next().await.map_err(Error::read)? {
            links.push(Self::from(&message));
        }
        links.sort_by_key(|link| link.index);
        Ok(links)
    }
}

/// True if the kernel says that there is no such interface.
pub(super) fn is_absence(error: &rtnetlink::Error) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message) if message.raw_code() == -libc::ENODEV)
}

/// Every address of the namespace, with the number of its interface.
pub(super) async fn addresses(handle: &Handle) -> Result<Vec<(u32, IpAddr)>, Error> {
    let mut found = Vec::new();
    let mut answers = handle.address().get().execute();
    while let Some(message) = answers.try_next().await.map_err(Error::read)? {
        found.extend(own_address(&message).map(|address| (message.header.index, address)));
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// On a point-to-point link Address is the peer and Local is ours; else they agree.
fn own_address(message: &AddressMessage) -> Option<IpAddr> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None, // labels, flags, cache information
    });
    local.or_else(|| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None, // labels, flags, cache information
        })
    })
}

/// Opens a conversation with the network namespace of the calling thread. Must be called within a
/// tokio runtime.
pub(super) fn open() -> Result<Handle, Error> {
    let (connection, handle, _) = new_connection().map_err(Error::read)?;
    tokio::spawn(connection);
    Ok(handle)
}
