//! Copies by words. What the compiler takes for a copy of bytes becomes a call of `memmove`, a loop over single bytes:
//! see `headers` for what that costs.

use netguard_common::{Address, flow::FlowKey};

/// Writes an address.
#[inline(always)]
pub fn put_address(to: &mut Address, [high, low]: [u64; 2]) {
    let words = (&raw mut *to).cast::<u64>();
    // SAFETY: an address is two words, aligned as such.
    unsafe {
        words.write_volatile(high);
        words.add(1).write_volatile(low);
    }
}

/// Writes a flow's key.
///
/// # Safety
///
/// `to` must be valid for writes.
#[inline(always)]
pub unsafe fn put_key(to: *mut FlowKey, key: &FlowKey) {
    let words = to.cast::<u64>();
    for (index, word) in key.words().into_iter().enumerate() {
        // SAFETY: a key is five words, aligned as such; the rest is the caller's.
        unsafe { words.add(index).write_volatile(word) };
    }
}

/// Writes an address in network order where the kernel has it as four words.
///
/// # Safety
///
/// `to` must be valid for writes of 16 bytes.
#[inline(always)]
pub unsafe fn put_words(to: *mut u32, address: Address) {
    for (index, word) in address.0.as_chunks::<4>().0.iter().enumerate() {
        // SAFETY: four words are 16 bytes; the rest is the caller's.
        unsafe { to.add(index).write_volatile(u32::from_ne_bytes(*word)) };
    }
}
