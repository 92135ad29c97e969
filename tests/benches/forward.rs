//! What a packet costs on its way through the host: from a slot to the internet, and from a slot to another, where it is dropped.
//! netguard against nftables, in labs of the same wiring, by turns. `cargo xtask bench forward`.

#[path = "forward/injector.rs"]
mod injector;
#[path = "forward/napi.rs"]
mod napi;
#[path = "forward/peer.rs"]
mod peer;

use std::{process::Command, time::Instant};

use netguard_tests::{hosts::feed, lab::Lab, packet::ip, spread::Spread};
use nix::{
    net::if_::if_nametoindex,
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use injector::Injector;

const FLOWS: [u32; 4] = [1, 256, 16_384, 131_072];
const ROUNDS: usize = 7;
const PACKETS: u32 = 200_000;
const GUEST: &str = "10.1.0.2";
/// Where nobody listens: what arrives there is dropped at once.
const ELSEWHERE: &str = "203.0.113.66";
const NEIGHBOUR: &str = "10.2.0.2";
const UPLINK: &str = "eth0";

fn main() {
    let quick = std::env::var_os("NETGUARD_BENCH_QUICK").is_some();
    let (rounds, packets) = if quick { (3, 50_000) } else { (ROUNDS, PACKETS) };
    // One processor does all of it, so that time is its time.
    let mut one = CpuSet::new();
    one.set(0).expect("a processor");
    let guarded = Host::new(guarded());
    let peer = Host::new(peer());
    println!(
        "ns of one processor per packet of 60 bytes, median (lowest to highest) of {rounds} rounds of {packets} packets\n"
    );
    println!("{:<28} {:<24} {:<24} ratio", "", "netguard", "nftables");
    for (what, dst, flows) in FLOWS
        .map(|flows| ("to the internet", ELSEWHERE, flows))
        .into_iter()
        .chain([("to a neighbour, dropped", NEIGHBOUR, 256)])
    {
        let mut measured = [Vec::new(), Vec::new()];
        for round in 0..=rounds {
            for (host, measured) in [&guarded, &peer].into_iter().zip(&mut measured) {
                let time = host.send(dst, flows, one, packets);
                if round > 0 {
                    measured.push(time); // the first one opens the flows
                }
            }
        }
        let [own, other] = measured.map(Spread::of);
        let name = format!("{what}, {flows} flows");
        println!("{name:<28} {own:<24} {other:<24} {:.2}", own.median / other.median);
    }
}

/// A hypervisor that forwards for slot 1.
struct Host {
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
        Self { lab, ifindex, frame: macs }
    }

    /// Nanoseconds for each packet that was sent.
    fn send(&self, dst: &str, flows: u32, processor: CpuSet, packets: u32) -> f64 {
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
        let expected = if dst == ELSEWHERE { u64::from(packets) } else { 0 };
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
