//! What a packet costs on its way through the host: from a slot to the internet, and from a slot to another, where it is dropped.
//! netguard against nftables, in labs of the same wiring, by turns. `cargo xtask bench forward`.

#[path = "forward/injector.rs"]
mod injector;
#[path = "forward/napi.rs"]
mod napi;
#[path = "forward/peer.rs"]
mod peer;

use std::{process::Command, time::Instant};

use netguard::datapath::PinDirectory;
use netguard_tests::{
    costs::of_programs,
    hosts::feed,
    lab::Lab,
    packet::ip,
    raw::End,
    report::{Bound, Report, Row, is_quick, machine},
    spread::Spread,
};
use nix::{
    net::if_::if_nametoindex,
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use injector::Injector;

/// How many, and if anything is promised of so many.
const FLOWS: [(u32, bool); 4] = [(1, true), (256, false), (16_384, true), (131_072, false)];
/// What is promised: so many times the peer's time at most.
const TO_INTERNET: f64 = 0.40;
const DROPPED: f64 = 0.25;
const ROUNDS: usize = 7;
const PACKETS: u32 = 200_000;
const GUEST: &str = "10.1.0.2";
/// Where nobody listens: what arrives there is dropped at once.
const ELSEWHERE: &str = "203.0.113.66";
const NEIGHBOUR: &str = "10.2.0.2";
const UPLINK: &str = "eth0";

fn main() {
    let (rounds, packets) = if is_quick() { (3, 50_000) } else { (ROUNDS, PACKETS) };
    println!(
        "{}; one processor, frames of 60 bytes made in the kernel; median (lowest to highest) of {rounds} rounds of {packets}",
        machine()
    );
    let (guarded, peer, bare) = (Host::new(guarded()), Host::new(peer()), Host::bare());
    let mut report = Report::new("forward");
    for (flows, bound) in FLOWS {
        // So that nearly all of the flows are open.
        let _ = [&guarded, &peer].map(|host| host.send(ELSEWHERE, flows, packets.max(flows * 4)));
        let times =
            by_turns(rounds, [&guarded, &peer], |host| host.send(ELSEWHERE, flows, packets));
        let [own, other] = times.map(Spread::of);
        let row = Row::new(format!("a packet to the internet, {flows} flows"), "ns", own);
        let row = row.beside("nftables", other);
        report.add(if bound { row.bound(Bound::AtMost(TO_INTERNET)) } else { row });
    }
    let [own, other, arrival] =
        by_turns(rounds, [&guarded, &peer, &bare], |host| host.send(NEIGHBOUR, 256, packets));
    let beyond = |times: &[f64]| -> Spread {
        Spread::of(times.iter().zip(&arrival).map(|(time, arrival)| time - arrival).collect())
    };
    let row = Row::new("a packet to a neighbour, dropped, beyond its arrival", "ns", beyond(&own));
    report.add(row.beside("nftables", beyond(&other)).bound(Bound::AtMost(DROPPED)));
    let row = Row::new("the same with its arrival at the port", "ns", Spread::of(own));
    report.add(row.beside("nftables", Spread::of(other)));
    report.add(Row::new("the arrival alone", "ns", Spread::of(arrival)));
    let pins = PinDirectory::of(&guarded.lab.instance().parse().expect("an instance"));
    for (what, dst) in [("to the internet", ELSEWHERE), ("to a neighbour", NEIGHBOUR)] {
        let (_, costs) = of_programs(&pins, || guarded.send(dst, 256, packets));
        costs.iter().for_each(|cost| report.add(cost.row(what)));
    }
    report.finish();
}

/// What each host takes, in so many rounds in which each has its turn.
fn by_turns<const N: usize>(
    rounds: usize,
    hosts: [&Host; N],
    measure: impl Fn(&Host) -> f64,
) -> [Vec<f64>; N] {
    let mut measured = [const { Vec::new() }; N];
    for round in 0..=rounds {
        for (host, measured) in hosts.iter().zip(&mut measured) {
            let time = measure(host);
            if round > 0 {
                measured.push(time); // the first one is for the caches
            }
        }
    }
    measured
}

/// A hypervisor that forwards for slot 1.
struct Host {
    /// What ends every packet at the port, on the host that does nothing else.
    hole: Option<End>,
    lab: Lab,
    /// The guest's interface.
    ifindex: u32,
    frame: [u8; 12],
}

fn guarded() -> Lab {
    let config = netguard::lab::CONFIG.replace("egress = \"pinned\"", "egress = \"open\"");
    Lab::with(&format!("{config}\n[limits]\nflows = 1000000\n"), "veth")
}

fn peer() -> Lab {
    let lab = Lab::unguarded("veth");
    let rules = peer::rules(UPLINK);
    lab.within("hv", || feed(Command::new("nft").args(["-f", "-"]), &rules));
    lab
}

impl Host {
    /// One on which a packet is dropped as soon as it is there: what remains is the guest that sends it, and the port that
    /// takes it.
    fn bare() -> Self {
        let mut host = Self::new(Lab::unguarded("veth"));
        let hole = host.lab.within("hv", || {
            End::hole(if_nametoindex("vm-slot1").expect("the port")).expect("a program on it")
        });
        host.hole = Some(hole);
        host
    }

    fn new(lab: Lab) -> Self {
        let sink = "table netdev sink { chain ends { type filter hook ingress device \"eth0\" priority 0; \
                    ip daddr 203.0.113.66 drop; }; }";
        lab.within("net", || feed(Command::new("nft").args(["-f", "-"]), sink));
        // Without it a veth takes no frames that are made in the driver.
        lab.within("hv", || napi::enable("vm-slot1").expect("NAPI on the port"));
        let ifindex = lab.within("slot1", || {
            napi::enable("eth0").expect("NAPI on the guest's interface");
            if_nametoindex("eth0").expect("its number")
        });
        let mut macs = [0; 12];
        macs[..6].copy_from_slice(&lab.mac("hv", "br-slot1"));
        macs[6..].copy_from_slice(&lab.mac("slot1", "eth0"));
        // The way out is known before anything is measured.
        let _ = lab.exec("hv", "ping -c 1 -W 5 192.0.2.1");
        Self { hole: None, lab, ifindex, frame: macs }
    }

    /// Nanoseconds for each packet that was sent.
    fn send(&self, dst: &str, flows: u32, packets: u32) -> f64 {
        // One processor does all of it, so that time is its time.
        let mut processor = CpuSet::new();
        processor.set(0).expect("a processor");
        let mut frame = ip(GUEST, dst).udp(10_000, 9_000, &[0; 18]);
        frame[..12].copy_from_slice(&self.frame);
        // No checksum (RFC 768): each frame gets ports of its own.
        frame[40..42].fill(0);
        let injector = Injector::of(&frame, flows).expect("the injector");
        let before = self.arrived();
        let time = self.lab.within("slot1", || {
            sched_setaffinity(Pid::from_raw(0), &processor).expect("one processor");
            let began = Instant::now();
            injector.send(self.ifindex, packets).expect("frames are sent");
            began.elapsed()
        });
        let arrived = self.arrived() - before;
        let leaves = dst == ELSEWHERE && self.hole.is_none();
        let expected = if leaves { u64::from(packets) } else { 0 };
        if arrived < expected / 100 * 99 || arrived > expected + 100 {
            println!("{arrived} of {packets} packets arrived");
        }
        time.as_nanos() as f64 / f64::from(packets)
    }

    /// How many packets the internet has got.
    fn arrived(&self) -> u64 {
        let links = self.lab.exec("net", "ip -j -s link show eth0");
        let links: serde_json::Value = serde_json::from_str(links.success()).expect("JSON");
        links[0]["stats64"]["rx"]["packets"].as_u64().expect("a number")
    }
}
