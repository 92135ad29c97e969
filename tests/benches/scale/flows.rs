//! Tracked flows, of three slots.

use std::fmt::Write as _;

use netguard::datapath::{PinnedProgram, View};
use netguard_common::{
    DropReason, Hook,
    flow::{Bucket, WAYS, flow_entries},
    translation::nat_entries,
};
use netguard_tests::{
    hosts::ip as ip_batch,
    packet::ip,
    programs::Programs,
    report::{Bound, Report, Row},
};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use super::{
    FROM_HOST, SINGLE, apart, median, memory,
    memory::MB,
    table::{Table, column},
};

/// The first argument of the process; then comes the number.
pub const MEASURE: &str = "measure-flows";
const FLOWS: [u32; 4] = [1, 1000, 100_000, 1_000_000];
const SLOTS: u32 = 3;
/// `BPF_MAP_TYPE_ARRAY`, of which by far the largest is the table of flows.
const ARRAY: u32 = 2;

pub fn table(report: &mut Report) -> Table {
    let columns = vec![
        column("held", 0),
        column("verdict on a packet of a random flow, ns", 0),
        column("opened and answered, two calls of bpf(2), ns", 0),
        column("table, MB", 2),
        column("bytes per flow", 0),
    ];
    let mut table = Table::new("Tracked flows (`[limits] flows` is the same number)", columns);
    for flows in FLOWS {
        let figures = apart([MEASURE, &flows.to_string()]);
        if flows == FLOWS[FLOWS.len() - 1] {
            let row = Row::new("tracked flows held, of 1,000,000", "flows", figures[0]);
            report.add(row.bound(Bound::Above(f64::from(flows))));
            report.add(Row::new("memory of a tracked flow", "bytes", figures[4]));
        }
        table.add(flows as usize, figures);
    }
    table.breaks = broken();
    table
}

/// Prints one number's figures.
pub fn measure(number: &str) {
    let flows: u32 = number.parse().expect("a number");
    let host = Host::new(flows);
    let began = std::time::Instant::now();
    for flow in 0..flows {
        host.open(flow);
    }
    let opened = began.elapsed().as_nanos() as f64 / f64::from(flows);
    let held = host.held();
    let mut random = SmallRng::seed_from_u64(1);
    let hit = median(|| {
        let packets = (0..SINGLE).map(|_| {
            let flow = random.random_range(0..flows);
            host.egress(flow) - host.nothing(flow)
        });
        packets.sum::<f64>() / SINGLE as f64
    });
    let table = memory::of_maps(Some(ARRAY)) - host.others;
    println!("{held} {hit} {opened} {} {}", table / MB, table / f64::from(flows));
}

/// One slot's share, filled until something is refused.
fn broken() -> String {
    let host = Host::new(1000);
    let full = DropReason::FlowsFull as u8;
    let refused = || -> u64 {
        let view = View::open(host.programs.pins()).expect("the pins");
        view.counters.iter().filter(|row| row.outcome == full).map(|row| row.counter.packets).sum()
    };
    // Each third flow is the first slot's.
    let first = (0..u32::MAX).step_by(SLOTS as usize).find(|flow| {
        host.open(*flow);
        refused() != 0
    });
    let first = first.unwrap_or_default() / SLOTS;
    let share = 1000 / SLOTS;
    let name = DropReason::FlowsFull.name();
    format!(
        "a slot's share, and no other slot's: of 1,000 flows in {SLOTS} slots each may count on {share}, and one slot alone got {first} \
         before a new one was dropped as `{name}`."
    )
}

/// Three slots whose ports are interfaces of the namespace.
struct Host {
    programs: Programs,
    egress: PinnedProgram,
    ingress: PinnedProgram,
    nothing: PinnedProgram,
    /// What the other arrays take.
    others: f64,
}

impl Host {
    fn new(flows: u32) -> Self {
        let mut policy = format!("[limits]\nflows = {flows}\n[dns]\nupstreams = [\"9.9.9.9\"]\n");
        for slot in 1..=SLOTS {
            let name = if slot == 1 { "lo".to_owned() } else { format!("vm-slot{slot}") };
            let _ = write!(
                policy,
                "[[slot]]\nname = \"slot{slot}\"\nid = {slot}\nport = \"{name}\"\nsubnet = \"10.0.{slot}.0/24\"\n\
                 host_services = \"all\"\n"
            );
        }
        let programs = Programs::load(&policy, SLOTS as u16);
        for slot in 2..=SLOTS {
            let name = format!("vm-slot{slot}");
            ip_batch(&format!(
                "link add {name} index {} type bridge\nlink set {name} up",
                port(slot)
            ));
        }
        let open = |hook| PinnedProgram::open(programs.pins(), hook).expect("it is pinned");
        let (egress, ingress) = (open(Hook::PortEgress), open(Hook::PortIngress));
        let nothing = open(Hook::BridgeIngress);
        // The table, and the words that lead answers to their flow.
        let entries = flow_entries(flows).max(256);
        let buckets = f64::from(entries / WAYS) * size_of::<Bucket>() as f64;
        let words = f64::from(nat_entries(entries)) * size_of::<u64>() as f64;
        let others = memory::of_maps(Some(ARRAY)) - buckets - words;
        Self { programs, egress, ingress, nothing, others }
    }

    fn open(&self, flow: u32) {
        self.egress(flow);
        let (slot, guest, web, ports) = ends(flow);
        let reply = ip(&web, &guest).udp(ports.1, ports.0, &[0; 18]);
        self.ingress.time(&reply, port(slot), FROM_HOST, 1).expect("the program runs");
    }

    fn egress(&self, flow: u32) -> f64 {
        Self::sent(&self.egress, flow)
    }

    fn nothing(&self, flow: u32) -> f64 {
        Self::sent(&self.nothing, flow)
    }

    fn sent(program: &PinnedProgram, flow: u32) -> f64 {
        let (slot, guest, web, ports) = ends(flow);
        let packet = ip(&guest, &web).udp(ports.0, ports.1, &[0; 18]);
        let took = program.time(&packet, port(slot), 0, 1).expect("the program runs");
        took.as_nanos() as f64
    }

    fn held(&self) -> u64 {
        let view = View::open(self.programs.pins()).expect("the pins");
        view.flows.expect("so many are counted").values().sum()
    }
}

/// The number of a slot's port.
fn port(slot: u32) -> u32 {
    if slot == 1 { 1 } else { 10_000 + slot }
}

/// Whose a flow is, its two addresses and its two ports.
fn ends(flow: u32) -> (u32, String, String, (u16, u16)) {
    let (slot, number) = (flow % SLOTS + 1, flow / SLOTS);
    let (high, low) = (number / 50_000, number % 50_000);
    let web = format!("203.0.113.{}", high % 250 + 1);
    (slot, format!("10.0.{slot}.2"), web, (10_000 + low as u16, 9_000))
}
