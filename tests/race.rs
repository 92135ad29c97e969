//! The pin race: 100,000 queries whose client connects the instant the reply arrives. Every address is new to its
//! slot, so each connection passes only if the pin was in the kernel before the reply went out. Names that all
//! slots ask for at the same moment are among them: one waits for the upstream, some join it, some come late and
//! are answered from the cache, and each must find a pin of its own. Nor does a pin close while it is written anew.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use hickory_proto::{op::ResponseCode, rr::RecordType};
use netguard::datapath::PinWriter;
use netguard_common::{
    Hook,
    pin::{PIN_LANES, PinEntry, PinKey, PinLane},
};
use netguard_dns::PinMap as _;
use netguard_tests::{
    can_use_kernel,
    client::{Asker, connect_once},
    kernel::{self, Kernel, Outcome},
    lab::Lab,
    packet::ip,
};
use serde_json::Value;
use tokio::net::TcpSocket;

const GUEST: &str = "10.1.0.2";
const WEB: &str = "203.0.113.9";
const OTHER: &str = "203.0.113.10";

const SLOTS: u16 = 25;
/// Names that a slot has to itself.
const OWN: u32 = 3_000;
/// Names that all slots ask for, each at the same moment as the others.
const SHARED: u32 = 1_000;
/// After so many misses it is lost, and nobody connects any more: each takes most of a second.
const LOST: u32 = 20;
/// A port on which nobody but this test listens, so that nothing but the race takes time.
const PORT: u16 = 9090;

/// Without limits, and without address translation, whose table would be too small for so many connections.
const CONFIG: &str = "
[host]
uplinks = [\"eth0\"]
masquerade = false
[limits]
flows = 400000
[dns]
upstreams = [\"1.1.1.1\", \"8.8.8.8\"]
[[slot]]
count = COUNT
egress = \"pinned\"
[slot.limits]
queries_per_second = 0
names_per_minute = 0
answer_bytes_per_minute = 0
";

/// The address of that number, of those that the lab's internet owns.
fn address(number: u32) -> Ipv4Addr {
    (u32::from(Ipv4Addr::new(203, 0, 0, 0)) + number).into()
}

/// What became of one slot's queries.
#[derive(Debug, Default)]
struct Tally {
    connected: u32,
    missed: Vec<String>,
    /// Questions that were asked again, because no answer came.
    repeated: u32,
}

/// Asks for each name and connects to what it is told.
fn race(slot: u16, together: &Barrier, missed: &AtomicU32) -> Tally {
    // Half of the slots ask by the redirect, half their gateway.
    let gateway = Ipv4Addr::new(10, u8::try_from(slot).expect("a small number"), 0, 1);
    let mut asker =
        Asker::of(if slot.is_multiple_of(2) { gateway } else { [8, 8, 8, 8].into() }.into());
    let mut tally = Tally::default();
    let own = SHARED + u32::from(slot - 1) * OWN;
    let mut next_own = own..own + OWN;
    let mut known = 0;
    for shared in 0..SHARED {
        together.wait();
        let own = next_own.by_ref().take((OWN / SHARED) as usize);
        for number in [shared].into_iter().chain(own) {
            if missed.load(Ordering::Relaxed) < LOST {
                ask_and_connect(&mut asker, address(number), &mut tally);
                let news = tally.missed.len() - known;
                missed.fetch_add(news as u32, Ordering::Relaxed);
                known += news;
            }
        }
    }
    tally.repeated = asker.repeated;
    tally
}

fn ask_and_connect(asker: &mut Asker, address: Ipv4Addr, tally: &mut Tally) {
    let name = format!("{}.ip.github.com.", address.to_string().replace('.', "-"));
    let told = asker.ask(&name, RecordType::A);
    match connect_once(address.into(), PORT) {
        _ if told != Some((ResponseCode::NoError, vec![IpAddr::V4(address)])) => {
            tally.missed.push(format!("{name} is {told:?}"));
        }
        Ok(()) => tally.connected += 1,
        Err(error) => tally.missed.push(format!("{name}: {error}")),
    }
}

/// Accepts connections to any address of the internet, until it is told to stop.
fn accept(ready: &Barrier, stop: &AtomicBool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::from(([0; 4], PORT))).expect("a free port");
        let listener = socket.listen(4096).expect("a listener");
        ready.wait();
        while !stop.load(Ordering::Relaxed) {
            // The last connection is only there to wake this one.
            drop(listener.accept().await);
        }
    });
}

#[test]
fn a_hundred_thousand_clients_connect_the_instant_the_reply_arrives_and_none_is_refused() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::with(&CONFIG.replace("COUNT", &SLOTS.to_string()), "veth");
    let (listens, together) = (Barrier::new(2), Barrier::new(SLOTS.into()));
    let (stop, lost) = (AtomicBool::new(false), AtomicU32::new(0));
    let began = Instant::now();
    let tallies: Vec<Tally> = thread::scope(|scope| {
        let internet = scope.spawn(|| lab.within("net", || accept(&listens, &stop)));
        listens.wait();
        let slots: Vec<_> = (1..=SLOTS)
            .map(|slot| {
                let (lab, together, lost) = (&lab, &together, &lost);
                let race = move || race(slot, together, lost);
                scope.spawn(move || lab.within(&format!("slot{slot}"), race))
            })
            .collect();
        let tallies: Vec<_> = slots.into_iter().map(thread::ScopedJoinHandle::join).collect();
        stop.store(true, Ordering::Relaxed);
        let last = lab.within("net", || connect_once([127, 0, 0, 1].into(), PORT));
        assert!(!matches!(last, Err(error) if error.kind() == ErrorKind::TimedOut));
        internet.join().expect("the internet");
        tallies.into_iter().map(|tally| tally.expect("no panic")).collect()
    });
    let connected: u32 = tallies.iter().map(|tally| tally.connected).sum();
    let missed: Vec<_> = tallies.iter().flat_map(|tally| &tally.missed).collect();
    let repeated: u32 = tallies.iter().map(|tally| tally.repeated).sum();
    let not_pinned: u64 =
        (1..=SLOTS).map(|slot| lab.packets(&format!("slot{slot}"), "egress", "not-pinned")).sum();
    eprintln!(
        "{connected} connected, {} missed, {not_pinned} dropped as not pinned, {repeated} asked again, \
         in {:.1} s",
        missed.len(),
        began.elapsed().as_secs_f64()
    );
    let first = &missed[..missed.len().min(10)];
    assert_eq!((missed.len(), not_pinned), (0, 0), "{first:?}");
    assert_eq!(connected, u32::from(SLOTS) * (OWN + SHARED));

    // How the shared names were answered.
    let is_shared = |event: &&Value| {
        let name = event["name"].as_str().unwrap_or_default();
        let number = name.strip_suffix(".ip.github.com").map(|it| it.replace('-', "."));
        let number = number.and_then(|it| it.parse::<Ipv4Addr>().ok());
        number.is_some_and(|it| u32::from(it) - u32::from(address(0)) < SHARED)
    };
    let (events, internet) = (lab.events(), lab.internet());
    let answered = events.iter().filter(|event| event["event"] == "dns").filter(is_shared);
    let (cached, waited): (Vec<_>, Vec<_>) = answered.partition(|event| event["cached"] == true);
    let heard = internet.iter().filter(|event| event["event"] == "query").filter(is_shared);
    let (cached, waited, heard) = (cached.len(), waited.len(), heard.count());
    eprintln!(
        "{SHARED} shared names: {cached} answers from the cache, {waited} waited for {heard} of upstreams"
    );
    assert!(cached > 0, "nobody came late");
    assert!(heard < waited, "nobody joined another's question");
}

#[test]
fn a_pin_that_is_renewed_at_that_very_moment_opens_all_the_same() {
    const ATTEMPTS: u32 = 100_000;
    if !can_use_kernel() {
        return;
    }
    let pinned = "egress = \"pinned\"\nsubnet =";
    let mut kernel = Kernel::with(&kernel::SLOTS.replace("subnet =", pinned));
    let writer = PinWriter::open(kernel.pins()).expect("the map of pins");
    let key = |address: &str| PinKey::new(1, address.parse::<IpAddr>().expect("an address").into());
    let entry = |address: &str| {
        let open = PinLane { expires_ns: u64::MAX, first_port: 0, last_port: 65535, _reserved: 0 };
        let lanes = [[open].as_slice(), &[PinLane::default(); PIN_LANES - 1]].concat();
        let lanes = lanes.try_into().expect("as many as there are");
        PinEntry { key: key(address), lanes, since_ns: 0, name: [0; 256] }
    };
    // The other address's entry takes the memory that this one's leaves.
    let entries = [WEB, OTHER].map(|address| (key(address), entry(address)));
    for (key, entry) in &entries {
        writer.put(key, entry).expect("the kernel takes it");
    }
    let (stop, renewed) = (AtomicBool::new(false), AtomicU64::new(0));
    let missed = thread::scope(|scope| {
        let renews = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for (key, entry) in &entries {
                    writer.put(key, entry).expect("the kernel takes it");
                }
                renewed.fetch_add(1, Ordering::Relaxed);
            }
        });
        let frames: Vec<_> = (1..=250_u16).map(|port| ip(GUEST, WEB).tcp_syn(port, 443)).collect();
        let frames = frames.iter().cycle().take(ATTEMPTS as usize);
        let missed =
            frames.filter(|frame| kernel.verdict(Hook::Xdp, frame, 0).0 != Outcome::Continue);
        let missed = missed.count();
        stop.store(true, Ordering::Relaxed);
        renews.join().expect("it renews");
        missed
    });
    let renewed = renewed.into_inner();
    eprintln!("renewed {renewed} times, {missed} of {ATTEMPTS} missed");
    assert!(renewed > 1000, "only {renewed} times");
    assert_eq!(missed, 0);
}
