//! What another policy costs, from its text until no packet sees the old one: 1,000 slots with 20 rules each, while
//! packets are decided all the time. `cargo xtask bench reload`.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use netguard::{
    config::Config,
    datapath::{Datapath, PinDirectory, PinnedProgram, counters, ensure_bpffs},
    instance::Instance,
    policy::{Facts, InterfaceFact, Plan},
};
use netguard_common::{DropReason, Hook, NO_SLOT, maps::LinkKind};
use netguard_tests::{
    hosts::{enter_new_namespace, ip as ip_batch},
    packet::ip,
    spread::Spread,
};

const SLOTS: u32 = 1000;
const RULES: u32 = 20;
const ROUNDS: u32 = 15;
/// The most that a reload may take, in milliseconds.
const BOUND: f64 = 200.0;
const GUEST: &str = "10.0.1.2";
/// In the management network of even policies, and of odd ones.
const EVEN: &str = "203.0.112.9";
const ODD: &str = "203.0.113.9";

fn main() {
    // What cargo adds to the arguments of a benchmark is not for us.
    let release = Command::new("uname").arg("-r").output().expect("uname");
    println!("kernel {}", String::from_utf8_lossy(&release.stdout).trim());
    println!(
        "{SLOTS} slots, {RULES} rules each; ms: median (lowest to highest) of {ROUNDS} rounds\n"
    );
    println!(
        "{:<11} {:<18} {:<18} {:<18} {:<18} {:<18} {:<18} packets meanwhile, torn",
        "what changes", "check", "compile", "write", "flip", "whole", "settle, after it"
    );
    let mut fixture = Fixture::new();
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
        println!("{:<12} whole: {:.0} ms (bound {BOUND:.0})", "", whole.median);
    }
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
    datapath: Datapath,
    facts: Facts,
    pins: PinDirectory,
    /// The next policy's number: parity says what it does to the packets.
    number: u32,
}

impl Fixture {
    fn new() -> Self {
        enter_new_namespace();
        ensure_bpffs(&Instance::host()).expect("bpffs");
        ip_batch("link set lo up");
        let interface = |index, name: &str, controller| InterfaceFact {
            index,
            name: name.to_owned(),
            mac: [2, 0, 0, 0, 1, 1],
            controller,
            is_bridge: controller.is_none(),
            link: LinkKind::Other,
            isolated: false,
        };
        // Slot 1 is on `lo`; the others wait for theirs: what is there has its programs since long when a policy changes.
        let interfaces = vec![interface(1, "lo", Some(2)), interface(2, "br-slot1", None)];
        let facts = Facts::new(interfaces, BTreeSet::new());
        let instance = format!("bench-{}", std::process::id());
        let pins = PinDirectory::of(&instance.parse().expect("an instance name"));
        let plan = Plan::compile(&parse(&every_rule(0)).policy, &facts);
        let mut datapath = Datapath::load(pins.clone(), &plan).expect("it loads");
        let _ = datapath.apply(plan).expect("the maps take the plan");
        while !datapath.settle().expect("the maps take it again") {}
        Self { datapath, facts, pins, number: 1 }
    }

    fn measure(&mut self, policy: fn(u32) -> String) -> Measured {
        let (is_over, judged, passed) =
            (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
        let frames = [EVEN, ODD].map(|to| ip(GUEST, to).tcp_syn(40_000, 80));
        let pins = self.pins.clone();
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
        let toml = policy(self.number);
        self.number += 1;
        let start = Instant::now();
        let config = parse(&toml);
        let checked = start.elapsed();
        let plan = Arc::new(Plan::compile(&config.policy, &self.facts));
        let compiled = start.elapsed();
        self.datapath.prepare(&plan).expect("the maps take the plan");
        let written = start.elapsed();
        let _ = self.datapath.apply(plan).expect("the plan comes into force");
        let flipped = start.elapsed();
        while !self.datapath.settle().expect("the maps take it again") {}
        let settled = start.elapsed();
        [
            checked,
            compiled - checked,
            written - compiled,
            flipped - written,
            flipped,
            settled - flipped,
        ]
        .map(|time| time.as_secs_f64() * 1000.0)
    }

    /// How many packets were dropped for a reason that neither policy has for them.
    fn others(&self) -> u64 {
        let good = [DropReason::EgressDenied as u8, DropReason::Management as u8];
        let rows = counters(&self.pins, [NO_SLOT, 1].into_iter()).expect("the counters");
        rows.iter().filter(|row| !good.contains(&row.outcome)).map(|row| row.counter.packets).sum()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = self.pins.remove();
    }
}

fn parse(toml: &str) -> Config {
    Config::parse(toml, Path::new("bench.toml")).expect("a good one")
}

/// Of the two packets one goes to the management network, and the other is denied: by even policies because a rule
/// says so, by odd ones because none says anything. The odd ones' rule would open what the even ones deny.
fn head(number: u32) -> String {
    let (management, slot) = if number.is_multiple_of(2) {
        ("203.0.112.0/24", "egress = \"open\"\ndeny = [\"203.0.113.0/24 tcp/80\"]\n")
    } else {
        ("203.0.113.0/24", "egress = \"listed\"\nallow = [\"203.0.113.0/24 tcp/80\"]\n")
    };
    format!(
        "[host]\nmanagement = [\"{management}\"]\n[dns]\nupstreams = [\"9.9.9.9\"]\n[[slot]]\nname = \"slot1\"\nid = 1\n\
         port = \"lo\"\nsubnet = \"10.0.1.0/24\"\n{slot}"
    )
}

/// A policy of which no rule is as in the one before, neither its destination nor its service.
fn every_rule(number: u32) -> String {
    policy(number, number)
}

/// A policy that differs in what slot 1 may do, and in the management network.
fn one_rule(number: u32) -> String {
    policy(number, 0)
}

fn policy(number: u32, rules: u32) -> String {
    let mut toml = head(number);
    for id in 2..=SLOTS {
        let (high, low) = (id / 250, id % 250 + 1);
        let _ = write!(
            toml,
            "[[slot]]\nname = \"slot{id}\"\nid = {id}\nsubnet = \"10.{}.{low}.0/24\"\nallow = [",
            high + 1
        );
        for rule in 0..RULES {
            let third = (rule + rules % 2 * RULES) % 250;
            let port = 1 + (id * RULES + rule + rules * 7) % 60_000;
            let _ = write!(toml, "\"{}.{low}.{third}.0/24 tcp/{port}\", ", 60 + high);
        }
        toml += "]\n";
    }
    toml
}
