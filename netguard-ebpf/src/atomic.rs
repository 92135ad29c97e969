//! Compare-and-swap and the like in map memory. BPF has it (Linux 5.12), rustc's BPF target does not offer it yet: its
//! specification says `atomic-cas: false` because older kernels lack it. With that changed,
//! `core::sync::atomic` can take the place of this file.

use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_or, atomic_xchg};

const ORDER: AtomicOrdering = AtomicOrdering::SeqCst;

/// Puts `new` in the place of `old`; false if something else was there. A full barrier.
///
/// # Safety
///
/// `word` must be valid for reads and writes and aligned.
#[inline(always)]
pub unsafe fn replace(word: *mut u64, old: u64, new: u64) -> bool {
    // SAFETY: the caller's.
    unsafe { atomic_cxchg::<u64, ORDER, ORDER>(word, old, new).1 }
}

/// Writes `new` after everything before it. A full barrier.
///
/// # Safety
///
/// As for [`replace`].
#[inline(always)]
pub unsafe fn publish(word: *mut u64, new: u64) {
    // SAFETY: the caller's.
    let _ = unsafe { atomic_xchg::<u64, ORDER>(word, new) };
}

/// Sets bits. A full barrier.
///
/// # Safety
///
/// As for [`replace`].
#[inline(always)]
pub unsafe fn set(word: *mut u64, bits: u64) {
    // SAFETY: the caller's.
    let _ = unsafe { atomic_or::<u64, u64, ORDER>(word, bits) };
}
