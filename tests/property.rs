//! Random policies and random packets, put to the loaded programs and to the oracle: the two were
//! written apart, and must agree.
//!
//! Every run has a seed of its own and prints it. `NETGUARD_SEED=NUMBER` starts with that one; a
//! mismatch prints the number with which its policy comes first.

use std::{
    collections::BTreeMap,
    env,
    fmt::Write as _,
    net::IpAddr,
    panic::resume_unwind,
    path::Path,
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use netguard::{
    config::Config,
    policy::{Evaluator, Facts, Policy, Slot, Verdict},
};
use netguard_common::{DropReason, Hook};
use netguard_tests::{
    can_use_kernel,
    kernel::{Kernel, Outcome, now_ns, vouched_by},
    random::{Packets, Probe, SLOT, pins, policy},
};
use rand::{SeedableRng as _, rngs::SmallRng};

/// How many packets of its past a mismatch prints.
const PAST: usize = 60;

/// What the host of the fixture has for its own, and what it surely routes elsewhere.
const LOCAL: [&str; 7] = [
    "10.1.0.1",
    "10.1.0.255",
    "198.51.100.1",
    "198.51.100.255",
    "fd00:10:1::1",
    "fd00:10:1::",
    "2001:db8:ffff::2",
];
const ROUTED: [&str; 13] = [
    "10.1.0.2",
    "10.1.0.3",
    "10.1.0.9",
    "10.2.0.2",
    "10.3.0.9",
    "203.0.113.9",
    "203.0.113.77",
    "8.8.8.8",
    "1.1.1.1",
    "192.168.1.1",
    "fd00:10:2::9",
    "2001:db8:113::9",
    "2606:4700:4700::1111",
];

/// Whether the fixture's host delivers to itself; none where that is not plain.
fn is_local(src: IpAddr, dst: IpAddr) -> Option<bool> {
    if matches!(src, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
        return None; // not forwarded, whatever the destination (RFC 4291 section 2.5.6)
    }
    let dst = dst.to_string();
    if LOCAL.contains(&dst.as_str()) {
        Some(true)
    } else {
        ROUTED.contains(&dst.as_str()).then_some(false)
    }
}

fn first_seed() -> u64 {
    let seed = env::var("NETGUARD_SEED").map_or_else(
        |_| u64::from(rand::random::<u32>()),
        |text| text.parse().expect("NETGUARD_SEED is a number"),
    );
    println!("NETGUARD_SEED={seed}");
    seed
}

fn own_slot(policy: &Policy) -> &Slot {
    policy.slots.iter().find(|slot| slot.id == SLOT).expect("the fixture's slot")
}

/// Asks the oracle. Where a destination's route is not plain, what `local` says holds.
fn ask(evaluator: &mut Evaluator<'_>, slot: &Slot, probe: &Probe, local: bool) -> Verdict {
    match probe {
        Probe::Egress(frame) => {
            evaluator.egress(slot, frame, &|src, dst| is_local(src, dst).unwrap_or(local))
        }
        Probe::Ingress(frame, sender) => evaluator.ingress(slot, frame, *sender, false),
    }
}

/// Asks the programs; none if the kernel makes no skb of the frame. The drop stage takes any frame.
fn run(kernel: &mut Kernel, probe: &Probe) -> Option<Outcome> {
    match probe {
        Probe::Egress(frame) if probe.fits_an_skb() => Some(kernel.verdict_egress(frame)),
        Probe::Egress(frame) => Some(kernel.probe(Hook::Xdp, frame, 0).0),
        Probe::Ingress(frame, sender) if probe.fits_an_skb() => {
            Some(kernel.verdict_ingress(frame, vouched_by(sender.unwrap_or(0))))
        }
        Probe::Ingress(..) => None,
    }
}

/// What the model has no notion of: clocks and room.
fn is_about_resources(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Drop(reason) if reason.is_about_resources())
}

fn agree(outcome: Outcome, verdict: Verdict) -> bool {
    match (outcome, verdict) {
        (Outcome::Pass, Verdict::Pass) | (Outcome::Redirect, Verdict::Redirect) => true,
        (Outcome::Drop(one), Verdict::Drop(other)) => one == other,
        _ => false, // also a frame that was left to others
    }
}

fn is_let_through(outcome: Outcome, verdict: Verdict) -> bool {
    !matches!(outcome, Outcome::Drop(_)) && matches!(verdict, Verdict::Drop(_))
}

fn hex(frame: &[u8]) -> String {
    frame.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn line(probe: &Probe, outcome: Outcome, verdict: Verdict) -> String {
    let (way, frame) = match probe {
        Probe::Egress(frame) => ("egress".to_owned(), frame),
        Probe::Ingress(frame, sender) => (format!("ingress from {sender:?}"), frame),
    };
    format!("{way}: programs {outcome:?}, oracle {verdict:?}, frame {}", hex(frame))
}

/// One policy and many packets; the number of packets that were compared.
fn compare(
    seed: u64,
    packets: usize,
    mutated: f64,
    is_wrong: fn(Outcome, Verdict) -> bool,
    sweep: bool,
) -> usize {
    let mut random = SmallRng::seed_from_u64(seed);
    let toml = policy(&mut random);
    // Every other policy is enforced on a host with the fast path: nothing of it changes a verdict.
    let is_fast = seed.is_multiple_of(2);
    let mut kernel = if is_fast { Kernel::fast(&toml) } else { Kernel::with(&toml) };
    let (policy, facts): (Policy, Facts) = (kernel.config().policy.clone(), kernel.facts().clone());
    let slot = own_slot(&policy);
    let now_ns = now_ns();
    let pins = pins(&mut random, now_ns);
    kernel.pin(&pins);
    let mut evaluator = Evaluator::new(&policy, &facts).with_pins(pins, now_ns);
    let mut source = Packets::new(random, mutated);
    let mut past: Vec<String> = Vec::new();
    let mut compared = 0;
    let mut check = |probe: &Probe| {
        let Some(outcome) = run(&mut kernel, probe) else { return };
        if is_about_resources(outcome) {
            return; // a drop that moves no flow: the model need not hear of the packet
        }
        let local = outcome == Outcome::Drop(DropReason::Host);
        let verdict = ask(&mut evaluator, slot, probe, local);
        let line = line(probe, outcome, verdict);
        assert!(
            !is_wrong(outcome, verdict),
            "NETGUARD_SEED={seed}, packet {compared}\n{line}\n\n{toml}\nbefore it, oldest first:\n{}",
            past[past.len().saturating_sub(PAST)..].join("\n"),
        );
        past.push(line);
        compared += 1;
    };
    while source.produced() < packets {
        let probe = source.produce();
        if sweep {
            for length in 14..probe.frame().len() {
                check(&probe.cut(length));
            }
        }
        check(&probe);
    }
    TRANSLATED.fetch_add(kernel.translated, Ordering::Relaxed);
    compared
}

/// How many packets have left by the fast path.
static TRANSLATED: AtomicUsize = AtomicUsize::new(0);

/// What the kernel has complained of since it started, as far as its log reaches back.
fn kernel_warnings() -> usize {
    let output = Command::new("dmesg").output().expect("dmesg is util-linux's");
    assert!(output.status.success(), "the kernel's log cannot be read");
    let log = String::from_utf8_lossy(&output.stdout).into_owned();
    let is_warning = |line: &&str| ["WARNING:", "BUG:", "Oops"].iter().any(|it| line.contains(it));
    log.lines().filter(is_warning).count()
}

/// Runs the policies on every core and says how many packets were compared.
fn on_every_core(policies: usize, compare: impl Fn(u64) -> usize + Sync) -> usize {
    let seed = first_seed();
    let warnings = kernel_warnings();
    let (next, compared) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= policies {
                return;
            }
            let seed = seed.wrapping_add(u64::try_from(number).expect("a small number"));
            compared.fetch_add(compare(seed), Ordering::Relaxed);
        }
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            thread.join().unwrap_or_else(|panic| resume_unwind(panic));
        }
    });
    assert!(kernel_warnings() <= warnings, "the kernel complains, see dmesg");
    compared.into_inner()
}

#[test]
fn the_programs_and_the_oracle_agree() {
    if !can_use_kernel() {
        return;
    }
    let compared = on_every_core(200, |seed| {
        compare(seed, 520, 0.2, |outcome, verdict| !agree(outcome, verdict), false)
    });
    let translated = TRANSLATED.load(Ordering::Relaxed);
    println!("{compared} packets, {translated} by the fast path");
    assert!(compared >= 100_000, "only {compared} packets were compared");
    assert!(translated >= 2_000, "only {translated} packets took the fast path");
}

#[test]
fn they_agree_on_every_prefix_of_a_packet() {
    if !can_use_kernel() {
        return;
    }
    let compared = on_every_core(10, |seed| {
        compare(seed, 60, 0.0, |outcome, verdict| !agree(outcome, verdict), true)
    });
    println!("{compared} packets");
    assert!(compared >= 10_000, "only {compared} packets were compared");
}

#[test]
fn no_mutated_packet_passes_that_the_oracle_would_not_pass() {
    if !can_use_kernel() {
        return;
    }
    // A few more than a million: the kernel makes no skb of some.
    let compared = on_every_core(55, |seed| compare(seed, 20_000, 1.0, is_let_through, false));
    println!("{compared} packets");
    assert!(compared >= 1_000_000, "only {compared} packets were compared");
}

/// The test of the tests, by the oracle alone: packets that are all alike would prove nothing.
#[test]
fn random_packets_meet_every_reason() {
    use DropReason as R;
    const POLICIES: u64 = 300;
    const PACKETS: usize = 1000;
    let facts = Facts::new(Vec::new(), [(2, "198.51.100.1".parse().expect("an address"))].into());
    let mut met: BTreeMap<String, usize> = BTreeMap::new();
    for seed in 0..POLICIES {
        let mut random = SmallRng::seed_from_u64(seed);
        let toml = policy(&mut random);
        let config = Config::parse(&toml, Path::new("test.toml"))
            .unwrap_or_else(|problems| panic!("{problems}\n{toml}"));
        let slot = own_slot(&config.policy);
        let pins = pins(&mut random, 1);
        let mut evaluator = Evaluator::new(&config.policy, &facts).with_pins(pins, 1);
        let mut packets = Packets::new(random, 0.2);
        for _ in 0..PACKETS {
            let verdict = ask(&mut evaluator, slot, &packets.produce(), false);
            *met.entry(name(verdict)).or_default() += 1;
        }
    }
    println!("{met:#?}");
    let unreachable = [
        R::UnknownPort,
        R::UnguardedPort,
        R::DnsFlowsFull,
        R::FlowsFull,
        R::FlowRate,
        R::PacketRate,
        R::ByteRate,
        R::IcmpRate,
        R::Internal,
    ];
    for reason in R::ALL.iter().filter(|reason| !unreachable.contains(reason)) {
        assert!(met.contains_key(reason.name()), "no packet was dropped for {}", reason.name());
    }
    let passed = met["pass"];
    assert!(passed > 30_000, "only {passed} passed");
}

fn name(verdict: Verdict) -> String {
    match verdict {
        Verdict::Pass => "pass".to_owned(),
        Verdict::Redirect => "redirect".to_owned(),
        Verdict::Drop(reason) => reason.name().to_owned(),
    }
}
