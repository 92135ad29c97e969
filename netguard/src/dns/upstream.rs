//! Asking the upstream resolvers: one after the other, over UDP and over TCP when an answer does
//! not fit.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use hickory_proto::op::{Edns, Message, MessageType, ResponseCode};
use tokio::{
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use super::{
    answer::{Question, UDP_PAYLOAD_MAX},
    server::{read_framed, write_framed},
};

/// How long one upstream may take before the next is asked.
const UPSTREAM_TIMEOUT: Duration = Duration::from_millis(1500);

/// The resolvers that netguard asks, in the operator's order.
pub(super) struct Upstreams {
    addresses: Vec<SocketAddr>,
}

impl Upstreams {
    pub(super) fn new(addresses: Vec<SocketAddr>) -> Self {
        Self { addresses }
    }

    /// The first usable answer, and whose it is. SERVFAIL and REFUSED count as no answer as long
    /// as another upstream is left to ask.
    pub(super) async fn resolve(&self, question: &Question) -> Option<(SocketAddr, Message)> {
        let mut last = None;
        for upstream in &self.addresses {
            match timeout(UPSTREAM_TIMEOUT, ask(*upstream, question)).await {
                Ok(Ok(answer)) => {
                    let failed = matches!(
                        answer.metadata.response_code,
                        ResponseCode::ServFail | ResponseCode::Refused
                    );
                    if !failed {
                        return Some((*upstream, answer));
                    }
                    last = Some((*upstream, answer));
                }
                Ok(Err(error)) => log::warn!("upstream {upstream} failed: {error}"),
                Err(_) => log::warn!("upstream {upstream} gave no answer in time"),
            }
        }
        last
    }
}

async fn ask(upstream: SocketAddr, question: &Question) -> io::Result<Message> {
    let query = rebuild(question);
    let bytes = query.to_vec().map_err(io::Error::other)?;
    let answer = ask_over_udp(upstream, &query, &bytes).await?;
    if answer.metadata.truncation {
        ask_over_tcp(upstream, &query, &bytes).await
    } else {
        Ok(answer)
    }
}

/// The query in netguard's own bytes: name, type, DO and CD are all that it has of the guest's.
fn rebuild(question: &Question) -> Message {
    let mut query = Message::query();
    query.metadata.id = rand::random();
    query.metadata.recursion_desired = true;
    query.metadata.checking_disabled = question.checking_disabled;
    query.add_query(question.query.clone());
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_PAYLOAD_MAX);
    edns.set_dnssec_ok(question.dnssec_ok());
    query.set_edns(edns);
    query
}

/// From a fresh random port each time; a connected socket takes datagrams from the upstream only.
async fn ask_over_udp(upstream: SocketAddr, query: &Message, bytes: &[u8]) -> io::Result<Message> {
    let any: IpAddr = match upstream {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(upstream).await?;
    socket.send(bytes).await?;
    let mut buffer = [0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // What does not answer this query is someone's forgery: keep waiting for the real one.
        if let Some(answer) = matching(query, &buffer[..length]) {
            return Ok(answer);
        }
    }
}

async fn ask_over_tcp(upstream: SocketAddr, query: &Message, bytes: &[u8]) -> io::Result<Message> {
    let mut stream = TcpStream::connect(upstream).await?;
    write_framed(&mut stream, bytes).await?;
    let reply = read_framed(&mut stream).await?;
    matching(query, &reply).ok_or_else(|| io::Error::other("the answer is to another question"))
}

/// The answer, if id and question are those of the query.
fn matching(query: &Message, bytes: &[u8]) -> Option<Message> {
    let answer = Message::from_vec(bytes).ok()?;
    let matches = answer.metadata.id == query.metadata.id
        && answer.metadata.message_type == MessageType::Response
        && answer.queries == query.queries;
    matches.then_some(answer)
}
