//! What the daemon has written for the programs: lookups in the policy maps.

use core::mem::MaybeUninit;

use aya_ebpf::btf_maps::lpm_trie::Key;
use netguard_common::{
    Address, DropReason, NO_SLOT, SlotId,
    maps::{
        self, PlaceEntry, PortKind, RULE_SLOT_BITS, SERVICE_BITS, ServiceEntry, SlotEntry,
        slot_flags,
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
    SLOTS.get(slot_id.into()).filter(|slot| slot.flags & slot_flags::PRESENT != 0)
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
    PLACES.get(&key(128, address.0))
}

/// What the slot's rules say of a service at an address; `None` if none speaks of it.
#[inline(always)]
pub fn rule(slot_id: SlotId, address: Address, protocol: u8, port_be: u16) -> Option<ServiceEntry> {
    let address = key(RULE_SLOT_BITS + 128, maps::rule_key(slot_id, address));
    service(*RULES.get(&address)?, protocol, port_be)
}

/// True if a set allows a service.
#[inline(always)]
pub fn is_service(set: u32, protocol: u8, port_be: u16) -> bool {
    service(set, protocol, port_be).is_some_and(|entry| entry.allowed == 1)
}

#[inline(always)]
fn service(set: u32, protocol: u8, port_be: u16) -> Option<ServiceEntry> {
    let protocol = if protocol == ICMPV6 { ICMP } else { protocol };
    let service = maps::service_key(set, protocol, u16::from_be(port_be));
    SERVICES.get(&key(SERVICE_BITS, service)).copied()
}

/// A key of a longest-prefix map, written word by word: the data stands at an offset of 4, and the stack takes
/// no double word there (see build.rs).
#[inline(always)]
fn key<const BYTES: usize>(bits: u32, data: [u8; BYTES]) -> Key<[u8; BYTES]> {
    let mut key = MaybeUninit::<Key<[u8; BYTES]>>::uninit();
    let words = key.as_mut_ptr().cast::<u32>();
    // SAFETY: the key is packed, a word of length and then the data, whose length is a multiple of a word in
    // all three maps; every byte of it is written.
    unsafe {
        words.write_volatile(bits);
        for (index, word) in data.as_chunks::<4>().0.iter().enumerate() {
            words.add(index + 1).write_volatile(u32::from_ne_bytes(*word));
        }
        key.assume_init()
    }
}
