//! The resolver as the policy wants it.

use std::{collections::BTreeSet, io, num::NonZero, sync::Arc};

use netguard_common::{SlotId, maps::PINS_MAX};
use netguard_dns::{
    Cache, DomainName, Listed, Moment, Pins, Resolver, Rules, SlotRules, WireName,
    forward::{Forwarder, Settings},
};

use super::Error;
use crate::{
    datapath::PinWriter,
    journal::Journal,
    policy::{Policy, Slot, Unnamed, is_public},
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
            pinned: slot.egress.unnamed == Unnamed::Pinned,
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

/// The table of pins, with what the kernel has from an earlier daemon and the policy still allows.
pub(super) fn pins(policy: &Policy, map: PinWriter) -> Result<Pins, Error> {
    /// No slot needs more, and with few slots there would be room for them.
    const PER_SLOT_MAX: usize = 4096;
    let is_pinned = |slot: &&Slot| slot.egress.unnamed == Unnamed::Pinned;
    let pinned: BTreeSet<_> = policy.slots.iter().filter(is_pinned).map(|slot| slot.id).collect();
    let per_slot = (PINS_MAX as usize / pinned.len().max(1)).min(PER_SLOT_MAX);
    let entries = map.entries()?;
    // Those that are not pinned may have names denied.
    let pins = Pins::new(Box::new(map), policy.slots.iter().map(|slot| slot.id), per_slot);
    let is_allowed = |slot: SlotId, name: &str| {
        if !pinned.contains(&slot) {
            return false;
        }
        let (Some(slot), Ok(name)) = (policy.dns.slots.get(&slot), name.parse::<DomainName>())
        else {
            return false;
        };
        matches!(slot.allowlist.decide(&WireName::from(&name)), Listed::Allowed(_))
    };
    pins.adopt(entries, is_allowed, Moment::now()).map_err(|source| {
        let message = format!("cannot remove a pin of a name that is no longer allowed: {source}");
        Error::Io(io::Error::new(source.kind(), message))
    })?;
    Ok(pins)
}

/// As many as there are processors to run on.
pub(super) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}
