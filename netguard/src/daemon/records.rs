//! From a record of the kernel to what logs tell: the names behind its numbers, and what decided.

use netguard_common::{DropReason, SlotId, record::DropRecord};
use netguard_dns::{Moment, Pins, Resolver};

use super::channel::HostView;
use crate::{
    config::Config,
    drops::{Clock, Drop},
    listing,
    policy::{Because, Key, Policy},
};

/// What records are read by.
pub(super) struct Reader<'a> {
    pub(super) clock: Clock,
    /// What is in force.
    pub(super) policy: &'a Policy,
    /// The file that it is of, with the slots that were made at run time.
    pub(super) whole: &'a Config,
    pub(super) host: &'a HostView,
    pub(super) resolver: &'a Resolver,
    pub(super) pins: &'a Pins,
}

impl Reader<'_> {
    /// `None` if the record holds a number that this version does not know.
    pub(super) fn read(&self, record: &DropRecord) -> Option<Drop> {
        let Self { policy, .. } = self;
        let index = policy.slots.iter().position(|slot| slot.id == record.slot_id);
        let slot = index.and_then(|index| policy.slots.get(index));
        let mut drop = Drop::read(
            record,
            &self.clock,
            |_| slot.map(|slot| (slot.name.clone(), listing::runtime(policy, slot).to_owned())),
            |index| self.host.interfaces.get(&index).cloned(),
        )?;
        let (Some(index), Some(slot)) = (index, slot) else { return Some(drop) };
        drop.name = drop.peer().and_then(|peer| self.resolver.name_of(slot.id, peer));
        let packet = drop.dropped();
        let because = self.of_names(&drop, Because::of(policy, slot, &packet), slot.id);
        let line = self.whole.line_of(index, &because);
        drop.because = match line.is_ordered() {
            true => because.order_text(slot),
            false => because.text(policy, slot, &packet),
        };
        drop.line = line.to_string();
        Some(drop)
    }

    /// Where only a pin opens, an order can have taken it away.
    fn of_names(&self, drop: &Drop, because: Because, slot: SlotId) -> Because {
        match (&because, &drop.name) {
            (Because::Key(Key::Egress), Some(name))
                if drop.reason == DropReason::NotPinned
                    && self.pins.is_denied(slot, name, Moment::now()) =>
            {
                Because::DeniedName(name.clone())
            }
            _ => because,
        }
    }
}
