//! The control socket, spoken to byte by byte.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;

use crate::lab::Lab;

/// Whoever waits longer for a line waits for nothing.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the lab's daemon takes orders.
#[must_use]
pub fn socket(lab: &Lab) -> PathBuf {
    Path::new("/run/netguard").join(lab.instance()).join("control.sock")
}

/// One request as bytes, and what comes back as JSON.
///
/// # Panics
///
/// Nobody listens.
#[must_use]
pub fn request(lab: &Lab, method: &str, path: &str, body: &str) -> (u16, Value) {
    let (status, body) = request_text(lab, method, path, body);
    (status, serde_json::from_str(&body).unwrap_or_default())
}

/// One request as bytes, and what comes back.
///
/// # Panics
///
/// Nobody listens.
#[must_use]
pub fn request_text(lab: &Lab, method: &str, path: &str, body: &str) -> (u16, String) {
    send(&socket(lab), method, path, body)
}

/// The same to a daemon that takes orders there.
///
/// # Panics
///
/// Nobody listens.
#[must_use]
pub fn send(socket: &Path, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(socket).expect("the socket");
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
    // A daemon that has read enough may close before everything is sent.
    let _ = stream.write_all(format!("{head}{body}").as_bytes());
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_default();
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status, body.to_owned())
}

/// A request whose answer is lines of JSON, which come one by one.
pub struct Stream {
    /// The answer's code.
    pub status: u16,
    lines: BufReader<UnixStream>,
}

impl Stream {
    /// Asks, and returns when the answer's head is there.
    ///
    /// # Panics
    ///
    /// Nobody listens, or answers.
    #[must_use]
    pub fn get(lab: &Lab, path: &str) -> Self {
        let mut stream = UnixStream::connect(socket(lab)).expect("the socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        stream.write_all(head.as_bytes()).expect("the daemon reads");
        let mut stream = Self { status: 0, lines: BufReader::new(stream) };
        let first = stream.line().expect("an answer");
        stream.status = first.split(' ').nth(1).and_then(|it| it.parse().ok()).unwrap_or_default();
        while stream.line().is_some_and(|line| !line.is_empty()) {}
        stream
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let length = self.lines.read_line(&mut line).expect("a line in time");
        (length > 0).then(|| line.trim_end().to_owned())
    }
}

impl Iterator for Stream {
    type Item = Value;

    /// Waits for the next line; lengths of chunks are none.
    fn next(&mut self) -> Option<Value> {
        loop {
            let line = self.line()?;
            if line.starts_with('{') {
                return Some(serde_json::from_str(&line).expect("a line is JSON"));
            }
        }
    }
}
