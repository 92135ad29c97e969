//! The resolver as the policy wants it.

use std::{num::NonZero, sync::Arc};

use netguard_dns::{
    Cache, Pins, Resolver, Rules, SlotRules,
    forward::{Forwarder, Settings},
};

use crate::{
    journal::Journal,
    policy::{Policy, is_public},
};

/// A resolver for the slots of the policy.
pub(super) fn of(policy: &Policy, pins: &Arc<Pins>, journal: &Journal) -> Resolver {
    let dns = &policy.dns;
    let settings = Settings {
        upstreams: dns.upstreams.clone(),
        max_ttl: dns.cache_max_ttl,
        is_public: Arc::new(is_public),
        roots: dns.tls_roots.clone(),
    };
    let cache = Arc::new(Cache::new(dns.cache_bytes));
    let told = journal.clone();
    let report = move |message: String| told.note(message);
    let forwarder = Arc::new(Forwarder::new(settings, Arc::clone(&cache), report));
    Resolver::new(rules(policy), cache, forwarder, Arc::clone(pins), Arc::new(journal.clone()))
}

fn rules(policy: &Policy) -> Rules {
    let dns = &policy.dns;
    let slots = policy.slots.iter().map(|slot| {
        let own = dns.slots.get(&slot.id).cloned().unwrap_or_default();
        let rules = SlotRules {
            name: slot.name.as_str().into(),
            allowlist: own.allowlist,
            pinned: false,
            limits: own.limits,
        };
        (slot.id, rules)
    });
    Rules {
        slots: slots.collect(),
        private_names: Arc::clone(&dns.private_names),
        types: dns.types.clone(),
        svcb: dns.svcb,
        name_max: dns.name_max,
    }
}

/// As many as there are processors to run on.
pub(super) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}
