//! The map `NAMES`: sets of names, which come and go as wholes. Both sides of the policy have them in common.

use std::{collections::BTreeMap, sync::Arc};

use aya::{
    Ebpf,
    maps::{IterableMap as _, MapData},
};
use netguard_common::{maps as layout, names::NameKey};
use netguard_dns::Suffixes;

use super::{
    Error, PinDirectory,
    batch::{self, Cursor},
    maps::{Entries, Wire, take},
    view::open,
};
use crate::policy::Plan;

/// Sets by their numbers.
type Sets = BTreeMap<u64, Arc<Suffixes>>;

/// The map.
pub(super) struct NameMap {
    map: Entries<NameKey, u32>,
    look: Option<Look>,
}

/// What was seen of the map until now.
struct Look {
    wanted: Sets,
    /// No other sets may be there.
    are_all: bool,
    at: Option<Cursor>,
    /// How many entries of each set are as they should be.
    found: BTreeMap<u64, usize>,
    foreign: Option<u64>,
}

impl Look {
    fn begin(plans: [Option<&Plan>; 2]) -> Self {
        Self {
            wanted: union(plans.into_iter().flatten()),
            are_all: plans.iter().all(Option::is_some),
            at: None,
            found: BTreeMap::new(),
            foreign: None,
        }
    }

    fn is_like(&self, other: &Self) -> bool {
        (&self.wanted, self.are_all) == (&other.wanted, other.are_all)
    }

    /// Looks at more of the map; true at its end.
    fn go_on(&mut self, map: &MapData) -> Result<bool, Error> {
        let Self { wanted, are_all, found, foreign, .. } = self;
        let visit = |Wire(key): Wire<NameKey>, Wire(kind): Wire<u32>| match wanted.get(&key.set) {
            Some(suffixes) if suffixes.find(key.hash) == Some(kind) => {
                *found.entry(key.set).or_default() += 1;
            }
            None if !*are_all => {}
            _ => *foreign = Some(key.set),
        };
        self.at = batch::some(layout::NAMES, map, self.at, visit)?;
        Ok(self.at.is_none())
    }

    /// A set that is not as it should be.
    fn foreign(&self) -> Option<String> {
        let is_short = |(set, suffixes): &(&u64, &Arc<Suffixes>)| {
            self.found.get(set).copied().unwrap_or_default() != suffixes.len()
        };
        let short = || self.wanted.iter().find(is_short).map(|(set, _)| *set);
        self.foreign.or_else(short).map(|set| format!("set of names {set:016x}"))
    }
}

impl NameMap {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, Error> {
        Ok(Self { map: take(ebpf, layout::NAMES)?, look: None })
    }

    pub(super) fn open(pins: &PinDirectory) -> Result<Self, Error> {
        Ok(Self { map: open(pins, layout::NAMES)?, look: None })
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

    /// The first set that does not hold what it should, if there is one. Of a plan that is not given all sets may be there.
    pub(super) fn find_foreign(&self, plans: [Option<&Plan>; 2]) -> Result<Option<String>, Error> {
        let mut look = Look::begin(plans);
        while !look.go_on(self.map())? {}
        Ok(look.foreign())
    }

    /// The same in steps, a twentieth of all names each: what is wrong is found when one has come to the end. It can wait: what
    /// somebody adds here opens nothing, because the resolver is asked then, which goes by its own list.
    pub(super) fn find_foreign_slowly(
        &mut self,
        plans: [Option<&Plan>; 2],
    ) -> Result<Option<String>, Error> {
        const LOOKS: usize = 20;
        let fresh = Look::begin(plans);
        let mut look = self.look.take().filter(|look| look.is_like(&fresh)).unwrap_or(fresh);
        let names: usize = look.wanted.values().map(|suffixes| suffixes.len()).sum();
        for _ in 0..names.div_ceil(LOOKS * batch::SOME).max(1) {
            if look.go_on(self.map())? || look.foreign.is_some() {
                return Ok(look.foreign());
            }
        }
        self.look = Some(look);
        Ok(None)
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
