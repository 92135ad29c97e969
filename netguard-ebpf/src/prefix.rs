//! Keys of longest-prefix maps.

use core::mem::MaybeUninit;

use aya_ebpf::btf_maps::lpm_trie::Key;

/// A key of a longest-prefix map, written word by word: the data stands at an offset of 4, and the stack takes
/// no double word there (see build.rs).
#[inline(always)]
pub fn key<const BYTES: usize>(bits: u32, data: [u8; BYTES]) -> Key<[u8; BYTES]> {
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
