//! What `netguard doctor` asks of interfaces and routes, and nothing that netguard guards depends on.

use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::packet_core::Nla as _;
use rtnetlink::packet_route::{
    AddressFamily, RouteNetlinkMessage as Message,
    link::{
        BridgeStpState, InfoBridge, InfoData, LinkAttribute, LinkExtentMask, LinkInfo, LinkMessage,
        LinkXdp, XdpAttached,
    },
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType},
};

use super::Error;
use crate::netlink::{self, payload};

/// One interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// The longest packet, in bytes from the IP header on.
    pub mtu: u32,
    /// The bridge that it is a port of, by number.
    pub controller: Option<u32>,
    /// The XDP program on it: its number, and whether the driver runs it.
    pub xdp: Option<(u32, bool)>,
    /// Of a bridge: whether it runs the spanning tree protocol.
    pub stp: bool,
    /// Of a bridge: whether it asks who listens to groups, and sends only there.
    pub snoops: bool,
    /// Of a TUN or TAP device: whether packets have a header for offloads.
    pub vnet_header: Option<bool>,
}

/// `IFLA_TUN_VNET_HDR` of include/uapi/linux/if_link.h.
const TUN_VNET_HEADER: u16 = 5;

impl Details {
    /// Every interface of the namespace.
    ///
    /// # Errors
    ///
    /// The kernel does not answer.
    pub fn all() -> Result<Vec<Self>, Error> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let answers = netlink::list(Message::GetLink(message)).map_err(Error::read)?;
        let read = |answer: &Vec<u8>| Ok(Self::read(&payload(answer).map_err(Error::read)?));
        answers.iter().map(read).collect()
    }

    fn read(message: &LinkMessage) -> Self {
        let mut details = Self { index: message.header.index, ..Self::default() };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => details.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => details.mtu = *mtu,
                LinkAttribute::Controller(index) => details.controller = Some(*index),
                LinkAttribute::Xdp(xdp) => details.xdp = read_xdp(xdp),
                LinkAttribute::LinkInfo(infos) => {
                    for info in infos {
                        if let LinkInfo::Data(data) = info {
                            details.learn(data);
                        }
                    }
                }
                _ => {} // what nobody asks here
            }
        }
        details
    }

    fn learn(&mut self, data: &InfoData) {
        match data {
            InfoData::Bridge(settings) => {
                self.stp = settings.iter().any(|it| {
                    matches!(it, InfoBridge::StpState(state) if *state != BridgeStpState::Disabled)
                });
                let is_on = |wanted: InfoBridge| settings.contains(&wanted);
                self.snoops = is_on(InfoBridge::MulticastSnooping(true))
                    && is_on(InfoBridge::MulticastQuerier(true));
            }
            InfoData::Tun(settings) => {
                let header = settings.iter().find(|it| it.kind() == TUN_VNET_HEADER);
                self.vnet_header = header.map(|setting| {
                    let mut value = vec![0; setting.value_len()];
                    setting.emit_value(&mut value);
                    value.first() == Some(&1)
                });
            }
            _ => {} // other kinds
        }
    }
}

fn read_xdp(attributes: &[LinkXdp]) -> Option<(u32, bool)> {
    let id = attributes.iter().find_map(|it| match it {
        LinkXdp::ProgId(id) => Some(*id),
        _ => None, // how it is attached
    })?;
    Some((id, !attributes.contains(&LinkXdp::Attached(XdpAttached::SocketBuffer))))
}

/// Which table a route is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// The main one, which is asked unless a rule says otherwise.
    Main,
    /// Another one.
    Other(u32),
}

/// One route to somewhere beyond the host's own addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// What it leads to; of length 0 for a default route.
    pub net: IpNet,
    /// The number of the interface; none for one that leads nowhere, or to several.
    pub interface: Option<u32>,
    /// The table.
    pub table: Table,
}

impl Route {
    /// Every route of the namespace.
    ///
    /// # Errors
    ///
    /// The kernel does not answer.
    pub fn all() -> Result<Vec<Self>, Error> {
        let all = Message::GetRoute(RouteMessage::default());
        let answers = netlink::list(all).map_err(Error::read)?;
        let mut routes = Vec::new();
        for answer in answers {
            // The kernel grows kinds of attributes that the reader does not know yet.
            let Ok(message) = payload::<RouteMessage>(&answer) else { continue };
            routes.extend(Self::read(&message));
        }
        Ok(routes)
    }

    fn read(message: &RouteMessage) -> Option<Self> {
        let header = &message.header;
        let is_own = matches!(
            header.kind,
            RouteType::Local | RouteType::Broadcast | RouteType::Anycast | RouteType::Multicast
        );
        if is_own {
            return None;
        }
        let mut interface = None;
        let mut table = u32::from(header.table);
        let mut address = match header.address_family {
            AddressFamily::Inet => IpAddr::from([0_u8; 4]),
            AddressFamily::Inet6 => IpAddr::from([0_u16; 8]),
            _ => return None, // multicast routing and others
        };
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(v4)) => address = (*v4).into(),
                RouteAttribute::Destination(RouteAddress::Inet6(v6)) => address = (*v6).into(),
                RouteAttribute::Oif(index) => interface = Some(*index),
                RouteAttribute::Table(number) => table = *number,
                _ => {} // gateways, metrics: not where it leads
            }
        }
        let net = IpNet::new(address, header.destination_prefix_length).ok()?;
        let is_main = table == u32::from(RouteHeader::RT_TABLE_MAIN);
        let table = if is_main { Table::Main } else { Table::Other(table) };
        Some(Self { net, interface, table })
    }
}
