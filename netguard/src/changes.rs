//! What another configuration would change, slot by slot: `netguard diff`, and what a reload says that it did.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use netguard_dns::{Allowlist, NameSet};
use serde_json::{Value, json};

use crate::{
    listing,
    policy::{Policy, Rule, Service, Slot, Unnamed},
};

/// How many names of a slot are told one by one.
const NAMES_TOLD: usize = 20;

/// The differences between two policies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Of the host, its runtimes and the resolver.
    host: Lines,
    /// By name of slot, those that differ.
    slots: BTreeMap<String, SlotChange>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum SlotChange {
    Added(Lines),
    Removed,
    Changed(Lines),
}

/// What goes and what comes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Lines {
    gone: BTreeSet<String>,
    come: BTreeSet<String>,
}

impl Changes {
    /// From one policy to another.
    #[must_use]
    pub fn between(old: &Policy, new: &Policy) -> Self {
        let by_name = |policy: &'_ Policy| -> BTreeMap<String, usize> {
            let slots = policy.slots.iter().enumerate();
            slots.map(|(index, slot)| (slot.name.clone(), index)).collect()
        };
        let (before, after) = (by_name(old), by_name(new));
        let mut names = Names::default();
        let mut slots = BTreeMap::new();
        for (name, index) in &after {
            let slot = &new.slots[*index];
            let lines = describe_slot(new, slot);
            let change = match before.get(name).map(|index| &old.slots[*index]) {
                None => SlotChange::Added(Lines { gone: BTreeSet::new(), come: lines }),
                Some(was) => {
                    let mut lines = Lines::between(describe_slot(old, was), lines);
                    let allowlist = |policy: &Policy, slot: &Slot| {
                        policy.dns.slots.get(&slot.id).map(|it| it.allowlist.clone())
                    };
                    let lists = (allowlist(old, was), allowlist(new, slot));
                    let lists = (lists.0.unwrap_or_default(), lists.1.unwrap_or_default());
                    lines.extend(names.between(&lists.0, &lists.1));
                    SlotChange::Changed(lines)
                }
            };
            if !matches!(&change, SlotChange::Changed(lines) if lines.is_empty()) {
                slots.insert(name.clone(), change);
            }
        }
        let gone = before.into_keys().filter(|name| !after.contains_key(name));
        slots.extend(gone.map(|name| (name, SlotChange::Removed)));
        Self { host: Lines::between(describe_host(old), describe_host(new)), slots }
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.host.is_empty() && self.slots.is_empty()
    }

    /// One line for each, `-` for what goes and `+` for what comes.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        self.host.write("host", &mut text);
        for (name, change) in &self.slots {
            let slot = format!("slot {name}");
            match change {
                SlotChange::Added(lines) => {
                    text += &format!("+ {slot}\n");
                    lines.write(&slot, &mut text);
                }
                SlotChange::Removed => text += &format!("- {slot}\n"),
                SlotChange::Changed(lines) => lines.write(&slot, &mut text),
            }
        }
        if text.is_empty() { "no change\n".to_owned() } else { text }
    }

    /// The same as one JSON object.
    #[must_use]
    pub fn json(&self) -> Value {
        let lines = |lines: &Lines| json!({ "removed": lines.gone, "added": lines.come });
        let of = |wanted: fn(&SlotChange) -> bool| -> Vec<&String> {
            self.slots.iter().filter(|(_, it)| wanted(it)).map(|(name, _)| name).collect()
        };
        let changed = self.slots.iter().filter_map(|(name, change)| match change {
            SlotChange::Changed(changed) => Some((name.clone(), lines(changed))),
            SlotChange::Added(_) | SlotChange::Removed => None,
        });
        json!({
            "host": lines(&self.host),
            "added": of(|it| matches!(it, SlotChange::Added(_))),
            "removed": of(|it| matches!(it, SlotChange::Removed)),
            "changed": changed.collect::<serde_json::Map<_, _>>(),
            "text": self.text(),
        })
    }
}

impl Lines {
    fn between(mut old: BTreeSet<String>, mut new: BTreeSet<String>) -> Self {
        let both: Vec<_> = old.intersection(&new).cloned().collect();
        for line in both {
            old.remove(&line);
            new.remove(&line);
        }
        Self { gone: old, come: new }
    }

    fn is_empty(&self) -> bool {
        self.gone.is_empty() && self.come.is_empty()
    }

    fn extend(&mut self, other: Self) {
        self.gone.extend(other.gone);
        self.come.extend(other.come);
    }

    fn write(&self, whose: &str, text: &mut String) {
        for (sign, lines) in [('-', &self.gone), ('+', &self.come)] {
            for line in lines {
                *text += &format!("{sign} {whose}: {line}\n");
            }
        }
    }
}

/// Differences of names, found once for the many slots that have the same lists.
#[derive(Default)]
struct Names(HashMap<[Vec<*const NameSet>; 2], Lines>);

impl Names {
    fn between(&mut self, old: &Allowlist, new: &Allowlist) -> Lines {
        let key = [old, new].map(|list| list.sets().iter().map(std::sync::Arc::as_ptr).collect());
        let found = self.0.entry(key).or_insert_with(|| {
            let [old, new] = [old, new].map(|list| {
                list.sets().iter().flat_map(|set| set.listed()).collect::<BTreeSet<_>>()
            });
            let Lines { gone, come } = Lines::between(old, new);
            Lines { gone: told(gone), come: told(come) }
        });
        found.clone()
    }
}

/// The first names, and how many more there are.
fn told(names: BTreeSet<String>) -> BTreeSet<String> {
    let more = names.len().saturating_sub(NAMES_TOLD);
    let told = names.into_iter().take(NAMES_TOLD).map(|name| format!("name {name}"));
    told.chain((more > 0).then(|| format!("names: {more} more"))).collect()
}

fn describe_slot(policy: &Policy, slot: &Slot) -> BTreeSet<String> {
    let mut lines = vec![
        format!("id {}", slot.id),
        format!("bridge {}", slot.bridge),
        format!("port {}", slot.port().unwrap_or("any of the bridge")),
        format!("runtime {}", listing::runtime(policy, slot)),
        format!("reaches {}", listing::reaches(slot)),
        format!("mac {}", slot.mac.map_or("any".to_owned(), listing::mac)),
        format!("limits {:?}", slot.limits),
        format!("queries {:?}", policy.dns.slots.get(&slot.id).map(|it| it.limits)),
        format!(
            "egress {}",
            match slot.egress.unnamed {
                Unnamed::Closed => "closed",
                Unnamed::Pinned => "pinned",
                Unnamed::Open => "open",
            }
        ),
    ];
    let subnets = slot.subnets.iter();
    lines.extend(subnets.map(|it| format!("subnet {} gateway {}", it.prefix, it.gateway)));
    if slot.lockdown {
        lines.push("lockdown".to_owned());
    }
    if slot.audit {
        lines.push("audit".to_owned());
    }
    if slot.rejects {
        lines.push("is told what is denied".to_owned());
    }
    if slot.manage_links {
        lines.push("manages its links".to_owned());
    }
    lines.extend(slot.egress.allow.iter().map(|rule| format!("allow {}", rule_text(rule))));
    lines.extend(slot.egress.deny.iter().map(|rule| format!("deny {}", rule_text(rule))));
    lines.into_iter().collect()
}

fn rule_text(rule: &Rule) -> String {
    let services: Vec<_> = rule.services.iter().map(Service::to_string).collect();
    format!("{} {}", rule.prefix, services.join(",")).trim_end().to_owned()
}

fn describe_host(policy: &Policy) -> BTreeSet<String> {
    let host = &policy.host;
    let mut lines = vec![
        format!("masquerade {}", host.masquerade),
        format!("fast path {}", host.fast_path),
        format!("flows {}", policy.flows_max),
        format!("dns port {}", policy.dns.port),
        format!("dns types {:?}, svcb {}", policy.dns.types, policy.dns.svcb),
        format!("dns names of at most {} bytes", policy.dns.name_max),
        format!("dns denials in the kernel {}", policy.dns.denied_in_kernel),
        format!("dns cache {} bytes, {:?}", policy.dns.cache_bytes, policy.dns.cache_max_ttl),
    ];
    lines.extend(host.metrics.map(|at| format!("metrics on {at}")));
    lines.extend(host.management.iter().map(|net| format!("management {net}")));
    lines.extend(host.uplinks.iter().map(|uplink| format!("uplink {uplink}")));
    if let Some(protection) = &host.protection {
        let dry = if protection.dry_run { " (dry run)" } else { "" };
        lines.push(format!("protection{dry}"));
        lines.extend(protection.allow_in.iter().map(|it| format!("allow in {it}")));
    }
    if let Some(gate) = &policy.gate {
        lines.extend(gate.addresses.iter().map(|address| format!("gate {address}")));
        lines.extend(gate.services.iter().map(|service| format!("gate allows {service}")));
    }
    lines.extend(policy.dns.upstreams.iter().map(|it| format!("upstream {it:?}")));
    let runtimes = policy.runtimes.iter();
    lines.extend(runtimes.map(|it| {
        let apart = if it.isolate { "isolated" } else { "together" };
        format!("runtime {} {apart}", it.name)
    }));
    lines.into_iter().collect()
}
