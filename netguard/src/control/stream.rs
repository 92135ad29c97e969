//! Drops as a stream: the latest, and those that come, as long as somebody reads them.

use std::{convert::Infallible, time::SystemTime};

use axum::{
    body::{Body, Bytes},
    extract::{RawQuery, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
};
use futures_util::stream;
use netguard_common::DropReason;

use super::routes::{Daemon, Names, Wrong, pairs};
use crate::{
    drops::{Filter, To, View},
    pinned::NoSlot,
};

/// In a response's extensions: it may take as long as its reader wants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lasting;

/// What somebody wants to see.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    filter: Filter,
    /// All that are remembered without.
    last: usize,
    follow: bool,
    view: View,
    colored: bool,
}

pub(super) async fn drops(
    State(daemon): State<Daemon>,
    RawQuery(query): RawQuery,
) -> Result<Response, Wrong> {
    let query = query.unwrap_or_default();
    let Wanted { filter, last, follow, view, colored } = read(&query, &daemon.names())?;
    let kind = [(CONTENT_TYPE, view.media_type())];
    let mut printer = view.begin(colored);
    if !follow {
        let last = daemon.feed.last(&filter, last);
        return Ok((kind, printer.print(last.iter().map(AsRef::as_ref), 0)).into_response());
    }
    let places = |error| Wrong::new(StatusCode::SERVICE_UNAVAILABLE, error);
    let (last, follower) = daemon.feed.follow(filter, last).map_err(places)?;
    let start = (Some(last), follower, printer);
    let pieces = stream::unfold(start, move |(last, follower, mut printer)| async move {
        let (drops, lost) = match last {
            Some(last) => (last, 0),
            None => follower.next().await,
        };
        let piece = printer.print(drops.iter().map(AsRef::as_ref), lost);
        Some((Ok::<_, Infallible>(Bytes::from(piece)), (None, follower, printer)))
    });
    let mut response = (kind, Body::from_stream(pieces)).into_response();
    response.extensions_mut().insert(Lasting);
    Ok(response)
}

fn read(query: &str, names: &Names) -> Result<Wanted, Wrong> {
    let mut wanted = Wanted {
        filter: Filter::default(),
        last: usize::MAX,
        follow: false,
        view: View::Json,
        colored: false,
    };
    for (key, value) in pairs(query) {
        match (key, value.as_str()) {
            ("slot", slot) => {
                NoSlot::find(&names.slots, slot)?;
                wanted.filter.slot = Some(slot.to_owned());
            }
            ("runtime", runtime) => wanted.filter.runtime = Some(find_runtime(runtime, names)?),
            ("reason", name) => wanted.filter.reason = Some(find_reason(name)?),
            ("last", count) => {
                let bad = |_| Wrong::bad(format!("last={count} is no number of drops"));
                wanted.last = count.parse().map_err(bad)?;
            }
            ("since", time) => wanted.filter.since = Some(find_since(time)?),
            ("to", to) => wanted.filter.to = Some(to.parse::<To>().map_err(Wrong::bad)?),
            ("follow", "true") => wanted.follow = true,
            ("follow", "false") => wanted.follow = false,
            ("format", name) if let Some(view) = find_view(name) => wanted.view = view,
            ("colored", "true") => wanted.colored = true,
            ("colored", "false") => wanted.colored = false,
            _ => {
                return Err(Wrong::bad(format!(
                    "{key}={value} is no condition; there are slot=NAME, reason=NAME, runtime=NAME, to=ADDRESS, PREFIX or \
                     NAME, last=NUMBER, since=10m, follow=true or false, format=json, text, compact or pcapng, \
                     colored=true or false"
                )));
            }
        }
    }
    Ok(wanted)
}

fn find_view(name: &str) -> Option<View> {
    View::ALL.into_iter().find(|view| view.name() == name)
}

/// So long ago.
fn find_since(time: &str) -> Result<SystemTime, Wrong> {
    let ago = humantime::parse_duration(time).ok();
    let since = ago.and_then(|ago| SystemTime::now().checked_sub(ago));
    since.ok_or_else(|| Wrong::bad(format!("since={time} is no time like 10m or 2h")))
}

fn find_runtime(name: &str, names: &Names) -> Result<String, Wrong> {
    let found = names.runtimes.iter().find(|runtime| *runtime == name);
    let none = || {
        let there = names.runtimes.join(", ");
        let words = format!("no runtime is called {name:?}; there are {there}");
        Wrong::new(StatusCode::NOT_FOUND, words)
    };
    found.cloned().ok_or_else(none)
}

fn find_reason(name: &str) -> Result<DropReason, Wrong> {
    let found = DropReason::ALL.iter().find(|reason| reason.name() == name);
    let none = || {
        let there: Vec<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
        Wrong::bad(format!("no reason is called {name:?}; there are {}", there.join(", ")))
    };
    found.copied().ok_or_else(none)
}
