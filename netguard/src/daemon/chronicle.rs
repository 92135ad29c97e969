//! What happens to netguard itself as the monitor tells it: to the log at once, and to the worker, which tells whoever asks. A
//! worker that comes later is told all that is remembered, so none is lost with one that dies.

use std::{collections::BTreeMap, sync::Arc};

use netguard_common::EventKind;
use serde_json::{Value, json};

use crate::{
    events::{Event, Filter, REMEMBERED},
    journal::Journal,
    policy::Policy,
};

pub(super) struct Chronicle {
    journal: Journal,
    /// What the worker has not been told.
    untold: Vec<Arc<Event>>,
    counts: BTreeMap<EventKind, u64>,
}

impl Chronicle {
    pub(super) fn begin(journal: Journal) -> Self {
        Self { journal, untold: Vec::new(), counts: BTreeMap::new() }
    }

    pub(super) fn tell(&mut self, kind: EventKind, text: impl Into<String>) {
        self.tell_of(kind, None, text);
    }

    pub(super) fn tell_of(&mut self, kind: EventKind, slot: Option<&str>, text: impl Into<String>) {
        let event = Arc::new(Event::now(kind, slot, text));
        self.journal.note(&event);
        *self.counts.entry(kind).or_default() += 1;
        self.untold.push(event);
    }

    /// What the worker has not been told, and is told now. Where there is none nobody is: the next one is told [`Self::whole`].
    pub(super) fn take_untold(&mut self) -> Vec<Arc<Event>> {
        std::mem::take(&mut self.untold)
    }

    /// All that is remembered: for a worker that comes, who then has been told everything.
    pub(super) fn whole(&mut self) -> Vec<Arc<Event>> {
        self.untold.clear();
        self.journal.events().last(&Filter::default(), REMEMBERED)
    }

    /// How many lines of the log were lost.
    pub(super) fn lines_lost(&self) -> u64 {
        self.journal.lost()
    }

    /// How many of each kind, by name.
    pub(super) fn counts(&self) -> Value {
        let count = |kind: &EventKind| (kind.name().to_owned(), json!(self.counts.get(kind)));
        EventKind::ALL.iter().filter(|kind| self.counts.contains_key(kind)).map(count).collect()
    }
}

/// The one slot that these interfaces belong to, if it is one.
pub(super) fn slot_of<'a>(policy: &'a Policy, interfaces: &[&str]) -> Option<&'a str> {
    let is_of = |interface: &&str, slot: &crate::policy::Slot| {
        slot.bridge == *interface || slot.port() == Some(*interface)
    };
    let mut slots = policy
        .slots
        .iter()
        .filter(|slot| interfaces.iter().any(|interface| is_of(interface, slot)));
    let slot = slots.next()?;
    let is_all = interfaces.iter().all(|interface| is_of(interface, slot));
    (is_all && slots.next().is_none()).then_some(slot.name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Config, journal::Format};

    #[test]
    fn a_worker_is_told_each_event_once_and_the_next_one_all_of_them() {
        let (journal, _writer) = Journal::start(Format::Text, None).unwrap();
        let mut chronicle = Chronicle::begin(journal);
        let texts = |events: Vec<Arc<Event>>| {
            events.iter().map(|event| event.text.clone()).collect::<Vec<_>>()
        };
        chronicle.tell(EventKind::Lock, "one");
        assert_eq!(texts(chronicle.take_untold()), ["one"]);
        chronicle.tell(EventKind::Lock, "two");
        assert_eq!(texts(chronicle.whole()), ["one", "two"]);
        assert!(chronicle.take_untold().is_empty());
        for number in 0..2 * REMEMBERED {
            chronicle.tell(EventKind::Unlock, number.to_string());
        }
        let whole = texts(chronicle.whole());
        assert_eq!((whole.len(), whole.last()), (REMEMBERED, Some(&"1999".to_owned())));
        assert_eq!(chronicle.counts(), json!({ "lock": 2, "unlock": 2 * REMEMBERED }));
    }

    #[test]
    fn interfaces_are_one_slots_or_none() {
        let file = "[dns]\nupstreams = [\"1.1.1.1\"]\ncategories = []\n\
                    [[slot]]\nname = \"one\"\nid = 1\nbridge = \"br\"\nport = \"p1\"\nsubnet = \"10.1.0.0/24\"\n\
                    [[slot]]\nname = \"two\"\nid = 2\nbridge = \"br\"\nport = \"p2\"\nsubnet = \"10.2.0.0/24\"\n\
                    [[slot]]\nname = \"three\"\nid = 3\nbridge = \"br3\"\nport = \"p3\"\nsubnet = \"10.3.0.0/24\"\n";
        let policy = Config::parse(file, std::path::Path::new("test")).unwrap().policy;
        for (interfaces, slot) in [
            (&["p1"][..], Some("one")),
            (&["br3", "p3"], Some("three")),
            (&["br"], None),
            (&["p1", "p2"], None),
            (&["p1", "other"], None),
            (&[], None),
        ] {
            assert_eq!(slot_of(&policy, interfaces), slot, "{interfaces:?}");
        }
    }
}
