//! Breaking frames where it matters.

use rand::{RngExt as _, rngs::SmallRng, seq::IndexedRandom as _};

/// Breaks a frame in one to three places. It keeps at least the Ethernet header, below which the
/// kernel runs nothing.
pub fn mutate(random: &mut SmallRng, frame: &mut Vec<u8>) {
    for _ in 0..random.random_range(1..=3) {
        let length = frame.len();
        if length <= 14 {
            return;
        }
        // The headers are where it matters.
        let end = if random.random_bool(0.8) { 80 } else { 1500 };
        let at = random.random_range(6..length.min(end));
        match random.random_range(0..8) {
            0 | 1 => frame[at] ^= 1 << random.random_range(0..8),
            2 => frame[at] = random.random(),
            3 => frame[at] = if random.random_bool(0.5) { 0 } else { 0xff },
            4 => frame.truncate(random.random_range(14..length)),
            5 => frame.resize(length + random.random_range(1..60), 0),
            6 => {
                // Where length fields, flags and offsets are.
                let field = [14, 16, 17, 18, 19, 20, 21, 23, 38, 39, 46, 47, 56, 57, 58, 59, 66];
                let at = *field.choose(random).expect("the list is not empty");
                if let Some(byte) = frame.get_mut(at) {
                    *byte = byte.wrapping_add(random.random_range(1..=255));
                }
            }
            _ => {
                let other = random.random_range(14..length);
                frame.swap(at.max(14).min(length - 1), other);
            }
        }
    }
}
