//! Queries that the kernel's programs have denied: they are logged and counted like those that were denied here.

use std::{sync::Arc, time::Duration};

use netguard_common::dns_denial::DnsDenial;

use super::{Desk, Resolver};
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
        log.write(&QueryRecord {
            slot_id: denial.slot_id,
            slot: &own.name,
            runtime: &own.runtime,
            client: denial.client.into(),
            transport: Transport::Udp,
            name: query.name.lower(),
            record_type: denial.record_type,
            decision: Decision::Denied(Denial::Unlisted, None),
            rcode: denial.rcode.into(),
            addresses: &[],
            upstream: None,
            cached: false,
            came: Moment::from_ns(denial.time_ns),
            latency: Duration::ZERO,
        });
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
