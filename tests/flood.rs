//! A guest that sends what it must not, as fast as it can: everything is counted, nobody is drowned out, and nothing grows.
//! `NETGUARD_FLOOD_SECONDS` says for how long.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::UdpSocket,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use aya::maps::{Map, MapData, MapError, PerCpuHashMap};
use netguard_common::{DropReason, Hook, record::RECORDS_PER_WINDOW};
use netguard_tests::{
    can_use_kernel,
    datagrams::Datagrams,
    kernel::{Kernel, now_ns},
    lab::{Lab, resident},
    packet::ip,
    until,
};
use serde_json::Value;

const METADATA: &str = "169.254.169.254";
const SECONDS: u64 = 2;
/// How many senders there are.
const THREADS: usize = 2;
/// How much more the daemon may have in memory at the end, in KiB: what it remembers of drops, and queues that were empty before.
const SLACK_KIB: u64 = 24 << 10;

const CONFIG: &str = "[host]\nuplinks = [\"eth0\"]\n[dns]\nupstreams = [\"1.1.1.1\"]\ncategories = []\n\
     [[slot]]\nname = \"slot1\"\nid = 1\nsubnet = \"10.1.0.0/24\"\n\
     [[slot]]\nname = \"slot2\"\nid = 2\nsubnet = \"10.2.0.0/24\"\n";

/// Sends as much as there is time for, and returns how much the kernel took.
fn send(stop: &AtomicBool) -> u64 {
    let mut datagrams = Datagrams::to(METADATA, 9, 1);
    let mut sent = 0;
    while !stop.load(Relaxed) {
        sent += datagrams.send();
    }
    sent
}

/// Frames that the guest's interface has sent, and those that found no room on their way.
fn sent_by_interface(lab: &Lab, slot: &str) -> (u64, u64) {
    let links = lab.exec(slot, "ip -j -s -s link show type veth");
    let links: Value = serde_json::from_str(links.success()).expect("ip prints JSON");
    let sent = &links[0]["stats64"]["tx"];
    let number = |name: &str| sent[name].as_u64().expect("a number");
    (number("packets"), number("dropped"))
}

/// All that a slot's programs have counted of what it sent.
fn counted(lab: &Lab, slot: &str) -> u64 {
    let counters = lab.counters(slot);
    counters.iter().filter(|((way, _), _)| way == "egress").map(|(_, packets)| packets).sum()
}

/// The log, read once.
struct Log(BufReader<fs::File>);

impl Log {
    fn of(lab: &Lab) -> Self {
        let path = format!("/run/netguard/{}/daemon.log", lab.instance());
        Self(BufReader::new(fs::File::open(path).expect("the log")))
    }

    /// The drops in the lines that came since the last time.
    fn drops(&mut self) -> Vec<Value> {
        let mut drops = Vec::new();
        let mut line = Vec::new();
        while self.0.read_until(b'\n', &mut line).expect("the log") > 0 {
            if line.ends_with(b"\n") {
                let event: Value = serde_json::from_slice(&line).unwrap_or_default();
                line.clear();
                drops.extend((event["reason"] == "metadata").then_some(event));
            }
        }
        let back = i64::try_from(line.len()).expect("a line");
        self.0.seek_relative(-back).expect("the log");
        drops
    }
}

#[test]
fn a_flood_is_counted_to_the_packet_and_hides_nobody() {
    if !can_use_kernel() {
        return;
    }
    let seconds = std::env::var("NETGUARD_FLOOD_SECONDS").ok().and_then(|it| it.parse().ok());
    let lab = Lab::with(CONFIG, "veth");
    // The gateways' addresses are known, and everything that a drop needs is in memory.
    let knock = |slot: &str| {
        lab.within(slot, || {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
            socket.send_to(b"x", (METADATA, 9)).expect("it is sent");
        });
    };
    let mut log = Log::of(&lab);
    for slot in ["slot1", "slot2"] {
        knock(slot);
        until("it is logged", || log.drops().iter().any(|drop| drop["slot"] == slot));
    }
    let (monitor, worker) = lab.processes();
    let before = (sent_by_interface(&lab, "slot1"), counted(&lab, "slot1"));
    let had = resident(monitor) + resident(worker);

    let (stop, begun) = (AtomicBool::new(false), Instant::now());
    let (mut told, mut of_other) = (Vec::new(), None);
    let sent: u64 = thread::scope(|scope| {
        let senders: Vec<_> =
            (0..THREADS).map(|_| scope.spawn(|| lab.within("slot1", || send(&stop)))).collect();
        let duration = Duration::from_secs(seconds.unwrap_or(SECONDS));
        while begun.elapsed() < duration / 2 {
            told.extend(log.drops());
        }
        let at = now_ns();
        knock("slot2");
        until("the other slot's drop is logged", || {
            let drops = log.drops();
            if of_other.is_none() && drops.iter().any(|drop| drop["slot"] == "slot2") {
                of_other = Some(Duration::from_nanos(now_ns() - at));
            }
            told.extend(drops);
            of_other.is_some()
        });
        while begun.elapsed() < duration {
            told.extend(log.drops());
        }
        stop.store(true, Relaxed);
        senders.into_iter().map(|sender| sender.join().expect("a sender")).sum()
    });
    let lasted = begun.elapsed();
    let has = resident(monitor) + resident(worker);

    let after = (sent_by_interface(&lab, "slot1"), counted(&lab, "slot1"));
    let on_wire = after.0.0 - before.0.0;
    let without_room = after.0.1 - before.0.1;
    let dropped = lab.packets("slot1", "egress", "metadata");
    assert_eq!(after.1 - before.1, on_wire, "what the interface sent and what was counted");
    assert_eq!(dropped - 1, sent - without_room, "what the guest sent and what was counted");

    // The one from before the flood stands in no line of these.
    let mut records = 0;
    let mut suppressed = 0;
    let mut count = |told: &[Value]| {
        for drop in told.iter().filter(|drop| drop["slot"] == "slot1") {
            records += u64::from(drop["event"] == "drop");
            suppressed += drop["suppressed"].as_u64().expect("a number");
        }
        records + suppressed
    };
    let lost = lab.status()["records_lost"].as_u64().expect("a number");
    let mut all = count(&told);
    until("all of the flood is told", || {
        all = count(&log.drops());
        all + lost >= dropped - 1
    });
    assert_eq!((all + lost, lost), (dropped - 1, 0), "{records} records and {suppressed} without");
    assert!(suppressed > records, "{records} records and {suppressed} without");
    assert!(has < had + SLACK_KIB, "{had} KiB before, {has} KiB after");
    eprintln!(
        "{sent} sent in {lasted:?}, {without_room} found no room, {} counted; {records} records, {suppressed} without one; \
         the other slot's drop was in the log after {:?}; {had} KiB before, {has} KiB after",
        dropped - 1,
        of_other.expect("it was seen"),
    );
}

#[test]
fn each_drop_has_a_record_or_is_counted_with_the_next_one() {
    const PACKETS: u32 = 3 * RECORDS_PER_WINDOW;
    if !can_use_kernel() {
        return;
    }
    let mut kernel = Kernel::new();
    let frame = ip("10.1.0.2", METADATA).udp(1, 9, b"x");
    for _ in 0..PACKETS {
        kernel.leave(Hook::Xdp, &frame);
    }
    // By another way, so of a window of its own.
    let other = ip("10.1.0.2", "10.2.0.2").udp(1, 9, b"x");
    kernel.leave(Hook::Xdp, &other);
    let (mut records, mut suppressed, mut others) = (0, 0, 0);
    for record in kernel.records() {
        match record.reason() {
            Some(DropReason::Metadata) => {
                records += 1;
                suppressed += record.suppressed;
            }
            _ => others += 1,
        }
    }
    assert_eq!(others, 1, "one slot's and reason's flood hides another's");
    let counters = kernel.drop_counters(1, DropReason::Metadata as u8);
    let packets: u64 = counters.iter().map(|it| it.counter.packets).sum();
    let left: u32 = counters.iter().map(|it| it.suppressed).sum();
    assert_eq!(packets, u64::from(PACKETS));
    assert_eq!(records + suppressed + left, PACKETS, "{records} records, {suppressed}, {left}");
    assert!((RECORDS_PER_WINDOW..PACKETS).contains(&records), "{records} records");
}

#[test]
fn who_may_read_the_counters_cannot_write_them() {
    if !can_use_kernel() {
        return;
    }
    let mut kernel = Kernel::new();
    kernel.leave(Hook::Xdp, &ip("10.1.0.2", METADATA).udp(1, 9, b"x"));
    let shared = kernel.datapath().shared().expect("descriptors");
    let map = MapData::from_fd(shared.counters).expect("a map");
    let mut map: PerCpuHashMap<_, [u8; 4], [u64; 4]> =
        PerCpuHashMap::try_from(Map::PerCpuHashMap(map)).expect("a hash");
    let key = map.keys().next().expect("an entry").expect("its key");
    let refused = map.remove(&key).expect_err("it is read-only");
    let MapError::SyscallError(refused) = refused else { panic!("{refused}") };
    assert_eq!(refused.io_error.raw_os_error(), Some(libc::EPERM));
}
