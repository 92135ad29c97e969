//! Queries that the kernel's programs have denied: they are logged and counted like those that were denied here.

use std::{sync::Arc, time::Duration};

use netguard_common::dns_denial::DnsDenial;

use super::{Asking, Client, Desk, Resolver};
use crate::{Decision, Denial, Moment, QueryRecord, Transport};

/// Where one thread tells of them.
pub struct Denied {
    resolver: Arc<Resolver>,
    desk: Desk,
}

impl Denied {
    /// For the slots of a resolver.
    #[must_use]
    pub fn new(resolver: Arc<Resolver>) -> Self {
        let desk = Desk::new(resolver.journal());
        Self { resolver, desk }
    }

    /// Tells of one, whose name is in wire form. It was taken off what its slot may ask.
    pub fn write(&mut self, denial: &DnsDenial, name: &[u8]) {
        let rules = self.resolver.rules();
        let Some(own) = rules.slots.get(&denial.slot_id) else { return }; // it is gone
        let Desk { query, log, .. } = &mut self.desk;
        if query.name.read(name).is_none() {
            return; // no program writes such a record
        }
        query.record_type = denial.record_type;
        let slot = self.resolver.slot(denial.slot_id);
        let came = Moment::from_ns(denial.time_ns);
        let client = Client { address: denial.client.into(), transport: Transport::Udp, came };
        let asking = Asking { rules: &rules, own, slot: &slot, client, now: came };
        let decided = (Decision::Denied(Denial::Unlisted, None), denial.rcode.into());
        let record = asking.record(query, decided, None, false);
        log.write(&QueryRecord { latency: Duration::ZERO, ..record });
    }

    /// Hands over what is written if it is enough or old enough. Returns when to call this again at the latest.
    pub fn flush(&mut self, now: Moment) -> Option<Duration> {
        self.desk.log.flush(now)
    }

    /// Hands over what is written.
    pub fn flush_now(&mut self) {
        self.desk.log.flush_now();
    }
}
