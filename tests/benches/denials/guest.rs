//! A guest that asks as fast as it is answered: frames written to a TAP and read from it, as a virtual machine's network card does.

use std::{
    fs::{self, File},
    io::{ErrorKind, Read as _, Write as _},
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use anyhow::Result;
use netguard_tests::packet::{GUEST_MAC, ip};
use nix::{
    poll::{PollFd, PollFlags, poll},
    time::{ClockId, clock_gettime},
};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use super::load::IN_FLIGHT;

/// How many different names are asked for.
const NAMES: usize = 10_000;
/// The virtio-net header before each frame: its checksum is right (VIRTIO_NET_HDR_F_DATA_VALID).
const HEADER: [u8; 10] = [2, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// Where in what is written or read the code and flags of a reply stand.
const FLAGS: usize = HEADER.len() + 14 + 20 + 8 + 2;
/// An answer that takes longer is lost.
const PATIENCE: u16 = 250;

/// What is an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// A response to a query, with NXDOMAIN: others come by the same wire.
    Denial,
    /// What was sent comes back.
    Same,
}

/// One that asks.
pub struct Guest {
    tap: File,
    answer: Answer,
    /// Queries, each behind its header.
    frames: Vec<Vec<u8>>,
    next: usize,
}

/// What came of one measurement.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counted {
    /// Denials.
    pub right: u64,
    /// Queries without an answer.
    pub lost: u64,
    elapsed: Duration,
    /// What the guest has worked, and the kernel in its place.
    own_cpu: Duration,
    /// What the servers have worked.
    server_cpu: Duration,
}

impl Counted {
    /// Thousands of denials a second.
    pub fn kqps(&self) -> f64 {
        self.right as f64 / self.elapsed.as_secs_f64() / 1e3
    }

    /// Microseconds of processor for each, of guest and servers together.
    pub fn cpu_us(&self) -> f64 {
        (self.own_cpu + self.server_cpu).as_secs_f64() * 1e6 / self.right as f64
    }

    /// What of it the servers have worked.
    pub fn server_us(&self) -> f64 {
        self.server_cpu.as_secs_f64() * 1e6 / self.right as f64
    }
}

impl Guest {
    /// Behind a TAP, whose bridge has that MAC.
    pub fn new(tap: File, bridge: [u8; 6], answer: Answer) -> Result<Self> {
        nix::fcntl::fcntl(&tap, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
        let mut random = SmallRng::seed_from_u64(1);
        let mut label = |length: usize| -> String {
            (0..length).map(|_| char::from(random.random_range(b'a'..=b'z'))).collect()
        };
        let tops = ["com", "org", "net", "io"];
        let frames = (0..NAMES).map(|number| {
            let name = format!("{}.{}.{}", label(5), label(14), tops[number % tops.len()]);
            let mut frame = HEADER.to_vec();
            let query = ip("10.1.0.2", "10.1.0.1").to_mac(bridge).from_mac(GUEST_MAC);
            frame.extend(query.udp(40_000 + (number % 8) as u16, 53, &message(&name, number)));
            frame
        });
        Ok(Self { tap, answer, frames: frames.collect(), next: 0 })
    }

    /// Asks for that long.
    pub fn ask(&mut self, servers: &[u32], time: Duration) -> Result<Counted> {
        let mut counted = Counted::default();
        let mut buffer = [0; 2048];
        while self.tap.read(&mut buffer).is_ok() {} // what came meanwhile
        let (began, own, before) = (Instant::now(), own_cpu()?, cpu_of(servers)?);
        let mut in_flight = 0;
        while began.elapsed() < time {
            while in_flight < IN_FLIGHT {
                self.tap.write_all(&self.frames[self.next])?;
                self.next = (self.next + 1) % self.frames.len();
                in_flight += 1;
            }
            while in_flight > 0 {
                match self.tap.read(&mut buffer) {
                    Ok(length) => {
                        let flags = buffer.get(FLAGS..length).unwrap_or_default();
                        let is_answer = match (self.answer, flags) {
                            (Answer::Denial, [flags, code, ..]) => {
                                flags & 0x80 != 0 && code & 15 == 3
                            }
                            (Answer::Denial, _) => false,
                            (Answer::Same, flags) => !flags.is_empty(),
                        };
                        if is_answer {
                            in_flight -= 1;
                            counted.right += 1;
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error.into()),
                }
            }
            if in_flight == IN_FLIGHT {
                let mut waits = [PollFd::new(self.tap.as_fd(), PollFlags::POLLIN)];
                if poll(&mut waits, PATIENCE)? == 0 {
                    counted.lost += in_flight as u64;
                    in_flight = 0;
                }
            }
        }
        counted.elapsed = began.elapsed();
        counted.own_cpu = own_cpu()? - own;
        // What the servers still have to do belongs to it: their logs.
        std::thread::sleep(Duration::from_millis(100));
        counted.server_cpu = cpu_of(servers)? - before;
        Ok(counted)
    }
}

/// A query with an OPT record, as stub resolvers send it.
fn message(name: &str, number: usize) -> Vec<u8> {
    let [id0, id1] = (number as u16).to_be_bytes();
    let mut bytes = vec![id0, id1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, 1, 0, 1]);
    bytes.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    bytes
}

fn own_cpu() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

/// What processes have worked, all their threads (proc(5), schedstat).
fn cpu_of(processes: &[u32]) -> Result<Duration> {
    let mut all = Duration::ZERO;
    for process in processes {
        for task in fs::read_dir(format!("/proc/{process}/task"))? {
            let stat = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
            let worked = stat.split(' ').next().and_then(|it| it.parse().ok());
            all += Duration::from_nanos(worked.unwrap_or_default());
        }
    }
    Ok(all)
}
