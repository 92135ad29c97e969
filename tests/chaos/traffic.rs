//! What guests send, what they may and what they may not, and what arrives of it.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use super::{ALLOWED, FORBIDDEN, QUIET};

/// How long to wait for an echo before the next packet is sent.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// What was counted.
#[derive(Default)]
pub struct Counts {
    pub allowed: [AtomicU64; 4],
    pub lost: Mutex<Vec<(u8, Instant)>>,
    pub forbidden: AtomicU64,
    pub arrived: AtomicU64,
    /// Names that were denied.
    pub denied: AtomicU64,
    /// Round trips of the connection that must never break.
    pub kept: AtomicU64,
    pub broken: AtomicU64,
}

/// Sends, waits for the echo, and again. An echo that comes late, on a machine that had other things to do, is none that is
/// lost.
pub fn send_allowed(slot: u8, stop: &AtomicBool, counts: &Counts) {
    give_way();
    let socket = UdpSocket::bind((guest(slot), 0)).expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let mut missing = BTreeMap::new();
    let mut number = 0_u64;
    while !stop.load(Relaxed) {
        number += 1;
        missing.insert(number, Instant::now());
        // Without a port the guest's own system refuses: that is lost too.
        let _ = socket.send_to(&number.to_le_bytes(), ALLOWED);
        while missing.contains_key(&number) && receive_echo(&socket, &mut missing, counts, slot) {}
    }
    while !missing.is_empty() && receive_echo(&socket, &mut missing, counts, slot) {}
    let lost = missing.into_values().map(|sent| (slot, sent));
    counts.lost.lock().expect("the list").extend(lost);
}

/// False if there is none for a while.
fn receive_echo(
    socket: &UdpSocket,
    missing: &mut BTreeMap<u64, Instant>,
    counts: &Counts,
    slot: u8,
) -> bool {
    let mut reply = [0; 8];
    match socket.recv_from(&mut reply) {
        Ok(_) => {
            missing.remove(&u64::from_le_bytes(reply));
            counts.allowed[usize::from(slot)].fetch_add(1, Relaxed);
            true
        }
        // ICMP says that the network is down.
        Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
    }
}

/// One connection, from the first second to the last.
pub fn keep_connection(stop: &AtomicBool, counts: &Counts) {
    give_way();
    let mut stream = TcpStream::connect(ALLOWED).expect("a connection");
    stream.set_nodelay(true).expect("no delay");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a time-out");
    let mut byte = [0];
    while !stop.load(Relaxed) {
        if stream.write_all(b"x").and_then(|()| stream.read_exact(&mut byte)).is_err() {
            counts.broken.fetch_add(1, Relaxed);
            return;
        }
        counts.kept.fetch_add(1, Relaxed);
    }
}

/// To other slots, past the list, and to the host itself, without waiting for anything.
pub fn send_forbidden(slot: u8, stop: &AtomicBool, counts: &Counts) {
    give_way();
    let socket = UdpSocket::bind((guest(slot), 0)).expect("a socket");
    socket.set_nonblocking(true).expect("no waiting");
    let others = (1..=3).filter(|other| *other != slot).map(|other| (guest(other), 9001));
    let mut targets: Vec<SocketAddr> = others.map(SocketAddr::from).collect();
    targets.extend([FORBIDDEN, (Ipv4Addr::new(10, slot, 0, 1), 9001).into()]);
    let mut burst = 0_u32;
    while !stop.load(Relaxed) {
        for target in &targets {
            if socket.send_to(b"forbidden", target).is_ok() {
                counts.forbidden.fetch_add(1, Relaxed);
            }
        }
        burst += 1;
        // A port's queue is 256 packets long; what a guest floods out of its own queue nobody else has dropped.
        if slot == QUIET || burst.is_multiple_of(4) {
            thread::sleep(Duration::from_micros(500));
        }
    }
}

/// For a name that no policy lists, again and again. An answer that has addresses has arrived where none may.
pub fn ask_for_forbidden(slot: u8, stop: &AtomicBool, counts: &Counts) {
    const NO_SUCH_NAME: u8 = 3;
    give_way();
    let socket = UdpSocket::bind((guest(slot), 0)).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a time-out");
    let header = [0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    let query = [&header[..], b"\x09forbidden\x07example\0", &[0, 1, 0, 1]].concat();
    let mut answer = [0; 512];
    while !stop.load(Relaxed) {
        // A port that is gone takes neither.
        let _ = socket.send_to(&query, (Ipv4Addr::new(10, slot, 0, 1), 53));
        if let Ok(length) = socket.recv(&mut answer)
            && length > 12
        {
            let addresses = u16::from_be_bytes([answer[6], answer[7]]);
            counts.arrived.fetch_add(addresses.into(), Relaxed);
            counts.denied.fetch_add((answer[3] & 15 == NO_SUCH_NAME).into(), Relaxed);
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Counts what arrives at the forbidden port of a host.
pub fn receive_forbidden(stop: &AtomicBool, counts: &Counts) {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 9001)).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a time-out");
    let mut buffer = [0; 64];
    while !stop.load(Relaxed) {
        if socket.recv_from(&mut buffer).is_ok() {
            counts.arrived.fetch_add(1, Relaxed);
        }
    }
}

/// Echoes what is allowed, over UDP and TCP.
pub fn echo(stop: &AtomicBool) {
    give_way();
    let socket = UdpSocket::bind(ALLOWED).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a time-out");
    let listener = TcpListener::bind(ALLOWED).expect("a listener");
    thread::scope(|scope| {
        scope.spawn(|| {
            give_way();
            let (mut stream, _) = listener.accept().expect("the one connection");
            let mut buffer = [0; 64];
            while let Ok(length) = stream.read(&mut buffer)
                && length > 0
                && stream.write_all(&buffer[..length]).is_ok()
            {}
        });
        let mut buffer = [0; 64];
        while !stop.load(Relaxed) {
            if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&buffer[..length], from);
            }
        }
    });
}

/// What netguard and the kernel's own threads need of the processors, they get before this thread.
fn give_way() {
    // SAFETY: the call has no pointers; 0 is this thread.
    assert_eq!(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 10) }, 0);
}

fn guest(slot: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, slot, 0, 2)
}
