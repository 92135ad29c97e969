//! What another policy costs, from its text until no packet sees the old one: 1,000 slots with 20 rules each, while
//! packets are decided all the time. `cargo xtask bench reload`.

#[path = "reload/policies.rs"]
mod policies;

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use netguard::datapath::{PinnedProgram, counters};
use netguard_common::{DropReason, Hook, NO_SLOT};
use netguard_tests::{
    packet::ip,
    programs::{Programs, Steps},
    report::{Bound, Report, Row, machine},
    spread::Spread,
};
use policies::{RULES, SLOTS, policy};

const ROUNDS: u32 = 15;
/// The most that a reload may take, in milliseconds.
const BOUND: f64 = 200.0;
const GUEST: &str = "10.0.1.2";
/// In the management network of even policies, and of odd ones.
const EVEN: &str = "203.0.112.9";
const ODD: &str = "203.0.113.9";

fn main() {
    // What cargo adds to the arguments of a benchmark is not for us.
    println!("{}", machine());
    println!(
        "{SLOTS} slots, {RULES} rules each; ms: median (lowest to highest) of {ROUNDS} rounds\n"
    );
    println!(
        "{:<11} {:<18} {:<18} {:<18} {:<18} {:<18} {:<18} packets meanwhile, torn",
        "what changes", "check", "compile", "write", "flip", "whole", "settle, after it"
    );
    let mut fixture = Fixture::new();
    let mut report = Report::new("reload");
    for (name, policy) in [("every rule", every_rule as fn(u32) -> String), ("one rule", one_rule)]
    {
        let measured = fixture.measure(policy);
        let Measured { check, compile, write, flip, whole, settle, judged, torn } = measured;
        let [check, compile, write, flip, settle] =
            [check, compile, write, flip, settle].map(|it| format!("{it:.1}"));
        let whole_text = format!("{whole:.1}");
        println!(
            "{name:<12} {check:<18} {compile:<18} {write:<18} {flip:<18} {whole_text:<18} {settle:<18} {judged}, {torn}"
        );
        let what = format!("policy of 1,000 slots, {name} changes: text to force");
        report.add(Row::new(what, "ms", whole).bound(Bound::Below(BOUND)));
    }
    report.finish();
}

struct Measured {
    /// From the text to the policy.
    check: Spread,
    /// From the policy to the plan.
    compile: Spread,
    /// The plan's entries, where no packet looks.
    write: Spread,
    /// Until every packet that comes sees them.
    flip: Spread,
    /// All of these.
    whole: Spread,
    /// Until the next reload has only a difference to write, the kernel's grace period in it.
    settle: Spread,
    judged: u64,
    torn: u64,
}

struct Fixture {
    programs: Programs,
    /// The next policy's number: parity says what it does to the packets.
    number: u32,
}

impl Fixture {
    fn new() -> Self {
        // The other slots wait for their interfaces: what is there has its programs since long when a policy changes.
        let mut programs = Programs::load(&every_rule(0), 1);
        programs.settle();
        Self { programs, number: 1 }
    }

    fn measure(&mut self, policy: fn(u32) -> String) -> Measured {
        let (is_over, judged, passed) =
            (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
        let frames = [EVEN, ODD].map(|to| ip(GUEST, to).tcp_syn(40_000, 80));
        let pins = self.programs.pins().clone();
        let others = self.others();
        let mut times: [Vec<f64>; 6] = Default::default();
        thread::scope(|scope| {
            scope.spawn(|| {
                let program = PinnedProgram::open(&pins, Hook::PortEgress).expect("it is pinned");
                let until = |_: &&Vec<u8>| !is_over.load(Ordering::Relaxed);
                for frame in frames.iter().cycle().take_while(until) {
                    let probed = program.probe(frame, 0).expect("the program runs");
                    passed.fetch_add((probed.mark != 0).into(), Ordering::Relaxed);
                    judged.fetch_add(1, Ordering::Relaxed);
                }
            });
            for _ in 0..ROUNDS {
                for (times, took) in times.iter_mut().zip(self.reload(policy)) {
                    times.push(took);
                }
            }
            is_over.store(true, Ordering::Relaxed);
        });
        let torn = passed.into_inner() + self.others() - others;
        let [check, compile, write, flip, whole, settle] = times.map(Spread::of);
        let judged = judged.into_inner();
        Measured { check, compile, write, flip, whole, settle, judged, torn }
    }

    /// One reload: what each step took, in milliseconds.
    fn reload(&mut self, policy: fn(u32) -> String) -> [f64; 6] {
        let Steps { check, compile, write, flip, whole, settle } =
            self.programs.reload(&policy(self.number));
        self.number += 1;
        [check, compile, write, flip, whole, settle].map(|time| time.as_secs_f64() * 1000.0)
    }

    /// How many packets were dropped for a reason that neither policy has for them.
    fn others(&self) -> u64 {
        let good = [DropReason::EgressDenied as u8, DropReason::Management as u8];
        let rows = counters(self.programs.pins(), [NO_SLOT, 1].into_iter()).expect("the counters");
        rows.iter().filter(|row| !good.contains(&row.outcome)).map(|row| row.counter.packets).sum()
    }
}

/// A policy of which no rule is as in the one before, neither its destination nor its service.
fn every_rule(number: u32) -> String {
    policy(SLOTS, number, number)
}

/// A policy that differs in what slot 1 may do, and in the management network.
fn one_rule(number: u32) -> String {
    policy(SLOTS, number, 0)
}
