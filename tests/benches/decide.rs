//! What a verdict costs, by the number of slots: the loaded programs' own time (BPF_PROG_TEST_RUN) for a packet
//! of one hot flow, and for packets of many flows in random order. `cargo xtask bench decide`.

#[path = "decide/policy.rs"]
mod policy;

use netguard_common::{Hook, NO_SLOT, vouched_by};
use netguard_tests::{
    packet::ip,
    programs::Programs,
    report::{Bound, Report, Row, machine},
    spread::Spread,
};
use policy::policy;
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
    println!("{}", machine());
    println!("ns per packet and program: median (lowest to highest) of {ROUNDS} rounds\n");
    println!(
        "{:>5}  {:<34} {:<24} {:<24} random flows, drop + verdict stage",
        "slots", "hot flow, drop + verdict stage", "verdict stage alone", "entering"
    );
    let mut all = Vec::new();
    for slots in SLOTS {
        let measured = measure(slots);
        let Measured { both, verdict, ingress, random } = measured;
        println!("{slots:>5}  {both:<34} {verdict:<24} {ingress:<24} {random}");
        all.push(measured);
    }
    let (first, last) = (&all[0], &all[SLOTS.len() - 1]);
    let mut report = Report::new("decide");
    let hot = "verdict stage, hot flow";
    report.add(Row::new(format!("{hot}, 1 slot"), "ns", first.verdict).bound(Bound::Below(150.0)));
    for (what, few, many) in [
        (hot, first.verdict, last.verdict),
        ("both stages, random flows", first.random, last.random),
    ] {
        let row = Row::new(format!("{what}, 4,000 slots"), "ns", many);
        report.add(row.beside("1 slot", few).bound(Bound::AtMost(3.0)));
    }
    report.finish();
}

struct Measured {
    both: Spread,
    verdict: Spread,
    ingress: Spread,
    random: Spread,
}

fn measure(slots: u16) -> Measured {
    let programs = Programs::load(&policy(slots, 443), slots);
    let time = |hook, frame: &[u8], mark, runs| {
        programs.datapath.time(hook, frame, mark, runs).expect("the program runs").as_nanos() as f64
    };
    let go = |hook, frame: &[u8], mark| {
        let probed = programs.datapath.probe(hook, frame, mark).expect("the program runs");
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
