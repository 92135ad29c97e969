//! The resolver as the policy wants it.

use std::{
    collections::BTreeSet,
    io,
    num::NonZero,
    sync::{Arc, LazyLock},
    time::Duration,
};

use netguard_common::{EventKind, SlotId, maps::PINS_MAX};
use netguard_dns::{
    Cache, DomainName, GRACE, Listed, Moment, Pins, Ports, Resolver, Rules, SlotRules, WireName,
    forward::{Forwarder, Settings},
};

use super::CarriedPin;
use crate::{
    control,
    datapath::{AskedMeters, PinWriter},
    events::Event,
    journal::{Journal, Queries},
    listing,
    policy::{Policy, Slot, Unnamed, is_public},
};

/// A resolver for the slots of the policy.
pub(super) fn of(
    policy: &Policy,
    pins: &Arc<Pins>,
    asked: AskedMeters,
    journal: &Journal,
    feeds: &control::Feeds,
) -> Resolver {
    let cache = Arc::new(Cache::new(policy.dns.cache_bytes));
    let forwarder = forwarder(policy, &cache, journal);
    let told = Queries::new(journal.clone(), feeds.queries.clone());
    let (pins, asked) = (Arc::clone(pins), Arc::new(asked));
    Resolver::new(rules(policy), cache, forwarder, pins, asked, Arc::new(told))
}

/// Makes the resolver one for another policy. What it has learnt of upstreams and answers is forgotten: it may be what the
/// old policy made of it.
pub(super) fn replace(resolver: &Resolver, policy: &Policy, journal: &Journal) {
    replace_rules(resolver, policy);
    resolver.cache().clear();
    resolver.replace_forwarder(forwarder(policy, resolver.cache(), journal));
}

/// Has the resolver decide by another policy, which has the same upstreams.
pub(super) fn replace_rules(resolver: &Resolver, policy: &Policy) {
    resolver.replace_rules(rules(policy));
}

fn forwarder(policy: &Policy, cache: &Arc<Cache>, journal: &Journal) -> Arc<Forwarder> {
    let dns = &policy.dns;
    let settings = Settings {
        upstreams: dns.upstreams.clone(),
        max_ttl: dns.cache_max_ttl,
        is_public: Arc::new(is_public),
        roots: dns.tls_roots.clone(),
    };
    let told = journal.clone();
    let report = move |message: String| {
        told.note(&Arc::new(Event::now(EventKind::Upstream, None, message)));
    };
    Arc::new(Forwarder::new(settings, Arc::clone(cache), report))
}

fn rules(policy: &Policy) -> Rules {
    let dns = &policy.dns;
    let slots = policy.slots.iter().map(|slot| {
        let own = dns.slots.get(&slot.id).cloned().unwrap_or_default();
        let rules = SlotRules {
            name: slot.name.as_str().into(),
            runtime: listing::runtime(policy, slot).into(),
            allowlist: own.allowlist,
            pinned: slot.egress.unnamed == Unnamed::Pinned,
            audit: slot.audit,
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

/// The table of pins, with what the kernel has from an earlier worker and the policy still allows.
pub(super) fn pins(policy: &Policy, map: PinWriter) -> io::Result<Pins> {
    let entries = map.entries().map_err(io::Error::other)?;
    // Those that are not pinned may have names denied.
    let pins = Pins::new(Box::new(map), policy.slots.iter().map(|slot| slot.id), per_slot(policy));
    pins.adopt(entries, allowed_pins(policy), Moment::now()).map_err(not_removed)?;
    Ok(pins)
}

/// Makes the table of pins one for another policy, by whose rules the resolver decides already.
pub(super) fn replace_slots(pins: &Pins, policy: &Policy) -> io::Result<usize> {
    let slots = policy.slots.iter().map(|slot| slot.id);
    let (per_slot, is_allowed) = (per_slot(policy), allowed_pins(policy));
    pins.replace_slots(slots, per_slot, is_allowed, Moment::now()).map_err(not_removed)
}

fn not_removed(source: io::Error) -> io::Error {
    let message = format!("cannot remove a pin of a name that is no longer allowed: {source}");
    io::Error::new(source.kind(), message)
}

/// How many pins a slot may have.
fn per_slot(policy: &Policy) -> usize {
    /// No slot needs more, and with few slots there would be room for them.
    const PER_SLOT_MAX: usize = 4096;
    (PINS_MAX as usize / pinned(policy).len().max(1)).min(PER_SLOT_MAX)
}

/// The slots whose answers are pinned.
fn pinned(policy: &Policy) -> BTreeSet<SlotId> {
    let is_pinned = |slot: &&Slot| slot.egress.unnamed == Unnamed::Pinned;
    policy.slots.iter().filter(is_pinned).map(|slot| slot.id).collect()
}

/// Says whether the policy allows a pin of that slot and name.
fn allowed_pins(policy: &Policy) -> impl Fn(SlotId, &str) -> bool + '_ {
    let pinned = pinned(policy);
    move |slot, name| {
        if !pinned.contains(&slot) {
            return false;
        }
        let (Some(slot), Ok(name)) = (policy.dns.slots.get(&slot), name.parse::<DomainName>())
        else {
            return false;
        };
        matches!(slot.allowlist.decide(&WireName::from(&name)), Listed::Allowed(_))
    }
}

/// Pins for a slot what another one had, as far as the policy allows it and for no longer than an answer would be. Returns how
/// many pins the slot has taken over.
pub(super) fn carry(pins: &Pins, policy: &Policy, slot: &str, carried: &[CarriedPin]) -> usize {
    let now = Moment::now();
    let longest = policy.dns.cache_max_ttl + GRACE;
    let Some(slot) = policy.slots.iter().find(|it| it.name == slot) else { return 0 };
    let is_allowed = allowed_pins(policy);
    let taken = carried.iter().filter(|pin| {
        let Some(ports) = ports_of(policy, slot.id, pin) else { return false };
        let ends = now.after(Duration::from_secs(pin.left_seconds).min(longest));
        is_allowed(slot.id, &pin.name)
            && pins.hold(slot.id, &pin.name, &[pin.address], &ports, ends, now).is_ok()
    });
    taken.count()
}

/// The ports of a pin, but no others than the policy binds its name to.
fn ports_of(policy: &Policy, slot: SlotId, pin: &CarriedPin) -> Option<Ports> {
    let name = WireName::from(&pin.name.parse::<DomainName>().ok()?);
    let Listed::Allowed(rule) = policy.dns.slots.get(&slot)?.allowlist.decide(&name) else {
        return None;
    };
    let bound = rule.ports().unwrap_or(&Ports::ANY);
    let ports = pin.read_ports()?;
    Some(if bound.cover(&ports) { ports } else { bound.clone() })
}

/// As many as there are processors to run on. Counted once: a process that is confined cannot count them.
pub(super) fn threads() -> usize {
    static THREADS: LazyLock<usize> =
        LazyLock::new(|| std::thread::available_parallelism().map_or(1, NonZero::get));
    *THREADS
}

#[cfg(test)]
mod tests {
    use netguard_common::pin::{PinEntry, PinKey};
    use netguard_dns::PinMap;

    use super::*;
    use crate::config::Config;

    struct NoMap;

    impl PinMap for NoMap {
        fn put(&self, _: &PinKey, _: &PinEntry) -> io::Result<()> {
            Ok(())
        }

        fn remove(&self, _: &PinKey) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn no_more_is_taken_over_than_the_policy_allows() {
        let file = "[dns]\nupstreams = [\"1.1.1.1\"]\ncategories = []\ncache_max_ttl = 100\n\
                    names = [\"a.example\", \"web.example:443\"]\n\
                    [[slot]]\nname = \"one\"\nid = 1\nsubnet = \"10.1.0.0/24\"\negress = \"pinned\"\n\
                    [[slot]]\nname = \"two\"\nid = 2\nsubnet = \"10.2.0.0/24\"\n";
        let policy = Config::parse(file, std::path::Path::new("test")).unwrap().policy;
        let pins = Pins::new(Box::new(NoMap), [1, 2], 100);
        let pin = |name: &str, ports: &str, left_seconds| CarriedPin {
            name: name.to_owned(),
            address: [203, 0, 113, 9].into(),
            ports: ports.to_owned(),
            left_seconds,
        };
        let carried = [
            pin("a.example", "any", 50),
            pin("www.a.example", "22", u64::MAX),
            pin("web.example", "any", 50),
            pin("other.example", "any", 50),
            pin("web.example", "none", 50),
        ];
        pins.deny(1, &"www.a.example".parse().unwrap(), None, Moment::now()).unwrap();
        assert_eq!(carry(&pins, &policy, "one", &carried), 2);
        assert_eq!(carry(&pins, &policy, "two", &carried), 0, "it is not pinned");
        assert_eq!(carry(&pins, &policy, "three", &carried), 0);
        pins.allow(1, &"www.a.example".parse().unwrap());
        assert_eq!(carry(&pins, &policy, "one", &carried), 3);
        let list = pins.list(Moment::now());
        let found: Vec<_> = list.iter().map(|it| (&*it.name, it.ports.to_string())).collect();
        let expected = [("a.example", "any"), ("web.example", "443"), ("www.a.example", "22")];
        assert_eq!(found, expected.map(|(name, ports)| (name, ports.to_owned())));
        assert!(list[0].left <= Duration::from_secs(50));
        assert!(list[2].left <= Duration::from_secs(100) + GRACE, "{:?}", list[2].left);
    }
}
