//! What the daemon has written for the programs: lookups in the policy maps.

use aya_ebpf::btf_maps::lpm_trie::Key;
use netguard_common::{
    Address, DropReason, NO_SLOT, SlotId,
    maps::{
        self, PlaceEntry, PortKind, RULE_SLOT_BITS, SERVICE_BITS, ServiceEntry, SlotEntry,
    },
};

use crate::{
    frame::Frame,
    maps::{PLACES, PORTS, RULES, SERVICES, SLOTS},
    packet::{ICMP, ICMPV6},
    report::Verdict,
};

/// Decides for the slot that the frame's interface belongs to; an interface without one is closed.
#[inline(always)]
pub fn in_slot<F: Frame>(
    frame: &F,
    decide: impl FnOnce(SlotId, &'static SlotEntry) -> Result<Verdict, DropReason>,
) -> (SlotId, Verdict) {
    // SAFETY: entries are replaced whole, and the one field that is read is an aligned word.
    let Some(port) = (unsafe { PORTS.get(frame.ifindex()) }) else {
        return (NO_SLOT, Verdict::Drop(DropReason::UnknownPort));
    };
    let slot_id = port.slot_id;
    let Some(slot) = slot(slot_id) else {
        return (NO_SLOT, Verdict::Drop(DropReason::UnknownPort));
    };
    (slot_id, decide(slot_id, slot).unwrap_or_else(Verdict::Drop))
}

/// What the programs must know of a slot.
#[inline(always)]
pub fn slot(slot_id: SlotId) -> Option<&'static SlotEntry> {
    // SAFETY: entries are replaced whole and stay readable for the whole program.
    unsafe { SLOTS.get(slot_id) }
}

/// True for an interface towards the internet.
#[inline(always)]
pub fn is_uplink(ifindex: u32) -> bool {
    // SAFETY: as in `in_slot`.
    unsafe { PORTS.get(ifindex) }.is_some_and(|port| port.kind == PortKind::Uplink as u8)
}

/// What lies at an address: the longest prefix that the policy names.
#[inline(always)]
pub fn place_of(address: Address) -> Option<&'static PlaceEntry> {
    place_apart(&address)
}

/// A function of its own in BPF too, so that its key takes stack only once.
#[inline(never)]
fn place_apart(address: &Address) -> Option<&'static PlaceEntry> {
    PLACES.get(&Key::new(128, address.0))
}

/// What the slot's rules say of a service at an address; `None` if none speaks of it.
#[inline(always)]
pub fn rule(slot_id: SlotId, address: Address, protocol: u8, port_be: u16) -> Option<ServiceEntry> {
    let key = Key::new(RULE_SLOT_BITS + 128, maps::rule_key(slot_id, address));
    service(*RULES.get(&key)?, protocol, port_be)
}

/// True if a set allows a service.
#[inline(always)]
pub fn is_service(set: u32, protocol: u8, port_be: u16) -> bool {
    service(set, protocol, port_be).is_some_and(|entry| entry.allowed == 1)
}

#[inline(always)]
fn service(set: u32, protocol: u8, port_be: u16) -> Option<ServiceEntry> {
    let protocol = if protocol == ICMPV6 { ICMP } else { protocol };
    let key = maps::service_key(set, protocol, u16::from_be(port_be));
    SERVICES.get(&Key::new(SERVICE_BITS, key)).copied()
}
