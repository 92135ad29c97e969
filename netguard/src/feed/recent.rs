//! The items of the last while: a bounded memory in which each slot has a share of its own, so that one slot's flood takes no
//! other's place.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use super::{Filter as _, Item};

/// How many of all slots together; where many slots have items, each has less room.
const IN_ALL: usize = 32 << 10;

/// The items of the last while.
#[derive(Debug)]
pub struct Recent<T> {
    /// By slot, with their places in the order of all.
    slots: BTreeMap<Option<String>, VecDeque<(u64, Arc<T>)>>,
    next: u64,
    per_slot: usize,
    in_all: usize,
}

impl<T: Item> Default for Recent<T> {
    fn default() -> Self {
        Self::with_room(T::REMEMBERED, IN_ALL)
    }
}

impl<T> Recent<T> {
    fn with_room(per_slot: usize, in_all: usize) -> Self {
        Self { slots: BTreeMap::new(), next: 0, per_slot, in_all }
    }

    /// How many items each slot may have now.
    fn share(&self) -> usize {
        (self.in_all / self.slots.len().max(1)).clamp(1, self.per_slot)
    }

    /// Forgets the items of slots that are gone. Those of no slot stay.
    pub fn keep(&mut self, is_there: impl Fn(&str) -> bool) {
        self.slots.retain(|slot, _| slot.as_deref().is_none_or(&is_there));
    }
}

impl<T: Item> Recent<T> {
    /// Remembers an item, in the place of the slot's oldest if it has no more room.
    pub fn add(&mut self, item: Arc<T>) {
        let place = self.next;
        self.next += 1;
        let slot = item.slot().map(str::to_owned);
        if !self.slots.contains_key(&slot) {
            self.slots.insert(slot.clone(), VecDeque::new());
            let share = self.share();
            for items in self.slots.values_mut() {
                items.drain(..items.len().saturating_sub(share));
            }
        }
        let share = self.share();
        let Some(items) = self.slots.get_mut(&slot) else { return };
        if items.len() >= share {
            items.pop_front();
        }
        items.push_back((place, item));
    }

    /// The last so many that somebody wants, the oldest first.
    #[must_use]
    pub fn last(&self, filter: &T::Filter, count: usize) -> Vec<Arc<T>> {
        let all = self.slots.values().flatten();
        let mut wanted: Vec<_> = all.filter(|(_, item)| filter.admits(item)).collect();
        wanted.sort_unstable_by_key(|(place, _)| *place);
        let rest = wanted.split_off(wanted.len().saturating_sub(count));
        rest.into_iter().map(|(_, item)| Arc::clone(item)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::samples::{Of, Sample, sample},
        *,
    };

    fn numbers(items: &[Arc<Sample>]) -> Vec<u32> {
        items.iter().map(|item| item.number).collect()
    }

    #[test]
    fn a_slots_flood_takes_no_other_slots_place() {
        let mut recent = Recent::with_room(3, 100);
        recent.add(sample("quiet", 1));
        recent.add(sample(None, 2));
        for number in 10..100 {
            recent.add(sample("loud", number));
        }
        let all = Of::default();
        assert_eq!(numbers(&recent.last(&all, 100)), [1, 2, 97, 98, 99]);
        assert_eq!(numbers(&recent.last(&all, 2)), [98, 99]);
        assert!(recent.last(&all, 0).is_empty());
        assert_eq!(numbers(&recent.last(&Of(Some("quiet")), 2)), [1]);
    }

    #[test]
    fn many_slots_have_less_room_each() {
        let mut recent = Recent::with_room(4, 8);
        for number in 0..4 {
            recent.add(sample("one", number));
        }
        for slot in ["two", "three", "four"] {
            for number in 10..20 {
                recent.add(sample(slot, number));
            }
        }
        let all = recent.last(&Of::default(), 100);
        assert_eq!(numbers(&all), [2, 3, 18, 19, 18, 19, 18, 19]);
        recent.keep(|slot| slot == "one");
        assert_eq!(numbers(&recent.last(&Of::default(), 100)), [2, 3]);
    }
}
