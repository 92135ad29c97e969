//! Which names an audited slot was answered that its list does not allow: for who writes a list of them. A bounded memory for each
//! slot; what comes when it is full is not remembered.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// How many names of one slot are remembered.
const NAMES_MAX: usize = 1024;

/// What one slot was answered.
#[derive(Debug, Default)]
pub(crate) struct Learnt(Mutex<BTreeMap<Box<str>, u64>>);

impl Learnt {
    /// Whoever panicked has left nothing half done: each entry is written at once.
    fn names(&self) -> MutexGuard<'_, BTreeMap<Box<str>, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn remember(&self, name: &str) {
        let mut names = self.names();
        if let Some(count) = names.get_mut(name) {
            *count += 1;
        } else if names.len() < NAMES_MAX {
            names.insert(name.into(), 1);
        }
    }

    /// Each name, and how often it was asked for.
    pub(crate) fn all(&self) -> BTreeMap<String, u64> {
        self.names().iter().map(|(name, count)| (name.to_string(), *count)).collect()
    }

    /// Forgets all of it.
    pub(crate) fn clear(&self) {
        self.names().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_counted_and_have_an_end() {
        let learnt = Learnt::default();
        for number in 0..NAMES_MAX + 5 {
            learnt.remember(&format!("n{number}.example"));
        }
        learnt.remember("n7.example");
        let all = learnt.all();
        assert_eq!((all.len(), all["n7.example"], all["n8.example"]), (NAMES_MAX, 2, 1));
        learnt.clear();
        assert!(learnt.all().is_empty());
    }
}
