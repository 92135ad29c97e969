//! Drops as a stream of lines: the latest, and those that come, as long as somebody reads them.

use std::convert::Infallible;

use axum::{
    body::{Body, Bytes},
    extract::{RawQuery, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
};
use futures_util::stream;
use netguard_common::DropReason;

use super::routes::{Daemon, Names, Wrong, pairs};
use crate::{drops::Filter, journal::Format, pinned::NoSlot};

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
    format: Format,
}

pub(super) async fn drops(
    State(daemon): State<Daemon>,
    RawQuery(query): RawQuery,
) -> Result<Response, Wrong> {
    let query = query.unwrap_or_default();
    let Wanted { filter, last, follow, format } = read(&query, &daemon.names())?;
    let kind = match format {
        Format::Text => "text/plain; charset=utf-8",
        Format::Json => "application/x-ndjson",
    };
    if !follow {
        let last = daemon.feed.last(&filter, last);
        let lines = format.drops(last.iter().map(AsRef::as_ref), 0);
        return Ok(([(CONTENT_TYPE, kind)], lines).into_response());
    }
    let places = |error| Wrong::new(StatusCode::SERVICE_UNAVAILABLE, error);
    let (last, follower) = daemon.feed.follow(filter, last).map_err(places)?;
    let lines = stream::unfold((Some(last), follower), move |(last, follower)| async move {
        let (drops, lost) = match last {
            Some(last) => (last, 0),
            None => follower.next().await,
        };
        let lines = format.drops(drops.iter().map(AsRef::as_ref), lost);
        Some((Ok::<_, Infallible>(Bytes::from(lines)), (None, follower)))
    });
    let mut response = ([(CONTENT_TYPE, kind)], Body::from_stream(lines)).into_response();
    response.extensions_mut().insert(Lasting);
    Ok(response)
}

fn read(query: &str, names: &Names) -> Result<Wanted, Wrong> {
    let mut wanted =
        Wanted { filter: Filter::default(), last: usize::MAX, follow: false, format: Format::Json };
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
            ("follow", "true") => wanted.follow = true,
            ("follow", "false") => wanted.follow = false,
            ("format", "json") => wanted.format = Format::Json,
            ("format", "text") => wanted.format = Format::Text,
            _ => {
                return Err(Wrong::bad(format!(
                    "{key}={value} is no condition; there are slot=NAME, reason=NAME, runtime=NAME, last=NUMBER, \
                     follow=true or false, format=json or text"
                )));
            }
        }
    }
    Ok(wanted)
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
