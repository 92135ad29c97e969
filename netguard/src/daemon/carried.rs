//! A slot that moves to another host, or to another name: what the monitor has of it, and what it makes of that elsewhere. Its pins
//! are the worker's.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use netguard_common::{Direction, DropReason, EventKind};
use serde_json::{Map, Value};

use super::{
    Answer, Fault, Refusal, SlotState,
    channel::SECONDS_MAX,
    monitor::Monitor,
    orders::{check_target, free_id},
    overlay::{Counted, Word},
};
use crate::config::slot_entry;

/// What a slot is and has, not what it may: a slot of the file keeps its own.
const OF_THE_PLACE: [&str; 11] = [
    "manage_links",
    "name",
    "id",
    "bridge",
    "port",
    "shared",
    "subnet",
    "gateway",
    "subnet6",
    "gateway6",
    "mac",
];

impl Monitor {
    /// All that there is of a slot, but for its counters and its pins.
    pub(super) fn state_of(&self, slot: &str) -> Result<SlotState, Refusal> {
        self.must_have(slot)?;
        Ok(SlotState {
            name: slot.to_owned(),
            entry: self.keys_of(slot)?,
            locked: self.overlay.locked.contains(slot),
            said: self.said(slot),
            counters: Vec::new(),
        })
    }

    fn keys_of(&self, slot: &str) -> Result<Map<String, Value>, Refusal> {
        let keys = self.config.slot_keys(slot, &self.overlay.entries());
        keys.ok_or_else(|| Refusal::new(Fault::Host, format!("slot {slot:?} has no entry")))
    }

    /// Has a slot be what another one was, in one step: it is made if it is not there, and nothing is said of it but what
    /// was said of the other one.
    pub(super) async fn put_state(&mut self, slot: &str, state: SlotState) -> Answer {
        let words = words_of(&state)?;
        check_counters(&state.counters)?;
        let is_there = self.policy.slots.iter().find(|it| it.name == slot).map(|it| it.id);
        let mut overlay = self.overlay.clone();
        if is_there.is_some() && !overlay.slots.contains_key(slot) {
            self.must_allow_the_same(slot, &state.entry)?;
        } else {
            let id = is_there.map_or_else(|| free_id(&self.policy), Ok)?;
            let mut entry = state.entry;
            entry.remove("count");
            entry.insert("name".to_owned(), slot.into());
            entry.insert("id".to_owned(), id.into());
            let entry = slot_entry(&entry).map_err(|error| Refusal::new(Fault::Order, error))?;
            overlay.forget(slot);
            overlay.slots.insert(slot.to_owned(), entry);
        }
        if state.locked {
            overlay.locked.insert(slot.to_owned());
        } else {
            overlay.locked.remove(slot);
        }
        overlay.words.insert(slot.to_owned(), words);
        overlay.words.retain(|_, words| !words.is_empty());
        overlay.carried.insert(slot.to_owned(), state.counters);
        overlay.carried.retain(|_, counted| !counted.is_empty());
        self.change(self.config.clone(), overlay).await?;
        let text = format!("slot {slot} has taken over what slot {} was", state.name);
        self.chronicle.tell_of(EventKind::SlotTakenOver, Some(slot), text);
        let mut answer = self.read_back(slot)?;
        answer["made"] = is_there.is_none().into();
        Ok(answer)
    }

    /// What a slot of the file may is what the file says.
    fn must_allow_the_same(&self, slot: &str, entry: &Map<String, Value>) -> Result<(), Refusal> {
        let own = self.keys_of(slot)?;
        let keys: BTreeSet<_> = own.keys().chain(entry.keys()).map(String::as_str).collect();
        let counts = |key: &&str| !OF_THE_PLACE.contains(key);
        let others: Vec<_> = keys
            .into_iter()
            .filter(counts)
            .filter(|key| own.get(*key) != entry.get(*key))
            .collect();
        if others.is_empty() {
            return Ok(());
        }
        let message = format!(
            "slot {slot:?} is of {}, which says something else of {}: change it there and reload, or import under \
             another name",
            self.config.path().display(),
            others.join(", ")
        );
        Err(Refusal::new(Fault::Conflict, message))
    }
}

fn words_of(state: &SlotState) -> Result<BTreeMap<String, Word>, Refusal> {
    let mut words = BTreeMap::new();
    for said in &state.said {
        check_target(&said.what, said.allowed)?;
        if said.seconds_left.is_some_and(|left| left > SECONDS_MAX) {
            let message = format!("{:?}: seconds_left must be at most {SECONDS_MAX}", said.what);
            return Err(Refusal::new(Fault::Order, message));
        }
        let word = Word::new(said.allowed, said.seconds_left.map(Duration::from_secs));
        words.insert(said.what.clone(), word);
    }
    Ok(words)
}

fn check_counters(counters: &[Counted]) -> Result<(), Refusal> {
    for Counted { direction, outcome, .. } in counters {
        let is_way =
            [Direction::Egress, Direction::Ingress].iter().any(|it| it.name() == direction);
        let is_outcome = ["pass", "redirect", "answer"].contains(&outcome.as_str())
            || DropReason::ALL
                .iter()
                .any(|reason| [reason.name(), reason.would_name()].contains(&outcome.as_str()));
        if !is_way || !is_outcome {
            let message = format!("no packet is counted as {direction} {outcome}");
            return Err(Refusal::new(Fault::Order, message));
        }
    }
    Ok(())
}
