//! What was ordered at run time: slots beside those of the file, locks, and names and prefixes that are allowed or denied for a
//! while. It lies over the configuration, whatever that is, and outlives the daemon.

use std::{
    collections::{BTreeMap, BTreeSet},
    str::FromStr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use netguard_common::SlotId;
use netguard_dns::{Allowlist, DomainName, Entry, Kind, NameSet};
use serde::{Deserialize, Serialize};

use crate::policy::{Policy, Rule, origin};

/// All of it. Slots and what is said of them go by name: their numbers are the configuration's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Overlay {
    /// Entries of a configuration, in TOML, by the slot's name.
    pub(super) slots: BTreeMap<String, String>,
    /// Slots that have no network.
    pub(super) locked: BTreeSet<String>,
    /// By slot, and by what it is said of as it was written.
    pub(super) words: BTreeMap<String, BTreeMap<String, Word>>,
    /// By slot, what was counted elsewhere before it came here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) carried: BTreeMap<String, Vec<Counted>>,
}

/// What became of so many packets of a slot, by names that every version knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counted {
    /// Which way.
    pub direction: String,
    /// What became of them: `pass`, `redirect`, `answer`, or the reason of their drop.
    pub outcome: String,
    /// How many.
    pub packets: u64,
    /// How many bytes they had.
    pub bytes: u64,
}

/// What is said of a name or a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Word {
    pub(super) is_allowed: bool,
    /// Seconds since 1970; for good without.
    pub(super) until: Option<u64>,
}

/// What a word is said of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// A prefix, with services or without.
    Prefix(Rule),
    /// A name and all below it, with ports or without.
    Name(Entry),
}

/// A text that is no target.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} is neither a name like \"example.com\" nor a prefix like \"203.0.113.0/24 tcp/443\""
)]
pub(super) struct BadTarget(String);

impl FromStr for Target {
    type Err = BadTarget;

    fn from_str(text: &str) -> Result<Self, BadTarget> {
        if let Ok(rule) = text.parse() {
            return Ok(Self::Prefix(rule));
        }
        match text.parse::<Entry>() {
            Ok(entry) if entry.kind == Kind::Tree => Ok(Self::Name(entry)),
            _ => Err(BadTarget(text.to_owned())),
        }
    }
}

impl Word {
    pub(super) fn new(is_allowed: bool, time: Option<Duration>) -> Self {
        Self { is_allowed, until: time.map(|time| now() + time.as_secs()) }
    }

    fn is_over(&self) -> bool {
        self.until.is_some_and(|until| until <= now())
    }

    /// How long it counts.
    pub(super) fn left(&self) -> Option<Duration> {
        self.until.map(|until| Duration::from_secs(until.saturating_sub(now())))
    }
}

impl Overlay {
    /// Forgets a slot.
    pub(super) fn forget(&mut self, slot: &str) {
        self.slots.remove(slot);
        self.locked.remove(slot);
        self.words.remove(slot);
        self.carried.remove(slot);
    }

    /// True if nothing but locks makes a difference.
    pub(super) fn is_same_but_for_locks(&self, other: &Self) -> bool {
        let Self { slots, locked: _, words, carried } = self;
        (slots, words, carried) == (&other.slots, &other.words, &other.carried)
    }

    /// The entries of its slots, to stand behind those of the file.
    pub(super) fn entries(&self) -> String {
        self.slots.values().map(|entry| format!("{entry}\n")).collect()
    }

    /// The policy with all that lies over it. Slots are in it already.
    pub(super) fn apply(&self, policy: &Policy) -> Policy {
        let mut policy = policy.clone();
        for slot in &mut policy.slots {
            slot.lockdown |= self.locked.contains(&slot.name);
            let mut names = NameSet::default();
            names.begin(origin::ORDERED);
            for (target, word) in self.words_of(&slot.name) {
                match target {
                    Target::Prefix(rule) if word.is_allowed => slot.egress.allow.push(rule),
                    Target::Prefix(rule) => {
                        // Also where the file allows a part of it: who denies now means now.
                        let within = |allowed: &&Rule| rule.prefix.contains(&allowed.prefix);
                        let also: Vec<_> = slot
                            .egress
                            .allow
                            .iter()
                            .filter(within)
                            .map(|it| Rule { prefix: it.prefix, services: rule.services.clone() })
                            .collect();
                        slot.egress.deny.extend(also);
                        slot.egress.deny.push(rule);
                    }
                    Target::Name(entry) if word.is_allowed => drop(names.add(&entry)),
                    // Denied names are the table of pins' business: they beat every list.
                    Target::Name(_) => {}
                }
            }
            if !names.is_empty()
                && let Some(dns) = policy.dns.slots.get_mut(&slot.id)
            {
                let sets = dns.allowlist.sets().iter().cloned();
                dns.allowlist = Allowlist::of(sets.chain([Arc::new(names)]));
            }
        }
        policy
    }

    /// The names that are denied, and how long they still are.
    pub(super) fn denied(
        &self,
        policy: &Policy,
    ) -> BTreeMap<(SlotId, DomainName), Option<Duration>> {
        let mut denied = BTreeMap::new();
        for slot in &policy.slots {
            for (target, word) in self.words_of(&slot.name) {
                if let Target::Name(entry) = target
                    && !word.is_allowed
                {
                    denied.insert((slot.id, entry.name), word.left());
                }
            }
        }
        denied
    }

    fn words_of(&self, slot: &str) -> impl Iterator<Item = (Target, Word)> {
        let words = self.words.get(slot).into_iter().flatten();
        words
            .filter(|(_, word)| !word.is_over())
            .filter_map(|(target, word)| Some((target.parse().ok()?, *word)))
    }

    /// Forgets what is over; false if nothing is.
    pub(super) fn expire(&mut self) -> bool {
        let before = self.count();
        self.words.retain(|_, words| {
            words.retain(|_, word| !word.is_over());
            !words.is_empty()
        });
        before != self.count()
    }

    fn count(&self) -> usize {
        self.words.values().map(BTreeMap::len).sum()
    }
}

/// Seconds since 1970: what is ordered outlives a boot, of which the kernel's own clock knows nothing.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    const FILE: &str = "[dns]\nupstreams = [\"1.1.1.1\"]\ncategories = []\nnames = [\"listed.example\"]\n\
                        [[slot]]\nname = \"one\"\nid = 1\nsubnet = \"10.1.0.0/24\"\nallow = [\"203.0.113.7 tcp/443\"]\n\
                        [[slot]]\nname = \"two\"\nid = 2\nsubnet = \"10.2.0.0/24\"\n";

    fn policy() -> Policy {
        Config::parse(FILE, std::path::Path::new("test")).unwrap().policy
    }

    fn said(words: &[(&str, &str, bool)]) -> Overlay {
        let mut overlay = Overlay::default();
        for (slot, target, is_allowed) in words {
            let words = overlay.words.entry((*slot).to_owned()).or_default();
            words.insert((*target).to_owned(), Word::new(*is_allowed, None));
        }
        overlay
    }

    #[test]
    fn a_lock_and_words_are_for_the_slot_that_they_name() {
        let mut overlay =
            said(&[("one", "203.0.113.0/24", false), ("two", "192.0.2.1 udp/5", true)]);
        overlay.locked.insert("two".to_owned());
        let policy = overlay.apply(&policy());
        let [one, two] = &policy.slots[..] else { panic!("two slots") };
        assert!(!one.lockdown && two.lockdown);
        let denied: Vec<_> = one.egress.deny.iter().map(|rule| rule.prefix.to_string()).collect();
        assert_eq!(denied, ["203.0.113.7/32", "203.0.113.0/24"]);
        assert!(one.egress.deny.iter().all(|rule| rule.services.is_empty()));
        assert_eq!(two.egress.allow.len(), 1);
        assert!(two.egress.deny.is_empty() && one.egress.allow.len() == 1);
    }

    #[test]
    fn a_name_is_added_to_the_list_or_denied_beside_it() {
        let overlay = said(&[("one", "more.example:443", true), ("one", "listed.example", false)]);
        let policy = overlay.apply(&policy());
        assert_eq!(policy.dns.slots[&1].allowlist.len(), 2);
        assert_eq!(policy.dns.slots[&2].allowlist.len(), 1);
        let denied: Vec<_> = overlay.denied(&policy).into_keys().collect();
        assert_eq!(denied, [(1, "listed.example".parse().unwrap())]);
    }

    #[test]
    fn what_is_over_counts_no_more() {
        let mut overlay = said(&[("one", "203.0.113.0/24", false), ("one", "a.example", false)]);
        let words = overlay.words.get_mut("one").unwrap();
        words.get_mut("a.example").unwrap().until = Some(1);
        assert!(overlay.denied(&policy()).is_empty());
        assert!(overlay.expire() && !overlay.expire());
        assert_eq!(overlay.count(), 1);
    }

    #[test]
    fn a_target_is_a_name_or_a_prefix() {
        for (text, is_prefix) in [
            ("203.0.113.0/24 tcp/443", true),
            ("2001:db8::1", true),
            ("example.com", false),
            ("github.com:22,443", false),
        ] {
            let target: Target = text.parse().unwrap();
            assert_eq!(matches!(target, Target::Prefix(_)), is_prefix, "{text}");
        }
        for text in ["", "*.example", "=a.example", "!a.example", "203.0.113.1/24", "a b"] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }
}
