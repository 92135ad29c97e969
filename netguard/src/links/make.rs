//! Makes and removes the links of the slots that netguard manages: bridges, TAPs, and the addresses
//! of the gateways, from which the kernel derives the routes.
//!
//! Each link that is made here bears the alias `netguard OWNER` (`ip link` shows it). The alias is
//! the only record of ownership, so it outlives the daemon; a link without it is never removed.

use std::{
    collections::HashSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use nix::net::if_::if_nametoindex;
use rtnetlink::{
    AddressMessageBuilder, LinkBridge, LinkUnspec,
    packet_core::{NLM_F_CREATE, NLM_F_EXCL},
    packet_route::{
        RouteNetlinkMessage as Message,
        address::{AddressHeaderFlags, AddressMessage},
        link::{LinkAttribute, LinkMessage},
    },
};

use super::{
    Error, Host,
    link::{Kind, Link},
    port::isolate,
    removal,
    steps::{Step, decide},
    tap,
};
use crate::netlink::request;

/// One bridge as it should be, with what is on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The bridge's name.
    pub bridge: String,
    /// Its Ethernet address; a bridge that exists keeps its own.
    pub mac: [u8; 6],
    /// The host's addresses on it, each with the length of its subnet's prefix.
    pub addresses: Vec<IpNet>,
    /// The TAPs on it.
    pub ports: Vec<String>,
    /// True if the ports may reach the bridge only, not each other.
    pub isolated: bool,
}

/// What [`make`] has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Made {
    /// The links that are new.
    pub created: Vec<String>,
    /// The links that were there and lacked something.
    pub completed: Vec<String>,
}

/// The alias of what `owner` has made.
fn alias_of(owner: &str) -> String {
    format!("netguard {owner}")
}

/// Makes what is missing on the host and completes what exists; what is as wanted is left alone. A link that
/// somebody else made gets the addresses and the bridge that it lacks and stays theirs.
///
/// # Errors
///
/// A name is something else's already, or the kernel refuses. Everything that this call changed is
/// then as before.
pub fn make(wanted: &[Wanted], owner: &str, host: &Host) -> Result<Made, Error> {
    let alias = alias_of(owner);
    let steps = decide(wanted, host, &alias)?;
    for (done, step) in steps.iter().enumerate() {
        if let Err(error) = take(step, &alias) {
            for step in steps[..done].iter().rev() {
                // The first error is the one to tell.
                let _ = undo(step);
            }
            return Err(error);
        }
    }
    let mut made = Made::default();
    for step in &steps {
        let name = step.interface();
        if step.creates() {
            made.created.push(name.to_owned());
        } else if !made.created.iter().chain(&made.completed).any(|other| other == name) {
            made.completed.push(name.to_owned());
        }
    }
    Ok(made)
}

/// Removes the links that [`make`] has just created, for a start that fails later. What it completed
/// stays: a gateway's address opens nothing.
///
/// # Errors
///
/// The kernel refuses; links that were removed until then are gone.
pub fn take_back(made: &Made) -> Result<(), Error> {
    made.created.iter().rev().try_for_each(|name| remove(name))
}

/// Removes every link that `owner` has made, and returns their names. Ports go first.
///
/// # Errors
///
/// The kernel refuses; links that were removed until then are gone.
pub fn remove_owned(owner: &str) -> Result<Vec<String>, Error> {
    remove_stale(owner, &[], &Host::read()?)
}

/// Removes the links that `owner` has made and that are no longer wanted, and returns their names.
///
/// # Errors
///
/// The kernel refuses; links that were removed until then are gone.
pub fn remove_stale(owner: &str, wanted: &[Wanted], host: &Host) -> Result<Vec<String>, Error> {
    let alias = alias_of(owner);
    let names = wanted.iter().flat_map(|wanted| wanted.ports.iter().chain([&wanted.bridge]));
    let wanted: HashSet<_> = names.collect();
    let is_stale =
        |link: &&Link| link.alias.as_ref() == Some(&alias) && !wanted.contains(&link.name);
    let mut stale: Vec<_> = host.links().filter(is_stale).collect();
    stale.sort_by_key(|link| link.kind == Kind::Bridge);
    removal::remove(&stale)?;
    Ok(stale.into_iter().map(|link| link.name.clone()).collect())
}

fn take(step: &Step<'_>, alias: &str) -> Result<(), Error> {
    match *step {
        Step::Bridge { bridge, mac } => {
            let bare = LinkBridge::new(bridge).down().address(mac.to_vec()).build();
            let added = request(Message::NewLink(bare), NLM_F_CREATE | NLM_F_EXCL);
            added.map_err(Error::change("make the bridge", bridge))?;
            settle(bridge, alias)
        }
        Step::Tap { port } => {
            tap::create(port).map_err(Error::change("make the TAP", port))?;
            let silenced = silence(port).map_err(Error::change("disable IPv6 on", port));
            match silenced {
                Ok(()) => settle(port, alias),
                Err(error) => {
                    let _ = remove(port);
                    Err(error)
                }
            }
        }
        Step::Address { bridge, address } => {
            let message = Message::NewAddress(of_gateway(index_of(bridge)?, address));
            let added = request(message, NLM_F_CREATE | NLM_F_EXCL);
            added.map(drop).map_err(Error::change("add the gateway's address to", bridge))
        }
        Step::Join { port, bridge } => {
            let bridge = index_of(bridge)?;
            let change = LinkUnspec::new_with_index(index_of(port)?).controller(bridge).build();
            set(change).map_err(Error::change("put on its bridge", port))
        }
        Step::Isolate { port, isolated } => isolate(index_of(port)?, isolated),
        Step::Up { interface } => {
            let change = LinkUnspec::new_with_index(index_of(interface)?).up().build();
            set(change).map_err(Error::change("set up", interface))
        }
    }
}

fn undo(step: &Step<'_>) -> Result<(), Error> {
    match *step {
        Step::Bridge { bridge: new, .. } | Step::Tap { port: new } => remove(new),
        Step::Address { bridge, address } => {
            let message = Message::DelAddress(of_gateway(index_of(bridge)?, address));
            request(message, 0).map(drop).map_err(Error::change("take the address from", bridge))
        }
        Step::Join { port, .. } => {
            let change = LinkUnspec::new_with_index(index_of(port)?).nocontroller().build();
            set(change).map_err(Error::change("take from its bridge", port))
        }
        Step::Isolate { port, isolated } => isolate(index_of(port)?, !isolated),
        Step::Up { interface } => {
            let change = LinkUnspec::new_with_index(index_of(interface)?).down().build();
            set(change).map_err(Error::change("set down", interface))
        }
    }
}

/// Marks a new link as netguard's; removes it again if that fails. The kernel takes no alias with
/// the request that makes a link (rtnl_create_link in net/core/rtnetlink.c, Linux 6.18).
fn settle(name: &str, alias: &str) -> Result<(), Error> {
    let mark = || {
        let alias = LinkAttribute::IfAlias(alias.to_owned());
        let link = LinkUnspec::new_with_index(index_of(name)?);
        let changed = set(link.append_extra_attribute(alias).build());
        changed.map_err(Error::change("set the alias of", name))
    };
    let marked = mark();
    if marked.is_err() {
        let _ = remove(name);
    }
    marked
}

fn set(change: LinkMessage) -> io::Result<()> {
    request(Message::SetLink(change), 0).map(drop)
}

fn remove(name: &str) -> Result<(), Error> {
    removal::delete(index_of(name)?).map_err(Error::change("remove", name))
}

/// A gateway's address is certain: a guest that claims it must not be able to make the kernel give
/// it up, as it would while it looks for duplicates (RFC 4862, section 5.4.5).
fn of_gateway(index: u32, address: IpNet) -> AddressMessage {
    let length = address.prefix_len();
    match address.addr() {
        IpAddr::V4(v4) => {
            AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(v4, length).build()
        }
        IpAddr::V6(v6) => {
            let address = AddressMessageBuilder::<Ipv6Addr>::new().index(index).address(v6, length);
            let mut message = address.build();
            message.header.flags |= AddressHeaderFlags::Nodad;
            message
        }
    }
}

fn index_of(name: &str) -> Result<u32, Error> {
    if_nametoindex(name).map_err(|error| Error::change("find", name)(error.into()))
}

/// A port is a wire, not a host: it has no IPv6 of its own to tell its guest about.
fn silence(port: &str) -> io::Result<()> {
    match std::fs::write(format!("/proc/sys/net/ipv6/conf/{port}/disable_ipv6"), "1") {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()), // a kernel without IPv6 has nothing to disable
    }
}
