//! Small programs written as instructions and loaded by bpf(2) itself: nothing of netguard's own code has a part in them.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    time::Duration,
};

/// `bpf_cmd` of include/uapi/linux/bpf.h.
const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_TEST_RUN: libc::c_int = 10;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_MAP_TYPE_HASH: u32 = 1;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 2;
const TC_ACT_SHOT: i32 = 2;
/// So many live frames at once: as many as NAPI takes.
const BATCH: u32 = 64;
const BPF_PSEUDO_MAP_FD: u8 = 1;
const MAP_LOOKUP_ELEM: i32 = 1;
const REDIRECT: i32 = 23;
const XDP_PASS: i32 = 2;
/// Where `struct __sk_buff` has the interface.
const SKB_IFINDEX: i16 = 40;

/// What the calibration does: so many lookups in a hash, and as many rounds of arithmetic with what is found.
const LOOKUPS: i32 = 8;
/// Two thirds of what it may hold.
const ENTRIES: u32 = 1024;

/// `struct bpf_insn`
#[must_use]
pub fn instruction(code: u8, dst: u8, src: u8, offset: i16, value: i32) -> u64 {
    let registers = src << 4 | dst;
    let [low, high] = offset.to_le_bytes();
    let [a, b, c, d] = value.to_le_bytes();
    u64::from_le_bytes([code, registers, low, high, a, b, c, d])
}

/// A program that does the same on every machine and in every release: what others cost, in its time, can be compared.
#[derive(Debug)]
pub struct Calibration {
    program: OwnedFd,
    /// Lives as long as the program.
    _map: OwnedFd,
}

impl Calibration {
    /// Loads it.
    ///
    /// # Errors
    ///
    /// The kernel refuses map or program.
    pub fn load() -> io::Result<Self> {
        let mut attributes = Attributes::default();
        for (offset, value) in [(0, BPF_MAP_TYPE_HASH), (4, 4), (8, 8), (12, ENTRIES * 3 / 2)] {
            attributes.put(offset, value);
        }
        let map = attributes.descriptor(BPF_MAP_CREATE)?;
        for key in 0..ENTRIES {
            let value = u64::from(key) << 32 | 1;
            let mut attributes = Attributes::default();
            attributes.put(0, map.as_raw_fd().cast_unsigned());
            attributes.put_pointer(8, (&raw const key).cast());
            attributes.put_pointer(16, (&raw const value).cast());
            attributes.call(BPF_MAP_UPDATE_ELEM)?;
        }
        let program = load(BPF_PROG_TYPE_XDP, &instructions(map.as_raw_fd()))?;
        Ok(Self { program, _map: map })
    }

    /// How long it takes, on average of so many runs in a row.
    ///
    /// # Errors
    ///
    /// The kernel refuses the run.
    pub fn time(&self, repeat: u32) -> io::Result<Duration> {
        const DURATION: usize = 36;
        let frame = [0; 64];
        let mut attributes = Attributes::default();
        attributes.put(0, self.program.as_raw_fd().cast_unsigned());
        attributes.put(8, frame.len() as u32);
        attributes.put_pointer(16, frame.as_ptr().cast());
        attributes.put(32, repeat);
        attributes.call(BPF_PROG_TEST_RUN)?;
        Ok(Duration::from_nanos(attributes.get(DURATION).into()))
    }
}

fn load(kind: u32, instructions: &[u64]) -> io::Result<OwnedFd> {
    let license = c"GPL";
    let mut attributes = Attributes::default();
    attributes.put(0, kind);
    attributes.put(4, instructions.len() as u32);
    attributes.put_pointer(8, instructions.as_ptr().cast());
    attributes.put_pointer(16, license.as_ptr().cast());
    attributes.descriptor(BPF_PROG_LOAD)
}

/// An XDP program that is run with live frames: what it sends is on its way.
#[derive(Debug)]
pub struct Sender(OwnedFd);

impl Sender {
    /// Loads it.
    ///
    /// # Errors
    ///
    /// The kernel refuses it.
    pub fn load(instructions: &[u64]) -> io::Result<Self> {
        load(BPF_PROG_TYPE_XDP, instructions).map(Self)
    }

    /// Runs it with so many frames that are said to have come by an interface of the calling thread's namespace.
    ///
    /// # Errors
    ///
    /// The kernel refuses the run.
    pub fn run(&self, frame: &[u8], ifindex: u32, count: u32) -> io::Result<()> {
        // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex
        let context = [0, frame.len() as u32, 0, ifindex, 0, 0];
        let mut attributes = Attributes::default();
        attributes.put(0, self.0.as_raw_fd().cast_unsigned());
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

/// What ends each packet's way where it enters an interface of the calling thread's namespace by TC, for as long as it lives
/// (tcx, Linux 6.6): so what it costs to come that far can be taken off from what everything costs.
#[derive(Debug)]
pub struct End {
    _link: OwnedFd,
}

impl End {
    /// Drops it.
    ///
    /// # Errors
    ///
    /// The kernel refuses it.
    pub fn hole(ifindex: u32) -> io::Result<Self> {
        Self::at(ifindex, &[instruction(0xb7, 0, 0, 0, TC_ACT_SHOT), instruction(0x95, 0, 0, 0, 0)])
    }

    /// Sends it back as it is.
    ///
    /// # Errors
    ///
    /// The kernel refuses it.
    pub fn mirror(ifindex: u32) -> io::Result<Self> {
        let program = [
            instruction(0x61, 1, 1, SKB_IFINDEX, 0),
            instruction(0xb7, 2, 0, 0, 0), // to the other end
            instruction(0x85, 0, 0, 0, REDIRECT),
            instruction(0x95, 0, 0, 0, 0),
        ];
        Self::at(ifindex, &program)
    }

    fn at(ifindex: u32, instructions: &[u64]) -> io::Result<Self> {
        let program = load(BPF_PROG_TYPE_SCHED_CLS, instructions)?;
        let mut attributes = Attributes::default();
        attributes.put(0, program.as_raw_fd().cast_unsigned());
        attributes.put(4, ifindex);
        attributes.put(8, BPF_TCX_INGRESS);
        Ok(Self { _link: attributes.descriptor(BPF_LINK_CREATE)? })
    }
}

fn instructions(map: i32) -> Vec<u64> {
    let mixing = [
        instruction(0x27, 6, 0, 0, 0x5851_f42d), // r6 *= odd
        instruction(0xbf, 1, 6, 0, 0),           // r1 = r6
        instruction(0x77, 1, 0, 0, 29),          // r1 >>= 29
        instruction(0xaf, 6, 1, 0, 0),           // r6 ^= r1
    ];
    let begin = [
        instruction(0xb7, 6, 0, 0, 1), // r6 = 1
        instruction(0xb7, 7, 0, 0, 0), // r7 = 0
    ];
    let lookup = [
        instruction(0xbf, 1, 7, 0, 0),                   // r1 = r7
        instruction(0x27, 1, 0, 0, 97),                  // r1 *= 97, below the number of entries
        instruction(0x63, 10, 1, -4, 0),                 // *(u32 *)(r10 - 4) = r1
        instruction(0x18, 1, BPF_PSEUDO_MAP_FD, 0, map), // r1 = map
        0,
        instruction(0xbf, 2, 10, 0, 0),              // r2 = r10
        instruction(0x07, 2, 0, 0, -4),              // r2 += -4
        instruction(0x85, 0, 0, 0, MAP_LOOKUP_ELEM), // r0 = lookup
        instruction(0x15, 0, 0, 2, 0),               // if r0 == 0 skip two
        instruction(0x79, 1, 0, 0, 0),               // r1 = *(u64 *)r0
        instruction(0xaf, 6, 1, 0, 0),               // r6 ^= r1
    ];
    let back = -i16::try_from(lookup.len() + 4 * mixing.len() + 2).expect("a short loop");
    let again = [
        instruction(0x07, 7, 0, 0, 1),          // r7 += 1
        instruction(0xa5, 7, 0, back, LOOKUPS), // if r7 < so many, once more
    ];
    let end = [instruction(0xb7, 0, 0, 0, XDP_PASS), instruction(0x95, 0, 0, 0, 0)];
    [&begin[..], &lookup, &mixing, &mixing, &mixing, &mixing, &again, &end].concat()
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
        let address = pointer.expose_provenance() as u64;
        self.0[offset..offset + 8].copy_from_slice(&address.to_ne_bytes());
    }

    fn get(&self, offset: usize) -> u32 {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&self.0[offset..offset + 4]);
        u32::from_ne_bytes(bytes)
    }

    fn call(&mut self, command: libc::c_int) -> io::Result<libc::c_int> {
        // SAFETY: the attributes are as long as is said, the kernel may write to them, and what they point to outlives the call.
        let result =
            unsafe { libc::syscall(libc::SYS_bpf, command, self.0.as_mut_ptr(), self.0.len()) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as libc::c_int) }
    }

    fn descriptor(&mut self, command: libc::c_int) -> io::Result<OwnedFd> {
        let made = self.call(command)?;
        // SAFETY: the kernel has just made this descriptor, and nobody else has it.
        Ok(unsafe { OwnedFd::from_raw_fd(made) })
    }
}
