//! The only code that touches packet memory.

use aya_ebpf::programs::TcContext;
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

/// Some bytes of a packet that are rewritten. What a helper does to the packet ends it: then it is made anew.
pub struct Window<const LENGTH: usize> {
    at: usize,
}

impl<const LENGTH: usize> Window<LENGTH> {
    /// The bytes at an offset of the frame, which must be directly writable.
    #[inline(always)]
    pub fn at(ctx: &TcContext, offset: usize) -> Result<Self, DropReason> {
        // What the compiler sees through it adds up anew for each access, and the verifier does not know that sum.
        let at = core::hint::black_box(ctx.data() + offset);
        if at + LENGTH > ctx.data_end() { Err(DropReason::Internal) } else { Ok(Self { at }) }
    }

    /// Reads some of them.
    #[inline(always)]
    pub fn load<T: Header, const AT: usize>(&self) -> T {
        const { assert!(AT + size_of::<T>() <= LENGTH) };
        // SAFETY: the bytes lie within the window, as asserted, and that in packet memory (the verifier checks it again);
        // a header is valid for every bit pattern.
        unsafe { ((self.at + AT) as *const T).read_unaligned() }
    }

    /// Writes some of them.
    #[inline(always)]
    pub fn store<T: Header, const AT: usize>(&self, value: T) {
        const { assert!(AT + size_of::<T>() <= LENGTH) };
        // SAFETY: as for `load`; the packet is this program's to change.
        unsafe { ((self.at + AT) as *mut T).write_unaligned(value) };
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
// SAFETY: integers.
unsafe impl Header for [u32; 3] {}
// SAFETY: integers.
unsafe impl<const N: usize> Header for [u16; N] {}
// SAFETY: an integer.
unsafe impl Header for u8 {}
// SAFETY: an integer.
unsafe impl Header for u16 {}
// SAFETY: an integer.
unsafe impl Header for u32 {}
