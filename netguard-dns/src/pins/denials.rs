//! Names that a slot may not have for a while, whatever its list says.

use std::collections::HashMap;

use crate::{DomainName, Moment};

/// The denied names of one slot, each with all below it.
#[derive(Debug, Default)]
pub(super) struct Denials(HashMap<DomainName, Option<Moment>>);

impl Denials {
    /// Denies a name until then, or for good; the latest word counts.
    pub(super) fn add(&mut self, name: DomainName, until: Option<Moment>) {
        self.0.insert(name, until);
    }

    /// Takes it back; false if the name was not denied.
    pub(super) fn remove(&mut self, name: &DomainName) -> bool {
        self.0.remove(name).is_some()
    }

    /// Forgets what is over.
    pub(super) fn expire(&mut self, now: Moment) {
        self.0.retain(|_, until| until.is_none_or(|until| now < until));
    }

    /// True if the name, or one above it, is denied now.
    pub(super) fn cover(&self, name: &str, now: Moment) -> bool {
        let below = name.match_indices('.').map(|(dot, _)| &name[dot + 1..]);
        let until = |suffix: &str| self.0.get(suffix).copied();
        std::iter::once(name)
            .chain(below)
            .filter_map(until)
            .any(|until| until.is_none_or(|until| now < until))
    }

    /// True if there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// True for the name itself and what is below it, on label boundaries.
pub(super) fn is_at_or_below(name: &str, above: &DomainName) -> bool {
    name.strip_suffix(above.as_str()).is_some_and(|head| head.is_empty() || head.ends_with('.'))
}
