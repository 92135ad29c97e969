//! Which drops somebody wants to see, and how.

use axum::{
    extract::{RawQuery, State},
    http::StatusCode,
    response::Response,
};
use netguard_common::DropReason;

use super::{
    super::{
        Names,
        daemon::{Daemon, Wrong},
        routes::pairs,
    },
    Span, answer, find_runtime, since,
};
use crate::{
    drops::{Filter, To, View},
    feed::Look,
    pinned::NoSlot,
};

pub(in super::super) async fn drops(
    State(daemon): State<Daemon>,
    RawQuery(query): RawQuery,
) -> Result<Response, Wrong> {
    let (filter, span, view) = read(&query.unwrap_or_default(), &daemon.names())?;
    if let Some(id) = filter.id
        && daemon.feeds.drops.last(&filter, 1).is_empty()
    {
        let words = format!("no drop {id} is remembered; `netguard drops` shows those that are");
        return Err(Wrong::new(StatusCode::NOT_FOUND, words));
    }
    let mut printer = view.begin(span.colored);
    answer(&daemon.feeds.drops, filter, &span, view.media_type(), move |drops, lost| {
        printer.print(drops.iter().map(AsRef::as_ref), lost)
    })
}

fn read(query: &str, names: &Names) -> Result<(Filter, Span, View), Wrong> {
    let (mut filter, mut span, mut view) =
        (Filter::default(), Span::default(), View::Lines(Look::Json));
    for (key, value) in pairs(query) {
        match (key, value.as_str()) {
            ("slot", slot) => {
                NoSlot::find(&names.slots, slot)?;
                filter.slot = Some(slot.to_owned());
            }
            ("runtime", runtime) => filter.runtime = Some(find_runtime(runtime, names)?),
            ("reason", name) => filter.reason = Some(find_reason(name)?),
            ("id", id) => filter.id = Some(id.parse().map_err(Wrong::bad)?),
            ("since", time) => filter.since = Some(since(time)?),
            ("to", to) => filter.to = Some(to.parse::<To>().map_err(Wrong::bad)?),
            ("format", name) if let Some(found) = View::find(name) => view = found,
            (key, value) => {
                if !span.take(key, value)? {
                    return Err(Wrong::bad(format!(
                        "{key}={value} is no condition; there are slot=NAME, reason=NAME, runtime=NAME, to=ADDRESS, PREFIX \
                         or NAME, id=1a2b3c, since=10m, format=json, text, compact or pcapng, {}",
                        Span::CONDITIONS,
                    )));
                }
            }
        }
    }
    Ok((filter, span, view))
}

fn find_reason(name: &str) -> Result<DropReason, Wrong> {
    let found = DropReason::ALL.iter().find(|reason| reason.name() == name);
    let none = || {
        let there: Vec<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
        Wrong::bad(format!("no reason is called {name:?}; there are {}", there.join(", ")))
    };
    found.copied().ok_or_else(none)
}
