//! The command line's side of the socket: one order, one answer.

use std::{io, time::Duration};

use axum::http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Response,
    body::{Bytes, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::UnixStream;

use super::{escape::encode, weigh};
use crate::{daemon::Weighed, instance::Instance};

/// No answer is longer.
const ANSWER_MAX: usize = 64 << 20;
/// No daemon takes longer to answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Why an order was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens.
    #[error("no netguard runs as instance {0}; start it first")]
    NoDaemon(Instance),
    /// The daemon says no, in its own words.
    #[error("{message}")]
    Refused {
        /// What it says.
        message: String,
        /// True if what was asked for is wrong, or speaks of what is not there.
        is_bad_order: bool,
    },
    /// The conversation failed.
    #[error("cannot talk to the daemon of instance {instance}")]
    Talk {
        /// Whose.
        instance: Instance,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// The daemon has not answered in time.
    #[must_use]
    pub fn late(instance: &Instance) -> Self {
        Self::Talk { instance: instance.clone(), source: io::ErrorKind::TimedOut.into() }
    }
}

/// Allows or denies a name or a prefix to a slot; for good without a time. Returns how many pins that took away.
///
/// # Errors
///
/// No daemon runs, or it refuses.
pub async fn say(
    instance: &Instance,
    slot: &str,
    what: &str,
    allow: bool,
    time: Option<Duration>,
) -> Result<u64, Error> {
    let body = json!({ "what": what, "seconds": time.map(|time| time.as_secs()) });
    let verb = if allow { "allow" } else { "deny" };
    let answer = order(instance, Method::POST, &of_slot(slot, verb), body.to_string()).await?;
    Ok(answer["unpinned"].as_u64().unwrap_or_default())
}

/// Takes back what was said of a name or a prefix.
///
/// # Errors
///
/// No daemon runs, or it refuses: nothing was said of it.
pub async fn forget(instance: &Instance, slot: &str, what: &str) -> Result<(), Error> {
    let body = json!({ "what": what }).to_string();
    order(instance, Method::POST, &of_slot(slot, "forget"), body).await.map(|_| ())
}

/// Takes a slot's network away, or gives it back.
///
/// # Errors
///
/// No daemon runs, or it refuses.
pub async fn lock(instance: &Instance, slot: &str, locked: bool) -> Result<(), Error> {
    let method = if locked { Method::PUT } else { Method::DELETE };
    order(instance, method, &of_slot(slot, "lock"), String::new()).await.map(|_| ())
}

/// Every slot, and what was ordered about it.
///
/// # Errors
///
/// No daemon runs.
pub async fn slots(instance: &Instance) -> Result<Value, Error> {
    order(instance, Method::GET, "/v1/slots", String::new()).await
}

/// What a slot's query for a name would get, and the addresses that it has given the slot.
///
/// # Errors
///
/// No daemon runs, or it refuses: there is no such slot, or the name is none.
pub async fn judge(instance: &Instance, slot: &str, name: &str) -> Result<Value, Error> {
    let path = of_slot(slot, &format!("names/{}", encode(name)));
    order(instance, Method::GET, &path, String::new()).await
}

/// Which lines of the configuration decide about a packet: that of its drop, and of the stages that let it go on.
///
/// # Errors
///
/// No daemon runs, or it refuses: there is no such slot.
pub async fn because(instance: &Instance, packet: &Weighed) -> Result<Value, Error> {
    order(instance, Method::GET, &weigh::path(packet), String::new()).await
}

/// The keys that would open what an audited slot did.
///
/// # Errors
///
/// No daemon runs, or it refuses: there is no such slot, or it is not audited.
pub async fn suggest(instance: &Instance, slot: &str) -> Result<Value, Error> {
    order(instance, Method::GET, &of_slot(slot, "suggestion"), String::new()).await
}

/// Makes a slot from the keys of a `[[slot]]` entry. Returns the slot.
///
/// # Errors
///
/// No daemon runs, or it refuses.
pub async fn add_slot(instance: &Instance, entry: &Value) -> Result<Value, Error> {
    order(instance, Method::POST, "/v1/slots", entry.to_string()).await
}

/// Removes a slot that was made at run time.
///
/// # Errors
///
/// No daemon runs, or it refuses: the slot is of the configuration.
pub async fn remove_slot(instance: &Instance, slot: &str) -> Result<(), Error> {
    let path = format!("/v1/slots/{}", encode(slot));
    order(instance, Method::DELETE, &path, String::new()).await.map(|_| ())
}

/// All that there is of a slot, as one document.
///
/// # Errors
///
/// No daemon runs, or it refuses: there is no such slot.
pub async fn export(instance: &Instance, slot: &str) -> Result<Value, Error> {
    order(instance, Method::GET, &of_slot(slot, "state"), String::new()).await
}

/// Has a slot take over what another one was, with other links and addresses in `place` where they are named. Returns the slot.
///
/// # Errors
///
/// No daemon runs, or it refuses: then nothing has changed.
pub async fn import(
    instance: &Instance,
    slot: &str,
    document: String,
    place: &[(&str, &str)],
) -> Result<Value, Error> {
    let query: Vec<_> =
        place.iter().map(|(key, value)| format!("{key}={}", encode(value))).collect();
    let path = format!("{}?{}", of_slot(slot, "state"), query.join("&"));
    order(instance, Method::PUT, &path, document).await
}

fn of_slot(slot: &str, what: &str) -> String {
    format!("/v1/slots/{}/{what}", encode(slot))
}

/// Has the daemon read its configuration again. Returns what that has changed.
///
/// # Errors
///
/// No daemon runs, or it refuses: then nothing has changed.
pub async fn reload(instance: &Instance, confirm: Option<Duration>) -> Result<Value, Error> {
    let body = json!({ "confirm_seconds": confirm.map(|time| time.as_secs().max(1)) });
    order(instance, Method::POST, "/v1/reload", body.to_string()).await
}

/// Keeps what the latest reload has put in force.
///
/// # Errors
///
/// No daemon runs, or no reload waits for that.
pub async fn confirm(instance: &Instance) -> Result<(), Error> {
    order(instance, Method::POST, "/v1/confirm", String::new()).await.map(|_| ())
}

/// What a reload would change.
///
/// # Errors
///
/// No daemon runs, or the configuration is wrong.
pub async fn diff(instance: &Instance) -> Result<Value, Error> {
    order(instance, Method::GET, "/v1/diff", String::new()).await
}

/// What the kernel holds and counts, and how the daemon is.
///
/// # Errors
///
/// No daemon runs, or it cannot read its maps.
pub async fn status(instance: &Instance) -> Result<Value, Error> {
    order(instance, Method::GET, "/v1/status", String::new()).await
}

/// Hands over the lines of a feed that `path` asks for as they come, until there are no more or nobody takes them.
///
/// # Errors
///
/// No daemon runs, it refuses, or it ends.
pub async fn follow(
    instance: &Instance,
    path: &str,
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<(), Error> {
    let stream = connect(instance).await?;
    let failed = |source| Error::Talk { instance: instance.clone(), source };
    let response = within(TIMEOUT, send(stream, Method::GET, path, String::new())).await;
    let response = response.map_err(failed)?;
    let status = response.status();
    if !status.is_success() {
        let answer = within(TIMEOUT, read(response)).await.map_err(failed)?;
        return Err(refused(status, &answer));
    }
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| failed(io::Error::other(error)))?;
        if let Ok(lines) = frame.into_data()
            && take(&lines).is_err()
        {
            return Ok(());
        }
    }
    Ok(())
}

async fn order(
    instance: &Instance,
    method: Method,
    path: &str,
    body: String,
) -> Result<Value, Error> {
    let stream = connect(instance).await?;
    let (status, answer) = within(TIMEOUT, talk(stream, method, path, body))
        .await
        .map_err(|source| Error::Talk { instance: instance.clone(), source })?;
    if status.is_success() { Ok(answer) } else { Err(refused(status, &answer)) }
}

async fn connect(instance: &Instance) -> Result<UnixStream, Error> {
    let nobody = [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused];
    match UnixStream::connect(instance.control_socket()).await {
        Ok(stream) => Ok(stream),
        Err(error) if nobody.contains(&error.kind()) => Err(Error::NoDaemon(instance.clone())),
        Err(source) => Err(Error::Talk { instance: instance.clone(), source }),
    }
}

async fn within<T>(time: Duration, talk: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = |_| Err(io::ErrorKind::TimedOut.into());
    tokio::time::timeout(time, talk).await.unwrap_or_else(late)
}

fn refused(status: StatusCode, answer: &Value) -> Error {
    let message = answer["error"].as_str().map_or_else(|| status.to_string(), str::to_owned);
    let is_bad_order = matches!(status, StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND);
    Error::Refused { message, is_bad_order }
}

async fn talk(
    stream: UnixStream,
    method: Method,
    path: &str,
    body: String,
) -> io::Result<(StatusCode, Value)> {
    let response = send(stream, method, path, body).await?;
    Ok((response.status(), read(response).await?))
}

async fn send(
    stream: UnixStream,
    method: Method,
    path: &str,
    body: String,
) -> io::Result<Response<Incoming>> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "netguard")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(io::Error::other)?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // It ends with its one request, or with the runtime.
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(io::Error::other)
}

async fn read(response: Response<Incoming>) -> io::Result<Value> {
    let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
    let body = body.map_err(io::Error::other)?.to_bytes();
    Ok(serde_json::from_slice(&body).unwrap_or_default())
}
