//! What became of one query, and where the resolver tells it.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use netguard_common::{SlotId, names::UNLISTED};

use crate::{Moment, Rule, Transport};

/// One query and its reply.
#[derive(Clone, Copy, Debug)]
pub struct QueryRecord<'a> {
    /// The slot's number.
    pub slot_id: SlotId,
    /// The slot's name.
    pub slot: &'a str,
    /// The name of the slot's runtime.
    pub runtime: &'a str,
    /// The guest.
    pub client: IpAddr,
    /// How it came.
    pub transport: Transport,
    /// The name as asked, in wire form and lower case; the root if it could not be read.
    pub name: &'a [u8],
    /// The type's number; 0 if it could not be read.
    pub record_type: u16,
    /// What was decided.
    pub decision: Decision<'a>,
    /// The reply's code.
    pub rcode: u16,
    /// The addresses of the answer.
    pub addresses: &'a [IpAddr],
    /// The resolver that answered, now or when the cache got it.
    pub upstream: Option<SocketAddr>,
    /// The answer came from the cache.
    pub cached: bool,
    /// When the query came.
    pub came: Moment,
    /// From then to its reply.
    pub latency: Duration,
}

/// Why a query was answered as it was.
#[derive(Clone, Copy, Debug)]
pub enum Decision<'a> {
    /// The listed name that covers the asked one.
    Allowed(Rule<'a>),
    /// Answered, because the slot is audited; else denied.
    Audited(Denial),
    /// Not allowed, and by which exception or allowed name's other limits, if it was one.
    Denied(Denial, Option<Rule<'a>>),
    /// Answered by netguard itself, of which no upstream hears.
    Local(&'static str),
    /// No question that netguard answers now, or ever.
    Refused(&'static str),
}

impl<'a> Decision<'a> {
    /// Answered, by that rule or without one.
    pub(crate) fn of(rule: Option<Rule<'a>>) -> Self {
        rule.map_or(Self::Audited(Denial::Unlisted), Self::Allowed)
    }
}

/// Why a query was denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// No listed name covers it.
    Unlisted,
    /// It has bytes that no host name has.
    OddName,
    /// An exception covers it.
    Exception,
    /// It was denied at run time.
    RunTime,
    /// Its type is not answered.
    Type,
    /// Its answer leads to an address that is not public.
    Rebinding,
}

impl Denial {
    /// The word in the log.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unlisted => "unlisted",
            Self::OddName => "odd-name",
            Self::Exception => "exception",
            Self::RunTime => "denied-at-run-time",
            Self::Type => "type",
            Self::Rebinding => "rebinding",
        }
    }

    /// What a guest that understands extended errors is told.
    #[must_use]
    pub const fn told(self) -> &'static str {
        match self {
            Self::Unlisted | Self::OddName => UNLISTED,
            Self::Exception => "an exception of netguard's allowlist",
            Self::RunTime => "denied by netguard's operator",
            Self::Type => "a type that netguard does not answer",
            Self::Rebinding => "leads to an address that is not public",
        }
    }
}

/// Where one thread writes what became of its queries. Never waits.
pub trait QueryLog: Send {
    /// Writes a record.
    fn write(&mut self, record: &QueryRecord<'_>);

    /// Hands over what is written if it is enough or old enough. Returns when to call this again at the latest.
    fn flush(&mut self, now: Moment) -> Option<Duration>;

    /// Hands over what is written.
    fn flush_now(&mut self);
}

/// Where the resolver tells what happens.
pub trait Journal: Send + Sync {
    /// A log for one thread.
    fn query_log(&self) -> Box<dyn QueryLog>;

    /// A slot asks more than it may, in one sentence.
    fn over_limit(&self, slot: &str, message: String);
}
