//! Asking in datagrams, and over TCP what does not fit into one or is in doubt.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use hickory_proto::op::Message;
use tokio::net::{TcpStream, UdpSocket};

use super::query::{Case, Failure, Heard, Query};
use crate::{read_framed, write_framed};

/// More datagrams than this that answer something else are an attempt at forgery: TCP decides.
const STRANGERS_MAX: usize = 32;
/// An upstream is told 1,232 bytes; what is longer was not honest and arrives cut.
const DATAGRAM_MAX: usize = 4096;

/// Asks once. The caller sets a limit to the time.
pub(super) async fn ask(upstream: SocketAddr, query: &Query) -> Result<Box<Message>, Failure> {
    match over_udp(upstream, query).await? {
        Some(answer) => Ok(answer),
        None => over_tcp(upstream, query).await,
    }
}

/// From a socket of its own, so from a port that the kernel draws by lot (RFC 5452 section 9.2); being connected, it
/// takes datagrams from the upstream only. None if TCP must be asked.
async fn over_udp(upstream: SocketAddr, query: &Query) -> Result<Option<Box<Message>>, Failure> {
    let any: IpAddr = match upstream {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(upstream).await?;
    socket.send(query.bytes()).await?;
    let mut buffer = vec![0; DATAGRAM_MAX];
    for _ in 0..=STRANGERS_MAX {
        let length = socket.recv(&mut buffer).await?;
        match query.read(&buffer[..length], Case::Exact)? {
            Heard::Answer(answer) => return Ok(Some(answer)),
            Heard::Truncated | Heard::OtherCase => return Ok(None),
            Heard::Other => {} // the real one may still come
        }
    }
    Ok(None)
}

async fn over_tcp(upstream: SocketAddr, query: &Query) -> Result<Box<Message>, Failure> {
    let mut stream = TcpStream::connect(upstream).await?;
    stream.set_nodelay(true)?;
    write_framed(&mut stream, query.bytes()).await?;
    match read_framed(&mut stream).await {
        Ok(reply) => on_connection(query, &reply),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(Failure::Closed),
        Err(error) => Err(error.into()),
    }
}

/// What came back on a connection: it must be the answer.
pub(super) fn on_connection(query: &Query, reply: &[u8]) -> Result<Box<Message>, Failure> {
    match query.read(reply, Case::Any)? {
        Heard::Answer(answer) => Ok(answer),
        Heard::Truncated => Err(Failure::Malformed("it is truncated on a connection")),
        Heard::OtherCase | Heard::Other => Err(Failure::AnotherQuery),
    }
}
