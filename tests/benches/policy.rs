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

use policies::{SLOTS, policy};

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
    let mut ours = Reloads::of(SLOTS);
    let (row, beside) = ours.beside(&nft::sets(SLOTS), rounds);
    let smart = row.beside("nft -f, a verdict map and sets", beside);
    report.add(ours.beside_pairs(slow_rounds));
    report.add(smart);
    drop(ours);
    // As many slots as nft reads often enough for a median.
    report.add(Reloads::of(FEW_SLOTS).beside_pairs(rounds));
}

/// A figure only if every round has one.
fn figure(times: Vec<f64>, rounds: usize) -> Figure {
    if times.len() == rounds {
        return Spread::of(times).into();
    }
    Figure::NotWithin(f64::from(PATIENCE) * 1e3)
}

/// One policy after another, of which no rule is as in the one before, in a namespace of the calling thread and so of nft's.
struct Reloads {
    programs: Programs,
    number: u32,
    slots: u32,
}

impl Reloads {
    fn of(slots: u32) -> Self {
        let mut programs = Programs::load(&policy(slots, 0, 0), 1);
        programs.settle();
        Self { programs, number: 1, slots }
    }

    fn ms(&mut self) -> f64 {
        let steps = self.programs.reload(&policy(self.slots, self.number, self.number));
        self.number += 1;
        ms(steps.whole)
    }

    /// By turns with nft, that reads the ruleset where none is.
    fn beside(&mut self, ruleset: &str, rounds: usize) -> (Row, Figure) {
        let file = nft::File::new(ruleset);
        let (mut own, mut peer) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            own.extend((0..3).map(|_| self.ms()));
            let Some(took) = file.ms(PATIENCE) else { break };
            peer.push(took);
        }
        let what = format!("policy of {} slots, 20 rules each: text to force", self.slots);
        (Row::new(what, "ms", Spread::of(own)), figure(peer, rounds))
    }

    fn beside_pairs(&mut self, rounds: usize) -> Row {
        let slots = self.slots;
        let (row, peer) = self.beside(&nft::pairs(slots), rounds);
        let pairs = slots * (slots - 1);
        row.beside(format!("nft -f, {pairs} rules for pairs"), peer).bound(POLICY)
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
