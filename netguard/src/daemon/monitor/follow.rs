//! What the host and others do while the monitor runs, and how it follows them: interfaces come and go, filters are removed,
//! maps are written into.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use netguard_common::{EventKind, maps::PortKind};

use super::Monitor;
use crate::{
    daemon::{Error, chronicle::slot_of, host},
    datapath::{self, Changes, Failed, Finding},
    links::{self, Changed},
    policy::{Facts, Plan},
};

impl Monitor {
    /// Tells what somebody else has done; what cannot be put right is told once, and again when it was put right meanwhile.
    pub(super) fn tell_of_others(
        &mut self,
        found: Result<Vec<Finding>, datapath::Error>,
        is_all: bool,
    ) {
        let mut lasting = BTreeMap::new();
        match found {
            Ok(findings) => {
                for finding in findings {
                    let slot = finding.interface().and_then(|it| slot_of(&self.policy, &[it]));
                    let alarm = (finding.kind(), slot.map(str::to_owned));
                    let text = format!("ALARM: {finding}");
                    if finding.is_mended() {
                        let (kind, slot) = alarm;
                        self.chronicle.tell_of(kind, slot.as_deref(), text);
                    } else {
                        lasting.insert(text, alarm);
                    }
                }
            }
            Err(error) => {
                let text = format!("ALARM: {:#}", anyhow::Error::from(error));
                lasting.insert(text, (EventKind::WatchFailed, None));
            }
        }
        for (text, (kind, slot)) in &lasting {
            if !self.alarms.contains(text) {
                self.chronicle.tell_of(*kind, slot.as_deref(), text);
            }
        }
        if is_all {
            self.alarms.clear();
        }
        self.alarms.extend(lasting.into_keys());
    }

    /// Brings maps, programs and listeners to what the host has now.
    pub(super) async fn follow(&mut self, changed: Changed) -> Result<(), Error> {
        let found = self.datapath.inspect_interfaces(&changed.filters);
        self.tell_of_others(found, false);
        if !changed.host {
            return Ok(());
        }
        let facts = Arc::clone(self.watcher.facts());
        let changes = self.datapath.apply(Plan::compile(&self.policy, &facts))?;
        let mut failed = self.listen(&facts).await;
        failed.extend(self.serve_metrics().await);
        failed.extend(self.isolate(&facts));
        self.report(&changes, failed);
        Ok(())
    }

    /// Has the bridges keep apart the ports that the policy keeps apart: the frames that one guest sends to
    /// all of them are then not even copied. Returns what could not be done.
    pub(super) fn isolate(&self, facts: &Facts) -> Vec<String> {
        let isolated = facts.interfaces().iter().filter(|it| it.isolated).map(|it| it.index);
        let isolated: HashSet<_> = isolated.collect();
        let mut failed = Vec::new();
        for index in self.datapath.isolated().iter().filter(|index| !isolated.contains(index)) {
            if let Err(error) = links::isolate(*index, true) {
                failed.push(format!("{:#}", anyhow::Error::from(error)));
            }
        }
        failed
    }

    pub(super) fn tell_of_links(&mut self, made: &[String]) {
        if !made.is_empty() {
            self.chronicle.tell(EventKind::LinksMade, format!("made {}", made.join(" ")));
        }
    }

    pub(super) fn remove_stale_links(&mut self) {
        match host::remove_stale_links(&self.policy, &self.instance, self.watcher.host()) {
            Ok(removed) if removed.is_empty() => {}
            Ok(removed) => {
                let text = format!("removed {}", removed.join(" "));
                self.chronicle.tell(EventKind::LinksRemoved, text);
            }
            // What is left over opens nothing, and the next start tries again.
            Err(error) => {
                let text = format!("{:#}", anyhow::Error::from(error));
                self.chronicle.tell(EventKind::NotInForce, text);
            }
        }
    }

    /// Tells what changed, and what fails that did not fail before.
    pub(super) fn report(&mut self, changes: &Changes, failed: Vec<String>) {
        for (kind, what, interfaces) in [
            (EventKind::InterfaceGuarded, "guarding", &changes.guarded),
            (EventKind::InterfaceGone, "gone:", &changes.gone),
        ] {
            if !interfaces.is_empty() {
                let names: Vec<_> = interfaces.iter().map(String::as_str).collect();
                let slot = slot_of(&self.policy, &names);
                self.chronicle.tell_of(kind, slot, format!("{what} {}", names.join(" ")));
            }
        }
        let unguarded = changes.failed.iter().map(|Failed { interface, kind, reason }| {
            let meanwhile = match kind {
                PortKind::Port => "; its bridge drops what it sends",
                PortKind::Bridge => "",
                PortKind::Uplink | PortKind::FastUplink => {
                    "; what leaves there takes the slow path"
                }
            };
            let slot = slot_of(&self.policy, &[interface.as_str()]);
            let text = format!("cannot guard {interface}: {reason}{meanwhile}");
            (text, (EventKind::CannotGuard, slot))
        });
        let failed = failed.into_iter().map(|text| (text, (EventKind::NotInForce, None)));
        let failures: BTreeMap<_, _> = unguarded.chain(failed).collect();
        for (text, (kind, slot)) in &failures {
            if !self.failures.contains(text) {
                self.chronicle.tell_of(*kind, *slot, text);
            }
        }
        self.failures = failures.into_keys().collect();
    }
}
