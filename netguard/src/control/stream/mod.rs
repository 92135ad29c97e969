//! Feeds as streams: the latest items, and those that come, as long as somebody reads them.

pub(super) mod drops;
pub(super) mod events;
pub(super) mod queries;

use std::{convert::Infallible, sync::Arc, time::SystemTime};

use axum::{
    body::{Body, Bytes},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
};
use futures_util::stream;

use super::{Names, daemon::Wrong};
use crate::feed::{Feed, Item};

/// In a response's extensions: it may take as long as its reader wants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lasting;

/// How much of a feed somebody wants.
#[derive(Debug, PartialEq, Eq)]
struct Span {
    /// All that are remembered without.
    last: usize,
    follow: bool,
    colored: bool,
}

impl Default for Span {
    fn default() -> Self {
        Self { last: usize::MAX, follow: false, colored: false }
    }
}

impl Span {
    /// What each stream's query can have. In an error's words.
    const CONDITIONS: &str = "last=NUMBER, follow=true or false, colored=true or false";

    /// Takes a condition. False if it is none of these.
    fn take(&mut self, key: &str, value: &str) -> Result<bool, Wrong> {
        match (key, value) {
            ("last", count) => {
                let bad = |_| Wrong::bad(format!("last={count} is no number"));
                self.last = count.parse().map_err(bad)?;
            }
            ("follow", "true") => self.follow = true,
            ("follow", "false") => self.follow = false,
            ("colored", "true") => self.colored = true,
            ("colored", "false") => self.colored = false,
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// Prints what is wanted of a feed, piece by piece: some items, and how many were lost behind them.
fn answer<T: Item + Send + Sync + 'static>(
    feed: &Feed<T>,
    filter: T::Filter,
    span: &Span,
    media_type: &'static str,
    mut print: impl FnMut(&[Arc<T>], u64) -> Vec<u8> + Send + 'static,
) -> Result<Response, Wrong>
where
    T::Filter: Send + Sync,
{
    let kind = [(CONTENT_TYPE, media_type)];
    if !span.follow {
        return Ok((kind, print(&feed.last(&filter, span.last), 0)).into_response());
    }
    let places = |error| Wrong::new(StatusCode::SERVICE_UNAVAILABLE, error);
    let (last, follower) = feed.follow(filter, span.last).map_err(places)?;
    let start = (Some(last), follower, print);
    let pieces = stream::unfold(start, async move |(last, follower, mut print)| {
        let (items, lost) = match last {
            Some(last) => (last, 0),
            None => follower.next().await,
        };
        let piece = print(&items, lost);
        Some((Ok::<_, Infallible>(Bytes::from(piece)), (None, follower, print)))
    });
    let mut response = (kind, Body::from_stream(pieces)).into_response();
    response.extensions_mut().insert(Lasting);
    Ok(response)
}

fn find_runtime(runtime: &str, names: &Names) -> Result<String, Wrong> {
    let found = names.runtimes.iter().find(|it| *it == runtime);
    let none = || {
        let there = names.runtimes.join(", ");
        let words = format!("no runtime is called {runtime:?}; there are {there}");
        Wrong::new(StatusCode::NOT_FOUND, words)
    };
    found.cloned().ok_or_else(none)
}

/// So long ago.
fn since(time: &str) -> Result<SystemTime, Wrong> {
    let ago = humantime::parse_duration(time).ok();
    let since = ago.and_then(|ago| SystemTime::now().checked_sub(ago));
    since.ok_or_else(|| Wrong::bad(format!("since={time} is no time like 10m or 2h")))
}
