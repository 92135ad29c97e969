//! What gets through a host that guards its slots, from a guest's socket to one in the internet and back: bulk TCP, datagrams and new
//! connections, over veth and TAP. netguard against nftables, in labs of the same wiring, by turns. `cargo xtask bench bulk`.
//!
//! One processor does all of it: guest, host, internet, and for TAPs the process that carries frames to and from the guest as a
//! virtual machine's network card does, with GSO frames of 64 KiB both ways. So each rate says what the whole way costs.

#[path = "bulk/connections.rs"]
mod connections;
#[path = "bulk/host.rs"]
mod host;
#[path = "bulk/iperf3.rs"]
mod iperf3;
#[path = "forward/peer.rs"]
mod peer;

use netguard::datapath::processors;
use netguard_tests::{servers::Servers, spread::Spread};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use host::Host;
use iperf3::Way;

const ROUNDS: usize = 11;
/// An IPv4 header and one of UDP before the payload, and the longest packet.
const UDP_HEADERS: usize = 28;
const MTU: usize = 1500;

/// One line of the table.
struct Load {
    what: &'static str,
    unit: &'static str,
    /// The rate, in that unit.
    measure: fn(&Host) -> f64,
}

const LOADS: [Load; 6] = [
    Load { what: "TCP up", unit: "Gbit/s", measure: |host| host.tcp(Way::Up) },
    Load { what: "TCP down", unit: "Gbit/s", measure: |host| host.tcp(Way::Down) },
    Load {
        what: "UDP of 64 bytes to the internet",
        unit: "kpps",
        measure: |host| host.datagrams(host::ELSEWHERE, 64 - UDP_HEADERS),
    },
    Load {
        what: "UDP of 1500 bytes to the internet",
        unit: "kpps",
        measure: |host| host.datagrams(host::ELSEWHERE, MTU - UDP_HEADERS),
    },
    Load {
        what: "UDP of 64 bytes to a neighbour, dropped",
        unit: "kpps",
        measure: |host| host.datagrams(host::NEIGHBOUR, 64 - UDP_HEADERS),
    },
    Load { what: "TCP connections", unit: "k/s", measure: Host::connections },
];

fn main() {
    let rounds = if std::env::var_os("NETGUARD_BENCH_QUICK").is_some() { 3 } else { ROUNDS };
    let iperf3 = Servers::iperf3().expect("iperf3: run `cargo xtask bench bulk`");
    let mut one = CpuSet::new();
    // The last: other benchmarks and most interrupts are on the first.
    one.set(processors() - 1).expect("a processor");
    sched_setaffinity(Pid::from_raw(0), &one).expect("one processor");
    println!("rates of one processor, median (lowest to highest) of {rounds} rounds\n");
    println!("{:<54} {:<22} {:<22} ratio of each round", "", "netguard", "nftables");
    for ports in ["veth", "tap"] {
        let hosts = [Host::guarded(ports, &iperf3), Host::of_peer(ports, &iperf3)];
        for Load { what, unit, measure } in &LOADS {
            let mut rates = [Vec::new(), Vec::new()];
            for round in 0..=rounds {
                for turn in [round % 2, (round + 1) % 2] {
                    let rate = measure(&hosts[turn]);
                    if round > 0 {
                        rates[turn].push(rate); // the first one warms up
                    }
                }
            }
            // Each round's own: what else the machine does changes from one to the next.
            let ratios = rates[0].iter().zip(&rates[1]).map(|(own, other)| own / other);
            let ratio = Spread::of(ratios.collect());
            let [own, other] = rates.map(Spread::of);
            let name = format!("{ports}: {what}, {unit}");
            println!("{name:<54} {own:<22.1} {other:<22.1} {ratio:.2}");
        }
    }
}
