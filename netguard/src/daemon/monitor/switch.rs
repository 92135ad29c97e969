//! From what is in force to what is wanted instead: links, firewall, programs and maps, worker, all of it or nothing.

use super::{Fallback, Monitor, extent, must_guard_bridges};
use crate::{
    config::{Config, Problems},
    daemon::{Error, Fault, Refusal, channel::ToWorker, child::Done, host, overlay::Overlay},
    datapath::{Changes, Datapath, PinDirectory},
    links,
    policy::{Facts, Plan, Policy},
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

fn refuse(error: Error) -> Refusal {
    let fault = if matches!(error, Error::Config(_)) { Fault::Order } else { Fault::Host };
    Refusal::new(fault, format!("{:#}", anyhow::Error::from(error)))
}

impl Monitor {
    /// Goes back to the configuration before the latest reload, which nobody has confirmed.
    pub(super) async fn fall_back(&mut self) {
        let Some(Fallback { config, .. }) = self.fallback.take() else { return };
        let note = match self.change(config, self.overlay.clone()).await {
            Ok(_) => format!(
                "nobody has confirmed the latest reload: back to what was before, guarding {}",
                extent(&self.policy)
            ),
            Err(refusal) => format!(
                "nobody has confirmed the latest reload, but what was before does not fit any more: {}",
                refusal.message
            ),
        };
        self.journal.note(note);
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
            self.journal.note(message.clone());
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
        let has_other_slots =
            intent.is_new_file(self) || intent.overlay.slots != self.overlay.slots;
        let made = if has_other_slots {
            host::make_links(&intent.policy, &self.instance).await?
        } else {
            links::Made::default()
        };
        let (changes, facts) = match self.switch_on(&intent, has_other_slots).await {
            Ok(done) => done,
            Err(error) => {
                // The first error is the one to tell.
                let _ = links::take_back(&made).await;
                return Err(error);
            }
        };
        let is_new_file = intent.is_new_file(self);
        Intent {
            config: self.config,
            overlay: self.overlay,
            whole: self.whole,
            policy: self.policy,
        } = intent;
        if !made.created.is_empty() {
            self.journal.note(format!("made {}", made.created.join(" ")));
        }
        let mut done = self.hand_policy_over(is_new_file).await;
        let mut failed = std::mem::take(&mut done.failed);
        failed.extend(self.listen(&facts).await);
        failed.extend(self.isolate(&facts).await);
        self.report(&changes, failed);
        if has_other_slots {
            self.remove_stale_links().await;
            self.tell_service_manager();
        }
        Ok(done)
    }

    /// The switch on a host whose links are there: firewall and programs, or neither.
    async fn switch_on(
        &mut self,
        intent: &Intent,
        has_other_slots: bool,
    ) -> Result<(Changes, Facts), Error> {
        let facts = self.watcher.facts().await?;
        if has_other_slots {
            host::check(&intent.whole, &facts)?;
            host::apply_firewall(&intent.policy, &self.instance)?;
        }
        let applied = self.apply(Plan::compile(&intent.policy, &facts));
        let applied = applied.and_then(|changes| must_guard_bridges(&changes).map(|()| changes));
        match applied {
            Ok(changes) => Ok((changes, facts)),
            Err(error) => {
                // Back to what was in force; the first error is the one to tell.
                let _ = self.apply(Plan::compile(&self.policy, &facts));
                if has_other_slots {
                    let _ = host::apply_firewall(&self.policy, &self.instance);
                }
                Err(error)
            }
        }
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
            return Ok(changes);
        }
        Ok(self.datapath.apply(plan)?)
    }

    /// Tells the worker the policy in force. One that has died meanwhile is told by its successor.
    async fn hand_policy_over(&mut self, is_new_file: bool) -> Done {
        let overlay = self.overlay.clone();
        let message = match self.policy_text() {
            Ok(policy) if is_new_file => ToWorker::Policy { policy, overlay },
            Ok(_) => ToWorker::Overlay(overlay),
            Err(error) => return Done { failed: vec![error.to_string()], unpinned: 0 },
        };
        match &mut self.worker {
            Some(worker) => worker.tell_and_wait(&message).await.unwrap_or_default(),
            None => Done::default(),
        }
    }
}
