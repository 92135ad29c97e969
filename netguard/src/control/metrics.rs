//! The numbers as Prometheus reads them: on the control socket, and beside it on a port of the host's own where nothing else is.

use axum::{
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
};

use super::daemon::{Daemon, Wrong};
use crate::metrics::{MEDIA_TYPE, Scrape};

pub(super) async fn metrics(State(daemon): State<Daemon>) -> Result<Response, Wrong> {
    let status = daemon.status().await?;
    let names = daemon.names();
    let queries = daemon.journal.queries(|slot| names.slots.values().any(|name| name == slot));
    let scrape = Scrape { status, lines_lost: daemon.journal.lost(), queries };
    let no_form = |error| Wrong::new(StatusCode::INTERNAL_SERVER_ERROR, error);
    let text = scrape.text().map_err(no_form)?;
    Ok(([(CONTENT_TYPE, MEDIA_TYPE)], text).into_response())
}
