//! What gets through a host that guards its slots, from a guest's socket to one in the internet and back: bulk TCP, datagrams and new
//! connections, over veth and TAP. netguard against nftables, in labs of the same wiring, by turns. `cargo xtask bench bulk`.
//!
//! One processor does all of it: guest, host, internet, and for TAPs the process that carries frames to and from the guest as a
//! virtual machine's network card does, with GSO frames of 64 KiB both ways. So each rate says what the whole way costs; of a
//! connection that is mostly the sockets of both ends, so a guest without any opens connections too.

#[path = "bulk/connections.rs"]
mod connections;
#[path = "bulk/handshakes.rs"]
mod handshakes;
#[path = "bulk/host.rs"]
mod host;
#[path = "bulk/iperf3.rs"]
mod iperf3;
#[path = "forward/peer.rs"]
mod peer;

use netguard::datapath::processors;
use netguard_tests::{
    lab::Lab,
    report::{Bound, Report, Row, is_quick, machine},
    servers::Servers,
};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use host::{Host, with_nftables};
use iperf3::Way;

const ROUNDS: usize = 11;
/// An IPv4 header and one of UDP before the payload, and the longest packet.
const UDP_HEADERS: usize = 28;
const MTU: usize = 1500;

/// What is promised, as so many times the peer's rate at least: bulk, datagrams to the internet, connections.
const BULK: Option<f64> = Some(1.0);
const DATAGRAMS: Option<f64> = Some(1.3);
const CONNECTIONS: f64 = 1.2;

/// One line of the table.
struct Load {
    what: &'static str,
    unit: &'static str,
    promised: Option<f64>,
    /// The rate, in that unit.
    measure: fn(&Host) -> f64,
}

const LOADS: [Load; 6] = [
    Load { what: "TCP up", unit: "Gbit/s", promised: BULK, measure: |host| host.tcp(Way::Up) },
    Load { what: "TCP down", unit: "Gbit/s", promised: BULK, measure: |host| host.tcp(Way::Down) },
    Load {
        what: "UDP of 64 bytes to the internet",
        unit: "kpps",
        promised: DATAGRAMS,
        measure: |host| host.datagrams(host::ELSEWHERE, 64 - UDP_HEADERS),
    },
    Load {
        what: "UDP of 1500 bytes to the internet",
        unit: "kpps",
        promised: DATAGRAMS,
        measure: |host| host.datagrams(host::ELSEWHERE, MTU - UDP_HEADERS),
    },
    Load {
        what: "UDP of 64 bytes to a neighbour, dropped",
        unit: "kpps",
        promised: None,
        measure: |host| host.datagrams(host::NEIGHBOUR, 64 - UDP_HEADERS),
    },
    Load {
        what: "TCP connections",
        unit: "k/s",
        promised: Some(CONNECTIONS),
        measure: Host::connections,
    },
];

fn main() {
    let rounds = if is_quick() { 3 } else { ROUNDS };
    let iperf3 = Servers::iperf3().expect("iperf3: run `cargo xtask bench bulk`");
    let mut one = CpuSet::new();
    // The last: other benchmarks and most interrupts are on the first.
    one.set(processors() - 1).expect("a processor");
    sched_setaffinity(Pid::from_raw(0), &one).expect("one processor");
    println!(
        "{}; rates of one processor, median (lowest to highest) of {rounds} rounds, ratios of each round",
        machine()
    );
    let mut report = Report::new("bulk");
    for ports in ["veth", "tap"] {
        let hosts = [Host::guarded(ports, &iperf3), Host::of_peer(ports, &iperf3)];
        for Load { what, unit, promised, measure } in &LOADS {
            let row = by_turns(rounds, format!("{ports}: {what}"), unit, &hosts, measure);
            report.add(match promised {
                Some(times) => row.bound(Bound::AtLeast(*times)),
                None => row,
            });
        }
    }
    let hosts = [Lab::open("qemu"), with_nftables("qemu")].map(handshakes::Host::new);
    let what = "tap: TCP connections of a guest without a kernel".to_owned();
    let row = by_turns(rounds, what, "k/s", &hosts, handshakes::Host::connections);
    report.add(row.bound(Bound::AtLeast(CONNECTIONS)));
    report.finish();
}

/// Lets each of both have its turn, in so many rounds.
fn by_turns<H>(
    rounds: usize,
    what: String,
    unit: &'static str,
    hosts: &[H; 2],
    measure: impl Fn(&H) -> f64,
) -> Row {
    let mut rates = [Vec::new(), Vec::new()];
    for round in 0..=rounds {
        for turn in [round % 2, (round + 1) % 2] {
            let rate = measure(&hosts[turn]);
            if round > 0 {
                rates[turn].push(rate); // the first one warms up
            }
        }
    }
    let [own, other] = rates;
    Row::of_rounds(what, unit, own, "nftables", other)
}
