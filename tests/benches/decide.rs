//! What a verdict costs, by the number of slots: the loaded programs' own time (BPF_PROG_TEST_RUN) for a packet
//! of one hot flow, and for packets of many flows in random order. `cargo xtask bench decide`.

use std::{collections::BTreeSet, fmt::Write as _, path::Path, process::Command};

use netguard::{
    config::Config,
    datapath::{Datapath, PinDirectory, ensure_bpffs},
    instance::Instance,
    policy::{Facts, InterfaceFact, Plan},
};
use netguard_common::{Hook, NO_SLOT, maps::LinkKind, vouched_by};
use netguard_tests::{
    hosts::{enter_new_namespace, ip as ip_batch},
    packet::ip,
    spread::Spread,
};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

const SLOTS: [u16; 5] = [1, 10, 100, 1000, 4000];
/// TCX_NEXT: the packet was not dropped.
const TC_NEXT: u32 = u32::MAX;
const RUNS: u32 = 200_000;
const ROUNDS: usize = 9;
/// How many flows the random packets are of.
const FLOWS: u16 = 400;
const GUEST: &str = "10.0.1.2";
const WEB: &str = "203.0.113.9";

fn main() {
    // What cargo adds to the arguments of a benchmark is not for us.
    let release = Command::new("uname").arg("-r").output().expect("uname");
    println!("kernel {}", String::from_utf8_lossy(&release.stdout).trim());
    println!("ns per packet and program: median (lowest to highest) of {ROUNDS} rounds\n");
    println!(
        "{:>5}  {:<34} {:<24} {:<24} random flows, drop + verdict stage",
        "slots", "hot flow, drop + verdict stage", "verdict stage alone", "entering"
    );
    let mut hot_at = Vec::new();
    for slots in SLOTS {
        let measured = measure(slots);
        println!(
            "{slots:>5}  {:<34} {:<24} {:<24} {}",
            measured.both.to_string(),
            measured.verdict.to_string(),
            measured.ingress.to_string(),
            measured.random
        );
        hot_at.push((measured.verdict.median, measured.random.median));
    }
    let (first, last) = (hot_at[0], hot_at[SLOTS.len() - 1]);
    println!(
        "\nverdict stage, hot, 1 slot: {:.0} ns (bound 150); 4000 slots to 1: hot {:.2}x, random {:.2}x (bound 3x)",
        first.0,
        last.0 / first.0,
        last.1 / first.1
    );
}

struct Measured {
    both: Spread,
    verdict: Spread,
    ingress: Spread,
    random: Spread,
}

fn measure(slots: u16) -> Measured {
    let fixture = Fixture::new(slots);
    let time = |hook, frame: &[u8], mark, runs| {
        fixture.datapath.time(hook, frame, mark, runs).expect("the program runs").as_nanos() as f64
    };
    let go = |hook, frame: &[u8], mark| {
        let probed = fixture.datapath.probe(hook, frame, mark).expect("the program runs");
        assert_eq!(probed.action, TC_NEXT, "{hook:?} dropped a good packet");
    };
    let from_host = vouched_by(NO_SLOT);
    go(Hook::PortEgress, &ip(GUEST, WEB).tcp_syn(40000, 443), 0);
    go(Hook::PortIngress, &ip(WEB, GUEST).tcp_flags(443, 40000, 0x12), from_host);
    let data = ip(GUEST, WEB).tcp_ack(40000, 443, &[0; 64]);
    let reply = ip(WEB, GUEST).tcp_ack(443, 40000, &[0; 64]);
    go(Hook::PortEgress, &data, 0);

    let mut random = SmallRng::seed_from_u64(1);
    let packets: Vec<_> = (0..FLOWS)
        .map(|port| {
            let web = format!("203.0.113.{}", random.random_range(1..255));
            ip(GUEST, &web).udp(10_000 + port, random.random_range(1000..9000), &[0; 64])
        })
        .collect();
    for packet in &packets {
        go(Hook::PortEgress, packet, 0);
    }
    let rounds =
        |round: &mut dyn FnMut() -> f64| Spread::of((0..ROUNDS).map(|_| round()).collect());
    let verdict = rounds(&mut || time(Hook::PortEgress, &data, 0, RUNS));
    let both =
        rounds(&mut || time(Hook::Xdp, &data, 0, RUNS) + time(Hook::PortEgress, &data, 0, RUNS));
    let ingress = rounds(&mut || time(Hook::PortIngress, &reply, from_host, RUNS));
    // One run at a time, so that each meets the table anew; the empty program tells what the clock costs.
    let random = rounds(&mut || {
        let mut sum = 0.0;
        for _ in 0..FLOWS * 4 {
            let packet = &packets[random.random_range(0..packets.len())];
            sum += time(Hook::PortEgress, packet, 0, 1) + time(Hook::Xdp, packet, 0, 1)
                - 2.0 * time(Hook::BridgeIngress, packet, 0, 1);
        }
        sum / f64::from(FLOWS * 4)
    });
    Measured { both, verdict, ingress, random }
}

struct Fixture {
    datapath: Datapath,
    pins: PinDirectory,
}

impl Fixture {
    fn new(slots: u16) -> Self {
        enter_new_namespace();
        ensure_bpffs(&Instance::host()).expect("bpffs");
        ip_batch("link set lo up");
        let config = Config::parse(&policy(slots), Path::new("bench.toml")).expect("a good one");
        let interface = |index, name: String, controller| InterfaceFact {
            index,
            name,
            mac: [2, 0, 0, 0, 1, 1],
            controller,
            is_bridge: controller.is_none(),
            link: LinkKind::Other,
            isolated: false,
        };
        // Slot 1 is on `lo`; of the others only the entries in the maps exist.
        let mut interfaces = Vec::new();
        for id in 1..=u32::from(slots) {
            let port = if id == 1 { "lo".to_owned() } else { format!("vm-slot{id}") };
            let (port_index, bridge_index) = (if id == 1 { 1 } else { 10_000 + id }, 20_000 + id);
            interfaces.push(interface(port_index, port, Some(bridge_index)));
            interfaces.push(interface(bridge_index, format!("br-slot{id}"), None));
        }
        let facts = Facts::new(interfaces, BTreeSet::new());
        let instance = format!("bench-{}", std::process::id());
        let pins = PinDirectory::of(&instance.parse().expect("an instance name"));
        let plan = Plan::compile(&config.policy, &facts);
        let mut datapath = Datapath::load(pins.clone(), &plan).expect("it loads");
        let _ = datapath.apply(plan).expect("the maps take the plan");
        Self { datapath, pins }
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = self.pins.remove();
    }
}

/// Slot 1 with a port that exists, and as many like it as are asked for. All may reach the host, so that
/// opening a flow asks no routing: the namespace has none.
fn policy(slots: u16) -> String {
    let rest = "allow = [\"192.168.{lo}.0/24 tcp/443\"]\ndeny = [\"198.51.100.0/24 udp/1-1023\"]\n\
                host_services = \"all\"\n";
    let mut toml = String::from(
        "[host]\nmanagement = [\"100.64.0.0/10\"]\n[limits]\nflows = 1000000\n[dns]\nupstreams = [\"9.9.9.9\"]\n",
    );
    let first = rest.replace("{lo}", "1");
    let _ = write!(
        toml,
        "[[slot]]\nname = \"slot1\"\nid = 1\nport = \"lo\"\nsubnet = \"10.0.1.0/24\"\n{first}"
    );
    if slots > 1 {
        let _ = write!(
            toml,
            "[[slot]]\nid = 2\ncount = {}\nsubnet = \"10.{{hi}}.{{lo}}.0/24\"\n{rest}",
            slots - 1
        );
    }
    toml
}
