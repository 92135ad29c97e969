//! What is loaded, whom it knows, and one packet put to one of its programs.

use std::net::IpAddr;

use netguard_common::{
    Address, Hook, NO_SLOT, SlotId,
    maps::{Place, PortEntry, PortKind, SlotEntry, read_name, slot_flags},
    vouched_by,
};
use serde_json::Value;

use super::{Error, Hop, Question, Subject, Weigh, direction_of};
use crate::{
    daemon::Weighed,
    datapath::{Asked, InForce, PinDirectory, View},
    pinned::NoSlot,
};

/// What is loaded, and who knows the lines that it comes from.
pub(super) struct Loaded<'a> {
    pub(super) view: View,
    pub(super) in_force: InForce,
    weigh: &'a Weigh<'a>,
}

impl<'a> Loaded<'a> {
    pub(super) fn open(pins: &PinDirectory, weigh: &'a Weigh<'a>) -> Result<Self, Error> {
        Ok(Self { view: View::open(pins)?, in_force: InForce::open(pins)?, weigh })
    }

    pub(super) fn find(&self, name: &str) -> Result<SlotId, NoSlot> {
        let names = self.view.slots.iter();
        let names = names.map(|(id, slot)| (*id, read_name(&slot.name).to_owned())).collect();
        NoSlot::find(&names, name)
    }

    /// One that [`Self::find`] has found.
    pub(super) fn slot(&self, id: SlotId) -> &SlotEntry {
        &self.view.slots[&id]
    }

    /// An address that the slot's workload can have.
    pub(super) fn guest_address(
        &self,
        slot: &SlotEntry,
        question: &Question,
    ) -> Result<IpAddr, Error> {
        let is_v4 = question.peer.is_ipv4();
        let (subnet, gateway) =
            if is_v4 { (slot.subnet4, slot.gateway4) } else { (slot.subnet6, slot.gateway6) };
        if subnet == Address::UNSPECIFIED {
            let family = if is_v4 { "IPv4" } else { "IPv6" };
            let (slot, peer) = (question.slot.clone(), question.peer);
            return Err(Error::NoFamily { slot, family, peer });
        }
        let host = |number: u128| Address((u128::from_be_bytes(subnet.0) + number).to_be_bytes());
        // The gateway is one of the first two, as a rule; a guest usually the other of the first three.
        let free = [2, 1, 3].map(host).into_iter();
        let mut free = free.filter(|it| *it != gateway && IpAddr::from(*it) != question.peer);
        Ok(free.next().unwrap_or(subnet).into())
    }

    /// The slot whose address it is.
    pub(super) fn owner(&self, address: IpAddr) -> Result<Option<SlotId>, Error> {
        let entry = self.in_force.place(address)?;
        let entry = entry.filter(|it| [Place::Slot as u8, Place::Gate as u8].contains(&it.place));
        Ok(entry.map(|it| it.slot_id).filter(|id| *id != NO_SLOT))
    }

    /// Who vouches for what one slot sends another: the host, unless both are on one bridge.
    pub(super) fn voucher(&self, from: SlotId, to: SlotId) -> u32 {
        let bridge = |id| self.view.slots.get(&id).map(|slot| slot.bridge_ifindex);
        vouched_by(if bridge(from) == bridge(to) { from } else { NO_SLOT })
    }

    /// What the program of a slot's port says, and why.
    pub(super) fn hop(
        &self,
        id: SlotId,
        hook: Hook,
        mark: u32,
        subject: &Subject<'_>,
    ) -> Result<Hop, Error> {
        let name = read_name(&self.slot(id).name).to_owned();
        let (ifindex, port) = self.port(id, subject).ok_or_else(|| Error::NoPort(name.clone()))?;
        if let Some(wrong) = self.in_force.wrong_on(ifindex, port)?.into_iter().next() {
            return Err(Error::NotOurs(wrong));
        }
        let asked = self.in_force.program(hook)?.ask(subject.frame, ifindex, mark)?;
        let weighed = self.weighed(&name, hook, asked, subject)?;
        let steps = self.steps(id, hook, asked, subject, &weighed)?;
        let interface = read_name(&port.name).to_owned();
        let is_told = hook == Hook::PortEgress
            && self.slot(id).flags & slot_flags::REJECT != 0
            && matches!(asked, Asked::Drop(reason) if reason.is_of_policy());
        Ok(Hop { slot: name, interface, hook, asked, weighed, is_told, steps })
    }

    /// The slot's port of that name, or any.
    fn port(&self, id: SlotId, subject: &Subject<'_>) -> Option<(u32, &PortEntry)> {
        let is_port = |port: &PortEntry| port.slot_id == id && port.kind == PortKind::Port as u8;
        let ports = || self.view.ports.iter().filter(|(_, port)| is_port(port));
        let is_it = |port: &PortEntry| subject.interface == Some(read_name(&port.name));
        let found = ports().find(|(_, port)| is_it(port)).or_else(|| ports().next());
        found.map(|(ifindex, port)| (*ifindex, port))
    }

    fn weighed(
        &self,
        slot: &str,
        hook: Hook,
        asked: Asked,
        subject: &Subject<'_>,
    ) -> Result<Value, Error> {
        let place = match subject.peer(hook) {
            Some(peer) => self.in_force.place(peer)?,
            None => None,
        };
        let packet = Weighed {
            slot: slot.to_owned(),
            direction: direction_of(hook),
            frame: subject.frame.to_vec(),
            reason: if let Asked::Drop(reason) = asked { Some(reason) } else { None },
            place: place.and_then(|entry| Place::from_raw(entry.place)),
        };
        Ok((self.weigh)(&packet)?.unwrap_or_default())
    }
}
