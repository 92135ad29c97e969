//! Orders at run time: what the monitor does for whoever has the control socket.

use std::{os::fd::OwnedFd, time::Duration};

use netguard_common::EventKind;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::{
    Answer, Fault, Order, Refusal, SlotState,
    account::Became,
    channel::{Said, ToWorker},
    monitor::{Fallback, Monitor, extent, refuse},
    overlay::{Target, Word},
};
use crate::{
    changes::Changes,
    config::{Config, slot_entry},
    listing,
    policy::{Policy, Slot},
    status::Status,
};

impl Monitor {
    /// What came of an order; none if it is answered from beside the loop.
    async fn carry_out(&mut self, id: u64, order: Order) -> Option<Answer> {
        Some(match order {
            Order::Reload { confirm } => self.reload(confirm.map(Duration::from_secs)).await,
            Order::Confirm => self.confirm(),
            Order::Diff => self.diff(),
            Order::Status => {
                let daemon = self.of_daemon();
                self.look(id, |status| {
                    let mut whole = status.json();
                    whole["daemon"] = daemon;
                    whole
                });
                return None;
            }
            Order::Slots => Ok(self.slots()),
            Order::AddSlot { entry } => self.add_slot(entry).await,
            Order::RemoveSlot { slot } => self.remove_slot(&slot).await,
            Order::State { slot } => match self.state_of(&slot) {
                Ok(state) => {
                    self.look(id, move |status| {
                        let counters = status.counted(&slot);
                        json!(SlotState { counters, ..state })
                    });
                    return None;
                }
                Err(refusal) => Err(refusal),
            },
            Order::PutState { slot, state } => self.put_state(&slot, state).await,
            Order::Lock { slot, locked } => self.lock(&slot, locked).await,
            Order::Say { slot, target, allow, seconds } => {
                let word = Word::new(allow, seconds.map(Duration::from_secs));
                self.say(&slot, &target, word).await
            }
            Order::Forget { slot, target } => self.forget(&slot, &target).await,
        })
    }

    fn diff(&self) -> Answer {
        let config = self.read_again()?;
        Ok(Changes::between(&self.config.policy, &config.policy).json())
    }

    /// Answers with what the kernel has. To read it takes a while with many slots, in which ports may come: so it is read
    /// beside the loop.
    fn look(&self, id: u64, see: impl FnOnce(&Status) -> Value + Send + 'static) {
        let Some(channel) = self.way_to_worker() else { return }; // nor is there anybody who asks
        let instance = self.instance.clone();
        let look = move || match Status::read(&instance) {
            Ok(status) => Ok(see(&status)),
            Err(error) => {
                Err(Refusal::new(Fault::Host, format!("{:#}", anyhow::Error::from(error))))
            }
        };
        tokio::spawn(async move {
            let looked = tokio::task::spawn_blocking(look).await;
            let answer = looked.unwrap_or_else(|error| Err(Refusal::new(Fault::Host, error)));
            // A worker that has died asks no more.
            let _ = channel.send(&ToWorker::Answer { id, answer }, &[] as &[OwnedFd]).await;
        });
    }

    fn read_again(&self) -> Result<Config, Refusal> {
        self.config.read_again().map_err(|error| Refusal::new(Fault::Order, error))
    }

    /// Reads the configuration again and puts it in force; back to this one if nobody confirms it in time.
    pub(super) async fn reload(&mut self, confirm: Option<Duration>) -> Answer {
        let answer = self.try_reload(confirm).await;
        self.account.reloaded(match &answer {
            Ok(_) => Became::InForce,
            Err(refusal) => {
                let text = format!("not reloaded: {}", refusal.message);
                self.chronicle.tell(EventKind::ReloadRefused, text);
                Became::Refused(refusal.message.clone())
            }
        });
        answer
    }

    async fn try_reload(&mut self, confirm: Option<Duration>) -> Answer {
        let config = self.read_again()?;
        let old = self.config.clone();
        let changes = Changes::between(&old.policy, &config.policy).json();
        self.change(config, self.overlay.clone()).await?;
        let note = format!("reloaded: guarding {}", extent(&self.policy));
        match confirm {
            Some(time) => {
                // Who reloads twice without confirming falls back to what was confirmed last.
                let config = self.fallback.take().map_or(old, |fallback| fallback.config);
                self.fallback = Some(Fallback { config, at: Instant::now() + time });
                let text = format!("{note}; back in {} s unless confirmed", time.as_secs());
                self.chronicle.tell(EventKind::PolicyApplied, text);
            }
            None => {
                self.fallback = None;
                self.chronicle.tell(EventKind::PolicyApplied, note);
            }
        }
        Ok(changes)
    }

    fn confirm(&mut self) -> Answer {
        if self.fallback.take().is_none() {
            let message = "no reload waits for a confirmation";
            return Err(Refusal::new(Fault::Conflict, message));
        }
        let text = "confirmed: the latest reload stays in force";
        self.chronicle.tell(EventKind::Confirmed, text);
        Ok(json!({}))
    }

    /// What only the daemon knows.
    fn of_daemon(&self) -> Value {
        let mut daemon = self.account.json();
        let left = self.fallback.as_ref().map(|it| it.at.saturating_duration_since(Instant::now()));
        daemon["unconfirmed_seconds_left"] = left.map(|left| left.as_secs()).into();
        daemon["failures"] = json!(self.failures);
        daemon["alarms"] = json!(self.alarms);
        let config = self.config.path();
        let config = config.canonicalize().unwrap_or_else(|_| config.to_owned());
        daemon["config"] = config.display().to_string().into();
        daemon["log_lines_lost"] = self.chronicle.lines_lost().into();
        daemon["events"] = self.chronicle.counts();
        daemon
    }

    fn slots(&self) -> Value {
        let slots: Vec<_> = self.policy.slots.iter().map(|slot| self.slot(slot)).collect();
        json!({ "slots": slots })
    }

    /// A slot, and what was ordered about it.
    fn slot(&self, slot: &Slot) -> Value {
        let mut value = listing::slot_json(&self.policy, slot);
        value["locked"] = self.overlay.locked.contains(&slot.name).into();
        value["made_at_run_time"] = self.overlay.slots.contains_key(&slot.name).into();
        value["said"] = json!(self.said(&slot.name));
        value
    }

    /// What was said of names and prefixes to a slot.
    pub(super) fn said(&self, slot: &str) -> Vec<Said> {
        let words = self.overlay.words.get(slot).into_iter().flatten();
        let said = words.map(|(target, word)| Said {
            what: target.clone(),
            allowed: word.is_allowed,
            seconds_left: word.left().map(|left| left.as_secs()),
        });
        said.collect()
    }

    /// A slot that was just made, as the kernel has it.
    pub(super) fn read_back(&self, name: &str) -> Answer {
        let Some(slot) = self.policy.slots.iter().find(|slot| slot.name == name) else {
            return Err(Refusal::new(Fault::Host, format!("slot {name:?} is gone already")));
        };
        let guarded = self.datapath.read_back(slot.id);
        let mut answer = self.slot(slot);
        answer["guarded"] = guarded.map_err(|error| refuse(error.into()))?.into();
        Ok(answer)
    }

    async fn add_slot(&mut self, mut entry: Map<String, Value>) -> Answer {
        let bad = |message: String| Refusal::new(Fault::Order, message);
        let Some(name) = entry.get("name").and_then(Value::as_str).map(str::to_owned) else {
            return Err(bad("the slot has no name: {\"name\": \"slot9\"}".to_owned()));
        };
        if entry.contains_key("count") {
            return Err(bad("count makes many slots: make them one by one".to_owned()));
        }
        if self.policy.slots.iter().any(|slot| slot.name == name) {
            let message = format!("there is a slot {name:?} already");
            return Err(Refusal::new(Fault::Conflict, message));
        }
        if !entry.contains_key("id") {
            entry.insert("id".to_owned(), free_id(&self.policy)?.into());
        }
        let mut overlay = self.overlay.clone();
        overlay.slots.insert(name.clone(), slot_entry(&entry).map_err(bad)?);
        self.change(self.config.clone(), overlay).await?;
        let text = format!("slot {name} is made");
        self.chronicle.tell_of(EventKind::SlotMade, Some(&name), text);
        self.read_back(&name)
    }

    async fn remove_slot(&mut self, slot: &str) -> Answer {
        self.must_have(slot)?;
        let mut overlay = self.overlay.clone();
        if !overlay.slots.contains_key(slot) {
            let file = self.config.path().display();
            let message = format!("slot {slot:?} is of {file}: remove it there and reload");
            return Err(Refusal::new(Fault::Conflict, message));
        }
        overlay.forget(slot);
        self.change(self.config.clone(), overlay).await?;
        let text = format!("slot {slot} is removed");
        self.chronicle.tell_of(EventKind::SlotRemoved, Some(slot), text);
        Ok(json!({ "removed": slot }))
    }

    async fn lock(&mut self, slot: &str, locked: bool) -> Answer {
        self.must_have(slot)?;
        let mut overlay = self.overlay.clone();
        let is_new = if locked {
            overlay.locked.insert(slot.to_owned())
        } else {
            overlay.locked.remove(slot)
        };
        if is_new {
            self.change(self.config.clone(), overlay).await?;
            let (kind, what) = match locked {
                true => (EventKind::Lock, "locked"),
                false => (EventKind::Unlock, "unlocked"),
            };
            self.chronicle.tell_of(kind, Some(slot), format!("slot {slot} is {what}"));
        }
        Ok(json!({ "slot": slot, "locked": locked }))
    }

    /// The latest word about a target counts.
    async fn say(&mut self, slot: &str, target: &str, word: Word) -> Answer {
        self.must_have(slot)?;
        check_target(target, word.is_allowed)?;
        let mut overlay = self.overlay.clone();
        overlay.words.entry(slot.to_owned()).or_default().insert(target.to_owned(), word);
        let done = self.change(self.config.clone(), overlay).await?;
        let (kind, verb) = match word.is_allowed {
            true => (EventKind::AllowOrdered, "allowed"),
            false => (EventKind::DenyOrdered, "denied"),
        };
        let time = word
            .left()
            .map_or_else(String::new, |left| format!(" for {}", humantime::format_duration(left)));
        let text = format!("{target} is {verb} to slot {slot}{time}");
        self.chronicle.tell_of(kind, Some(slot), text);
        Ok(
            json!({ "slot": slot, "what": target, "allowed": word.is_allowed, "unpinned": done.unpinned }),
        )
    }

    async fn forget(&mut self, slot: &str, target: &str) -> Answer {
        self.must_have(slot)?;
        let mut overlay = self.overlay.clone();
        let words = overlay.words.get_mut(slot);
        if words.and_then(|words| words.remove(target)).is_none() {
            let message = format!("nothing was said of {target:?} to slot {slot:?}");
            return Err(Refusal::new(Fault::Absent, message));
        }
        overlay.words.retain(|_, words| !words.is_empty());
        let done = self.change(self.config.clone(), overlay).await?;
        let text = format!("what was said of {target} to slot {slot} is forgotten");
        self.chronicle.tell_of(EventKind::ForgetOrdered, Some(slot), text);
        Ok(json!({ "slot": slot, "what": target, "unpinned": done.unpinned }))
    }

    pub(super) fn must_have(&self, slot: &str) -> Result<(), Refusal> {
        if self.policy.slots.iter().any(|it| it.name == slot) {
            return Ok(());
        }
        let slots: Vec<_> = self.policy.slots.iter().map(|it| it.name.as_str()).collect();
        let message = format!("no slot is called {slot:?}; there are {}", slots.join(", "));
        Err(Refusal::new(Fault::Absent, message))
    }

    /// Carries an order out and tells whoever waits for it.
    pub(super) async fn answer(&mut self, id: u64, order: Order) {
        if let Some(answer) = self.carry_out(id, order).await {
            // Who has his answer finds in the stream what came of it.
            self.hand_events_over().await;
            self.tell(&ToWorker::Answer { id, answer }).await;
        }
    }
}

/// Something may be said of that.
pub(super) fn check_target(target: &str, is_allowed: bool) -> Result<(), Refusal> {
    let parsed: Target = target.parse().map_err(|error| Refusal::new(Fault::Order, error))?;
    if let Target::Name(entry) = &parsed
        && entry.ports.is_some()
        && !is_allowed
    {
        let message =
            format!("a name is denied with all its ports: write {:?}", entry.name.as_str());
        return Err(Refusal::new(Fault::Order, message));
    }
    Ok(())
}

/// The lowest number that no slot has.
pub(super) fn free_id(policy: &Policy) -> Result<u16, Refusal> {
    let is_free = |id: &u16| policy.slots.iter().all(|slot| slot.id != *id);
    let full = || Refusal::new(Fault::Conflict, "every number of a slot is taken");
    (1..=netguard_common::MAX_SLOT_ID).find(is_free).ok_or_else(full)
}
