//! What a request may speak of by name, and where that stands.

use std::{collections::BTreeMap, sync::Arc};

use netguard_common::SlotId;

use crate::{
    config::{Config, Line},
    policy::NameBecause,
};

/// What orders may speak of.
#[derive(Clone, Debug)]
pub struct Names {
    /// The slots by number.
    pub slots: BTreeMap<SlotId, String>,
    /// The runtimes.
    pub runtimes: Vec<String>,
    /// Where all that stands, and what decides.
    pub config: Arc<Config>,
}

impl Names {
    /// Of that configuration, with its slots that were made at run time.
    #[must_use]
    pub fn of(config: Arc<Config>) -> Self {
        let policy = &config.policy;
        Self {
            slots: policy.slots.iter().map(|slot| (slot.id, slot.name.clone())).collect(),
            runtimes: policy.runtimes.iter().map(|runtime| runtime.name.clone()).collect(),
            config,
        }
    }

    /// Where that stands which decided about a query of the slot.
    pub(super) fn line_of(&self, slot: &str, because: &NameBecause) -> String {
        let index = self.config.policy.slots.iter().position(|it| it.name == slot);
        let line = index.map(|index| self.config.line_of_name(index, because));
        line.unwrap_or(Line::BuiltIn).to_string()
    }
}
