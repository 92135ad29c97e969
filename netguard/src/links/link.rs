//! One interface as the kernel describes it, and how it is asked. It changes nothing.

use std::io;

use rtnetlink::packet_route::{
    RouteNetlinkMessage as Message,
    link::{
        InfoBridgePort, InfoKind, InfoPortData, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo,
        LinkLayerType, LinkMessage,
    },
};

use super::Error;
use crate::netlink::{self, payload};

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
#[derive(Clone, Debug, PartialEq, Eq)]
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
    pub(super) fn by_index(index: u32) -> Result<Option<Self>, Error> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        match netlink::request(Message::GetLink(message), 0) {
            Ok(answers) => answers.first().map(|answer| Self::read(answer)).transpose(),
            Err(error) if is_absence(&error) => Ok(None),
            Err(error) => Err(Error::read(error)),
        }
    }

    /// Every interface of the namespace.
    pub(super) fn all() -> Result<Vec<Self>, Error> {
        let mut message = LinkMessage::default();
        // Statistics would be most of the answer.
        message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let answers = netlink::list(Message::GetLink(message)).map_err(Error::read)?;
        answers.iter().map(|answer| Self::read(answer)).collect()
    }

    fn read(answer: &[u8]) -> Result<Self, Error> {
        payload(answer).map(|message| Self::from(&message)).map_err(Error::read)
    }
}

/// True if the kernel says that there is no such interface.
pub(super) fn is_absence(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENODEV)
}
