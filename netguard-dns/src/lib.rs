//! The resolver: what a slot may know of names, answered on the slot's own gateway.
//!
//! Knows of the policy only the [`Allowlist`] and the upstreams handed to it. Nothing of a guest's
//! bytes is forwarded: the question is parsed, decided and asked anew.

mod allowlist;
mod answer;
mod cache;
mod clock;
mod framing;
mod name;
mod pins;
mod question;
mod reply;
mod server;
mod upstream;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

pub use allowlist::Allowlist;
pub use answer::{Answer, Blocked};
pub use cache::{Asked, Cache, Kept};
pub use clock::Moment;
pub use framing::{read_framed, write_framed};
use hickory_proto::op::{Message, ResponseCode};
pub use name::{BadName, DomainName};
pub use pins::{BadPorts, GRACE, Pin, PinError, PinMap, Pins, Ports};
pub use question::Question;
pub use server::{Endpoint, SlotServer};

use reply::Question as Query;
use upstream::Upstreams;

/// How a query came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// In one datagram.
    Udp,
    /// On a connection.
    Tcp,
}

/// What became of one query, for the log.
#[derive(Clone, Debug)]
pub struct QueryRecord {
    /// When the query came.
    pub time: SystemTime,
    /// The slot's name.
    pub slot: Arc<str>,
    /// The guest.
    pub client: IpAddr,
    /// How it came.
    pub transport: Transport,
    /// The name as asked, in lower case; what could not be parsed has none.
    pub name: String,
    /// The type as asked: `A`, `AAAA`.
    pub query_type: String,
    /// What was decided.
    pub decision: Decision,
    /// The answer's code: `NOERROR`, `NXDOMAIN`.
    pub rcode: ResponseCode,
    /// The addresses of the answer.
    pub addresses: Vec<IpAddr>,
    /// The resolver that answered, if one was asked.
    pub upstream: Option<SocketAddr>,
    /// From the query's arrival to its reply.
    pub latency: Duration,
}

/// Why a query was answered as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The listed name that covers the asked one.
    Allowed(DomainName),
    /// No listed name covers the asked one.
    Denied,
    /// No question that netguard answers.
    Refused(&'static str),
}

/// What the resolver has to tell.
#[derive(Clone, Debug)]
pub enum Happening {
    /// A query was answered.
    Query(QueryRecord),
    /// An upstream began to fail, or answers again.
    Upstream(String),
}

/// Where the resolver tells it.
type Log = Arc<dyn Fn(Happening) + Send + Sync>;

/// Answers queries by the policy; shared by the servers of all slots.
pub struct Resolver {
    allowlist: Allowlist,
    upstreams: Upstreams,
    log: Log,
}

impl Resolver {
    /// A resolver that hands what happens to `log`, which must not wait.
    #[must_use]
    pub fn new(
        allowlist: Allowlist,
        upstreams: Vec<SocketAddr>,
        log: impl Fn(Happening) + Send + Sync + 'static,
    ) -> Self {
        let log: Log = Arc::new(log);
        Self { allowlist, upstreams: Upstreams::new(upstreams, Arc::clone(&log)), log }
    }

    /// Answers one message of a guest; `None` if it deserves no answer (it is no query).
    async fn answer(
        &self,
        bytes: &[u8],
        slot: &Arc<str>,
        client: IpAddr,
        transport: Transport,
    ) -> Option<Vec<u8>> {
        let (time, started) = (SystemTime::now(), Instant::now());
        let (question, decided) = match reply::read(bytes) {
            reply::Read::NoQuery => return None,
            reply::Read::Unreadable(why, reply) => (None, Decided::refused(why, reply)),
            reply::Read::Refused(question, why, rcode) => {
                let reply = reply::refusal(&question, rcode);
                (Some(question), Decided::refused(why, reply))
            }
            reply::Read::Question(question) => {
                let decided = self.decide(&question).await;
                (Some(question), decided)
            }
        };
        let reply = reply::encode(&decided.reply, question.as_ref(), transport);
        let record = QueryRecord {
            time,
            slot: Arc::clone(slot),
            client,
            transport,
            name: question.as_ref().map_or_else(String::new, Query::display_name),
            query_type: question.as_ref().map_or_else(String::new, Query::display_type),
            decision: decided.decision,
            rcode: decided.reply.metadata.response_code,
            addresses: reply::addresses(&decided.reply),
            upstream: decided.upstream,
            latency: started.elapsed(),
        };
        (self.log)(Happening::Query(record));
        reply
    }

    async fn decide(&self, question: &Query) -> Decided {
        let covering = question.domain().and_then(|name| self.allowlist.covering(&name).cloned());
        let Some(rule) = covering else {
            let reply = reply::not_allowed(question);
            return Decided { decision: Decision::Denied, reply, upstream: None };
        };
        let decision = Decision::Allowed(rule);
        match self.upstreams.resolve(question).await {
            Some((upstream, answered)) => {
                let reply = reply::from_upstream(question, answered);
                Decided { decision, reply, upstream: Some(upstream) }
            }
            None => {
                let reply = reply::refusal(question, ResponseCode::ServFail);
                Decided { decision, reply, upstream: None }
            }
        }
    }
}

struct Decided {
    decision: Decision,
    reply: Message,
    upstream: Option<SocketAddr>,
}

impl Decided {
    fn refused(why: &'static str, reply: Message) -> Self {
        Self { decision: Decision::Refused(why), reply, upstream: None }
    }
}
