//! Which queries somebody wants to see, and how.

use axum::{
    extract::{RawQuery, State},
    response::Response,
};

use super::{
    super::{
        Names,
        daemon::{Daemon, Wrong},
        routes::pairs,
    },
    Span, answer, find_runtime, since,
};
use crate::{
    feed::Look,
    pinned::NoSlot,
    queries::{Filter, Printer, Side, read_rcode, read_type},
};

pub(in super::super) async fn queries(
    State(daemon): State<Daemon>,
    RawQuery(query): RawQuery,
) -> Result<Response, Wrong> {
    let (filter, span, look) = read(&query.unwrap_or_default(), &daemon.names())?;
    let mut printer = Printer::new(look, span.colored);
    let feed = daemon.feeds.queries.clone();
    answer(&feed, filter, &span, look.media_type(), move |entries, lost| {
        let names = daemon.names();
        let entries = entries.iter().map(AsRef::as_ref);
        printer.print(entries, lost, |query| names.line_of(&query.slot, &query.because()))
    })
}

fn read(query: &str, names: &Names) -> Result<(Filter, Span, Look), Wrong> {
    let (mut filter, mut span, mut look) = (Filter::default(), Span::default(), Look::Json);
    for (key, value) in pairs(query) {
        match (key, value.as_str()) {
            ("slot", slot) => {
                NoSlot::find(&names.slots, slot)?;
                filter.slot = Some(slot.to_owned());
            }
            ("runtime", runtime) => filter.runtime = Some(find_runtime(runtime, names)?),
            ("name", name) => filter.name = Some(name.parse().map_err(Wrong::bad)?),
            ("type", name) => filter.record_type = Some(read_type(name).map_err(Wrong::bad)?),
            ("rcode", name) => filter.rcode = Some(read_rcode(name).map_err(Wrong::bad)?),
            ("side", "allowed") => filter.side = Some(Side::Allowed),
            ("side", "denied") => filter.side = Some(Side::Denied),
            ("since", time) => filter.since = Some(since(time)?),
            ("format", name) if let Some(found) = Look::find(name) => look = found,
            (key, value) => {
                if !span.take(key, value)? {
                    return Err(Wrong::bad(format!(
                        "{key}={value} is no condition; there are slot=NAME, runtime=NAME, name=DOMAIN, type=AAAA, \
                         rcode=NXDOMAIN, side=allowed or denied, since=10m, format=json, text or compact, {}",
                        Span::CONDITIONS,
                    )));
                }
            }
        }
    }
    Ok((filter, span, look))
}
