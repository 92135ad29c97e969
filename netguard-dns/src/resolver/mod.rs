//! The way of one query: read, decided, answered from the cache or by an upstream, its addresses pinned, logged.

mod decide;
mod denied;

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
pub use denied::Denied;
use netguard_common::SlotId;

use crate::{
    Cache, Decision, DomainName, Journal, Kept, Moment, Pins, QueryLog, QueryRecord, Transport,
    WireName,
    budget::{Budget, Exhausted, Meters, take_query},
    forward::Forwarder,
    learnt::Learnt,
    query::{self, Query, Unfit},
    reply::{self, REFUSED, SERVFAIL},
    rules::{Rules, SlotRules},
    told::Told,
};

/// How many queries of one slot may wait for upstreams.
const IN_FLIGHT_MAX: u32 = 256;

/// Answers the queries of all slots.
pub struct Resolver {
    rules: ArcSwap<Rules>,
    cache: Arc<Cache>,
    forwarder: ArcSwap<Forwarder>,
    pins: Arc<Pins>,
    meters: Arc<dyn Meters>,
    slots: Mutex<HashMap<SlotId, Arc<SlotState>>>,
    journal: Arc<dyn Journal>,
}

/// What the rules say of a name, before anybody is asked for its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// True if it is asked of upstreams.
    pub is_allowed: bool,
    /// True if it is no question that netguard answers.
    pub is_refused: bool,
    /// Why it is not, or that a listed name covers it: `listed`, `unlisted`, `exception`, `denied-at-run-time`; or `audited` for what
    /// no list has and an audited slot is answered.
    pub why: &'static str,
    /// The listed name that decided, as the list writes it.
    pub rule: Option<String>,
    /// Where that is from: a category of the allowlist, a list, a key, an order.
    pub category: Option<String>,
    /// The ports that its addresses are pinned for.
    pub ports: Option<String>,
}

impl Judged {
    fn of(decision: Decision<'_>) -> Self {
        let (is_allowed, why, rule) = match decision {
            Decision::Allowed(rule) => (true, "listed", Some(rule)),
            Decision::Audited(_) => (true, "audited", None),
            Decision::Denied(denial, rule) => (false, denial.name(), rule),
            Decision::Local(why) | Decision::Refused(why) => (false, why, None),
        };
        let ports = rule.and_then(|rule| rule.ports()).map(ToString::to_string);
        let category = rule.and_then(|rule| rule.origin()).map(|origin| origin.as_ref().into());
        let is_refused = matches!(decision, Decision::Refused(_));
        Self {
            is_allowed,
            is_refused,
            why,
            rule: rule.map(|rule| rule.to_string()),
            category,
            ports,
        }
    }
}

/// What one slot has asked; it outlives the rules.
#[derive(Debug)]
pub struct SlotState {
    id: SlotId,
    budget: Budget,
    in_flight: AtomicU32,
    over_rate: AtomicU64,
    told: Told,
    learnt: Learnt,
}

/// Who asks, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    pub(crate) address: IpAddr,
    pub(crate) transport: Transport,
    /// When the message came.
    pub(crate) came: Moment,
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
    slot: InFlight,
    client: Client,
}

/// One of a slot's queries in flight.
struct InFlight(Arc<SlotState>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Who asks for a query to be decided, and by which rules.
struct Asking<'a> {
    rules: &'a Arc<Rules>,
    own: &'a SlotRules,
    slot: &'a Arc<SlotState>,
    client: Client,
    now: Moment,
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
        meters: Arc<dyn Meters>,
        journal: Arc<dyn Journal>,
    ) -> Self {
        let rules = ArcSwap::from_pointee(rules);
        let forwarder = ArcSwap::new(forwarder);
        Self { rules, cache, forwarder, pins, meters, slots: Mutex::default(), journal }
    }

    /// Other rules, for every query from now on. When this returns, nobody decides by the old ones any more.
    pub fn replace_rules(&self, rules: Rules) {
        /// A thread holds the rules for as long as it needs to answer what has come at once.
        const BREATH: Duration = Duration::from_micros(50);
        let old = self.rules.swap(Arc::new(rules));
        while Arc::strong_count(&old) > 1 {
            std::thread::sleep(BREATH);
        }
        let rules = self.rules();
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        for (id, state) in &*slots {
            let own = rules.slots.get(id);
            if own.is_none() {
                state.told.clear();
            }
            if own.is_none_or(|own| !own.audit) {
                state.learnt.clear();
            }
        }
    }

    /// The name by which that slot was last told an address, as long as that is remembered.
    #[must_use]
    pub fn name_of(&self, slot: SlotId, address: IpAddr) -> Option<String> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let told = slots.get(&slot).and_then(|state| state.told.name_of(address));
        drop(slots);
        told.or_else(|| self.pins.name_of(slot, address))
    }

    /// The names that slot was answered because it is audited, and how often each.
    #[must_use]
    pub fn learnt(&self, slot: SlotId) -> BTreeMap<String, u64> {
        self.slot(slot).learnt.all()
    }

    /// The answers that are remembered.
    #[must_use]
    pub fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }

    /// Another way to upstreams, for every query that comes from now on.
    pub fn replace_forwarder(&self, forwarder: Arc<Forwarder>) {
        self.forwarder.store(forwarder);
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
            told: Told::default(),
            learnt: Learnt::default(),
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
                self.journal.over_limit(name, message);
            }
        }
    }

    /// What a slot's query for a name would get by the rules alone. It is decided like any other, counts nowhere and asks nobody.
    /// `None` if there is no such slot.
    #[must_use]
    pub fn judge(&self, slot: SlotId, name: &DomainName, now: Moment) -> Option<Judged> {
        let rules = self.rules();
        let own = rules.slots.get(&slot)?;
        // One question, recursion desired; type A, class IN (RFC 1035 section 4.1).
        let mut message = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        message.extend(WireName::from(name).lower());
        message.extend([0, 1, 0, 1]);
        let mut query = Query::default();
        query::read(&message, &mut query).ok()?;
        let client =
            Client { address: Ipv4Addr::UNSPECIFIED.into(), transport: Transport::Udp, came: now };
        let state = self.slot(slot);
        let asking = Asking { rules: &rules, own, slot: &state, client, now };
        let decided = self.decide(&asking, &query, &mut String::new(), &mut Vec::new());
        Some(Judged::of(decided.map_or_else(|(decision, _)| decision, Decision::of)))
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
        let now = client.came;
        let Some(own) = rules.slots.get(&slot.id) else { return Begun::Silent };
        let meter = self.meters.of(slot.id);
        if !meter.is_some_and(|even_at| take_query(even_at, &own.limits, now)) {
            slot.over_rate.fetch_add(1, Ordering::Relaxed);
            return Begun::Silent;
        }
        let asking = Asking { rules, own, slot, client, now };
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
            Ok(()) => match self.decide(&asking, query, name, out) {
                Err(decided) => Some(decided),
                Ok(rule) => {
                    kept = self.cache.get(&query.asked(), now);
                    kept.as_ref().map(|kept| self.deliver(&asking, rule, query, name, kept, out))
                }
            },
        };
        let Some(decided) = decided else { return self.begin_waiting(&asking, desk, out) };
        log.write(&asking.record(query, decided, kept.as_ref(), true));
        Begun::Replied
    }

    /// Takes a place among the slot's queries in flight, or refuses.
    fn begin_waiting(&self, asking: &Asking<'_>, desk: &mut Desk, out: &mut Vec<u8>) -> Begun {
        let Desk { query, name, log } = desk;
        let Asking { own, slot, .. } = *asking;
        let in_flight = slot.in_flight.fetch_add(1, Ordering::Relaxed);
        let place = InFlight(Arc::clone(slot));
        let refused = if in_flight >= IN_FLIGHT_MAX {
            Some(("in-flight", SERVFAIL, "too many queries wait"))
        } else {
            match slot.budget.take_name(name, &own.limits, asking.now) {
                Ok(()) => None,
                Err(exhausted) => {
                    self.tell(&exhausted, own);
                    Some((exhausted.what, REFUSED, "too much of this domain in one minute"))
                }
            }
        };
        if let Some((why, rcode, told)) = refused {
            reply::empty(query, rcode, Some(told), out);
            log.write(&asking.record(query, (Decision::Refused(why), rcode), None, false));
            return Begun::Replied;
        }
        Begun::Waits(Box::new(Job {
            query: query.clone(),
            name: std::mem::take(name),
            slot: place,
            client: asking.client,
        }))
    }

    fn tell(&self, exhausted: &Exhausted, own: &SlotRules) {
        if exhausted.first {
            let Exhausted { what, domain, .. } = exhausted;
            let message = format!(
                "slot {} is over {what} below {domain}: refused for the rest of the minute",
                own.name
            );
            self.journal.over_limit(&own.name, message);
        }
    }

    /// Asks an upstream and writes the reply, if there is one. The rules may have changed meanwhile: those of this moment count.
    pub(crate) async fn finish(&self, job: Job, log: &Mutex<Box<dyn QueryLog>>, out: &mut Vec<u8>) {
        let Job { query, mut name, slot, client } = job;
        let private = self.rules().may_be_private(&query.name);
        let forwarder = self.forwarder.load_full();
        let kept = forwarder.answer(query.asked().to_question(), private).await;
        let now = Moment::now();
        slot.0.budget.take_bytes(&name, kept.answer.message.len(), now);
        let rules = self.rules();
        let Some(own) = rules.slots.get(&slot.0.id) else { return };
        let asking = Asking { rules: &rules, own, slot: &slot.0, client, now };
        let decided = match self.decide(&asking, &query, &mut name, out) {
            Ok(_) if private != rules.may_be_private(&query.name) => {
                reply::empty(&query, SERVFAIL, None, out);
                (Decision::Refused("rules-changed"), SERVFAIL)
            }
            Ok(rule) => self.deliver(&asking, rule, &query, &name, &kept, out),
            Err(decided) => decided,
        };
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        log.write(&asking.record(&query, decided, Some(&kept), false));
        log.flush_now();
    }
}

impl<'a> Asking<'a> {
    fn record(
        &self,
        query: &'a Query,
        (decision, rcode): Decided<'a>,
        kept: Option<&'a Kept>,
        cached: bool,
    ) -> QueryRecord<'a> {
        let answer = kept.map(|kept| &kept.answer);
        QueryRecord {
            slot_id: self.slot.id,
            slot: &self.own.name,
            runtime: &self.own.runtime,
            client: self.client.address,
            transport: self.client.transport,
            name: query.name.lower(),
            record_type: query.record_type,
            decision,
            rcode,
            addresses: answer.map_or(&[], |answer| &answer.addresses),
            upstream: answer.and_then(|answer| answer.upstream),
            cached: cached && kept.is_some(),
            came: self.client.came,
            latency: Moment::now().since(self.client.came),
        }
    }
}
