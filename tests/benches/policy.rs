//! A policy of many slots put in force, beside `nft -f` of the same; and one slot made, beside the chain of iptables that it takes
//! without netguard. `cargo xtask bench policy`; NETGUARD_BENCH_QUICK=1 for a short look.

#[path = "policy/chain.rs"]
mod chain;
#[path = "policy/nft.rs"]
mod nft;
#[path = "reload/policies.rs"]
mod policies;

use std::time::{Duration, Instant};

use netguard_tests::{
    control,
    lab::Lab,
    programs::Programs,
    report::{Bound, Figure, Report, Row, is_quick, machine},
    spread::Spread,
};

use policies::{SLOTS, every_rule, policy};

/// What is promised of a policy, and of a slot.
const POLICY: Bound = Bound::Faster(20.0);
const SLOT: Bound = Bound::Faster(5.0);
/// So many slots have rules for each pair that nft reads in a second or two.
const FEW_SLOTS: u32 = 200;
/// How long nft may take, in seconds.
const PATIENCE: u32 = 120;

fn main() {
    // What cargo adds to the arguments of a benchmark is not for us.
    println!("{}", machine());
    let mut report = Report::new("policy");
    applied(&mut report);
    made(&mut report);
    report.finish();
}

/// How often something is measured: quick things often, and what takes most of a minute seldom.
fn rounds() -> (usize, usize) {
    if is_quick() { (3, 1) } else { (9, 3) }
}

/// From the text of a policy until it is in force.
fn applied(report: &mut Report) {
    let (rounds, slow_rounds) = rounds();
    // Of the thread, and so of nft too.
    let mut programs = Programs::load(&every_rule(0), 1);
    programs.settle();
    let sets = nft::File::new(&nft::sets(SLOTS));
    let mut ours = Reloads { programs: &mut programs, number: 1, slots: SLOTS };
    let (mut own, mut peer) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        own.push(ours.ms());
        peer.extend(sets.ms(PATIENCE));
    }
    drop(sets);
    let what = format!("policy of {SLOTS} slots, 20 rules each: text to force");
    let own_spread = Spread::of(own);
    let smart = Row::new(&what, "ms", own_spread)
        .beside("nft -f, a verdict map and sets", figure(peer, rounds));
    let pairs = nft::File::new(&nft::pairs(SLOTS));
    let (mut own, mut peer) = (Vec::new(), Vec::new());
    for _ in 0..slow_rounds {
        own.extend((0..3).map(|_| ours.ms()));
        let Some(took) = pairs.ms(PATIENCE) else { break };
        peer.push(took);
    }
    drop(pairs);
    let pairs = SLOTS * (SLOTS - 1);
    let peer = figure(peer, slow_rounds);
    let row = Row::new(&what, "ms", Spread::of(own));
    report.add(row.beside(format!("nft -f, {pairs} rules for pairs"), peer).bound(POLICY));
    report.add(smart);
    few_slots(report, ours.programs, rounds);
}

/// The same with as many slots as nft reads often enough for a median.
fn few_slots(report: &mut Report, programs: &mut Programs, rounds: usize) {
    let mut ours = Reloads { programs, number: 1, slots: FEW_SLOTS };
    // The other policy's slots go with the first.
    ours.ms();
    let pairs = nft::File::new(&nft::pairs(FEW_SLOTS));
    let (mut own, mut peer) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        own.push(ours.ms());
        peer.extend(pairs.ms(PATIENCE));
    }
    let what = format!("policy of {FEW_SLOTS} slots, 20 rules each: text to force");
    let pairs = FEW_SLOTS * (FEW_SLOTS - 1);
    let row = Row::new(what, "ms", Spread::of(own));
    let peer = figure(peer, rounds);
    report.add(row.beside(format!("nft -f, {pairs} rules for pairs"), peer).bound(POLICY));
}

/// A figure only if every round has one.
fn figure(times: Vec<f64>, rounds: usize) -> Figure {
    if times.len() == rounds {
        return Spread::of(times).into();
    }
    Figure::NotWithin(f64::from(PATIENCE) * 1e3)
}

/// One policy after another, of which no rule is as in the one before.
struct Reloads<'a> {
    programs: &'a mut Programs,
    number: u32,
    slots: u32,
}

impl Reloads<'_> {
    fn ms(&mut self) -> f64 {
        let steps = self.programs.reload(&policy(self.slots, self.number, self.number));
        self.number += 1;
        ms(steps.whole)
    }
}

/// One slot more on a host that has five.
fn made(report: &mut Report) {
    let (rounds, _) = rounds();
    let guarded = Lab::up("tap");
    let peer = Lab::unguarded("tap");
    let chain = chain::Chain::prepare(&peer);
    let socket = control::socket(&guarded);
    let order = |entry: &str| {
        let began = Instant::now();
        let (status, answer) = control::send(&socket, "POST", "/v1/slots", entry);
        let took = began.elapsed();
        assert_eq!(status / 100, 2, "{answer}");
        let (status, answer) = control::send(&socket, "DELETE", "/v1/slots/bench", "");
        assert_eq!(status / 100, 2, "{answer}");
        // The other side of the maps is brought up to date within a second.
        std::thread::sleep(Duration::from_millis(1100));
        ms(took)
    };
    let mut times: [Vec<f64>; 5] = Default::default();
    for _ in 0..rounds {
        let links =
            "{\"name\": \"bench\", \"subnet\": \"192.168.77.0/24\", \"manage_links\": true}";
        times[0].push(order(links));
        times[1].push(chain.links_and_calls(&peer));
    }
    let _ = guarded.shell("hv", chain::LINKS).success();
    for _ in 0..rounds {
        times[2].push(order("{\"name\": \"bench\", \"subnet\": \"192.168.77.0/24\"}"));
        times[3].push(chain.calls(&peer));
        times[4].push(chain.restored(&peer));
    }
    let [with_links, links_and_calls, alone, calls, restored] = times.map(Spread::of);
    let number = chain::calls().count();
    let what = "one slot made, its bridge and TAP with it";
    let row = Row::new(what, "ms", with_links);
    report.add(
        row.beside(format!("ip, and {number} calls of iptables"), links_and_calls).bound(SLOT),
    );
    let what = "one slot made, its bridge and TAP there already";
    let row = Row::new(what, "ms", alone);
    report.add(row.clone().beside(format!("{number} calls of iptables"), calls).bound(SLOT));
    report.add(row.beside("one iptables-restore --noflush", restored));
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
