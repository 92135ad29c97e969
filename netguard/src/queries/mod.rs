//! What slots ask of the resolver and what they get, for who follows it and who asks later: as much of it as each slot has room
//! for. The journal has all of it, in the same lines.

mod allowance;
mod filter;
pub(crate) mod json;
pub(crate) mod line;
mod mnemonic;
mod timestamp;
mod view;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use netguard_dns::{Decision, Denial, QueryRecord, Transport};

pub(crate) use allowance::Allowance;
pub use filter::{Filter, Side};
pub(crate) use mnemonic::rcode;
pub use mnemonic::{read_rcode, read_type};
pub(crate) use timestamp::Timestamp;
pub use view::Printer;

use crate::{feed, policy::NameBecause};

/// What the feed of queries tells.
#[derive(Clone, Debug)]
pub enum Entry {
    /// A query and its reply.
    Query(Query),
    /// More were asked than are told one by one.
    Suppressed(Suppressed),
}

/// One query and its reply, as [`QueryRecord`] has it, to keep.
#[derive(Clone, Debug)]
pub struct Query {
    /// When it came.
    pub time: SystemTime,
    /// The slot's name.
    pub slot: Box<str>,
    /// The name of the slot's runtime.
    pub runtime: Box<str>,
    /// The guest.
    pub client: IpAddr,
    /// How it came.
    pub transport: Transport,
    /// The name in wire form and lower case.
    pub name: Box<[u8]>,
    /// The type's number.
    pub record_type: u16,
    /// What was decided.
    pub outcome: Outcome,
    /// Why, in one word, where that is not plain.
    pub why: Option<&'static str>,
    /// The listed name that decided.
    pub rule: Option<Rule>,
    /// The reply's code.
    pub rcode: u16,
    /// The addresses of the answer.
    pub addresses: Box<[IpAddr]>,
    /// The resolver that answered.
    pub upstream: Option<SocketAddr>,
    /// The answer came from the cache.
    pub cached: bool,
    /// From the query to its reply.
    pub latency: Duration,
}

/// A listed name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    sign: &'static str,
    /// In wire form.
    name: Box<[u8]>,
    origin: Option<Arc<str>>,
}

/// So many queries of a slot with the same outcome that nobody was told of one by one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suppressed {
    /// When that became known: within a second of the last of them.
    pub time: SystemTime,
    /// The slot's name.
    pub slot: Box<str>,
    /// The name of the slot's runtime.
    pub runtime: Box<str>,
    /// What they got.
    pub outcome: Outcome,
    /// How many.
    pub count: u64,
}

/// What was decided about a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was asked of an upstream, or remembered from one.
    Allow,
    /// The slot may not ask for it.
    Deny,
    /// The same, but the slot is audited and was answered.
    WouldDeny,
    /// netguard itself has answered.
    Local,
    /// No question that netguard answers now, or ever.
    Refuse,
}

impl Outcome {
    /// How many there are.
    const COUNT: usize = 5;
    /// Every one.
    const ALL: [Self; Self::COUNT] =
        [Self::Allow, Self::Deny, Self::WouldDeny, Self::Local, Self::Refuse];

    /// The word in the log.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::WouldDeny => "would-deny",
            Self::Local => "local",
            Self::Refuse => "refuse",
        }
    }
}

/// What a decision says, in the terms of lines.
type Parts<'a> = (Outcome, Option<&'static str>, Option<netguard_dns::Rule<'a>>);

fn parts<'a>(decision: &Decision<'a>) -> Parts<'a> {
    match *decision {
        Decision::Allowed(rule) => (Outcome::Allow, None, Some(rule)),
        Decision::Audited(Denial::Unlisted) => (Outcome::WouldDeny, None, None),
        Decision::Audited(denial) => (Outcome::WouldDeny, Some(denial.name()), None),
        Decision::Denied(Denial::Unlisted, rule) => (Outcome::Deny, None, rule),
        Decision::Denied(denial, rule) => (Outcome::Deny, Some(denial.name()), rule),
        Decision::Local(why) => (Outcome::Local, Some(why), None),
        Decision::Refused(why) => (Outcome::Refuse, Some(why), None),
    }
}

impl Query {
    /// The record of that time, to keep.
    #[must_use]
    pub fn of(record: &QueryRecord<'_>, time: SystemTime) -> Self {
        let (outcome, why, rule) = parts(&record.decision);
        let rule = rule.map(|rule| Rule {
            sign: rule.sign(),
            name: rule.name().into(),
            origin: rule.origin().map(Arc::clone),
        });
        Self {
            time,
            slot: record.slot.into(),
            runtime: record.runtime.into(),
            client: record.client,
            transport: record.transport,
            name: record.name.into(),
            record_type: record.record_type,
            outcome,
            why,
            rule,
            rcode: record.rcode,
            addresses: record.addresses.into(),
            upstream: record.upstream,
            cached: record.cached,
            latency: record.latency,
        }
    }

    /// What decided, for whoever knows where that stands.
    #[must_use]
    pub fn because(&self) -> NameBecause {
        let rule = self.rule.as_ref();
        let name = || rule.map(|it| format!("{}{}", it.sign, netguard_dns::name_text(&it.name)));
        let origin = rule.and_then(|it| it.origin.as_deref());
        NameBecause::of(self.outcome == Outcome::Refuse, self.why, name, origin)
    }
}

impl Entry {
    fn time(&self) -> SystemTime {
        match self {
            Self::Query(query) => query.time,
            Self::Suppressed(more) => more.time,
        }
    }

    fn runtime(&self) -> &str {
        match self {
            Self::Query(query) => &query.runtime,
            Self::Suppressed(more) => &more.runtime,
        }
    }

    fn outcome(&self) -> Outcome {
        match self {
            Self::Query(query) => query.outcome,
            Self::Suppressed(more) => more.outcome,
        }
    }
}

impl feed::Item for Entry {
    type Filter = Filter;

    fn slot(&self) -> Option<&str> {
        Some(match self {
            Self::Query(query) => &query.slot,
            Self::Suppressed(more) => &more.slot,
        })
    }
}

/// Records for the tests of this folder.
#[cfg(test)]
mod samples {
    use std::time::UNIX_EPOCH;

    use netguard_dns::{Allowlist, DomainName, Listed, Moment, NameSet, WireName};

    use super::*;

    pub(super) const TIME: Duration = Duration::from_millis(1_700_000_000_042);

    /// Hands over an allowed query of slot1 for AAAA api.github.com, as `edit` has made it.
    pub(super) fn with<T>(
        edit: impl FnOnce(&mut QueryRecord<'_>),
        then: impl FnOnce(&QueryRecord<'_>) -> T,
    ) -> T {
        let mut set = NameSet::default();
        set.begin("code-hosting");
        set.add(&"github.com".parse().unwrap()).unwrap();
        let list = Allowlist::of([Arc::new(set)]);
        let name = WireName::from(&"api.github.com".parse::<DomainName>().unwrap());
        let Listed::Allowed(rule) = list.decide(&name) else { panic!("it is listed") };
        let mut record = QueryRecord {
            slot_id: 1,
            slot: "slot1",
            runtime: "vm",
            client: IpAddr::from([10, 1, 0, 2]),
            transport: Transport::Udp,
            name: name.lower(),
            record_type: 28,
            decision: Decision::Allowed(rule),
            rcode: 0,
            addresses: &["2001:db8::1".parse().unwrap()],
            upstream: Some("1.1.1.1:53".parse().unwrap()),
            cached: false,
            came: Moment::default(),
            latency: Duration::from_micros(1234),
        };
        edit(&mut record);
        then(&record)
    }

    pub(super) fn query(edit: impl FnOnce(&mut QueryRecord<'_>)) -> Query {
        with(edit, |record| Query::of(record, UNIX_EPOCH + TIME))
    }

    pub(super) fn suppressed() -> Suppressed {
        Suppressed {
            time: UNIX_EPOCH + TIME,
            slot: "slot1".into(),
            runtime: "vm".into(),
            outcome: Outcome::Deny,
            count: 1234,
        }
    }
}
