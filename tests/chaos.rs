//! A minute, half of it without the fast path and denials in the kernel, in which slots send what they may and what they may not as fast as they can, while netguard is killed, started
//! anew, reloaded with other policies and robbed of its programs, and ports go and come back. Nothing that is forbidden may arrive,
//! and nothing of what every policy allows may be lost but where somebody has taken a port or its programs away.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead as _, BufReader, ErrorKind, Read as _, Seek as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::{Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use netguard::datapath::{self, PinDirectory};
use netguard_common::Hook;
use netguard_tests::{
    binary::{Ended, netguard},
    can_use_kernel,
    lab::{Background, Lab},
    until, until_within,
};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

/// How long it goes on; `NETGUARD_CHAOS_SECONDS` says otherwise.
const SECONDS: u64 = 60;
/// Where every policy lets every slot send to.
const ALLOWED: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 20)), 9000);
/// Where none does, beside other slots.
const FORBIDDEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 66)), 9001);
/// How long what is done may take until it is in force. Both processors are busy with packets, and the kernel's own work (its
/// grace periods, without which no interface comes or goes) has been seen to wait for a minute.
const IN_FORCE: Duration = Duration::from_secs(300);
/// How long to wait for an echo before the next packet is sent.
const PATIENCE: Duration = Duration::from_secs(2);
/// A guest whose gateway was not to be reached gives up what it holds for it up to three seconds later, also if it could be
/// reached again (neighbour discovery, ucast_solicit and mcast_solicit).
const NEIGHBOUR: Duration = Duration::from_secs(4);
/// The slot that nobody takes anything away from, the one whose programs are detached, and the one whose port goes.
const QUIET: u8 = 1;
const ROBBED: u8 = 2;
const UNPLUGGED: u8 = 3;

/// One of the policies that take turns: all of them keep `ALLOWED` and none allows `FORBIDDEN`. With the fast path and denials in
/// the kernel, or without both.
fn config(turn: u8, in_kernel: bool) -> String {
    let more = match turn % 3 {
        0 => "",
        1 => ", \"203.0.113.30 udp\", \"198.51.100.0/24\"",
        _ => ", \"203.0.113.0/27 tcp/80\"",
    };
    let names = ["github.com", "gitlab.com", "api.openai.com"][usize::from(turn % 3)];
    format!(
        "[host]\nuplinks = [\"eth0\"]\n[datapath]\nfast_path = {in_kernel}\ndns_denials = {in_kernel}\n[dns]\nupstreams = [\"1.1.1.1\"]\ncategories = []\nnames = [\"{names}\"]\n\
         [[slot]]\ncount = 3\negress = \"listed\"\nallow = [\"{0} udp/{1},tcp/{1}\"{more}]\n\
         [slot.limits]\nicmp_per_second = {2}\n",
        ALLOWED.ip(),
        ALLOWED.port(),
        50 + turn,
    )
}

/// What was counted.
#[derive(Default)]
struct Counts {
    allowed: [AtomicU64; 4],
    lost: Mutex<Vec<(u8, Instant)>>,
    forbidden: AtomicU64,
    arrived: AtomicU64,
    /// Names that were denied.
    denied: AtomicU64,
    /// Round trips of the connection that must never break.
    kept: AtomicU64,
    broken: AtomicU64,
}

/// Sends, waits for the echo, and again. An echo that comes late, on a machine that had other things to do, is none that is
/// lost.
fn send_allowed(slot: u8, stop: &AtomicBool, counts: &Counts) {
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
fn keep_connection(stop: &AtomicBool, counts: &Counts) {
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
fn send_forbidden(slot: u8, stop: &AtomicBool, counts: &Counts) {
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
fn ask_for_forbidden(slot: u8, stop: &AtomicBool, counts: &Counts) {
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
fn receive_forbidden(stop: &AtomicBool, counts: &Counts) {
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
fn echo(stop: &AtomicBool) {
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

/// The notes of the daemon's log, read once each: beside them are the records of millions of drops.
struct Notes {
    log: BufReader<File>,
    notes: Vec<String>,
}

impl Notes {
    fn of(lab: &Lab) -> Self {
        let log = format!("/run/netguard/{}/daemon.log", lab.instance());
        Self { log: BufReader::new(File::open(log).expect("the log")), notes: Vec::new() }
    }

    fn count(&mut self, words: &str) -> usize {
        let mut line = String::new();
        while self.log.read_line(&mut line).expect("the log") > 0 {
            if !line.ends_with('\n') {
                // The rest of it comes yet.
                let back = i64::try_from(line.len()).expect("a line");
                self.log.seek_relative(-back).expect("the log");
                break;
            }
            // Those of events: drops have codes from 540001 on.
            if line.contains("\"code\":541") {
                self.notes.push(line.clone());
            }
            line.clear();
        }
        self.notes.iter().filter(|note| note.contains(words)).count()
    }

    /// What is no event: errors.
    fn last_errors(&mut self) -> Vec<String> {
        let mut log = String::new();
        self.log.rewind().and_then(|()| self.log.read_to_string(&mut log)).expect("the log");
        log.lines().filter(|line| !line.starts_with('{')).map(str::to_owned).collect()
    }

    fn wait(&mut self, words: &str, more_than: usize) {
        let began = Instant::now();
        while self.count(words) <= more_than {
            if began.elapsed() > IN_FORCE {
                let errors = self.last_errors();
                let last = &self.notes[self.notes.len().saturating_sub(20)..];
                panic!("no {words:?}: {last:#?} {errors:?}");
            }
            thread::yield_now();
        }
    }
}

/// What is done to netguard and to its ports, and when a slot was without what it needs.
struct Mischief<'a> {
    lab: &'a Lab,
    in_kernel: bool,
    random: SmallRng,
    notes: Notes,
    daemon: Option<Background>,
    turn: u8,
    done: BTreeMap<&'static str, u32>,
    /// When what was done.
    log: Vec<(&'static str, Instant, Instant)>,
    /// By slot: from when to when.
    down: Vec<(u8, Instant, Instant)>,
}

impl Mischief<'_> {
    fn next(&mut self) {
        let from = Instant::now();
        let what = match self.random.random_range(0..6) {
            0 => self.restart("KILL"),
            1 => self.restart("TERM"),
            2 => self.kill_worker(),
            3 => self.reload(),
            4 => self.replug(),
            _ => self.detach(),
        };
        *self.done.entry(what).or_default() += 1;
        if from.elapsed() > Duration::from_secs(4) {
            eprintln!(
                "{what} took {:?}: {:?}",
                from.elapsed(),
                &self.notes.notes[self.notes.notes.len().saturating_sub(12)..]
            );
        }
        self.log.push((what, from, Instant::now()));
    }

    fn restart(&mut self, signal: &'static str) -> &'static str {
        let pid = self.pid().to_string();
        let guards = self.notes.count(" names allowed");
        let _ =
            Ended::of(Command::new("kill").args([&format!("-{signal}"), pid.as_str()])).success();
        until_within(IN_FORCE, "the daemon has ended", || self.lab.daemon_pid().is_none());
        let log = format!("/run/netguard/{}/daemon.log", self.lab.instance());
        let log = File::options().append(true).open(log).expect("the log");
        let child = netguard(&["run", "--lab", self.lab.name(), "--log", "json"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log"))
            .stderr(log)
            .spawn()
            .expect("the daemon starts");
        let mut daemon = Background::from(child);
        until_within(IN_FORCE, "the daemon guards", || {
            let ended = daemon.child().try_wait().expect("the daemon");
            assert!(ended.is_none(), "it ended: {ended:?} {:?}", self.notes.last_errors());
            self.notes.count(" names allowed") > guards
        });
        self.daemon = Some(daemon);
        if signal == "KILL" { "killed and started" } else { "ended and started" }
    }

    fn pid(&mut self) -> u64 {
        let pid = self.lab.daemon_pid();
        pid.unwrap_or_else(|| panic!("no daemon runs: {:?}", self.notes.last_errors()))
    }

    fn kill_worker(&mut self) -> &'static str {
        let pid = self.pid();
        // From whichever of its threads it was started, and nothing else that the monitor may have started.
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("its threads").flatten();
        let children =
            tasks.filter_map(|it| std::fs::read_to_string(it.path().join("children")).ok());
        let children = children.collect::<Vec<_>>().join(" ");
        for child in children.split_whitespace() {
            let name = std::fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
            if name.trim() == "netguard-worker" {
                let _ = Ended::of(Command::new("kill").args(["-KILL", child]));
            }
        }
        "worker killed"
    }

    fn reload(&mut self) -> &'static str {
        self.turn = self.turn.wrapping_add(1);
        self.lab.reconfigure(&config(self.turn, self.in_kernel));
        // A worker that has just been killed takes what it was asked with it.
        until_within(IN_FORCE, "it is reloaded", || {
            Ended::of(&mut netguard(&["reload", "--instance", &self.lab.instance()])).code == 0
        });
        "reloaded"
    }

    fn replug(&mut self) -> &'static str {
        let guarded = self.notes.count("guarding vm-slot3");
        let from = Instant::now();
        let namespace = format!("{}-slot3", self.lab.name());
        let script = format!(
            "ip link del vm-slot3 &&
             ip link add vm-slot3 type veth peer name eth0 address 02:6e:67:00:03:02 netns {namespace} &&
             ip link set vm-slot3 master br-slot3 up"
        );
        let _ = self.lab.shell("hv", &script).success();
        let script = "ip addr add 10.3.0.2/24 dev eth0 && ip link set eth0 up &&
                      ip route add default via 10.3.0.1";
        let _ = self.lab.shell("slot3", script).success();
        self.notes.wait("guarding vm-slot3", guarded);
        self.down.push((UNPLUGGED, from, Instant::now()));
        "port deleted and made again"
    }

    fn detach(&mut self) -> &'static str {
        let hooks = [Hook::PortEgress, Hook::PortIngress, Hook::BridgeEgress, Hook::BridgeIngress];
        let hook = hooks[self.random.random_range(0..hooks.len())];
        let on_bridge = matches!(hook, Hook::BridgeEgress | Hook::BridgeIngress);
        let interface = if on_bridge { "br-slot2" } else { "vm-slot2" };
        let instance = self.lab.instance().parse().expect("an instance");
        let pin = PinDirectory::of(&instance).link(interface, hook);
        let alarms = self.notes.count("ALARM");
        let from = Instant::now();
        datapath::detach_pinned(&pin).expect("the kernel detaches it");
        self.notes.wait("ALARM", alarms);
        self.down.push((ROBBED, from, Instant::now()));
        "program detached by hand"
    }
}

#[test]
fn nothing_forbidden_arrives_and_nothing_allowed_is_lost_whatever_is_done_to_netguard() {
    if !can_use_kernel() {
        return;
    }
    let seconds = std::env::var("NETGUARD_CHAOS_SECONDS").ok().and_then(|it| it.parse().ok());
    let time = Duration::from_secs(seconds.unwrap_or(SECONDS)) / 2;
    for in_kernel in [true, false] {
        eprintln!("fast path and denials in the kernel: {in_kernel}");
        wreak(in_kernel, time);
    }
}

fn wreak(in_kernel: bool, time: Duration) {
    let lab = Lab::with(&config(0, in_kernel), "veth");
    let (stop, over) = (AtomicBool::new(false), AtomicBool::new(false));
    let counts = Counts::default();
    let seed = rand::random();
    eprintln!("seed {seed}");
    let mut mischief = Mischief {
        lab: &lab,
        in_kernel,
        random: SmallRng::seed_from_u64(seed),
        notes: Notes::of(&lab),
        daemon: None,
        turn: 0,
        done: BTreeMap::new(),
        log: Vec::new(),
        down: Vec::new(),
    };
    thread::scope(|scope| {
        let (lab, stop, over, counts) = (&lab, &stop, &over, &counts);
        let mut servers = vec![scope.spawn(move || lab.within("net", || echo(over)))];
        for host in ["net", "hv", "slot1", "slot2", "slot3"] {
            servers.push(scope.spawn(move || lab.within(host, || receive_forbidden(over, counts))));
        }
        until("the echo is there", || {
            let listens = lab.exec("net", "ss -Hltn sport = 9000");
            !listens.success().is_empty()
        });
        let keep = move || lab.within("slot1", || keep_connection(stop, counts));
        let ask = move || lab.within("slot1", || ask_for_forbidden(QUIET, stop, counts));
        let mut threads = vec![scope.spawn(keep), scope.spawn(ask)];
        for slot in [QUIET, ROBBED, UNPLUGGED] {
            let host = format!("slot{slot}");
            let within = host.clone();
            threads.push(scope.spawn(move || {
                lab.within(&within, || send_allowed(slot, stop, counts));
            }));
            threads.push(scope.spawn(move || {
                lab.within(&host, || send_forbidden(slot, stop, counts));
            }));
        }
        let began = Instant::now();
        // What it panics with must not leave the threads running.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            while began.elapsed() < time {
                mischief.next();
            }
        }));
        stop.store(true, Relaxed);
        let senders: Vec<_> = threads.into_iter().map(thread::ScopedJoinHandle::join).collect();
        over.store(true, Relaxed);
        let servers: Vec<_> = servers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        for ended in senders.into_iter().chain(servers) {
            ended.expect("no thread panics");
        }
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
    report(&mischief, &counts);
    assert_eq!(counts.arrived.into_inner(), 0, "forbidden packets arrived");
    assert_eq!(counts.broken.into_inner(), 0, "the connection broke");
    // What was sent while a slot was down, or just before, is its own loss.
    let was_down = |slot: u8, sent: Instant| {
        let mut down = mischief.down.iter().filter(|(whose, ..)| *whose == slot);
        down.any(|(_, from, to)| sent + PATIENCE > *from && sent <= *to + NEIGHBOUR)
    };
    let lost = counts.lost.into_inner().expect("the list");
    let unexplained: Vec<_> = lost.iter().filter(|(slot, sent)| !was_down(*slot, *sent)).collect();
    for (slot, sent) in &unexplained {
        let during = mischief.log.iter().filter(|(_, from, to)| from <= sent && sent <= to);
        let during: Vec<_> = during.map(|(what, from, _)| (what, *sent - *from)).collect();
        eprintln!("slot {slot} has lost one, sent while {during:?}");
    }
    assert!(unexplained.is_empty(), "{} packets are lost", unexplained.len());
    assert!(counts.forbidden.into_inner() > 10_000, "hardly anything was tried");
    assert!(counts.denied.into_inner() > 100, "hardly any name was denied");
    let answered = lab.packets("slot1", "egress", "answer");
    assert_eq!(answered > 0, in_kernel, "{answered} queries are answered in the kernel");
}

fn report(mischief: &Mischief<'_>, counts: &Counts) {
    eprintln!("{:>8}  names denied", counts.denied.load(Relaxed));
    for (what, times) in &mischief.done {
        eprintln!("{times:>8}  {what}");
    }
    let lost = counts.lost.lock().expect("the list");
    for (slot, why) in
        [(QUIET, ""), (ROBBED, " (programs detached)"), (UNPLUGGED, " (port made again)")]
    {
        let lost = lost.iter().filter(|(whose, _)| *whose == slot).count();
        let allowed = counts.allowed[usize::from(slot)].load(Relaxed);
        eprintln!("{allowed:>8}  allowed packets of slot {slot} echoed, {lost} lost{why}");
    }
    for slot in ["slot1", "slot2", "slot3"] {
        for ((direction, reason), count) in mischief.lab.counters(slot) {
            eprintln!("{count:>8}  {slot} {direction} {reason}");
        }
    }
    eprintln!("{:>8}  round trips of one connection", counts.kept.load(Relaxed));
    eprintln!("{:>8}  forbidden packets sent", counts.forbidden.load(Relaxed));
    eprintln!("{:>8}  of them arrived", counts.arrived.load(Relaxed));
}
