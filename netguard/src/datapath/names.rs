//! The map `NAMES`: sets of names, which come and go as wholes. Both sides of the policy have them in common.

use std::{collections::BTreeMap, sync::Arc};

use aya::{
    Ebpf,
    maps::{IterableMap as _, MapData},
};
use netguard_common::{maps as layout, names::NameKey};
use netguard_dns::Suffixes;

use super::{
    Error, PinDirectory, batch,
    maps::{Entries, Wire, take},
    view::open,
};
use crate::policy::Plan;

/// Sets by their numbers.
type Sets = BTreeMap<u64, Arc<Suffixes>>;

/// The map.
pub(super) struct NameMap {
    map: Entries<NameKey, u32>,
}

impl NameMap {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, Error> {
        Ok(Self { map: take(ebpf, layout::NAMES)? })
    }

    pub(super) fn open(pins: &PinDirectory) -> Result<Self, Error> {
        Ok(Self { map: open(pins, layout::NAMES)? })
    }

    pub(super) fn map(&self) -> &MapData {
        self.map.map()
    }

    /// Writes the sets of `new` that neither `old` nor `beside` has.
    pub(super) fn add(&self, old: &Plan, new: &Plan, beside: &Plan) -> Result<(), Error> {
        for (set, suffixes) in of_first(new, old, beside) {
            self.put(*set, suffixes)?;
        }
        Ok(())
    }

    /// Removes the sets of `old` that neither `new` nor `beside` has.
    pub(super) fn remove(&self, old: &Plan, new: &Plan, beside: &Plan) -> Result<(), Error> {
        for (set, suffixes) in of_first(old, new, beside) {
            let keys = suffixes.entries().iter().map(|(hash, _)| key(*set, *hash));
            batch::remove(layout::NAMES, self.map(), keys)?;
        }
        Ok(())
    }

    /// The first set that does not hold what it should, if there is one. A set that no plan has is one too much only if the
    /// plans are all.
    pub(super) fn find_foreign(&self, plans: [Option<&Plan>; 2]) -> Result<Option<String>, Error> {
        let wanted = union(plans.into_iter().flatten());
        let are_all = plans.iter().all(Option::is_some);
        let mut found: BTreeMap<u64, usize> = BTreeMap::new();
        let mut foreign = None;
        batch::each(
            layout::NAMES,
            self.map(),
            |Wire(key): Wire<NameKey>, Wire(kind)| match wanted.get(&key.set) {
                Some(suffixes) if suffixes.find(key.hash) == Some(kind) => {
                    *found.entry(key.set).or_default() += 1;
                }
                None if !are_all => {}
                _ => foreign = Some(key.set),
            },
        )?;
        let is_short = |(set, suffixes): &(&u64, &Arc<Suffixes>)| {
            found.get(set).copied().unwrap_or_default() != suffixes.len()
        };
        let short = || wanted.iter().find(is_short).map(|(set, _)| *set);
        Ok(foreign.or_else(short).map(|set| format!("set of names {set:016x}")))
    }

    /// Makes it hold the sets of a plan and nothing else.
    pub(super) fn restore(&self, plan: &Plan) -> Result<(), Error> {
        let mut foreign = Vec::new();
        batch::each(layout::NAMES, self.map(), |Wire(key): Wire<NameKey>, Wire(_): Wire<u32>| {
            if plan.names.get(&key.set).is_none_or(|it| it.find(key.hash).is_none()) {
                foreign.push(Wire(key));
            }
        })?;
        batch::remove(layout::NAMES, self.map(), foreign.into_iter())?;
        plan.names.iter().try_for_each(|(set, suffixes)| self.put(*set, suffixes))
    }

    fn put(&self, set: u64, suffixes: &Suffixes) -> Result<(), Error> {
        let entries = suffixes.entries().iter();
        let entries = entries.map(|(hash, kind)| (key(set, *hash), Wire(*kind)));
        batch::put(layout::NAMES, self.map(), entries)
    }
}

/// The sets of the first plan that neither of the others has.
fn of_first<'a>(
    first: &'a Plan,
    second: &'a Plan,
    third: &'a Plan,
) -> impl Iterator<Item = (&'a u64, &'a Arc<Suffixes>)> {
    let is_elsewhere = |set| second.names.contains_key(set) || third.names.contains_key(set);
    first.names.iter().filter(move |(set, _)| !is_elsewhere(*set))
}

fn union<'a>(plans: impl Iterator<Item = &'a Plan>) -> Sets {
    plans.flat_map(|plan| &plan.names).map(|(set, it)| (*set, Arc::clone(it))).collect()
}

const fn key(set: u64, hash: u64) -> Wire<NameKey> {
    Wire(NameKey { set, hash })
}
