//! The resolver: what a slot may know of names, answered on the slot's own gateway.
//!
//! Knows of the policy only the [`Allowlist`] and the upstreams handed to it. Nothing of a guest's
//! bytes is forwarded: the question is parsed, decided and asked anew.

mod allowlist;
mod answer;
mod framing;
mod name;
mod server;
mod upstream;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

pub use allowlist::Allowlist;
pub use framing::{read_framed, write_framed};
use hickory_proto::op::{Message, ResponseCode};
pub use name::{BadName, DomainName};
pub use server::{Endpoint, SlotServer};

use answer::Question;
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
        let (question, decided) = match answer::read(bytes) {
            answer::Read::NoQuery => return None,
            answer::Read::Unreadable(why, reply) => (None, Decided::refused(why, reply)),
            answer::Read::Refused(question, why, rcode) => {
                let reply = answer::refusal(&question, rcode);
                (Some(question), Decided::refused(why, reply))
            }
            answer::Read::Question(question) => {
                let decided = self.decide(&question).await;
                (Some(question), decided)
            }
        };
        let reply = answer::encode(&decided.reply, question.as_ref(), transport);
        let record = QueryRecord {
            time,
            slot: Arc::clone(slot),
            client,
            transport,
            name: question.as_ref().map_or_else(String::new, Question::display_name),
            query_type: question.as_ref().map_or_else(String::new, Question::display_type),
            decision: decided.decision,
            rcode: decided.reply.metadata.response_code,
            addresses: answer::addresses(&decided.reply),
            upstream: decided.upstream,
            latency: started.elapsed(),
        };
        (self.log)(Happening::Query(record));
        reply
    }

    async fn decide(&self, question: &Question) -> Decided {
        let covering = question.domain().and_then(|name| self.allowlist.covering(&name).cloned());
        let Some(rule) = covering else {
            let reply = answer::not_allowed(question);
            return Decided { decision: Decision::Denied, reply, upstream: None };
        };
        let decision = Decision::Allowed(rule);
        match self.upstreams.resolve(question).await {
            Some((upstream, answered)) => {
                let reply = answer::from_upstream(question, answered);
                Decided { decision, reply, upstream: Some(upstream) }
            }
            None => {
                let reply = answer::refusal(question, ResponseCode::ServFail);
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
