//! What can be ordered, and what is answered.

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, RawQuery, State, rejection::BytesRejection},
    http::StatusCode,
    routing::{delete, get, post, put},
};
use netguard_dns::{DomainName, Moment};
use serde_json::{Value, json};

use super::{
    daemon::{Daemon, Wrong},
    escape::decode,
    metrics, state, stream, weigh,
};
use crate::{
    daemon::{Order, SECONDS_MAX},
    pinned::{NoSlot, Pinned},
    policy::NameBecause,
    suggest,
};

/// Six times as long, if every byte is escaped, it still fits a packet to the monitor.
const BODY_MAX: usize = 16 << 10;

pub(super) fn router(daemon: Daemon) -> Router {
    let large = DefaultBodyLimit::max(state::BODY_MAX);
    Router::new()
        .route("/v1/reload", post(reload))
        .route("/v1/confirm", post(confirm))
        .route("/v1/diff", get(diff))
        .route("/v1/status", get(status))
        .route("/metrics", get(metrics::metrics))
        .route("/v1/drops", get(stream::drops::drops))
        .route("/v1/dns", get(stream::queries::queries))
        .route("/v1/events", get(stream::events::events))
        .route("/v1/pins", get(list))
        .route("/v1/slots", get(slots).post(add))
        .route("/v1/slots/{slot}", delete(remove))
        .route("/v1/slots/{slot}/state", get(state::export).put(state::import).layer(large))
        .route("/v1/slots/{slot}/names/{name}", get(judge))
        .route("/v1/slots/{slot}/because", get(weigh::because))
        .route("/v1/slots/{slot}/suggestion", get(suggestion))
        .route("/v1/slots/{slot}/lock", put(lock).delete(unlock))
        .route("/v1/slots/{slot}/allow", post(allow))
        .route("/v1/slots/{slot}/deny", post(deny))
        .route("/v1/slots/{slot}/forget", post(forget))
        .fallback(|| async { Wrong::new(StatusCode::NOT_FOUND, "there is no such resource") })
        .method_not_allowed_fallback(|| async {
            Wrong::new(StatusCode::METHOD_NOT_ALLOWED, "the resource has no such method")
        })
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .with_state(daemon)
}

/// What whoever may not give orders is answered.
pub(super) fn metrics_router(daemon: Daemon) -> Router {
    Router::new().route("/metrics", get(metrics::metrics)).with_state(daemon)
}

async fn reload(
    State(daemon): State<Daemon>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, Wrong> {
    let confirm = read_confirm(&read(body)?).map_err(Wrong::bad)?;
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
    seconds(body.get("confirm_seconds"), "confirm_seconds", SECONDS_MAX)
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
    for (key, value) in pairs(&query) {
        match key {
            "slot" => slot = Some(value),
            _ => return Err(Wrong::bad(format!("{key:?} is no condition; write slot=NAME"))),
        }
    }
    let pins = daemon.apart(|pins| pins.list(Moment::now())).await?;
    let mut pinned = Pinned::new(daemon.names().slots.clone(), pins);
    if let Some(slot) = slot {
        pinned = pinned.of_slot(&slot)?;
    }
    Ok(Json(pinned.json()))
}

/// The keys of a query and their values.
pub(super) fn pairs(query: &str) -> impl Iterator<Item = (&str, String)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key, decode(value))
    })
}

async fn status(State(daemon): State<Daemon>) -> Result<Json<Value>, Wrong> {
    let mut status = daemon.status().await?;
    let lost = status["daemon"]["log_lines_lost"].as_u64().unwrap_or_default();
    status["daemon"]["log_lines_lost"] = (lost + daemon.journal.lost()).into();
    Ok(Json(status))
}

async fn slots(State(daemon): State<Daemon>) -> Result<Json<Value>, Wrong> {
    daemon.give(Order::Slots).await
}

/// What the slot's query for a name would get, and the addresses that the name has given the slot.
async fn judge(
    State(daemon): State<Daemon>,
    Path((slot, name)): Path<(String, String)>,
) -> Result<Json<Value>, Wrong> {
    let id = NoSlot::find(&daemon.names().slots, &slot)?;
    let name: DomainName = name.parse().map_err(Wrong::bad)?;
    let now = Moment::now();
    let gone = || Wrong::new(StatusCode::NOT_FOUND, format!("slot {slot:?} is gone already"));
    let judged = daemon.resolver.judge(id, &name, now).ok_or_else(gone)?;
    let because = NameBecause::of(
        judged.is_refused,
        Some(judged.why),
        || judged.rule.clone(),
        judged.category.as_deref(),
    );
    let line = daemon.names().line_of(&slot, &because);
    let pins = daemon.apart(move |pins| pins.list(now)).await?;
    let own = pins.iter().filter(|pin| pin.slot == id && *pin.name == *name.as_str());
    let pins: Vec<_> = own
        .map(|pin| {
            json!({
                "address": pin.address,
                "ports": pin.ports.to_string(),
                "left_seconds": pin.left.as_secs(),
            })
        })
        .collect();
    Ok(Json(json!({
        "name": name.as_str(),
        "allowed": judged.is_allowed,
        "why": judged.why,
        "rule": judged.rule,
        "category": judged.category,
        "line": line,
        "ports": judged.ports,
        "pins": pins,
    })))
}

/// What an audited slot did, as the keys that would open it.
async fn suggestion(
    State(daemon): State<Daemon>,
    Path(slot): Path<String>,
) -> Result<Json<Value>, Wrong> {
    let id = NoSlot::find(&daemon.names().slots, &slot)?;
    let Json(state) = daemon.give(Order::State { slot: slot.clone() }).await?;
    let entry = state["entry"].as_object().cloned().unwrap_or_default();
    if entry.get("mode").and_then(Value::as_str) != Some("audit") {
        let words = format!(
            "slot {slot:?} is not audited, so nothing is learnt of it: write mode = \"audit\" in its entry, and reload"
        );
        return Err(Wrong::new(StatusCode::CONFLICT, words));
    }
    let toml = suggest::toml(&entry, &daemon.resolver.learnt(id), &daemon.learnt.of(id));
    Ok(Json(json!({ "slot": slot, "toml": toml })))
}

async fn add(
    State(daemon): State<Daemon>,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<Value>), Wrong> {
    let form = "the body must have the keys of a [[slot]] entry, like {\"name\": \"slot9\", \"manage_links\": true}";
    let entry = serde_json::from_slice(&read(body)?).map_err(|_| Wrong::bad(form))?;
    Ok((StatusCode::CREATED, daemon.give(Order::AddSlot { entry }).await?))
}

async fn remove(
    State(daemon): State<Daemon>,
    Path(slot): Path<String>,
) -> Result<Json<Value>, Wrong> {
    daemon.give(Order::RemoveSlot { slot }).await
}

async fn lock(
    State(daemon): State<Daemon>,
    Path(slot): Path<String>,
) -> Result<Json<Value>, Wrong> {
    daemon.give(Order::Lock { slot, locked: true }).await
}

async fn unlock(
    State(daemon): State<Daemon>,
    Path(slot): Path<String>,
) -> Result<Json<Value>, Wrong> {
    daemon.give(Order::Lock { slot, locked: false }).await
}

async fn allow(
    State(daemon): State<Daemon>,
    Path(slot): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, Wrong> {
    let Said { what, seconds } = read_said(&read(body)?).map_err(Wrong::bad)?;
    daemon.give(Order::Say { slot, target: what, allow: true, seconds }).await
}

async fn deny(
    State(daemon): State<Daemon>,
    Path(slot): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, Wrong> {
    let Said { what, seconds } = read_said(&read(body)?).map_err(Wrong::bad)?;
    daemon.give(Order::Say { slot, target: what, allow: false, seconds }).await
}

async fn forget(
    State(daemon): State<Daemon>,
    Path(slot): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, Wrong> {
    match read_said(&read(body)?).map_err(Wrong::bad)? {
        Said { what, seconds: None } => daemon.give(Order::Forget { slot, target: what }).await,
        Said { .. } => Err(Wrong::bad("what is forgotten is forgotten at once: leave seconds out")),
    }
}

pub(super) fn read(body: Result<Bytes, BytesRejection>) -> Result<Bytes, Wrong> {
    body.map_err(|error| Wrong::new(error.status(), error.body_text()))
}

/// What is said of what, and for how long; for good without seconds.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    what: String,
    seconds: Option<u64>,
}

fn read_said(body: &[u8]) -> Result<Said, String> {
    let form = || {
        "the body must be like {\"what\": \"example.com\", \"seconds\": 600}; what can also be a prefix like \
         \"203.0.113.0/24 tcp/443\""
            .to_owned()
    };
    let body: serde_json::Map<String, Value> = serde_json::from_slice(body).map_err(|_| form())?;
    if body.keys().any(|key| key != "what" && key != "seconds") {
        return Err(form());
    }
    let what = body.get("what").and_then(Value::as_str).ok_or_else(form)?.to_owned();
    let seconds = seconds(body.get("seconds"), "seconds", SECONDS_MAX)?;
    Ok(Said { what, seconds })
}

fn seconds(value: Option<&Value>, key: &str, most: u64) -> Result<Option<u64>, String> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(seconds) => {
            let seconds = seconds.as_u64().filter(|it| (1..=most).contains(it));
            seconds.map(Some).ok_or_else(|| format!("{key} must be 1 to {most}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_says_what_it_wants_instead() {
        let said = |what: &str, seconds| Ok(Said { what: what.to_owned(), seconds });
        assert_eq!(
            read_said(br#"{"what": "a.example", "seconds": 60}"#),
            said("a.example", Some(60))
        );
        assert_eq!(read_said(br#"{"what": "192.0.2.1"}"#), said("192.0.2.1", None));
        for (body, words) in [
            ("", "the body must be like"),
            ("[]", "the body must be like"),
            (r#"{"what": 7}"#, "the body must be like"),
            (r#"{"what": "a.example", "minutes": 1}"#, "the body must be like"),
            (r#"{"what": "a.example", "seconds": 0}"#, "seconds must be 1 to"),
            (r#"{"what": "a.example", "seconds": 99999999}"#, "seconds must be 1 to"),
            (r#"{"what": "a.example", "seconds": -1}"#, "seconds must be 1 to"),
        ] {
            let found = read_said(body.as_bytes()).expect_err(body);
            assert!(found.contains(words), "{body}: {found}");
        }
        assert_eq!(read_confirm(b""), Ok(None));
        assert_eq!(read_confirm(br#"{"confirm_seconds": 60}"#), Ok(Some(60)));
        for body in ["[]", r#"{"confirm": 1}"#, r#"{"confirm_seconds": 0}"#] {
            assert!(read_confirm(body.as_bytes()).is_err(), "{body}");
        }
    }
}
