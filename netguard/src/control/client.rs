//! The command line's side of the socket: one order, one answer.

use std::{io, time::Duration};

use axum::http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::UnixStream;

use crate::instance::Instance;

/// No answer is longer.
const ANSWER_MAX: usize = 1 << 20;
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

async fn order(
    instance: &Instance,
    method: Method,
    path: &str,
    body: String,
) -> Result<Value, Error> {
    let stream = match UnixStream::connect(instance.control_socket()).await {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Err(Error::NoDaemon(instance.clone()));
        }
        Err(source) => return Err(Error::Talk { instance: instance.clone(), source }),
    };
    let talked = tokio::time::timeout(TIMEOUT, talk(stream, method, path, body)).await;
    let late = || io::Error::from(io::ErrorKind::TimedOut);
    let (status, answer) = talked
        .unwrap_or_else(|_| Err(late()))
        .map_err(|source| Error::Talk { instance: instance.clone(), source })?;
    if status.is_success() {
        return Ok(answer);
    }
    let message = answer["error"].as_str().map_or_else(|| status.to_string(), str::to_owned);
    let is_bad_order = matches!(status, StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND);
    Err(Error::Refused { message, is_bad_order })
}

async fn talk(
    stream: UnixStream,
    method: Method,
    path: &str,
    body: String,
) -> io::Result<(StatusCode, Value)> {
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
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
    let body = body.map_err(io::Error::other)?.to_bytes();
    Ok((status, serde_json::from_slice(&body).unwrap_or_default()))
}

/// As one segment of a path (RFC 3986 section 2.1).
fn encode(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte.into());
        } else {
            out += &format!("%{byte:02X}");
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_letter_of_a_path_is_encoded() {
        assert_eq!(encode("slot-1.a_b~"), "slot-1.a_b~");
        assert_eq!(encode("../x y?ü"), "..%2Fx%20y%3F%C3%BC");
    }
}
