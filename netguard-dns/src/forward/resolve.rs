//! From a question to what is kept of its answer: ask, believe what the question leads to, ask on where a chain of
//! CNAME records ends too early.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use hickory_proto::{op::Message, rr::RecordType};
use tokio::time::{Instant, timeout_at};

use super::{
    Forwarder, HOPS_MAX, Report, addresses,
    ask::Asker,
    encode,
    health::{Ledger, News},
    query::Failure,
    race::{self, Asking, Outcome},
    scrub::{self, End, Rules, Wanted},
    wire,
};
use crate::{Answer, Blocked, Question};

/// How long a guest waits for an answer, however many upstreams and questions it takes.
const PATIENCE: Duration = Duration::from_secs(4);
/// RFC 1035 section 4.1.1.
const NOERROR: u16 = 0;
/// RFC 1035 section 4.1.1.
const NXDOMAIN: u16 = 3;

/// What an upstream has sent.
type Answered = Box<Message>;

impl Forwarder {
    /// The answer to a question, not yet kept.
    pub(super) async fn resolve(&self, question: &Question, may_be_private: bool) -> Answer {
        let deadline = Instant::now() + PATIENCE;
        let Some(name) = wire::read_name(&question.name) else {
            return encode::servfail(question);
        };
        let mut wanted = Wanted { name, record_type: RecordType::from(question.record_type) };
        let mut rules = Rules { dnssec_ok: question.dnssec_ok, hops: HOPS_MAX };
        let (mut answers, mut authorities) = (Vec::new(), Vec::new());
        let mut authentic = true;
        let mut first = None;
        loop {
            let asked =
                Question { name: wire::name_bytes(&wanted.name).into(), ..question.clone() };
            let Some((which, message)) = self.exchange(asked, deadline).await else {
                return encode::servfail(question);
            };
            let upstream = Some(*first.get_or_insert(self.askers[which].address()));
            let rcode = u16::from(message.metadata.response_code);
            if !matches!(rcode, NOERROR | NXDOMAIN) {
                let error = if answers.is_empty() {
                    encode::error(question, rcode)
                } else {
                    encode::servfail(question) // of another name than the asked one
                };
                return Answer { upstream, ..error };
            }
            authentic &= message.metadata.authentic_data;
            let scrubbed = scrub::scrub(&wanted, *message, rules);
            if !may_be_private
                && let Some(address) = addresses::rebinding(&scrubbed.addresses, &*self.is_public)
            {
                let blocked = encode::blocked(question, Blocked::Rebinding(address));
                return Answer { upstream, ..blocked };
            }
            answers.extend(scrubbed.answers);
            authorities.extend(scrubbed.authorities);
            rules.hops -= scrubbed.hops;
            let (rcode, is_negative) = match scrubbed.end {
                End::Data => (NOERROR, false),
                End::NoData => (NOERROR, true),
                End::NxDomain => (NXDOMAIN, true),
                End::Endless => return Answer { upstream, ..encode::servfail(question) },
                End::Incomplete(target) => {
                    wanted.name = target;
                    continue; // at most eight times: each takes one of the hops
                }
            };
            let max_ttl = self.max_ttl;
            let kept = encode::records(question, rcode, answers, authorities, is_negative, max_ttl);
            let authentic = authentic && kept.rcode == rcode;
            return Answer { upstream, authentic, ..kept };
        }
    }

    /// The first usable answer of an upstream, or else an error of one.
    async fn exchange(&self, question: Question, deadline: Instant) -> Option<(usize, Answered)> {
        let order = self.ledger.order(Instant::now());
        let question = Arc::new(question);
        let mut running = FuturesUnordered::new();
        let ask = |which: usize| -> Asking<Answered> {
            let asking = Attempt {
                which,
                asker: Arc::clone(&self.askers[which]),
                ledger: Arc::clone(&self.ledger),
                report: Arc::clone(&self.report),
                question: Arc::clone(&question),
                deadline,
            };
            Box::pin(async move { (which, asking.run().await) })
        };
        let overtaken = |which| self.ledger.overtaken(which, race::HEDGE);
        let answered = race::race(&order, deadline, &mut running, ask, overtaken).await;
        self.wait_for_stragglers(running);
        answered
    }

    /// An upstream that is always overtaken must still be found dead, so those that lost the race run on. Beyond a
    /// number they are let go, and nothing is learnt of them.
    fn wait_for_stragglers(&self, mut running: FuturesUnordered<Asking<Answered>>) {
        if running.is_empty() {
            return;
        }
        if let Ok(permit) = Arc::clone(&self.stragglers).try_acquire_owned() {
            tokio::spawn(async move {
                while running.next().await.is_some() {} // each ends by its deadline
                drop(permit);
            });
        }
    }
}

/// One upstream asked one question once.
struct Attempt {
    which: usize,
    asker: Arc<Asker>,
    ledger: Arc<Ledger>,
    report: Report,
    question: Arc<Question>,
    deadline: Instant,
}

impl Attempt {
    async fn run(self) -> Outcome<Answered> {
        let asked = Instant::now();
        self.ledger.asked(self.which);
        let answer = timeout_at(self.deadline, self.asker.ask(&self.question)).await;
        let answer = answer.unwrap_or(Err(Failure::TimedOut));
        let now = Instant::now();
        let news = match &answer {
            Err(failure) if failure.is_the_upstreams() => {
                self.ledger.failed(self.which, asked, now)
            }
            _ => self.ledger.answered(self.which, asked, now),
        };
        let address = self.asker.address();
        match (news, &answer) {
            (Some(News::BeginsToFail), Err(failure)) => {
                (self.report)(format!("upstream {address} fails: {failure}"));
            }
            (Some(News::AnswersAgain), _) => {
                (self.report)(format!("upstream {address} answers again"));
            }
            _ => {} // nothing new
        }
        match answer {
            Err(_) => Outcome::Nothing,
            Ok(message) => match u16::from(message.metadata.response_code) {
                NOERROR | NXDOMAIN => Outcome::Usable(message),
                _ => Outcome::Error(message),
            },
        }
    }
}
