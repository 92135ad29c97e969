//! What the daemon has written for the programs: lookups in the policy maps.
//!
//! The maps hold two policies. [`at_port`] asks once which side counts; all else that the packet needs is looked
//! up on the side of the slot's entry, so that no packet sees something of both.

use netguard_common::{
    Address, DropReason, NO_SLOT, SlotId,
    maps::{
        self, PLACE_SIDE_BITS, PlaceEntry, PortEntry, PortKey, PortKind, RULE_SLOT_BITS,
        SERVICE_BITS, ServiceEntry, Side, SlotEntry, UplinkEntry, slot_flags,
    },
};

use crate::{
    frame::Frame,
    maps::{ACTIVE, PLACES, PORTS, RULES, SERVICES, SLOTS, UPLINKS},
    packet::{ICMP, ICMPV6},
    prefix::key,
    report::Verdict,
};

/// Decides for the slot that the frame's interface belongs to; an interface without one is closed.
#[inline(always)]
pub fn in_slot<F: Frame>(
    frame: &F,
    decide: impl FnOnce(SlotId, &'static SlotEntry) -> Result<Verdict, DropReason>,
) -> (SlotId, Verdict) {
    at_port(frame, |port, slot| decide(port.slot_id, slot))
}

/// The same for who must know of the interface too.
#[inline(always)]
pub fn at_port<F: Frame>(
    frame: &F,
    decide: impl FnOnce(&'static PortEntry, &'static SlotEntry) -> Result<Verdict, DropReason>,
) -> (SlotId, Verdict) {
    let Some((port, slot)) = port_of(frame.ifindex()) else {
        return (NO_SLOT, Verdict::Drop(DropReason::UnknownPort));
    };
    (port.slot_id, decide(port, slot).unwrap_or_else(Verdict::Drop))
}

/// The one place where it is asked which side counts.
#[inline(always)]
fn port_of(ifindex: u32) -> Option<(&'static PortEntry, &'static SlotEntry)> {
    let side = *ACTIVE.get(0)?;
    let port = port(side, ifindex)?;
    Some((port, slot_on(side, port.slot_id)?))
}

#[inline(always)]
fn port(side: Side, ifindex: u32) -> Option<&'static PortEntry> {
    // SAFETY: nobody writes to the side that counts, nor to the other one while a program is still on it.
    unsafe { PORTS.get(PortKey { ifindex, side }) }
}

#[inline(always)]
pub fn slot_on(side: Side, slot_id: SlotId) -> Option<&'static SlotEntry> {
    let slot = SLOTS.get(maps::slot_index(side, slot_id));
    slot.filter(|slot| slot.flags & slot_flags::PRESENT != 0)
}

/// What the fast path must know of an interface, and the side that counts; `None` if it is none that it may take.
#[inline(always)]
pub fn uplink_of(ifindex: u32) -> Option<(Side, &'static UplinkEntry)> {
    let side = *ACTIVE.get(0)?;
    Some((side, uplink(side, ifindex)?))
}

/// The same, on a side that is known.
#[inline(always)]
pub fn uplink(side: Side, ifindex: u32) -> Option<&'static UplinkEntry> {
    // SAFETY: as for `port`.
    unsafe { UPLINKS.get(PortKey { ifindex, side }) }
}

/// A slot, if the interface is a port of it.
#[inline(always)]
pub fn slot_at(side: Side, slot_id: SlotId, ifindex: u32) -> Option<&'static SlotEntry> {
    let port = port(side, ifindex)?;
    let is_its = port.slot_id == slot_id && port.kind == PortKind::Port as u8;
    if is_its { slot_on(side, slot_id) } else { None }
}

/// What the programs must know of another slot of the same policy.
#[inline(always)]
pub fn slot(of: &SlotEntry, slot_id: SlotId) -> Option<&'static SlotEntry> {
    slot_on(of.side, slot_id)
}

/// True for an interface towards the internet.
#[inline(always)]
pub fn is_uplink(of: &SlotEntry, ifindex: u32) -> bool {
    port(of.side, ifindex).is_some_and(|port| PortKind::is_uplink(port.kind))
}

/// What lies at an address: the longest prefix that the policy names.
#[inline(always)]
pub fn place_of(of: &SlotEntry, address: Address) -> Option<&'static PlaceEntry> {
    place_apart(of.side, &address)
}

/// A function of its own in BPF too, so that its key takes stack only once.
#[inline(never)]
fn place_apart(side: Side, address: &Address) -> Option<&'static PlaceEntry> {
    PLACES.get(&key(PLACE_SIDE_BITS + 128, maps::place_key(side, *address)))
}

/// What the slot's rules say of a service at an address; `None` if none speaks of it.
#[inline(always)]
pub fn rule(
    of: &SlotEntry,
    slot_id: SlotId,
    address: Address,
    protocol: u8,
    port_be: u16,
) -> Option<ServiceEntry> {
    let address = key(RULE_SLOT_BITS + 128, maps::rule_key(of.side, slot_id, address));
    service(of, *RULES.get(&address)?, protocol, port_be)
}

/// True if a set allows a service.
#[inline(always)]
pub fn is_service(of: &SlotEntry, set: u32, protocol: u8, port_be: u16) -> bool {
    service(of, set, protocol, port_be).is_some_and(|entry| entry.allowed == 1)
}

#[inline(always)]
fn service(of: &SlotEntry, set: u32, protocol: u8, port_be: u16) -> Option<ServiceEntry> {
    let protocol = if protocol == ICMPV6 { ICMP } else { protocol };
    let service = maps::service_key(of.side, set, protocol, u16::from_be(port_be));
    SERVICES.get(&key(SERVICE_BITS, service)).copied()
}
