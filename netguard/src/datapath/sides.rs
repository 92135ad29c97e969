//! Two policies in the policy maps, of which one counts: the next one is written where no program looks, and comes
//! into force with one store.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{Ordering, fence},
    },
};

use netguard_common::{
    SlotId,
    maps::{SIDES, Side, SlotEntry},
};

use super::{
    Error,
    grace::Grace,
    maps::{Foreign, PolicyMaps},
};
use crate::policy::Plan;

/// The policy maps, and what is in them.
pub(super) struct Sides {
    maps: PolicyMaps,
    /// Runs as long as a program may that has begun when the other side counted.
    grace: Grace,
    /// The side that counts, and its plan.
    active: Side,
    plan: Arc<Plan>,
    /// What the other one holds.
    other: Held,
    /// True from a swap on, until the other side has been given the same plan.
    is_behind: bool,
}

/// What is on the side that does not count.
enum Held {
    /// This plan's entries and no others.
    Whole(Arc<Plan>),
    /// Some entries of these plans: writing has failed halfway.
    Torn(Vec<Arc<Plan>>),
}

impl Sides {
    /// The empty maps of a fresh load.
    pub(super) fn new(maps: PolicyMaps) -> Result<Self, Error> {
        Ok(Self {
            maps,
            grace: Grace::new().map_err(Error::Grace)?,
            active: SIDES[0],
            plan: Arc::default(),
            other: Held::Whole(Arc::default()),
            is_behind: false,
        })
    }

    pub(super) fn maps(&self) -> &PolicyMaps {
        &self.maps
    }

    /// The plan that counts.
    pub(super) fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// Writes a plan to the side that does not count, so that [`Self::swap`] has only to say so.
    pub(super) fn prepare(&mut self, plan: &Arc<Plan>) -> Result<(), Error> {
        if self.plan == *plan {
            return Ok(());
        }
        self.maps.check_room(plan)?;
        self.write_other(plan)
    }

    /// Makes a plan the one that counts if it does no more than take networks of slots away, or give them back, which is one
    /// bit of an entry: no packet can see a half of that, so it is written where it counts. False if it does more.
    pub(super) fn relock(&mut self, plan: &Arc<Plan>) -> Result<bool, Error> {
        let Some(slots) = plan.locks_since(&self.plan) else { return Ok(false) };
        self.maps.put_slots(self.active, slots.iter())?;
        self.plan = Arc::clone(plan);
        self.is_behind |= !slots.is_empty();
        Ok(true)
    }

    /// Makes a plan the one that counts; if it cannot, nothing has changed for any packet.
    pub(super) fn swap(&mut self, plan: &Arc<Plan>) -> Result<(), Error> {
        if self.plan == *plan {
            return Ok(());
        }
        self.prepare(plan)?;
        // What is found there is there before the store that says to look there, on every kind of processor.
        fence(Ordering::SeqCst);
        let other = self.other_side();
        self.maps.activate(other)?;
        self.active = other;
        self.other = Held::Whole(mem::replace(&mut self.plan, Arc::clone(plan)));
        self.grace.begin();
        self.is_behind = true;
        Ok(())
    }

    /// Gives the side that does not count the same plan, once after each swap, and when that need not wait: the next one
    /// then writes no more than a difference. If it cannot, the next swap writes more. True if that is done.
    pub(super) fn settle(&mut self) -> Result<bool, Error> {
        if self.is_behind && self.grace.is_over() {
            self.is_behind = false;
            self.write_other(&Arc::clone(&self.plan))?;
        }
        Ok(!self.is_behind)
    }

    /// What counts for a slot, as the kernel has it.
    pub(super) fn slot(&self, slot: SlotId) -> Result<Option<SlotEntry>, Error> {
        self.maps.slot(self.active, slot)
    }

    /// The first entry of a map that nobody here has written, if there is one.
    pub(super) fn find_foreign(&mut self) -> Result<Option<Foreign>, Error> {
        let other = match &self.other {
            Held::Whole(plan) => Some(&**plan),
            Held::Torn(_) => None,
        };
        let plans = SIDES.map(|side| if side == self.active { Some(&*self.plan) } else { other });
        match self.maps.find_foreign(self.active, plans)? {
            None => self.maps.find_foreign_names_slowly(plans),
            found => Ok(found),
        }
    }

    /// Writes the plan that counts anew, on one side and then on the other, whatever somebody else has written there.
    pub(super) fn restore(&mut self) -> Result<(), Error> {
        self.maps.activate(self.active)?;
        self.maps.restore_names(&self.plan)?;
        let (first, second) = (self.other_side(), self.active);
        self.rewrite(first)?;
        self.maps.activate(first)?;
        self.active = first;
        self.rewrite(second)?;
        self.is_behind = false;
        Ok(())
    }

    /// Gives a side that does not count the plan that counts, and nothing else.
    fn rewrite(&mut self, side: Side) -> Result<(), Error> {
        self.grace.wait().map_err(Error::Grace)?;
        let plan = Arc::clone(&self.plan);
        self.other = Held::Torn(vec![Arc::clone(&plan)]);
        self.maps.clear(side)?;
        self.maps.change(side, &Plan::default(), &plan, &plan)?;
        self.other = Held::Whole(plan);
        Ok(())
    }

    const fn other_side(&self) -> Side {
        SIDES[1] - self.active
    }

    fn write_other(&mut self, new: &Arc<Plan>) -> Result<(), Error> {
        let torn = match &self.other {
            Held::Whole(old) if old == new => return Ok(()),
            Held::Whole(old) => vec![Arc::clone(old), Arc::clone(new)],
            Held::Torn(plans) => plans.clone(),
        };
        self.grace.end().map_err(Error::Grace)?;
        let side = self.other_side();
        let old = match mem::replace(&mut self.other, Held::Torn(torn)) {
            Held::Whole(old) => old,
            Held::Torn(plans) => {
                for plan in plans {
                    self.maps.change(side, &plan, &Plan::default(), &self.plan)?;
                }
                self.other = Held::Torn(vec![Arc::clone(new)]);
                Arc::default()
            }
        };
        self.maps.change(side, &old, new, &self.plan)?;
        self.other = Held::Whole(Arc::clone(new));
        Ok(())
    }
}
