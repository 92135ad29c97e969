//! Asking the upstream resolvers: one after the other, over UDP and over TCP when an answer does
//! not fit.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use hickory_proto::op::{Edns, Message, MessageType, ResponseCode};
use tokio::{
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use super::{
    Happening, Log, read_framed,
    reply::{Question, UDP_PAYLOAD_MAX},
    write_framed,
};

/// How long one upstream may take before the next is asked.
const UPSTREAM_TIMEOUT: Duration = Duration::from_millis(1500);

/// When a datagram that brought no answer is sent once more.
const RESEND_AFTER: Duration = Duration::from_millis(500);

/// The resolvers that netguard asks, in the operator's order.
pub(super) struct Upstreams {
    upstreams: Vec<Upstream>,
    log: Log,
}

struct Upstream {
    address: SocketAddr,
    /// True from the first failure to the next answer: the log tells only changes.
    failing: AtomicBool,
}

impl Upstreams {
    pub(super) fn new(addresses: Vec<SocketAddr>, log: Log) -> Self {
        let upstreams = addresses.into_iter();
        let upstreams =
            upstreams.map(|address| Upstream { address, failing: AtomicBool::new(false) });
        Self { upstreams: upstreams.collect(), log }
    }

    /// The first usable answer, and whose it is. SERVFAIL and REFUSED count as no answer as long
    /// as another upstream is left to ask.
    pub(super) async fn resolve(&self, question: &Question) -> Option<(SocketAddr, Message)> {
        let mut last = None;
        for upstream in &self.upstreams {
            let asked = timeout(UPSTREAM_TIMEOUT, ask(upstream.address, question)).await;
            let asked = asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            if let Some(change) = upstream.change(asked.as_ref().err()) {
                (self.log)(Happening::Upstream(change));
            }
            let Ok(answer) = asked else { continue };
            let failed = matches!(
                answer.metadata.response_code,
                ResponseCode::ServFail | ResponseCode::Refused
            );
            if !failed {
                return Some((upstream.address, answer));
            }
            last = Some((upstream.address, answer));
        }
        last
    }
}

impl Upstream {
    /// What is new: that it fails, or that it answers again.
    fn change(&self, error: Option<&io::Error>) -> Option<String> {
        let was_failing = self.failing.swap(error.is_some(), Ordering::Relaxed);
        match error {
            Some(error) if !was_failing => {
                Some(format!("upstream {} fails: {error}", self.address))
            }
            None if was_failing => Some(format!("upstream {} answers again", self.address)),
            _ => None, // told before
        }
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
    let mut resent = false;
    loop {
        let length = match timeout(RESEND_AFTER, socket.recv(&mut buffer)).await {
            Ok(received) => received?,
            Err(_) if resent => continue,
            Err(_) => {
                socket.send(bytes).await?;
                resent = true;
                continue;
            }
        };
        match read_answer(query, &buffer[..length]) {
            // What does not answer this query is someone's forgery: wait for the real one.
            None => {}
            Some(answer) => return answer,
        }
    }
}

async fn ask_over_tcp(upstream: SocketAddr, query: &Message, bytes: &[u8]) -> io::Result<Message> {
    let mut stream = TcpStream::connect(upstream).await?;
    write_framed(&mut stream, bytes).await?;
    let reply = read_framed(&mut stream).await?;
    read_answer(query, &reply)
        .unwrap_or_else(|| Err(io::Error::other("the answer is to another query")))
}

/// The answer to the query, or why it cannot be used. `None` if the bytes answer another query.
fn read_answer(query: &Message, bytes: &[u8]) -> Option<io::Result<Message>> {
    let id = bytes.first_chunk::<2>().map(|id| u16::from_be_bytes(*id))?;
    if id != query.metadata.id {
        return None;
    }
    let answer = match Message::from_vec(bytes) {
        Ok(answer) => answer,
        Err(error) => return Some(Err(io::Error::other(error.to_string()))),
    };
    let is_response = answer.metadata.message_type == MessageType::Response;
    // A server that cannot read a query may leave the question out (RFC 1035 section 4.1.1).
    let answers = answer.queries == query.queries
        || (answer.queries.is_empty() && answer.metadata.response_code != ResponseCode::NoError);
    (is_response && answers).then_some(Ok(answer))
}
