//! A guest without a kernel: TCP connections that are opened by frames written to a TAP, as a virtual machine's network card does.
//! What sockets cost in a guest is not there, so that nearly all that is measured is the host, and a peer in the internet.

use std::{
    cell::{Cell, RefCell},
    fs::File,
    io::{ErrorKind, Read as _, Write as _},
    os::fd::AsFd as _,
    thread::sleep,
    time::{Duration, Instant},
};

use netguard_tests::{lab::Lab, packet::ip};
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags, poll},
};

use super::connections::{AT_ONCE, CONNECTIONS, Listener, PORT};

/// Slot 1, and the MAC that its guest gets.
const GUEST: &str = "10.1.0.2";
const GUEST_MAC: [u8; 6] = [0x02, 0x6e, 0x67, 0, 1, 2];
/// The virtio-net header before each frame: its checksum is right (VIRTIO_NET_HDR_F_DATA_VALID).
const HEADER: [u8; 10] = [2, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// Where in what is written or read a TCP segment begins, and its fields in it (RFC 9293 section 3.1).
const TCP: usize = HEADER.len() + 14 + 20;
const SOURCE: usize = TCP;
const DESTINATION: usize = TCP + 2;
const SEQUENCE: usize = TCP + 4;
const ACKNOWLEDGED: usize = TCP + 8;
const FLAGS: usize = TCP + 13;
const CHECKSUM: usize = TCP + 16;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
const FIRST_PORT: u16 = 10_000;
/// What has not come by then is lost.
const PATIENCE_MS: u16 = 1_000;

/// A hypervisor whose guest is this process.
pub struct Host {
    tap: RefCell<File>,
    bridge: [u8; 6],
    listener: Listener,
    /// As for sockets: each time to another address.
    times: Cell<u8>,
    _lab: Lab,
}

impl Host {
    /// With a lab that leaves its TAPs to others.
    pub fn new(lab: Lab) -> Self {
        let listener = Listener::in_internet(&lab);
        let neighbour =
            "ip neigh replace 10.1.0.2 lladdr 02:6e:67:00:01:02 dev br-slot1 nud permanent";
        let _ = lab.exec("hv", neighbour).success();
        // The way out is known before anything is measured.
        let _ = lab.exec("hv", "ping -c 1 -W 5 192.0.2.1").success();
        let tap = lab.within("hv", || netguard::links::open_tap("vm-slot1")).expect("the TAP");
        fcntl(&tap, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("the option");
        // A TAP carries nothing before its bridge is up too.
        for link in ["vm-slot1", "br-slot1"] {
            let show = format!("ip -o link show {link}");
            while !lab.exec("hv", &show).success().contains("state UP") {
                sleep(Duration::from_millis(10));
            }
        }
        let bridge = lab.mac("hv", "br-slot1");
        Self { tap: RefCell::new(tap), bridge, listener, times: Cell::new(0), _lab: lab }
    }

    /// Thousands of connections a second, each opened and closed.
    pub fn connections(&self) -> f64 {
        let times = self.times.replace(self.times.get() + 1);
        let began = Instant::now();
        self.open(&format!("203.0.113.{}", 100 + times));
        let time = began.elapsed();
        let waited = self.listener.clear();
        assert_eq!(waited, CONNECTIONS as usize, "connections that were opened");
        f64::from(CONNECTIONS) / time.as_secs_f64() / 1e3
    }

    fn open(&self, address: &str) {
        let segment = |flags| {
            let path = ip(GUEST, address).to_mac(self.bridge).from_mac(GUEST_MAC);
            [&HEADER[..], &path.tcp_flags(FIRST_PORT, PORT, flags)].concat()
        };
        let [mut syn, mut ack, mut rst] = [SYN, ACK, RST].map(segment);
        for after in [&mut ack, &mut rst] {
            put_word(after, SEQUENCE, 2); // the SYN was 1
        }
        let tap = &mut *self.tap.borrow_mut();
        let mut buffer = [0; 2048];
        let (mut begun, mut done) = (0, 0);
        while done < CONNECTIONS {
            while begun < CONNECTIONS && begun - done < AT_ONCE {
                put(&mut syn, SOURCE, FIRST_PORT + begun as u16);
                tap.write_all(&syn).expect("a frame is sent");
                begun += 1;
            }
            loop {
                let length = match tap.read(&mut buffer) {
                    Ok(length) => length,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("the TAP: {error}"),
                };
                if length <= FLAGS || buffer[FLAGS] != SYN | ACK {
                    continue;
                }
                let port = half_at(&buffer, DESTINATION);
                let theirs = [SEQUENCE, SEQUENCE + 2].map(|at| u32::from(half_at(&buffer, at)));
                put(&mut ack, SOURCE, port);
                put_word(&mut ack, ACKNOWLEDGED, (theirs[0] << 16 | theirs[1]).wrapping_add(1));
                put(&mut rst, SOURCE, port);
                tap.write_all(&ack).expect("a frame is sent");
                tap.write_all(&rst).expect("a frame is sent");
                done += 1;
            }
            if done < CONNECTIONS && begun - done == AT_ONCE {
                let mut waits = [PollFd::new(tap.as_fd(), PollFlags::POLLIN)];
                let ready = poll(&mut waits, PATIENCE_MS).expect("it waits");
                assert!(ready > 0, "a connection is not answered");
            }
        }
    }
}

fn half_at(frame: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

/// Changes a field, and the checksum with it (RFC 1624 section 3).
fn put(frame: &mut [u8], at: usize, half: u16) {
    let sum = [!half_at(frame, CHECKSUM), !half_at(frame, at), half].map(u32::from);
    let sum: u32 = sum.into_iter().sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    frame[at..][..2].copy_from_slice(&half.to_be_bytes());
    frame[CHECKSUM..][..2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

fn put_word(frame: &mut [u8], at: usize, word: u32) {
    put(frame, at, (word >> 16) as u16);
    put(frame, at + 2, word as u16);
}
