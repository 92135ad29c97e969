//! Asking the upstream resolvers: what leaves the host, whom it goes to, and what of the answer is believed.
//!
//! A question is asked once at a time, whoever waits for it. What comes back is checked (`query`), scrubbed
//! (`scrub`), held against the policy's addresses (`addresses`), encoded anew (`encode`) and put into the cache.
//! Whether a guest may ask at all, and how much, is decided before.

mod addresses;
mod ask;
mod encode;
mod examine;
mod health;
mod in_flight;
mod plain;
mod query;
mod race;
mod resolve;
mod scrub;
mod tls;
mod wire;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use rustls_pki_types::CertificateDer;
use tokio::{sync::Semaphore, time::Instant};

use crate::{Cache, Kept, Moment, Question};
use ask::Asker;
pub use examine::examine;
pub use health::Health;
use health::Ledger;
use in_flight::{InFlight, Joined};

/// How many CNAME records are followed in all.
const HOPS_MAX: usize = 8;
/// How many questions may be under way at once; the next are answered SERVFAIL.
const IN_FLIGHT_MAX: usize = 4096;

/// How many queries are waited for although their question is answered already, to learn how their upstream is.
const STRAGGLERS_MAX: usize = 64;

/// How a [`Forwarder`] works.
#[derive(Clone)]
pub struct Settings {
    /// Whom to ask, at least one; without any, every answer is SERVFAIL.
    pub upstreams: Vec<Upstream>,
    /// No record lives longer than this, whatever its time-to-live.
    pub max_ttl: Duration,
    /// Whether a public name may lead to this address. Addresses that embed an IPv4 address need no word of the
    /// policy: they are never public.
    pub is_public: Arc<dyn Fn(IpAddr) -> bool + Send + Sync>,
    /// Who vouches for upstreams over TLS; Mozilla's list if none is given.
    pub roots: Option<Vec<CertificateDer<'static>>>,
}

/// A resolver to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Where it listens.
    pub address: SocketAddr,
    /// How it is asked.
    pub transport: Transport,
}

/// How an upstream is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// In datagrams, and over TCP what does not fit into one.
    Plain,
    /// Over TLS (RFC 7858), and never without it.
    Tls {
        /// The name or address that the upstream's certificate must be for.
        name: String,
    },
}

/// What tells the operator, in one line.
type Report = Arc<dyn Fn(String) + Send + Sync>;

/// Asks the upstreams what the cache does not know.
pub struct Forwarder {
    askers: Vec<Arc<Asker>>,
    ledger: Arc<Ledger>,
    stragglers: Arc<Semaphore>,
    in_flight: InFlight,
    cache: Arc<Cache>,
    max_ttl: Duration,
    is_public: Arc<dyn Fn(IpAddr) -> bool + Send + Sync>,
    report: Report,
}

impl Forwarder {
    /// A forwarder that keeps its answers in `cache` and tells `report`, which must not wait, when an upstream begins
    /// to fail and when it answers again.
    #[must_use]
    pub fn new(
        settings: Settings,
        cache: Arc<Cache>,
        report: impl Fn(String) + Send + Sync + 'static,
    ) -> Self {
        let Settings { upstreams, max_ttl, is_public, roots } = settings;
        let tls = tls::client_config(roots);
        let ledger = Ledger::new(upstreams.iter().map(|upstream| upstream.address), Instant::now());
        let askers = upstreams.into_iter().map(|upstream| Arc::new(Asker::new(upstream, &tls)));
        Self {
            askers: askers.collect(),
            ledger: Arc::new(ledger),
            stragglers: Arc::new(Semaphore::new(STRAGGLERS_MAX)),
            in_flight: InFlight::new(IN_FLIGHT_MAX),
            cache,
            max_ttl,
            is_public,
            report: Arc::new(report),
        }
    }

    /// The answer to a question, already in the cache. There is always one: netguard's own SERVFAIL if no upstream has
    /// answered within 4 seconds.
    ///
    /// With `may_be_private` the name may lead to addresses that are not public. Too many questions at once are
    /// answered SERVFAIL without being asked; those answers are not kept.
    pub async fn answer(self: &Arc<Self>, question: Question, may_be_private: bool) -> Kept {
        let mut waiting = match self.in_flight.join(&question, may_be_private, Instant::now()) {
            Joined::Waiter(waiting) => waiting,
            Joined::First(ticket, waiting) => {
                let (forwarder, question) = (Arc::clone(self), question.clone());
                // In a task of its own: the first asker may go away, the others still wait.
                tokio::spawn(async move {
                    let answer = forwarder.resolve(&question, may_be_private).await;
                    let kept = Kept::new(Arc::new(answer), Moment::now());
                    forwarder.cache.insert(question, kept.clone());
                    ticket.deliver(kept);
                });
                waiting
            }
            Joined::Full { tell } => {
                if tell {
                    (self.report)(format!(
                        "{IN_FLIGHT_MAX} questions are on their way to the upstreams: more are answered SERVFAIL"
                    ));
                }
                return Kept::new(Arc::new(encode::servfail(&question)), Moment::now());
            }
        };
        // The sender goes away unheard only if its task has panicked.
        let kept = waiting.wait_for(Option::is_some).await.ok().and_then(|kept| kept.clone());
        kept.unwrap_or_else(|| Kept::new(Arc::new(encode::servfail(&question)), Moment::now()))
    }

    /// How each upstream is, in the order of the settings.
    #[must_use]
    pub fn upstreams(&self) -> Vec<Health> {
        self.ledger.health()
    }
}
