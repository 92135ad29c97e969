//! What the host and others do while the monitor runs, and how it follows them: interfaces come and go, filters are removed,
//! maps are written into.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use super::Monitor;
use crate::{
    daemon::{Error, host},
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
        let mut lasting = BTreeSet::new();
        match found {
            Ok(findings) => {
                for finding in findings {
                    if finding.is_mended() {
                        self.journal.note(format!("ALARM: {finding}"));
                    } else {
                        lasting.insert(format!("ALARM: {finding}"));
                    }
                }
            }
            Err(error) => drop(lasting.insert(format!("ALARM: {:#}", anyhow::Error::from(error)))),
        }
        for alarm in lasting.difference(&self.alarms) {
            self.journal.note(alarm.clone());
        }
        if is_all {
            self.alarms = lasting;
        } else {
            self.alarms.extend(lasting);
        }
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

    pub(super) fn remove_stale_links(&self) {
        match host::remove_stale_links(&self.policy, &self.instance, self.watcher.host()) {
            Ok(removed) if removed.is_empty() => {}
            Ok(removed) => self.journal.note(format!("removed {}", removed.join(" "))),
            // What is left over opens nothing, and the next start tries again.
            Err(error) => self.journal.note(format!("{:#}", anyhow::Error::from(error))),
        }
    }

    /// Tells what changed, and what fails that did not fail before.
    pub(super) fn report(&mut self, changes: &Changes, failed: Vec<String>) {
        for (what, interfaces) in [("guarding", &changes.guarded), ("gone:", &changes.gone)] {
            if !interfaces.is_empty() {
                self.journal.note(format!("{what} {}", interfaces.join(" ")));
            }
        }
        let unguarded = changes.failed.iter().map(|Failed { interface, is_bridge, reason }| {
            let meanwhile = if *is_bridge { "" } else { "; its bridge drops what it sends" };
            format!("cannot guard {interface}: {reason}{meanwhile}")
        });
        let failures: BTreeSet<_> = unguarded.chain(failed).collect();
        for failure in failures.difference(&self.failures) {
            self.journal.note(failure.clone());
        }
        self.failures = failures;
    }
}
