//! Removes many links in few steps: they are moved to groups that no other link is in, and the kernel removes each group
//! as a whole. One by one, every link would have all processors wait for each other anew.

use rtnetlink::{
    Handle, LinkDelRequest, LinkUnspec,
    packet_route::link::{LinkAttribute, LinkMessage},
};

use super::{
    Error,
    link::{Link, is_absence},
};

/// How many links a group has. The kernel changes no other link while it removes one.
const AT_ONCE: usize = 32;
/// How often other numbers are tried for groups that turn out to be somebody's.
const TRIES: u32 = 4;

/// Removes the links, in their order. Those that somebody else has removed meanwhile are as they should be.
pub(super) async fn remove(handle: &Handle, links: &[Link]) -> Result<(), Error> {
    let first = if links.len() > 1 { gather(handle, links).await? } else { None };
    for (number, together) in (0..).zip(links.chunks(AT_ONCE)) {
        let is_done = match first {
            Some(first) => remove_group(handle, first + number).await.is_ok(),
            None => false,
        };
        if !is_done {
            remove_each(handle, together).await?;
        }
    }
    Ok(())
}

/// Moves the links to groups, and returns the first one's number; the others follow it. `None` if there are no numbers that
/// nobody else uses.
async fn gather(handle: &Handle, links: &[Link]) -> Result<Option<u32>, Error> {
    let count = links.chunks(AT_ONCE).len() as u32;
    let is_ours = |index| links.iter().any(|link| link.index == index);
    for _ in 0..TRIES {
        // Zero is every link's that nobody has moved.
        let first = rand::random_range(1..=u32::MAX - count);
        let is_taken = |link: &Link| (first..first + count).contains(&link.group);
        if Link::all(handle).await?.iter().any(is_taken) {
            continue;
        }
        for (number, together) in (0..).zip(links.chunks(AT_ONCE)) {
            for link in together {
                move_to(handle, link, first + number).await?;
            }
        }
        // Whoever has taken the same number meanwhile keeps what is his.
        let now = Link::all(handle).await?;
        if now.iter().all(|link| !is_taken(link) || is_ours(link.index)) {
            return Ok(Some(first));
        }
    }
    Ok(None)
}

async fn move_to(handle: &Handle, link: &Link, group: u32) -> Result<(), Error> {
    let group = LinkAttribute::Group(group);
    let change = LinkUnspec::new_with_index(link.index).append_extra_attribute(group).build();
    unless_absent(handle.link().change(change).execute().await)
        .map_err(Error::change("move to a group of its own", &link.name))
}

async fn remove_group(handle: &Handle, group: u32) -> Result<(), rtnetlink::Error> {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::Group(group));
    LinkDelRequest::new_with_message(handle.clone(), message).execute().await
}

/// One by one, so that a link that cannot be removed is told by its name.
async fn remove_each(handle: &Handle, links: &[Link]) -> Result<(), Error> {
    for link in links {
        unless_absent(handle.link().del(link.index).execute().await)
            .map_err(Error::change("remove", &link.name))?;
    }
    Ok(())
}

fn unless_absent(done: Result<(), rtnetlink::Error>) -> Result<(), rtnetlink::Error> {
    match done {
        Err(error) if !is_absence(&error) => Err(error),
        _ => Ok(()), // who else removed it meant the same
    }
}
