//! What the daemon has written for the programs: lookups in the policy maps, no decisions.

use aya_ebpf::btf_maps::lpm_trie::Key;
use netguard_common::{
    Address, SlotId,
    maps::{PlaceEntry, SlotEntry},
};

use crate::{
    frame::Frame,
    maps::{PLACES, PORTS, SLOTS},
};

/// The slot that the frame's interface belongs to.
#[inline(always)]
pub fn slot_of<F: Frame>(frame: &F) -> Option<SlotId> {
    // SAFETY: entries are replaced whole, and the one field that is read is an aligned word.
    unsafe { PORTS.get(frame.ifindex()) }.map(|port| port.slot_id)
}

/// What the programs must know of a slot.
#[inline(always)]
pub fn slot(slot_id: SlotId) -> Option<&'static SlotEntry> {
    // SAFETY: entries are replaced whole and stay readable for the whole program.
    unsafe { SLOTS.get(slot_id) }
}

/// What lies at an address: the longest prefix that the policy names.
#[inline(always)]
pub fn place_of(address: Address) -> Option<PlaceEntry> {
    PLACES.get(&Key::new(128, address.0)).copied()
}
