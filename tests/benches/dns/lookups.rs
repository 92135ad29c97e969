//! An allowlist of some length: how long it takes to build, how large it is, and what a lookup costs.

use std::{
    fs,
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use netguard_dns::{Allowlist, DomainName, Entry, Listed, NameSet, WireName};
use netguard_tests::spread::Spread;
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use super::words::{label, policy};

const DOMAINS: usize = 200_000;
const TOP_LEVEL: usize = 300;
/// How many names are looked up in a round, and how many rounds there are.
pub const LOOKUPS: usize = 100_000;
pub const ROUNDS: usize = 9;

/// What one length costs.
pub struct Figures {
    /// From text to a list that answers.
    pub build: Duration,
    /// In bytes.
    pub memory: u64,
    /// Nanoseconds for a name that is listed, or below one.
    pub hit: Spread,
    /// Nanoseconds for a name that is neither.
    pub miss: Spread,
}

/// Measures one length; what this process has had in memory before counts as little as it can.
pub fn figures(length: usize) -> Result<Figures> {
    let names = names(length);
    let mut random = SmallRng::seed_from_u64(2);
    let listed: Vec<WireName> = (0..LOOKUPS)
        .map(|index| {
            let name = &names[random.random_range(0..names.len())];
            let below =
                if index % 2 == 0 { String::new() } else { label(&mut random, 3..=8) + "." };
            wire(&format!("{below}{name}"))
        })
        .collect::<Result<_, _>>()?;
    // As long as the others, and under the same top-level domains: the last label but one is new.
    let unlisted: Vec<WireName> = (0..LOOKUPS)
        .map(|_| {
            let name = &names[random.random_range(0..names.len())];
            let top = name.rsplit('.').next().unwrap_or(name);
            let (host, domain) = (label(&mut random, 3..=12), label(&mut random, 15..=20));
            wire(&format!("{host}.{domain}.{top}"))
        })
        .collect::<Result<_, _>>()?;

    let (memory, started) = (resident()?, Instant::now());
    let list = build(&names)?;
    let (built, memory) = (started.elapsed(), resident()?.saturating_sub(memory));
    ensure!(list.len() == length, "{} names of {length} are in the list", list.len());

    let time = |names: &[WireName], found: usize| -> Result<Spread> {
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            let started = Instant::now();
            let covered = names.iter().filter(|name| is_listed(black_box(&list), name)).count();
            rounds.push(started.elapsed());
            ensure!(covered == found, "{covered} of {found} names are found");
        }
        let each = |round: Duration| round.as_nanos() as f64 / names.len() as f64;
        Ok(Spread::of(rounds.into_iter().map(each).collect()))
    };
    let (hit, miss) = (time(&listed, LOOKUPS)?, time(&unlisted, 0)?);
    Ok(Figures { build: built, memory, hit, miss })
}

/// As a query brings it.
fn wire(name: &str) -> Result<WireName> {
    Ok(WireName::from(&name.parse::<DomainName>()?))
}

/// From text to a list that answers.
fn build(names: &[String]) -> Result<Allowlist> {
    let mut set = NameSet::default();
    for name in names {
        set.add(&name.parse::<Entry>()?)?;
    }
    set.finish();
    Ok(Allowlist::of([Arc::new(set)]))
}

fn is_listed(list: &Allowlist, name: &WireName) -> bool {
    matches!(list.decide(name), Listed::Allowed(_))
}

/// The policy itself, or as many names as asked for, always the same: hosts under random domains, as long lists have
/// them. No name stands twice.
fn names(length: usize) -> Vec<String> {
    let policy = policy();
    if length == policy.len() {
        return policy;
    }
    let mut random = SmallRng::seed_from_u64(1);
    let top_level: Vec<_> = (0..TOP_LEVEL).map(|_| label(&mut random, 2..=6)).collect();
    let domains: Vec<_> = (0..DOMAINS)
        .map(|_| {
            let top = &top_level[random.random_range(0..TOP_LEVEL)];
            format!("{}.{top}", label(&mut random, 4..=14))
        })
        .collect();
    let mut names: Vec<_> = (0..length)
        .map(|number| {
            let domain = &domains[random.random_range(0..DOMAINS)];
            // The number makes it the only one.
            format!("{}{number}.{domain}", label(&mut random, 1..=6))
        })
        .collect();
    names.shrink_to_fit();
    names
}

/// Bytes of this process that are in memory (proc(5), statm).
fn resident() -> Result<u64> {
    let text = fs::read_to_string("/proc/self/statm").context("cannot read /proc/self/statm")?;
    let pages = text.split(' ').nth(1).context("statm has no second field")?;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?.context("no page size")?;
    Ok(pages.parse::<u64>()? * u64::try_from(page)?)
}
