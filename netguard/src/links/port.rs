//! The flag `isolated` of a bridge's port: such ports reach the bridge and what is not isolated, but
//! not each other.

use rtnetlink::{LinkBridgePort, packet_route::RouteNetlinkMessage as Message};

use super::{Error, link::Link};
use crate::netlink;

/// Sets or clears the flag of the port with that number, and reads it back.
///
/// # Errors
///
/// The port is gone or on no bridge, or the kernel did not take the flag.
pub fn isolate(port: u32, isolated: bool) -> Result<(), Error> {
    let action = if isolated { "isolate" } else { "end the isolation of" };
    let change = LinkBridgePort::new(port).isolated(isolated).build();
    if let Err(error) = netlink::request(Message::NewLink(change), 0) {
        return Err(Error::change(action, &name(port, Link::by_index(port)?))(error));
    }
    match Link::by_index(port)? {
        Some(link) if link.isolated == isolated => Ok(()),
        // Changed under our hands, or never.
        link => Err(Error::NotTaken(name(port, link))),
    }
}

fn name(port: u32, link: Option<Link>) -> String {
    link.map_or_else(|| format!("interface {port}"), |link| link.name)
}
