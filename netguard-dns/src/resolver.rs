//! The way of one query: read, decided, answered from the cache or by an upstream, its addresses pinned, logged.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use netguard_common::SlotId;

use crate::{
    Blocked, Cache, Decision, Denial, Journal, Kept, Listed, Moment, PinError, Pins, Ports,
    QueryLog, QueryRecord, Transport,
    budget::{Budget, Exhausted},
    forward::Forwarder,
    query::{self, Query, Unfit},
    reply::{self, NOERROR, NXDOMAIN, REFUSED, SERVFAIL},
    rules::{self, Rules, SlotRules},
    write_name,
};

/// How many queries of one slot may wait for upstreams.
const IN_FLIGHT_MAX: u32 = 256;

const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
const TYPE_ANY: u16 = 255;
/// OPT, and the types that are about messages and zones, not names (RFC 6895 section 3.1).
const fn is_meta(record_type: u16) -> bool {
    matches!(record_type, 0 | 41 | 128..=254)
}

/// Answers the queries of all slots.
pub struct Resolver {
    rules: ArcSwap<Rules>,
    cache: Arc<Cache>,
    forwarder: Arc<Forwarder>,
    pins: Arc<Pins>,
    slots: Mutex<HashMap<SlotId, Arc<SlotState>>>,
    journal: Arc<dyn Journal>,
}

/// What one slot has asked; it outlives the rules.
#[derive(Debug)]
pub struct SlotState {
    id: SlotId,
    budget: Budget,
    in_flight: AtomicU32,
    over_rate: AtomicU64,
}

/// Who asks, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    pub(crate) address: IpAddr,
    pub(crate) transport: Transport,
}

/// What a thread uses again for each query.
pub(crate) struct Desk {
    query: Query,
    name: String,
    pub(crate) log: Box<dyn QueryLog>,
}

impl Desk {
    pub(crate) fn new(journal: &dyn Journal) -> Self {
        Self { query: Query::default(), name: String::new(), log: journal.query_log() }
    }
}

/// What became of a message at once.
pub(crate) enum Begun {
    /// The reply is written.
    Replied,
    /// It deserves none.
    Silent,
    /// An upstream must be asked: [`Resolver::finish`].
    Waits(Box<Job>),
}

/// A query that waits for an upstream.
pub(crate) struct Job {
    query: Query,
    name: String,
    rules: Arc<Rules>,
    slot: InFlight,
    client: Client,
    came: Moment,
}

/// One of a slot's queries in flight.
struct InFlight(Arc<SlotState>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What was decided, and the code of the reply that says so.
type Decided<'a> = (Decision<'a>, u16);

impl Resolver {
    /// A resolver by these rules.
    #[must_use]
    pub fn new(
        rules: Rules,
        cache: Arc<Cache>,
        forwarder: Arc<Forwarder>,
        pins: Arc<Pins>,
        journal: Arc<dyn Journal>,
    ) -> Self {
        let rules = ArcSwap::from_pointee(rules);
        Self { rules, cache, forwarder, pins, slots: Mutex::default(), journal }
    }

    /// Other rules, for every query from now on.
    pub fn replace_rules(&self, rules: Rules) {
        self.rules.store(Arc::new(rules));
    }

    pub(crate) fn rules(&self) -> arc_swap::Guard<Arc<Rules>> {
        self.rules.load()
    }

    pub(crate) fn journal(&self) -> &dyn Journal {
        &*self.journal
    }

    /// What that slot has asked so far.
    pub(crate) fn slot(&self, id: SlotId) -> Arc<SlotState> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || SlotState {
            id,
            budget: Budget::default(),
            in_flight: AtomicU32::new(0),
            over_rate: AtomicU64::new(0),
        };
        Arc::clone(slots.entry(id).or_insert_with(|| Arc::new(fresh())))
    }

    /// Tells how many queries of which slots were over their limit since the last time.
    pub fn report_over_rate(&self) {
        let rules = self.rules();
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        for (id, state) in &*slots {
            let dropped = state.over_rate.swap(0, Ordering::Relaxed);
            if dropped > 0
                && let Some(slot) = rules.slots.get(id)
            {
                let (name, most) = (&slot.name, slot.limits.queries_per_second);
                let message = format!(
                    "slot {name} asks more than {most} times a second: {dropped} queries dropped"
                );
                self.journal.note(message);
            }
        }
    }

    /// Takes one message of a guest. `out` is the reply, if there is one.
    pub(crate) fn begin(
        &self,
        desk: &mut Desk,
        rules: &Arc<Rules>,
        slot: &Arc<SlotState>,
        client: Client,
        bytes: &[u8],
        out: &mut Vec<u8>,
    ) -> Begun {
        let came = Moment::now();
        let Some(own) = rules.slots.get(&slot.id) else { return Begun::Silent };
        if !slot.budget.take_query(&own.limits, came) {
            slot.over_rate.fetch_add(1, Ordering::Relaxed);
            return Begun::Silent;
        }
        let Desk { query, name, log } = desk;
        let mut kept = None;
        let decided = match query::read(bytes, query) {
            Err(Unfit::Silent) => return Begun::Silent,
            Err(Unfit::Header(fault)) => {
                reply::unreadable(bytes, fault.rcode(), out);
                Some((Decision::Refused(fault.why()), fault.rcode()))
            }
            Err(Unfit::Question(fault)) => {
                reply::empty(query, fault.rcode(), None, out);
                Some((Decision::Refused(fault.why()), fault.rcode()))
            }
            Ok(()) => match self.decide(query, name, rules, own, slot, came, out) {
                Some(decided) => Some(decided),
                None => {
                    kept = self.cache.get(&query.asked(), came);
                    kept.as_ref().map(|kept| {
                        self.deliver(query, name, own, slot, client.transport, kept, came, out)
                    })
                }
            },
        };
        let Some(decided) = decided else {
            return self.begin_waiting(desk, rules, own, slot, client, came, out);
        };
        log.write(&record(own, client, query, decided, kept.as_ref(), true, came));
        Begun::Replied
    }

    /// What can be decided without an answer. None if the name is allowed and must be answered.
    fn decide<'a>(
        &self,
        query: &Query,
        name: &mut String,
        rules: &Rules,
        own: &'a SlotRules,
        slot: &SlotState,
        now: Moment,
        out: &mut Vec<u8>,
    ) -> Option<Decided<'a>> {
        let refuse = |why, out: &mut Vec<u8>| {
            reply::empty(query, REFUSED, None, out);
            Some((Decision::Refused(why), REFUSED))
        };
        if is_meta(query.record_type) {
            return refuse("type", out);
        }
        if query.name.lower().len() > rules.name_max {
            return refuse("name-length", out);
        }
        if rules::is_localhost(&query.name) {
            match query.record_type {
                TYPE_A => reply::address(query, Ipv4Addr::LOCALHOST.into(), out),
                TYPE_AAAA => reply::address(query, Ipv6Addr::LOCALHOST.into(), out),
                _ => reply::nothing(query, NOERROR, None, out), // it has nothing else
            }
            return Some((Decision::Local("localhost"), NOERROR));
        }
        let deny = |denial: Denial, rule, rcode, out: &mut Vec<u8>| {
            reply::nothing(query, rcode, Some(denial.told()), out);
            Some((Decision::Denied(denial, rule), rcode))
        };
        let rule = match own.allowlist.decide(&query.name) {
            _ if !query.name.is_host_name() => {
                return deny(Denial::OddName, None, NXDOMAIN, out);
            }
            Listed::Allowed(rule) => rule,
            Listed::Above => return deny(Denial::Unlisted, None, NOERROR, out),
            Listed::Excepted(rule) => return deny(Denial::Exception, Some(rule), NXDOMAIN, out),
            // The root lies above everything, also above an empty list.
            Listed::Unlisted if query.name.labels().is_empty() => {
                return deny(Denial::Unlisted, None, NOERROR, out);
            }
            Listed::Unlisted => {
                let Some(why) = rules::local(&query.name) else {
                    return deny(Denial::Unlisted, None, NXDOMAIN, out);
                };
                reply::nothing(query, NXDOMAIN, None, out);
                return Some((Decision::Local(why), NXDOMAIN));
            }
        };
        name.clear();
        // What a host name has is ASCII.
        write_name(query.name.lower(), |part| name.push_str(str::from_utf8(part).unwrap_or("?")));
        if self.pins.is_denied(slot.id, name, now) {
            return deny(Denial::RunTime, Some(rule), NXDOMAIN, out);
        }
        if query.record_type == TYPE_ANY {
            reply::any(query, out);
            return Some((Decision::Local("any"), NOERROR));
        }
        if !rules.answers_type(query.record_type) {
            return deny(Denial::Type, Some(rule), NOERROR, out);
        }
        None
    }

    /// Writes the reply from an answer, after its addresses are pinned.
    fn deliver<'a>(
        &self,
        query: &Query,
        name: &str,
        own: &'a SlotRules,
        slot: &SlotState,
        transport: Transport,
        kept: &Kept,
        now: Moment,
        out: &mut Vec<u8>,
    ) -> Decided<'a> {
        let Listed::Allowed(rule) = own.allowlist.decide(&query.name) else {
            // It was allowed when it was asked, by these same rules.
            reply::empty(query, SERVFAIL, None, out);
            return (Decision::Refused("internal"), SERVFAIL);
        };
        let answer = &*kept.answer;
        if let Some(Blocked::Rebinding(_)) = answer.blocked {
            let denial = Denial::Rebinding;
            reply::nothing(query, NOERROR, Some(denial.told()), out);
            return (Decision::Denied(denial, Some(rule)), NOERROR);
        }
        if own.pinned && !answer.addresses.is_empty() {
            let addresses = &answer.addresses;
            let ports = rule.ports().unwrap_or(&Ports::ANY);
            match self.pins.pin(slot.id, name, addresses, ports, kept.until.max(now), now) {
                Ok(()) => {}
                Err(PinError::Denied) => {
                    let denial = Denial::RunTime;
                    reply::nothing(query, NXDOMAIN, Some(denial.told()), out);
                    return (Decision::Denied(denial, Some(rule)), NXDOMAIN);
                }
                Err(PinError::Full) => {
                    reply::empty(query, SERVFAIL, Some("too many addresses pinned"), out);
                    return (Decision::Refused("pins-full"), SERVFAIL);
                }
                Err(PinError::Kernel(_) | PinError::NoSlot(_)) => {
                    reply::empty(query, SERVFAIL, None, out);
                    return (Decision::Refused("pin-failed"), SERVFAIL);
                }
            }
        }
        let age = u32::try_from(kept.age(now).as_secs()).unwrap_or(u32::MAX);
        reply::answer(query, answer, age, reply::limit(query, transport), out);
        (Decision::Allowed(rule), answer.rcode)
    }

    /// Takes a place among the slot's queries in flight, or refuses.
    fn begin_waiting(
        &self,
        desk: &mut Desk,
        rules: &Arc<Rules>,
        own: &SlotRules,
        slot: &Arc<SlotState>,
        client: Client,
        came: Moment,
        out: &mut Vec<u8>,
    ) -> Begun {
        let Desk { query, name, log } = desk;
        let in_flight = slot.in_flight.fetch_add(1, Ordering::Relaxed);
        let place = InFlight(Arc::clone(slot));
        let refused = if in_flight >= IN_FLIGHT_MAX {
            Some(("in-flight", SERVFAIL, "too many queries wait"))
        } else {
            match slot.budget.take_name(name, &own.limits, came) {
                Ok(()) => None,
                Err(exhausted) => {
                    self.tell(&exhausted, own);
                    Some((exhausted.what, REFUSED, "too much of this domain in one minute"))
                }
            }
        };
        if let Some((why, rcode, told)) = refused {
            reply::empty(query, rcode, Some(told), out);
            log.write(&record(
                own,
                client,
                query,
                (Decision::Refused(why), rcode),
                None,
                false,
                came,
            ));
            return Begun::Replied;
        }
        Begun::Waits(Box::new(Job {
            query: query.clone(),
            name: std::mem::take(name),
            rules: Arc::clone(rules),
            slot: place,
            client,
            came,
        }))
    }

    fn tell(&self, exhausted: &Exhausted, own: &SlotRules) {
        if exhausted.first {
            let Exhausted { what, domain, .. } = exhausted;
            let message = format!(
                "slot {} is over {what} below {domain}: refused for the rest of the minute",
                own.name
            );
            self.journal.note(message);
        }
    }

    /// Asks an upstream and writes the reply.
    pub(crate) async fn finish(&self, job: Job, log: &Mutex<Box<dyn QueryLog>>, out: &mut Vec<u8>) {
        let Job { query, name, rules, slot, client, came } = job;
        let private = rules.may_be_private(&query.name);
        let kept = self.forwarder.answer(query.asked().to_question(), private).await;
        let now = Moment::now();
        slot.0.budget.take_bytes(&name, kept.answer.message.len(), now);
        let Some(own) = rules.slots.get(&slot.0.id) else { return };
        let decided = self.deliver(&query, &name, own, &slot.0, client.transport, &kept, now, out);
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        log.write(&record(own, client, &query, decided, Some(&kept), false, came));
        log.flush_now();
    }
}

fn record<'a>(
    own: &'a SlotRules,
    client: Client,
    query: &'a Query,
    (decision, rcode): Decided<'a>,
    kept: Option<&'a Kept>,
    cached: bool,
    came: Moment,
) -> QueryRecord<'a> {
    let answer = kept.map(|kept| &kept.answer);
    QueryRecord {
        slot: &own.name,
        client: client.address,
        transport: client.transport,
        name: query.name.lower(),
        record_type: query.record_type,
        decision,
        rcode,
        addresses: answer.map_or(&[], |answer| &answer.addresses),
        upstream: answer.and_then(|answer| answer.upstream),
        cached: cached && kept.is_some(),
        latency: Moment::now().since(came),
    }
}
