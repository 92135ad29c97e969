//! The drops of the last while, for whoever asks: a bounded memory in which each slot has a share of its own, so that one
//! slot's flood takes no other's place. No I/O.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use super::{Drop, Filter};

/// How many drops of one slot are remembered.
const PER_SLOT: usize = 256;
/// How many of all slots together; where many slots have drops, each has less room.
const IN_ALL: usize = 32 << 10;

/// The drops of the last while.
#[derive(Debug)]
pub struct Recent {
    /// By slot, with their places in the order of all.
    slots: BTreeMap<Option<String>, VecDeque<(u64, Arc<Drop>)>>,
    next: u64,
    per_slot: usize,
    in_all: usize,
}

impl Default for Recent {
    fn default() -> Self {
        Self::with_room(PER_SLOT, IN_ALL)
    }
}

impl Recent {
    fn with_room(per_slot: usize, in_all: usize) -> Self {
        Self { slots: BTreeMap::new(), next: 0, per_slot, in_all }
    }

    /// How many drops each slot may have now.
    fn share(&self) -> usize {
        (self.in_all / self.slots.len().max(1)).clamp(1, self.per_slot)
    }

    /// Remembers a drop, in the place of the slot's oldest if it has no more room.
    pub fn add(&mut self, drop: Arc<Drop>) {
        let place = self.next;
        self.next += 1;
        if !self.slots.contains_key(&drop.slot) {
            self.slots.insert(drop.slot.clone(), VecDeque::new());
            let share = self.share();
            for drops in self.slots.values_mut() {
                drops.drain(..drops.len().saturating_sub(share));
            }
        }
        let share = self.share();
        let Some(drops) = self.slots.get_mut(&drop.slot) else { return };
        if drops.len() >= share {
            drops.pop_front();
        }
        drops.push_back((place, drop));
    }

    /// The last so many that somebody wants, the oldest first.
    #[must_use]
    pub fn last(&self, filter: &Filter, count: usize) -> Vec<Arc<Drop>> {
        let all = self.slots.values().flatten();
        let mut wanted: Vec<_> = all.filter(|(_, drop)| filter.admits(drop)).collect();
        wanted.sort_unstable_by_key(|(place, _)| *place);
        let rest = wanted.split_off(wanted.len().saturating_sub(count));
        rest.into_iter().map(|(_, drop)| Arc::clone(drop)).collect()
    }

    /// Forgets the drops of slots that are gone. Those of no slot stay.
    pub fn keep(&mut self, is_there: impl Fn(&str) -> bool) {
        self.slots.retain(|slot, _| slot.as_deref().is_none_or(&is_there));
    }
}

#[cfg(test)]
mod tests {
    use netguard_common::DropReason;

    use super::{super::samples::drop_of, *};

    fn lengths(drops: &[Arc<Drop>]) -> Vec<u32> {
        drops.iter().map(|drop| drop.length).collect()
    }

    #[test]
    fn a_slots_flood_takes_no_other_slots_place() {
        let mut recent = Recent::with_room(3, 100);
        recent.add(drop_of(Some("quiet"), DropReason::Host, 1));
        recent.add(drop_of(None, DropReason::UnknownPort, 2));
        for length in 10..100 {
            recent.add(drop_of(Some("loud"), DropReason::CrossSlot, length));
        }
        let all = Filter::default();
        assert_eq!(lengths(&recent.last(&all, 100)), [1, 2, 97, 98, 99]);
        assert_eq!(lengths(&recent.last(&all, 2)), [98, 99]);
        assert!(recent.last(&all, 0).is_empty());
    }

    #[test]
    fn many_slots_have_less_room_each() {
        let mut recent = Recent::with_room(4, 8);
        for length in 0..4 {
            recent.add(drop_of(Some("one"), DropReason::Host, length));
        }
        for slot in ["two", "three", "four"] {
            for length in 10..20 {
                recent.add(drop_of(Some(slot), DropReason::Host, length));
            }
        }
        let all = recent.last(&Filter::default(), 100);
        assert_eq!(lengths(&all), [2, 3, 18, 19, 18, 19, 18, 19]);
        recent.keep(|slot| slot == "one");
        assert_eq!(lengths(&recent.last(&Filter::default(), 100)), [2, 3]);
    }
}
