//! Frames made in the kernel: a program that BPF_PROG_TEST_RUN runs with live frames, each of which it gives a flow of its own
//! and sends. What a frame costs is then what became of it, and hardly what made it.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

/// `bpf_cmd` of include/uapi/linux/bpf.h.
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_TEST_RUN: libc::c_int = 10;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 2;
const XDP_TX: i32 = 3;
const GET_PRANDOM_U32: i32 = 7;
/// At once: as many as NAPI takes.
const BATCH: u32 = 64;
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
    program: OwnedFd,
    frame: Vec<u8>,
}

/// `struct bpf_insn`
fn instruction(code: u8, dst: u8, src: u8, offset: i16, value: i32) -> u64 {
    let registers = src << 4 | dst;
    let [low, high] = offset.to_le_bytes();
    let [a, b, c, d] = value.to_le_bytes();
    u64::from_le_bytes([code, registers, low, high, a, b, c, d])
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
        let instructions = sender(frame, flows.cast_signed());
        let license = c"GPL";
        let mut attributes = Attributes::default();
        attributes.put(0, BPF_PROG_TYPE_XDP);
        attributes.put(4, instructions.len() as u32);
        attributes.put_pointer(8, instructions.as_ptr().cast());
        attributes.put_pointer(16, license.as_ptr().cast());
        let loaded = attributes.call(BPF_PROG_LOAD)?;
        // SAFETY: the kernel has just made this descriptor, and nobody else has it.
        Ok(Self { program: unsafe { OwnedFd::from_raw_fd(loaded) }, frame: frame.to_vec() })
    }

    /// Sends so many frames by an interface of the calling thread's namespace.
    pub fn send(&self, ifindex: u32, count: u32) -> io::Result<()> {
        let Self { program, frame } = self;
        // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex
        let context = [0, frame.len() as u32, 0, ifindex, 0, 0];
        let mut attributes = Attributes::default();
        attributes.put(0, program.as_raw_fd().cast_unsigned());
        attributes.put(8, frame.len() as u32);
        attributes.put_pointer(16, frame.as_ptr().cast());
        attributes.put(32, count);
        attributes.put(40, size_of_val(&context) as u32);
        attributes.put_pointer(48, context.as_ptr().cast());
        attributes.put(64, BPF_F_TEST_XDP_LIVE_FRAMES);
        attributes.put(72, BATCH);
        attributes.call(BPF_PROG_TEST_RUN).map(|_| ())
    }
}

/// `union bpf_attr`, zero but for what is put into it.
#[repr(align(8))]
struct Attributes([u8; 128]);

impl Default for Attributes {
    fn default() -> Self {
        Self([0; 128])
    }
}

impl Attributes {
    fn put(&mut self, offset: usize, value: u32) {
        self.0[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
    }

    fn put_pointer(&mut self, offset: usize, pointer: *const libc::c_void) {
        self.0[offset..offset + 8]
            .copy_from_slice(&(pointer.expose_provenance() as u64).to_ne_bytes());
    }

    fn call(&mut self, command: libc::c_int) -> io::Result<libc::c_int> {
        // SAFETY: the attributes are as long as is said, and what they point to outlives the call.
        let result =
            unsafe { libc::syscall(libc::SYS_bpf, command, self.0.as_ptr(), self.0.len()) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as libc::c_int) }
    }
}
