//! The only code that touches packet memory.

use netguard_common::DropReason;

/// Reads headers one after the other from the start of a frame.
pub struct Cursor {
    start: usize,
    end: usize,
    offset: usize,
}

impl Cursor {
    /// A cursor at the start of the memory that [`crate::frame::Frame::memory`] gave.
    #[inline(always)]
    pub fn new((start, end): (usize, usize)) -> Self {
        Self { start, end, offset: 0 }
    }

    /// How many bytes have been read.
    #[inline(always)]
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Reads the next header, or says that the frame ends before it.
    #[inline(always)]
    pub fn take<T: Header>(&mut self) -> Result<T, DropReason> {
        let at = self.start + self.offset;
        if at + size_of::<T>() > self.end {
            return Err(DropReason::Truncated);
        }
        self.offset += size_of::<T>();
        // SAFETY: `at` and the bytes of `T` behind it lie within packet memory, as checked above
        // (the verifier checks it again); a header is valid for every bit pattern.
        Ok(unsafe { (at as *const T).read_unaligned() })
    }
}

/// A header as it lies in the packet.
///
/// # Safety
///
/// The type is valid for every bit pattern and has no padding.
pub unsafe trait Header: Copy {}

// SAFETY: bytes.
unsafe impl<const N: usize> Header for [u8; N] {}
// SAFETY: integers.
unsafe impl Header for [u64; 2] {}
