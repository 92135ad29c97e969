//! From a record of the kernel to what logs tell: the names behind its numbers, and what decided. The same for who asks about a
//! packet, so that he is told what the record would say.

use std::net::IpAddr;

use netguard_common::{Direction, DropReason, SlotId, maps::Place, record::DropRecord};
use netguard_dns::{Moment, Pins, Resolver};

use serde_json::{Value, json};

use super::channel::HostView;
use crate::{
    config::Config,
    drops::{Clock, Drop, Summary},
    listing,
    policy::{Because, Dropped, Key, Passed, Passing, Policy, Slot},
};

/// A packet about which somebody asks what decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weighed {
    /// The slot.
    pub slot: String,
    /// Which way it goes, seen from the slot.
    pub direction: Direction,
    /// Its first bytes, from the Ethernet header on.
    pub frame: Vec<u8>,
    /// Why the programs drop it, if they do.
    pub reason: Option<DropReason>,
    /// What lies at the other end, as the programs find it.
    pub place: Option<Place>,
}

/// What records are read by.
pub(super) struct Reader<'a> {
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
    pub(super) fn read(&self, record: &DropRecord, clock: &Clock) -> Option<Drop> {
        let Self { policy, .. } = self;
        let index = policy.slots.iter().position(|slot| slot.id == record.slot_id);
        let slot = index.and_then(|index| policy.slots.get(index));
        let mut drop = Drop::read(
            record,
            clock,
            |_| slot.map(|slot| (slot.name.clone(), listing::runtime(policy, slot).to_owned())),
            |index| self.host.interfaces.get(&index).cloned(),
        )?;
        let (Some(index), Some(slot)) = (index, slot) else { return Some(drop) };
        let packet = drop.dropped();
        drop.name = self.name_of(slot, packet.direction, packet.src, packet.dst);
        (drop.line, drop.because) = self.decided(index, slot, &packet, drop.name.as_ref());
        Some(drop)
    }

    /// What decides, or would, about a packet of a slot; none if there is no such slot.
    pub(super) fn weigh(&self, asked: &Weighed) -> Option<Value> {
        let Self { policy, .. } = self;
        let index = policy.slots.iter().position(|slot| slot.name == asked.slot)?;
        let slot = policy.slots.get(index)?;
        let Weighed { direction, reason, place, .. } = *asked;
        let packet = Summary::of(&asked.frame);
        let (src, dst, traffic) = (packet.src, packet.dst, packet.traffic());
        let name = self.name_of(slot, direction, src, dst);
        let passing = Passing::of(policy, slot, &Passed { direction, src, dst, traffic, place });
        let opened = |because: Option<Because>| {
            let because = because?;
            let line = self.whole.line_of(index, &because);
            let words = match line.is_ordered() {
                true => because.order_text(slot),
                false => because.opening_text(policy, slot),
            };
            Some(json!({ "line": line.to_string(), "because": words }))
        };
        let mut answer = json!({
            "name": name,
            "line": null,
            "because": null,
            "stages": {
                "lockdown": opened(Some(passing.lockdown)),
                "identity": opened(passing.identity),
                "encrypted dns": opened(passing.encrypted_dns),
                "where to": opened(passing.place),
                "rule": opened(passing.rule),
            },
        });
        if let Some(reason) = reason {
            let packet = Dropped { reason, direction, src, dst, traffic };
            let (line, because) = self.decided(index, slot, &packet, name.as_ref());
            (answer["line"], answer["because"]) = (line.into(), because.into());
        }
        Some(answer)
    }

    /// The name by which the slot was last told the address at the other end.
    fn name_of(
        &self,
        slot: &Slot,
        direction: Direction,
        src: Option<IpAddr>,
        dst: Option<IpAddr>,
    ) -> Option<String> {
        let peer = match direction {
            Direction::Egress => dst,
            Direction::Ingress => src,
        };
        self.resolver.name_of(slot.id, peer?)
    }

    /// Where that stands which decided, and what it says.
    fn decided(
        &self,
        index: usize,
        slot: &Slot,
        packet: &Dropped,
        name: Option<&String>,
    ) -> (String, String) {
        let because = Because::of(self.policy, slot, packet);
        let because = self.of_names(packet.reason, name, because, slot.id);
        let line = self.whole.line_of(index, &because);
        let words = match line.is_ordered() {
            true => because.order_text(slot),
            false => because.text(self.policy, slot, packet),
        };
        (line.to_string(), words)
    }

    /// Where only a pin opens, an order can have taken it away.
    fn of_names(
        &self,
        reason: DropReason,
        name: Option<&String>,
        because: Because,
        slot: SlotId,
    ) -> Because {
        match (&because, name) {
            (Because::Key(Key::Egress), Some(name))
                if reason == DropReason::NotPinned
                    && self.pins.is_denied(slot, name, Moment::now()) =>
            {
                Because::DeniedName(name.clone())
            }
            _ => because,
        }
    }
}
