//! The flag `isolated` of a bridge's port: such ports reach the bridge and what is not isolated, but
//! not each other.

use rtnetlink::{Handle, LinkBridgePort};

use super::{
    Error,
    link::{Link, open},
};

/// Sets or clears the flag of the port with that number, and reads it back.
///
/// # Errors
///
/// The port is gone or on no bridge, or the kernel did not take the flag.
pub async fn isolate(port: u32, isolated: bool) -> Result<(), Error> {
    set_isolated(&open()?, port, isolated).await
}

pub(super) async fn set_isolated(handle: &Handle, port: u32, isolated: bool) -> Result<(), Error> {
    let name = match Link::by_index(handle, port).await? {
        Some(link) => link.name,
        None => format!("interface {port}"), // the request says that it is gone
    };
    let action = if isolated { "isolate" } else { "end the isolation of" };
    let change = LinkBridgePort::new(port).isolated(isolated).build();
    let changed = handle.link().set_port(change).execute().await;
    changed.map_err(Error::change(action, &name))?;
    match Link::by_index(handle, port).await? {
        Some(link) if link.isolated == isolated => Ok(()),
        _ => Err(Error::NotTaken(name)), // changed under our hands, or never
    }
}
