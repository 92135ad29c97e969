//! Another policy in force with the resolver, its pins and whoever asks.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
    time::Duration,
};

use netguard_common::SlotId;
use netguard_dns::{DomainName, Moment, Pins};

use super::Worker;
use crate::{
    config::Config,
    control,
    daemon::{overlay::Overlay, resolver},
};

impl Worker {
    /// Puts another policy in force: rules first, then pins, so that nothing is pinned that they do not allow.
    pub(super) async fn change(&mut self, overlay: Overlay, is_new_file: bool) -> io::Result<()> {
        let has_other_slots = is_new_file || self.overlay.slots != overlay.slots;
        if has_other_slots {
            self.whole = Arc::new(with_slots(&self.config, &overlay)?);
        }
        let policy = overlay.apply(&self.whole.policy);
        let old = std::mem::replace(&mut self.overlay, overlay);
        let was_denied = old.denied(&self.policy);
        self.policy = policy;
        if is_new_file {
            resolver::replace(&self.resolver, &self.policy, &self.journal);
        } else {
            resolver::replace_rules(&self.resolver, &self.policy);
        }
        let mut failed = Vec::new();
        let mut unpinned = 0;
        let mut count = |went: io::Result<usize>| match went {
            Ok(went) => unpinned += went,
            Err(error) => failed.push(error.to_string()),
        };
        count(resolver::replace_slots(&self.pins, &self.policy));
        let audited = self.policy.slots.iter().filter(|slot| slot.audit).map(|slot| slot.id);
        let audited: BTreeSet<_> = audited.collect();
        self.learnt.keep(|slot| audited.contains(&slot));
        let denied = self.overlay.denied(&self.policy);
        for ((slot, name), _) in was_denied.iter().filter(|(key, _)| !denied.contains_key(key)) {
            self.pins.allow(*slot, name);
        }
        count(deny(&self.pins, &denied));
        if has_other_slots {
            let names = control::Names::of(Arc::clone(&self.whole));
            let there: BTreeSet<_> = names.slots.values().map(String::as_str).collect();
            self.feeds.keep(|slot| there.contains(slot));
            self.control.replace_names(names);
        }
        self.done(failed, unpinned).await
    }
}

/// The configuration of the file with the slots that were made at run time.
pub(super) fn with_slots(config: &Config, overlay: &Overlay) -> io::Result<Config> {
    config.with_slots(&overlay.entries()).map_err(io::Error::other)
}

/// Takes names away. Returns how many pins of them are gone.
pub(super) fn deny(
    pins: &Pins,
    denied: &BTreeMap<(SlotId, DomainName), Option<Duration>>,
) -> io::Result<usize> {
    let now = Moment::now();
    let mut gone = 0;
    for ((slot, name), left) in denied {
        gone += pins.deny(*slot, name, left.map(|left| now.after(left)), now)?;
    }
    Ok(gone)
}
