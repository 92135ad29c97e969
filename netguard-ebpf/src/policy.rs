//! What the daemon has written for the programs: lookups in the policy maps.

use aya_ebpf::btf_maps::lpm_trie::Key;
use netguard_common::{
    Address, DropReason, NO_SLOT, SlotId,
    maps::{PlaceEntry, SlotEntry},
};

use crate::{
    frame::Frame,
    maps::{PLACES, PORTS, SLOTS},
    report::Verdict,
};

/// Decides for the slot that the frame's interface belongs to; an interface without one is closed.
#[inline(always)]
pub fn in_slot<F: Frame>(
    frame: &F,
    decide: impl FnOnce(SlotId) -> Result<Verdict, DropReason>,
) -> (SlotId, Verdict) {
    // SAFETY: entries are replaced whole, and the one field that is read is an aligned word.
    let Some(port) = (unsafe { PORTS.get(frame.ifindex()) }) else {
        return (NO_SLOT, Verdict::Drop(DropReason::UnknownPort));
    };
    (port.slot_id, decide(port.slot_id).unwrap_or_else(Verdict::Drop))
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
