//! `[datapath]`: what the programs in the kernel do by themselves.

use serde::Deserialize;

/// `[datapath]`
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Datapath {
    /// Whether they answer queries for names that no list has.
    pub(super) dns_denials: bool,
}

impl Default for Datapath {
    fn default() -> Self {
        Self { dns_denials: true }
    }
}
