//! Makes and removes the links of the slots that netguard manages: bridges, TAPs, and the addresses
//! of the gateways, from which the kernel derives the routes.
//!
//! Each link that is made here bears the alias `netguard OWNER` (`ip link` shows it). The alias is
//! the only record of ownership, so it outlives the daemon; a link without it is never removed.

use std::io;

use ipnet::IpNet;
use rtnetlink::{
    AddressAddRequest, Handle, LinkBridge, LinkUnspec,
    packet_route::{address::AddressHeaderFlags, link::LinkAttribute},
};

use super::{
    Error,
    link::{self, Kind, Link},
    port::set_isolated,
    removal,
    steps::{Found, Step, decide},
    tap,
};

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

/// Makes what is missing and completes what exists; what is as wanted is left alone. A link that
/// somebody else made gets the addresses and the bridge that it lacks and stays theirs.
///
/// # Errors
///
/// A name is something else's already, or the kernel refuses. Everything that this call changed is
/// then as before.
pub async fn make(wanted: &[Wanted], owner: &str) -> Result<Made, Error> {
    let (handle, alias) = (link::open()?, alias_of(owner));
    let found =
        Found { links: Link::all(&handle).await?, addresses: link::addresses(&handle).await? };
    let steps = decide(wanted, &found, &alias)?;
    for (done, step) in steps.iter().enumerate() {
        if let Err(error) = take(&handle, step, &alias).await {
            for step in steps[..done].iter().rev() {
                // The first error is the one to tell.
                let _ = undo(&handle, step).await;
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
pub async fn take_back(made: &Made) -> Result<(), Error> {
    let handle = link::open()?;
    for name in made.created.iter().rev() {
        remove(&handle, name).await?;
    }
    Ok(())
}

/// Removes every link that `owner` has made, and returns their names. Ports go first.
///
/// # Errors
///
/// The kernel refuses; links that were removed until then are gone.
pub async fn remove_owned(owner: &str) -> Result<Vec<String>, Error> {
    remove_stale(owner, &[]).await
}

/// Removes the links that `owner` has made and that are no longer wanted, and returns their names.
///
/// # Errors
///
/// The kernel refuses; links that were removed until then are gone.
pub async fn remove_stale(owner: &str, wanted: &[Wanted]) -> Result<Vec<String>, Error> {
    let (handle, alias) = (link::open()?, alias_of(owner));
    let is_wanted = |name: &String| {
        wanted.iter().any(|wanted| wanted.bridge == *name || wanted.ports.contains(name))
    };
    let mut stale = Link::all(&handle).await?;
    stale.retain(|link| link.alias.as_ref() == Some(&alias) && !is_wanted(&link.name));
    stale.sort_by_key(|link| link.kind == Kind::Bridge);
    removal::remove(&handle, &stale).await?;
    Ok(stale.into_iter().map(|link| link.name).collect())
}

async fn take(handle: &Handle, step: &Step<'_>, alias: &str) -> Result<(), Error> {
    match *step {
        Step::Bridge { bridge, mac } => {
            let bare = LinkBridge::new(bridge).down().address(mac.to_vec()).build();
            let added = handle.link().add(bare).execute().await;
            added.map_err(Error::change("make the bridge", bridge))?;
            settle(handle, bridge, alias).await
        }
        Step::Tap { port } => {
            tap::create(port).map_err(Error::change("make the TAP", port))?;
            let silenced = silence(port).map_err(Error::change("disable IPv6 on", port));
            match silenced {
                Ok(()) => settle(handle, port, alias).await,
                Err(error) => {
                    let _ = remove(handle, port).await;
                    Err(error)
                }
            }
        }
        Step::Address { bridge, address } => {
            let add = address_request(handle, index_of(handle, bridge).await?, address);
            add.execute().await.map_err(Error::change("add the gateway's address to", bridge))
        }
        Step::Join { port, bridge } => {
            let bridge = index_of(handle, bridge).await?;
            let port_index = index_of(handle, port).await?;
            let change = LinkUnspec::new_with_index(port_index).controller(bridge).build();
            let changed = handle.link().change(change).execute().await;
            changed.map_err(Error::change("put on its bridge", port))
        }
        Step::Isolate { port, isolated } => {
            set_isolated(handle, index_of(handle, port).await?, isolated).await
        }
        Step::Up { interface } => {
            let index = index_of(handle, interface).await?;
            let change = LinkUnspec::new_with_index(index).up().build();
            let changed = handle.link().change(change).execute().await;
            changed.map_err(Error::change("set up", interface))
        }
    }
}

async fn undo(handle: &Handle, step: &Step<'_>) -> Result<(), Error> {
    match *step {
        Step::Bridge { bridge: new, .. } | Step::Tap { port: new } => remove(handle, new).await,
        Step::Address { bridge, address } => {
            let index = index_of(handle, bridge).await?;
            let message = address_request(handle, index, address).message_mut().clone();
            let removed = handle.address().del(message).execute().await;
            removed.map_err(Error::change("take the address from", bridge))
        }
        Step::Join { port, .. } => {
            let index = index_of(handle, port).await?;
            let change = LinkUnspec::new_with_index(index).nocontroller().build();
            let changed = handle.link().change(change).execute().await;
            changed.map_err(Error::change("take from its bridge", port))
        }
        Step::Isolate { port, isolated } => {
            set_isolated(handle, index_of(handle, port).await?, !isolated).await
        }
        Step::Up { interface } => {
            let index = index_of(handle, interface).await?;
            let change = LinkUnspec::new_with_index(index).down().build();
            let changed = handle.link().change(change).execute().await;
            changed.map_err(Error::change("set down", interface))
        }
    }
}

/// Marks a new link as netguard's; removes it again if that fails. The kernel takes no alias with
/// the request that makes a link (rtnl_create_link in net/core/rtnetlink.c, Linux 6.18).
async fn settle(handle: &Handle, name: &str, alias: &str) -> Result<(), Error> {
    let mark = async {
        let alias = LinkAttribute::IfAlias(alias.to_owned());
        let index = index_of(handle, name).await?;
        let change = LinkUnspec::new_with_index(index).append_extra_attribute(alias).build();
        let changed = handle.link().change(change).execute().await;
        changed.map_err(Error::change("set the alias of", name))
    };
    let marked = mark.await;
    if marked.is_err() {
        let _ = remove(handle, name).await;
    }
    marked
}

async fn remove(handle: &Handle, name: &str) -> Result<(), Error> {
    let index = index_of(handle, name).await?;
    handle.link().del(index).execute().await.map_err(Error::change("remove", name))
}

/// A gateway's address is certain: a guest that claims it must not be able to make the kernel give
/// it up, as it would while it looks for duplicates (RFC 4862, section 5.4.5).
fn address_request(handle: &Handle, index: u32, address: IpNet) -> AddressAddRequest {
    let mut request = handle.address().add(index, address.addr(), address.prefix_len());
    if address.addr().is_ipv6() {
        request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
    }
    request
}

async fn index_of(handle: &Handle, name: &str) -> Result<u32, Error> {
    let link = Link::by_name(handle, name).await?;
    let gone = || Error::change("find", name)(io::Error::from_raw_os_error(libc::ENODEV));
    link.map(|link| link.index).ok_or_else(gone)
}

/// A port is a wire, not a host: it has no IPv6 of its own to tell its guest about.
fn silence(port: &str) -> io::Result<()> {
    match std::fs::write(format!("/proc/sys/net/ipv6/conf/{port}/disable_ipv6"), "1") {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()), // a kernel without IPv6 has nothing to disable
    }
}
