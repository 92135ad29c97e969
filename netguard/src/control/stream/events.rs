//! Which events of netguard's own somebody wants to see, and how.

use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use netguard_common::EventKind;

use super::{
    super::{
        daemon::{Daemon, Wrong},
        routes::pairs,
    },
    Span, answer, since,
};
use crate::events::{Filter, View};

pub(in super::super) async fn events(
    State(daemon): State<Daemon>,
    RawQuery(query): RawQuery,
) -> Result<Response, Wrong> {
    let (filter, span, view) = read(&query.unwrap_or_default())?;
    let colored = span.colored;
    answer(&daemon.feeds.events, filter, &span, view.media_type(), move |events, lost| {
        view.print(events, lost, colored)
    })
}

fn read(query: &str) -> Result<(Filter, Span, View), Wrong> {
    let (mut filter, mut span, mut view) = (Filter::default(), Span::default(), View::Json);
    for (key, value) in pairs(query) {
        match (key, value.as_str()) {
            // Also one that is gone.
            ("slot", slot) => filter.slot = Some(slot.to_owned()),
            ("event", name) => filter.kind = Some(find_kind(name)?),
            ("since", time) => filter.since = Some(since(time)?),
            ("format", name) if let Some(found) = find_view(name) => view = found,
            (key, value) => {
                if !span.take(key, value)? {
                    return Err(Wrong::bad(format!(
                        "{key}={value} is no condition; there are slot=NAME, event=NAME, since=10m, format=json or text, {}",
                        Span::CONDITIONS,
                    )));
                }
            }
        }
    }
    Ok((filter, span, view))
}

fn find_view(name: &str) -> Option<View> {
    View::ALL.into_iter().find(|view| view.name() == name)
}

fn find_kind(name: &str) -> Result<EventKind, Wrong> {
    let found = EventKind::ALL.iter().find(|kind| kind.name() == name);
    let none = || {
        let there: Vec<_> = EventKind::ALL.iter().map(|kind| kind.name()).collect();
        Wrong::bad(format!("no event is called {name:?}; there are {}", there.join(", ")))
    };
    found.copied().ok_or_else(none)
}
