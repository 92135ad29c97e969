//! From what is in force to what is wanted instead: links, firewall, programs and maps, worker, all of it or nothing.

use std::sync::Arc;

use netguard_common::EventKind;

use super::{Fallback, Monitor, extent, must_guard_bridges};
use crate::{
    config::{Config, Problems},
    daemon::{
        Error, Fault, Refusal, account::Became, channel::ToWorker, child::Done, give_back_memory,
        host, overlay::Overlay,
    },
    datapath::{Changes, Datapath, PinDirectory},
    links::{self, Made},
    policy::{Plan, Policy},
};

/// What is wanted: a configuration, what lies over it, and what they mean together.
pub(super) struct Intent {
    pub(super) config: Config,
    pub(super) overlay: Overlay,
    pub(super) whole: Config,
    pub(super) policy: Policy,
}

impl Intent {
    pub(super) fn of(config: Config, overlay: Overlay) -> Result<Self, Problems> {
        let whole = config.with_slots(&overlay.entries())?;
        let policy = overlay.apply(&whole.policy);
        Ok(Self { config, overlay, whole, policy })
    }

    fn is_new_file(&self, monitor: &Monitor) -> bool {
        !self.config.is_same_text(&monitor.config)
    }
}

pub(in crate::daemon) fn refuse(error: Error) -> Refusal {
    let fault = if matches!(error, Error::Config(_)) { Fault::Order } else { Fault::Host };
    Refusal::new(fault, format!("{:#}", anyhow::Error::from(error)))
}

impl Monitor {
    /// Goes back to the configuration before the latest reload, which nobody has confirmed.
    pub(super) async fn fall_back(&mut self) {
        let Some(Fallback { config, .. }) = self.fallback.take() else { return };
        let (kind, text) = match self.change(config, self.overlay.clone()).await {
            Ok(_) => {
                self.account.reloaded(Became::TakenBack);
                let text = format!(
                    "nobody has confirmed the latest reload: back to what was before, guarding {}",
                    extent(&self.policy)
                );
                (EventKind::RolledBack, text)
            }
            Err(refusal) => {
                let text = format!(
                    "nobody has confirmed the latest reload, but what was before does not fit any more: {}",
                    refusal.message
                );
                (EventKind::NotInForce, text)
            }
        };
        self.chronicle.tell(kind, text);
    }

    /// Puts another configuration in force with what lies over it, in one step for the programs, and remembers it. If it is
    /// refused, nothing has changed.
    pub(in crate::daemon) async fn change(
        &mut self,
        config: Config,
        overlay: Overlay,
    ) -> Result<Done, Refusal> {
        let is_new_overlay = overlay != self.overlay;
        let intent = self.intent(config, overlay).map_err(refuse)?;
        let done = self.switch(intent).await.map_err(refuse)?;
        if is_new_overlay && let Err(error) = self.state.write(&self.overlay) {
            let message = format!(
                "in force, but forgotten when netguard ends: {:#}",
                anyhow::Error::from(error)
            );
            self.chronicle.tell(EventKind::NotInForce, message.clone());
            return Err(Refusal::new(Fault::Host, message));
        }
        Ok(done)
    }

    /// What is wanted instead of what is in force. What cannot have changed is not read anew.
    fn intent(&self, config: Config, overlay: Overlay) -> Result<Intent, Error> {
        if overlay.slots != self.overlay.slots || !config.is_same_text(&self.config) {
            return Ok(Intent::of(config, overlay)?);
        }
        let whole = self.whole.clone();
        let policy = overlay.apply(&whole.policy);
        Ok(Intent { config, overlay, whole, policy })
    }

    async fn switch(&mut self, intent: Intent) -> Result<Done, Error> {
        let is_new_file = intent.is_new_file(self);
        let has_other_slots = is_new_file || intent.overlay.slots != self.overlay.slots;
        // Who reads the file again also wants back what somebody else has flushed.
        let has_other_firewall = is_new_file
            || has_other_slots
                && !host::is_same_firewall(&intent.policy, &self.policy, &self.instance);
        let (changes, made) = self.switch_host(&intent, has_other_slots, has_other_firewall)?;
        let has_other_texts = !intent.whole.is_same_text(&self.whole);
        let is_lock = !is_new_file && intent.overlay.is_same_but_for_locks(&self.overlay);
        Intent {
            config: self.config,
            overlay: self.overlay,
            whole: self.whole,
            policy: self.policy,
        } = intent;
        self.tell_of_links(&made.created);
        let mut done = if is_lock {
            self.tell(&ToWorker::Locked(self.overlay.locked.clone())).await;
            Done::default()
        } else {
            self.hand_policy_over(has_other_texts).await
        };
        let facts = Arc::clone(self.watcher.facts());
        let mut failed = std::mem::take(&mut done.failed);
        failed.extend(self.listen(&facts).await);
        failed.extend(self.serve_metrics().await);
        failed.extend(self.isolate(&facts));
        self.report(&changes, failed);
        if has_other_slots {
            self.remove_stale_links();
            self.tell_service_manager();
        }
        Ok(done)
    }

    /// The host's part of it: links, firewall and programs, or none of them.
    fn switch_host(
        &mut self,
        intent: &Intent,
        has_other_slots: bool,
        has_other_firewall: bool,
    ) -> Result<(Changes, Made), Error> {
        self.watcher.catch_up()?;
        let is_new_file = intent.is_new_file(self);
        // nft takes as long as all the rest, and has nothing to do with it.
        let old = (!is_new_file).then_some(&self.policy);
        let begin = || host::begin_firewall(&intent.policy, old, &self.instance);
        let firewall = if has_other_firewall { begin()? } else { None };
        let switched = self.switch_links(intent, has_other_slots);
        let firewall = firewall.map_or(Ok(()), |running| running.finish().map(drop));
        // The first error is the one to tell, and what was in force comes back.
        switched
            .and_then(|(changes, made)| match firewall {
                Ok(()) => Ok((changes, made)),
                Err(error) => {
                    let _ =
                        self.apply(Plan::compile(&self.policy, &Arc::clone(self.watcher.facts())));
                    let _ = links::take_back(&made);
                    Err(error.into())
                }
            })
            .inspect_err(|_| {
                if has_other_firewall {
                    let new = (!is_new_file).then_some(&intent.policy);
                    let _ = host::apply_firewall(&self.policy, new, &self.instance);
                }
            })
    }

    fn switch_links(
        &mut self,
        intent: &Intent,
        has_other_slots: bool,
    ) -> Result<(Changes, Made), Error> {
        let made = match has_other_slots {
            true => host::make_links(&intent.policy, &self.instance, self.watcher.host())?,
            false => Made::default(),
        };
        let switched = self.switch_programs(intent, has_other_slots);
        switched.inspect_err(|_| drop(links::take_back(&made))).map(|changes| (changes, made))
    }

    /// The switch on a host whose links are there.
    fn switch_programs(
        &mut self,
        intent: &Intent,
        has_other_slots: bool,
    ) -> Result<Changes, Error> {
        self.watcher.catch_up()?;
        let facts = Arc::clone(self.watcher.facts());
        if has_other_slots {
            host::check(&intent.whole, &facts)?;
        }
        let applied = self.apply(Plan::compile(&intent.policy, &facts));
        let applied = applied.and_then(|changes| must_guard_bridges(&changes).map(|()| changes));
        // Back to what was in force; the first error is the one to tell.
        applied.inspect_err(|_| drop(self.apply(Plan::compile(&self.policy, &facts))))
    }

    /// Brings programs and maps to a plan. Tables that are of another size than it needs are made anew, as at a start; flows
    /// live on.
    fn apply(&mut self, plan: Plan) -> Result<Changes, Error> {
        if !self.datapath.holds(&plan) {
            let mut other = Datapath::load(PinDirectory::of(&self.instance), &plan)?;
            if let Some(tc) = self.options.tc {
                other.hold_by(tc);
            }
            let changes = other.apply(plan)?;
            self.datapath = other;
            give_back_memory();
            return Ok(changes);
        }
        Ok(self.datapath.apply(plan)?)
    }

    /// Tells the worker the policy in force. One that has died meanwhile is told by its successor.
    async fn hand_policy_over(&mut self, has_other_texts: bool) -> Done {
        let overlay = self.overlay.clone();
        let message = if has_other_texts {
            match self.policy_text() {
                Ok(policy) => ToWorker::Policy { policy, overlay },
                Err(error) => return Done { failed: vec![error.to_string()], unpinned: 0 },
            }
        } else {
            ToWorker::Overlay(overlay)
        };
        match &mut self.worker {
            Some(worker) => worker.tell_and_wait(&message).await.unwrap_or_default(),
            None => Done::default(),
        }
    }
}
