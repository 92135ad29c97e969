//! Frames made in the kernel: a program that BPF_PROG_TEST_RUN runs with live frames, each of which it gives a flow of its own
//! and sends. What a frame costs is then what became of it, and hardly what made it.

use std::io;

use netguard_tests::raw::{Sender, instruction};

const XDP_TX: i32 = 3;
const GET_PRANDOM_U32: i32 = 7;
/// Ethernet, IPv4 without options, UDP.
const HEADERS: usize = 42;
/// Where the ports of an IPv4 packet without options are.
const SRC_PORT: i16 = 34;
const DST_PORT: i16 = 36;
const FIRST_SRC_PORT: i32 = 10_000;
const FIRST_DST_PORT: i32 = 9_000;
/// This many flows differ in the source port; more differ in the destination's, too.
const SRC_PORTS_LOG: i32 = 14;

/// A loaded program.
pub struct Injector {
    sender: Sender,
    frame: Vec<u8>,
}

/// Sends each frame back by the interface that it is said to have come by, as one of so many flows (a power of two). Its headers
/// are written anew, because the kernel takes the memory of frames that have gone for those that follow.
fn sender(frame: &[u8], flows: i32) -> Vec<u64> {
    let words = frame[..HEADERS].chunks_exact(2).zip((0..).step_by(2));
    let headers = words.map(|(word, offset)| {
        instruction(0x6a, 6, 0, offset, u16::from_le_bytes([word[0], word[1]]).into())
    });
    let headers: Vec<_> = headers.collect();
    let skip = i16::try_from(headers.len() + 11).expect("a short program");
    let begin = [
        instruction(0x61, 2, 1, 0, 0),              // r2 = data
        instruction(0x61, 3, 1, 4, 0),              // r3 = data_end
        instruction(0xbf, 6, 2, 0, 0),              // r6 = r2
        instruction(0x07, 2, 0, 0, HEADERS as i32), // r2 += 42
        instruction(0x2d, 2, 3, skip, 0),           // if r2 > r3 goto send
    ];
    let ports = [
        instruction(0x85, 0, 0, 0, GET_PRANDOM_U32), // r0 = random
        instruction(0x57, 0, 0, 0, flows - 1),       // r0 &= flows - 1
        instruction(0xbf, 7, 0, 0, 0),               // r7 = r0
        instruction(0x77, 7, 0, 0, SRC_PORTS_LOG),   // r7 >>= 14
        instruction(0x07, 7, 0, 0, FIRST_DST_PORT),  // r7 += first
        instruction(0xdc, 7, 0, 0, 16),              // to network order
        instruction(0x6b, 6, 7, DST_PORT, 0),        // into the frame
        instruction(0x57, 0, 0, 0, (1 << SRC_PORTS_LOG) - 1), // r0 &= 16383
        instruction(0x07, 0, 0, 0, FIRST_SRC_PORT),  // r0 += first
        instruction(0xdc, 0, 0, 0, 16),              // to network order
        instruction(0x6b, 6, 0, SRC_PORT, 0),        // into the frame
    ];
    let send = [instruction(0xb7, 0, 0, 0, XDP_TX), instruction(0x95, 0, 0, 0, 0)];
    [&begin[..], &headers, &ports, &send].concat()
}

impl Injector {
    /// One that sends such frames, UDP over IPv4, in so many flows (a power of two).
    pub fn of(frame: &[u8], flows: u32) -> io::Result<Self> {
        let sender = Sender::load(&sender(frame, flows.cast_signed()))?;
        Ok(Self { sender, frame: frame.to_vec() })
    }

    /// Sends so many frames by an interface of the calling thread's namespace.
    pub fn send(&self, ifindex: u32, count: u32) -> io::Result<()> {
        self.sender.run(&self.frame, ifindex, count)
    }
}
