//! The command line's side of the socket: one order, one answer.

use std::{io, time::Duration};

use axum::http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use netguard_dns::DomainName;
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
    #[error("{0}")]
    Refused(String),
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

/// Denies a name and all below it to a slot; for good without a time. Returns how many pins that took away.
///
/// # Errors
///
/// No daemon runs, or it refuses.
pub async fn deny(
    instance: &Instance,
    slot: &str,
    name: &DomainName,
    time: Option<Duration>,
) -> Result<u64, Error> {
    let body = json!({ "name": name.to_string(), "seconds": time.map(|time| time.as_secs()) });
    let path = format!("/v1/slots/{}/denials", encode(slot));
    let answer = order(instance, Method::POST, &path, body.to_string()).await?;
    Ok(answer["removed"].as_u64().unwrap_or_default())
}

/// Takes a denial back.
///
/// # Errors
///
/// No daemon runs, or it refuses: the name was not denied.
pub async fn allow(instance: &Instance, slot: &str, name: &DomainName) -> Result<(), Error> {
    let path = format!("/v1/slots/{}/denials/{}", encode(slot), encode(name.as_str()));
    order(instance, Method::DELETE, &path, String::new()).await.map(|_| ())
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
    let words = answer["error"].as_str().map_or_else(|| status.to_string(), str::to_owned);
    Err(Error::Refused(words))
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
