//! Rules of one slot.

use std::{fmt::Write as _, path::Path, sync::Arc};

use netguard::{config::Config, policy::Plan};
use netguard_tests::{packet::ip, programs::Programs, report::Report};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use super::{
    GUEST, median, memory,
    memory::MB,
    one_by_one,
    table::{Table, column},
};

const RULES: [u32; 3] = [10, 1000, 100_000];
/// More than half of what the map takes, because each policy has a half.
const TOO_MANY: u32 = (1 << 20) + 1;

pub fn table(_: &mut Report) -> Table {
    let columns = vec![
        column("verdict on a packet that a rule lets open a flow, ns", 0),
        column("policy applied, ms", 1),
        column("maps, MB", 1),
    ];
    let mut table = Table::new("Rules", columns);
    for rules in RULES {
        let mut programs = Programs::load(&policy(rules, 0), 1);
        let mut random = SmallRng::seed_from_u64(1);
        let opening = one_by_one(&programs, || {
            let rule = random.random_range(0..rules);
            let web = format!("{}.{}", prefix(rule), random.random_range(1..255));
            ip(GUEST, &web).udp(random.random_range(1024..u16::MAX), port(rule, 0), &[0; 18])
        });
        programs.settle();
        let mut number = 0;
        let applied = median(|| {
            number += 1;
            programs.reload(&policy(rules, number)).whole.as_secs_f64() * 1e3
        });
        table.add(rules as usize, [opening, applied, memory::of_maps(None) / MB]);
    }
    table.breaks = broken();
    table
}

/// The next policy has no room, and the one before stays.
fn broken() -> String {
    let mut programs = Programs::load(&policy(1, 0), 1);
    let text = policy(TOO_MANY, 0);
    let config = Config::parse(&text, Path::new("netguard.toml")).expect("a good one");
    let plan = Arc::new(Plan::compile(&config.policy, programs.facts()));
    match programs.datapath.prepare(&plan) {
        Ok(()) => format!("nothing up to {TOO_MANY} rules."),
        Err(error) => {
            format!("{TOO_MANY} rules are refused and the policy before stays: `{error}`.")
        }
    }
}

/// Rules of one network and one port each; of the next policy each port is another.
fn policy(rules: u32, number: u32) -> String {
    let mut toml = String::from(
        "[dns]\nupstreams = [\"9.9.9.9\"]\n[[slot]]\nname = \"slot1\"\nid = 1\nport = \"lo\"\nsubnet = \"10.0.1.0/24\"\n\
         egress = \"listed\"\nhost_services = \"all\"\nallow = [",
    );
    for rule in 0..rules {
        let _ = write!(toml, "\"{}.0/24 udp/{}\", ", prefix(rule), port(rule, number));
    }
    toml + "]\n"
}

fn prefix(rule: u32) -> String {
    format!("{}.{}.{}", 60 + (rule >> 16), rule >> 8 & 255, rule & 255)
}

fn port(rule: u32, number: u32) -> u16 {
    (1000 + (rule * 7 + number) % 60_000) as u16
}
