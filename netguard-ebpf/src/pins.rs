//! Pins: whether a DNS answer gave the slot an address. Only slots that ask for pins come here.

use core::mem::MaybeUninit;

use netguard_common::{
    SlotId,
    pin::{PIN_LANES, PinEntry, PinKey},
};

use crate::{
    clock,
    maps::PINS,
    packet::{TCP, UDP},
    reach::Attempt,
    words,
};

/// True if the peer's address is pinned for the slot, and for that port, right now.
#[inline(always)]
pub fn is_pinned(attempt: &Attempt, own: SlotId) -> bool {
    is_pinned_apart(attempt, own.into()) == 1
}

/// How often a pin is looked for. To the kernel's hash table a renewed entry is another one, and the old one's memory
/// is used again at once: who is reading it just then finds another key in it, or no entry at all.
const LOOKS: u32 = 3;

/// A function of its own in BPF too, because of the stack that its key takes.
#[inline(never)]
fn is_pinned_apart(attempt: &Attempt, own: u32) -> u32 {
    let key = &key(attempt, own);
    let has_ports = matches!(attempt.protocol, TCP | UDP);
    let port = if has_ports { u16::from_be(attempt.port_be) } else { 0 };
    // The exact clock, which is read for new flows only: what is over is over.
    let now_ns = clock::now_ns();
    let mut looks = 0;
    loop {
        // SAFETY: an entry stays readable for the whole program, and what its lanes say counts only if the entry is
        // still this key's after they have been read.
        if let Some(entry) = unsafe { PINS.get(key) } {
            let is_open = has_open_lane(entry, port, now_ns);
            if is_same(entry, key) {
                return is_open.into();
            }
        }
        looks += 1;
        if looks == LOOKS {
            return 0;
        }
    }
}

/// Counted at its end, for Linux 6.1: see `dns_flows::acquire`.
#[inline(always)]
fn has_open_lane(entry: &PinEntry, port: u16, now_ns: u64) -> bool {
    let mut number = 0;
    loop {
        let Some(lane) = entry.lanes.get(number) else { return false };
        if lane.is_open(port, now_ns) {
            return true;
        }
        number += 1;
        if number == PIN_LANES {
            return false;
        }
    }
}

/// Written by words, see `words`.
#[inline(always)]
fn key(attempt: &Attempt, own: u32) -> PinKey {
    let mut key = MaybeUninit::<PinKey>::uninit();
    let to = key.as_mut_ptr();
    // SAFETY: the key is an address and a word, of which the slot is the low end (the target is little-endian) and
    // the rest is zero; every byte of it is written.
    unsafe {
        words::put_address(&mut (*to).address, attempt.peer.words());
        let rest = (&raw mut (*to).slot_id).cast::<u64>();
        rest.write_volatile(u64::from(own as SlotId));
        key.assume_init()
    }
}

/// Reads what is there now, whatever was read of the entry before.
#[inline(always)]
fn is_same(entry: &PinEntry, key: &PinKey) -> bool {
    let (here, wanted) =
        ((&raw const entry.key).cast::<[u64; 3]>(), (&raw const *key).cast::<[u64; 3]>());
    // SAFETY: a key is three words, aligned as such.
    let ([a, b, c], [d, e, f]) = unsafe { (here.read_volatile(), wanted.read()) };
    (a ^ d) | (b ^ e) | (c ^ f) == 0
}
