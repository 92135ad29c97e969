//! What can be ordered, and what is answered.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, RawQuery, State, rejection::BytesRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use netguard_common::SlotId;
use netguard_dns::{DomainName, Moment, Pins};
use serde_json::{Value, json};

use crate::{
    daemon::{Fault, Order, Orders, Refusal},
    pinned::{NoSlot, Pinned},
};

const BODY_MAX: usize = 64 << 10;
/// A year: who means longer means for good.
const SECONDS_MAX: u64 = 366 * 24 * 3600;

pub(super) fn router(daemon: Daemon) -> Router {
    Router::new()
        .route("/v1/reload", post(reload))
        .route("/v1/confirm", post(confirm))
        .route("/v1/diff", get(diff))
        .route("/v1/pins", get(list))
        .route("/v1/slots/{slot}/denials", post(deny))
        .route("/v1/slots/{slot}/denials/{name}", delete(allow))
        .fallback(|| async { Wrong::new(StatusCode::NOT_FOUND, "there is no such resource") })
        .method_not_allowed_fallback(|| async {
            Wrong::new(StatusCode::METHOD_NOT_ALLOWED, "the resource has no such method")
        })
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .with_state(daemon)
}

/// What orders are about.
#[derive(Clone)]
pub(super) struct Daemon {
    pins: Arc<Pins>,
    slots: Arc<ArcSwap<BTreeMap<SlotId, String>>>,
    orders: Orders,
}

/// What is wrong with an order.
struct Wrong {
    status: StatusCode,
    words: String,
}

impl Wrong {
    fn new(status: StatusCode, words: impl ToString) -> Self {
        Self { status, words: words.to_string() }
    }

    fn bad(words: impl ToString) -> Self {
        Self::new(StatusCode::BAD_REQUEST, words)
    }
}

impl IntoResponse for Wrong {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "error": self.words }))).into_response()
    }
}

impl From<NoSlot> for Wrong {
    fn from(error: NoSlot) -> Self {
        Self::new(StatusCode::NOT_FOUND, error)
    }
}

impl From<Refusal> for Wrong {
    fn from(refusal: Refusal) -> Self {
        let status = match refusal.fault {
            Fault::Order => StatusCode::BAD_REQUEST,
            Fault::Absent => StatusCode::NOT_FOUND,
            Fault::Conflict => StatusCode::CONFLICT,
            Fault::Host => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, refusal.message)
    }
}

impl Daemon {
    pub(super) fn new(pins: Arc<Pins>, slots: BTreeMap<SlotId, String>, orders: Orders) -> Self {
        Self { pins, slots: Arc::new(ArcSwap::from_pointee(slots)), orders }
    }

    pub(super) fn replace_slots(&self, slots: BTreeMap<SlotId, String>) {
        self.slots.store(Arc::new(slots));
    }

    fn slot(&self, name: &str) -> Result<SlotId, NoSlot> {
        NoSlot::find(&self.slots.load(), name)
    }

    async fn give(&self, order: Order) -> Result<Json<Value>, Wrong> {
        Ok(Json(self.orders.give(order).await?))
    }

    /// Runs what asks the kernel beside the runtime's own threads.
    async fn apart<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Pins) -> T + Send + 'static,
    ) -> Result<T, Wrong> {
        let pins = Arc::clone(&self.pins);
        let asked = tokio::task::spawn_blocking(move || ask(&pins)).await;
        asked.map_err(|error| Wrong::new(StatusCode::INTERNAL_SERVER_ERROR, error))
    }
}

async fn reload(
    State(daemon): State<Daemon>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, Wrong> {
    let body = body.map_err(|error| Wrong::new(error.status(), error.body_text()))?;
    let confirm = read_confirm(&body).map_err(Wrong::bad)?;
    daemon.give(Order::Reload { confirm }).await
}

/// How many seconds a reload waits for its confirmation, if it does; nothing is as good as `{}`.
fn read_confirm(body: &[u8]) -> Result<Option<u64>, String> {
    /// An hour: nobody watches for longer.
    const SECONDS_MAX: u64 = 3600;
    if body.is_empty() {
        return Ok(None);
    }
    let form = || "the body must be like {\"confirm_seconds\": 60}, or empty".to_owned();
    let body: serde_json::Map<String, Value> = serde_json::from_slice(body).map_err(|_| form())?;
    if body.keys().any(|key| key != "confirm_seconds") {
        return Err(form());
    }
    match body.get("confirm_seconds") {
        None | Some(Value::Null) => Ok(None),
        Some(seconds) => {
            let seconds = seconds.as_u64().filter(|it| (1..=SECONDS_MAX).contains(it));
            let must = || format!("confirm_seconds must be 1 to {SECONDS_MAX}");
            seconds.map(Some).ok_or_else(must)
        }
    }
}

async fn confirm(State(daemon): State<Daemon>) -> Result<Json<Value>, Wrong> {
    daemon.give(Order::Confirm).await
}

async fn diff(State(daemon): State<Daemon>) -> Result<Json<Value>, Wrong> {
    daemon.give(Order::Diff).await
}

async fn list(
    State(daemon): State<Daemon>,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, Wrong> {
    let query = query.unwrap_or_default();
    let mut slot = None;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("slot", name)) => slot = Some(name),
            _ => return Err(Wrong::bad(format!("{pair:?} is no condition; write slot=NAME"))),
        }
    }
    let pins = daemon.apart(|pins| pins.list(Moment::now())).await?;
    let mut pinned = Pinned::new(BTreeMap::clone(&daemon.slots.load()), pins);
    if let Some(slot) = slot {
        pinned = pinned.of_slot(slot)?;
    }
    Ok(Json(pinned.json()))
}

async fn deny(
    State(daemon): State<Daemon>,
    Path(slot): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, Wrong> {
    let slot = daemon.slot(&slot)?;
    let body = body.map_err(|error| Wrong::new(error.status(), error.body_text()))?;
    let (name, time) = read_denial(&body).map_err(Wrong::bad)?;
    let denied = name.to_string();
    let removed = daemon
        .apart(move |pins| {
            let now = Moment::now();
            pins.deny(slot, &name, time.map(|time| now.after(time)), now)
        })
        .await?
        .map_err(|error| {
            let words = format!("{denied} is denied, but the kernel keeps a pin of it: {error}");
            Wrong::new(StatusCode::INTERNAL_SERVER_ERROR, words)
        })?;
    Ok(Json(json!({ "denied": denied, "removed": removed })))
}

/// The name, and for how long it is denied; for good if that is left out.
fn read_denial(body: &[u8]) -> Result<(DomainName, Option<Duration>), String> {
    let form = || "the body must be like {\"name\": \"example.com\", \"seconds\": 600}".to_owned();
    let body: serde_json::Map<String, Value> = serde_json::from_slice(body).map_err(|_| form())?;
    if body.keys().any(|key| key != "name" && key != "seconds") {
        return Err(form());
    }
    let name = body.get("name").and_then(Value::as_str).ok_or_else(form)?;
    let name = name.parse().map_err(|error: netguard_dns::BadName| error.to_string())?;
    match body.get("seconds") {
        None | Some(Value::Null) => Ok((name, None)),
        Some(seconds) => {
            let seconds = seconds.as_u64().filter(|it| (1..=SECONDS_MAX).contains(it));
            let seconds = seconds.ok_or_else(|| format!("seconds must be 1 to {SECONDS_MAX}"))?;
            Ok((name, Some(Duration::from_secs(seconds))))
        }
    }
}

async fn allow(
    State(daemon): State<Daemon>,
    Path((slot, name)): Path<(String, String)>,
) -> Result<Json<Value>, Wrong> {
    let id = daemon.slot(&slot)?;
    let name: DomainName =
        name.parse().map_err(|error: netguard_dns::BadName| Wrong::bad(error))?;
    let allowed = name.to_string();
    if daemon.apart(move |pins| pins.allow(id, &name)).await? {
        Ok(Json(json!({ "allowed": allowed })))
    } else {
        let words = format!("{allowed} is not denied for slot {slot:?}");
        Err(Wrong::new(StatusCode::NOT_FOUND, words))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_says_what_it_wants_instead() {
        let read =
            |text: &str| read_denial(text.as_bytes()).map(|(name, time)| (name.to_string(), time));
        let minute = Some(Duration::from_secs(60));
        assert_eq!(
            read(r#"{"name": "A.example", "seconds": 60}"#),
            Ok(("a.example".into(), minute))
        );
        assert_eq!(read(r#"{"name": "a.example"}"#), Ok(("a.example".into(), None)));
        for (body, words) in [
            ("", "the body must be like"),
            ("[]", "the body must be like"),
            (r#"{"name": 7}"#, "the body must be like"),
            (r#"{"name": "a.example", "minutes": 1}"#, "the body must be like"),
            (r#"{"name": "*.example"}"#, "is no domain name"),
            (r#"{"name": "a.example", "seconds": 0}"#, "seconds must be 1 to"),
            (r#"{"name": "a.example", "seconds": 99999999}"#, "seconds must be 1 to"),
            (r#"{"name": "a.example", "seconds": -1}"#, "seconds must be 1 to"),
        ] {
            let found = read(body).expect_err(body);
            assert!(found.contains(words), "{body}: {found}");
        }
    }
}
