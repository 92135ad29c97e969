//! Removes many links in few steps: they are moved to groups that no other link is in, and the kernel removes each group
//! as a whole. One by one, every link would have all processors wait for each other anew.

use std::io;

use rtnetlink::{
    LinkUnspec,
    packet_route::{
        RouteNetlinkMessage as Message,
        link::{LinkAttribute, LinkMessage},
    },
};

use super::{
    Error,
    link::{Link, is_absence},
};
use crate::netlink::request;

/// How many links a group has. The kernel changes no other link while it removes one.
const AT_ONCE: usize = 32;
/// How often other numbers are tried for groups that turn out to be somebody's.
const TRIES: u32 = 4;

/// Removes the links, in their order. Those that somebody else has removed meanwhile are as they should be.
pub(super) fn remove(links: &[&Link]) -> Result<(), Error> {
    let first = if links.len() > 1 { gather(links)? } else { None };
    for (number, together) in (0..).zip(links.chunks(AT_ONCE)) {
        let is_done = match first {
            Some(first) => remove_group(first + number).is_ok(),
            None => false,
        };
        if !is_done {
            remove_each(together)?;
        }
    }
    Ok(())
}

/// Moves the links to groups, and returns the first one's number; the others follow it. `None` if there are no numbers that
/// nobody else uses.
fn gather(links: &[&Link]) -> Result<Option<u32>, Error> {
    let count = links.chunks(AT_ONCE).len() as u32;
    let is_ours = |index| links.iter().any(|link| link.index == index);
    for _ in 0..TRIES {
        // Zero is every link's that nobody has moved.
        let first = rand::random_range(1..=u32::MAX - count);
        let is_taken = |link: &Link| (first..first + count).contains(&link.group);
        if Link::all()?.iter().any(is_taken) {
            continue;
        }
        for (number, together) in (0..).zip(links.chunks(AT_ONCE)) {
            for link in together {
                move_to(link, first + number)?;
            }
        }
        // Whoever has taken the same number meanwhile keeps what is his.
        let now = Link::all()?;
        if now.iter().all(|link| !is_taken(link) || is_ours(link.index)) {
            return Ok(Some(first));
        }
    }
    Ok(None)
}

fn move_to(link: &Link, group: u32) -> Result<(), Error> {
    let group = LinkAttribute::Group(group);
    let change = LinkUnspec::new_with_index(link.index).append_extra_attribute(group).build();
    let moved = request(Message::SetLink(change), 0).map(drop);
    unless_absent(moved).map_err(Error::change("move to a group of its own", &link.name))
}

fn remove_group(group: u32) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::Group(group));
    request(Message::DelLink(message), 0).map(drop)
}

/// One by one, so that a link that cannot be removed is told by its name.
fn remove_each(links: &[&Link]) -> Result<(), Error> {
    links.iter().try_for_each(|link| {
        unless_absent(delete(link.index)).map_err(Error::change("remove", &link.name))
    })
}

/// Removes the link of that number.
pub(super) fn delete(index: u32) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    request(Message::DelLink(message), 0).map(drop)
}

fn unless_absent(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if !is_absence(&error) => Err(error),
        _ => Ok(()), // who else removed it meant the same
    }
}
