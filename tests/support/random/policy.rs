//! Random configurations, as text, and random pins.

use netguard::policy::Pin;
use rand::{RngExt as _, rngs::SmallRng, seq::IndexedRandom as _};

use super::{SLOT, V4, V6};

/// Gates in turn: a neighbour's guest, the slot's own, one of another runtime, the host.
const GATES: [&[&str]; 4] = [
    &["10.2.0.9", "fd00:10:2::9"],
    &["10.1.0.9"],
    &["10.3.0.9", "fd00:10:3::9"],
    &["198.51.100.1"],
];
const SERVICES: [&str; 7] =
    ["tcp/443", "udp/1-9", "tcp", "udp", "icmp", "tcp/20-8080", "tcp/22,udp/443"];
const PREFIXES: [&str; 20] = [
    "0.0.0.0/0",
    "::/0",
    "203.0.113.0/24",
    "203.0.113.9",
    "203.0.0.0/16",
    "8.8.8.8",
    "1.1.1.1",
    "10.0.0.0/8",
    "192.168.0.0/16",
    "192.168.1.0/24",
    "169.254.0.0/16",
    "224.0.0.0/4",
    "239.1.1.1",
    "2001:db8::/32",
    "2001:db8:113::9",
    "2606:4700:4700::1111",
    "fc00::/7",
    "fd12::/64",
    "ff05::/16",
    "100.64.0.0/10",
];

fn one<'a, T: ?Sized>(random: &mut SmallRng, of: &[&'a T]) -> &'a T {
    of.choose(random).expect("the lists are not empty")
}

/// A configuration in which slot 1's port is `lo` and slots 2 and 3 are neighbours. Rates are off: the
/// model has no clock.
#[must_use]
pub fn policy(random: &mut SmallRng) -> String {
    let mut toml = String::from("[host]\nmanagement = [\"100.64.0.0/10\"");
    if random.random_bool(0.5) {
        toml += ", \"fd99::/64\"";
    }
    toml += "]\nuplinks = [\"uplink0\"]\n\n[dns]\nupstreams = [\"9.9.9.9\"]\nnames = [\"github.com\"]\n";
    if random.random_bool(0.6) {
        let addresses = one(random, &GATES);
        let services: Vec<_> = one(random, &SERVICES).split(',').collect();
        toml += &format!("\n[gate]\naddresses = {addresses:?}\nports = {services:?}\n");
    }
    for name in ["red", "blue"] {
        let isolate = random.random_bool(0.4);
        toml += &format!("\n[[runtime]]\nname = \"{name}\"\nisolate = {isolate}\n");
    }
    for id in 1..=3 {
        toml += &slot(random, id);
    }
    toml
}

fn slot(random: &mut SmallRng, id: u16) -> String {
    let port = if id == SLOT { "lo".to_owned() } else { format!("vm-slot{id}") };
    let runtime = one(random, &["red", "red", "blue"]);
    let mut toml = format!(
        "\n[[slot]]\nname = \"slot{id}\"\nid = {id}\nbridge = \"br-slot{id}\"\nport = \"{port}\"\n\
         runtime = \"{runtime}\"\nsubnet = \"10.{id}.0.0/24\"\nlimits = {{ icmp_per_second = 0 }}\n"
    );
    if id != SLOT || random.random_bool(0.9) {
        toml += &format!("subnet6 = \"fd00:10:{id}::/64\"\n");
    }
    if id == SLOT && random.random_bool(0.3) {
        toml += "mac = \"02:00:00:00:01:02\"\n";
    }
    if random.random_bool(0.04) {
        toml += "mode = \"lockdown\"\n";
    } else if random.random_bool(0.1) {
        toml += "mode = \"audit\"\n";
    }
    let egress = one(random, &["open", "open", "pinned", "listed", "none"]);
    toml += &format!("egress = \"{egress}\"\n");
    if egress != "none" {
        let mut allow = rules(random);
        if egress == "listed" && allow.is_empty() {
            allow.push("203.0.113.0/24".to_owned()); // a list without entries is refused
        }
        toml += &format!("allow = {allow:?}\n");
    }
    if matches!(egress, "open" | "pinned") {
        let deny = rules(random);
        toml += &format!("deny = {deny:?}\n");
    }
    let services = ["[]", "[]", "[\"tcp/4317\"]", "[\"udp/67\", \"tcp/1-1024\"]", "\"all\""];
    toml += &format!("host_services = {}\n", one(random, &services));
    if random.random_bool(0.3) {
        toml += "metadata = true\n";
    }
    toml
}

/// What DNS answers gave the slots, at that moment; of some the time is over.
#[must_use]
pub fn pins(random: &mut SmallRng, now_ns: u64) -> Vec<Pin> {
    const HOUR_NS: u64 = 3_600_000_000_000;
    const RANGES: [(u16, u16); 7] =
        [(0, u16::MAX), (0, u16::MAX), (443, 443), (22, 22), (1, 1024), (8080, u16::MAX), (9, 9)];
    let mut pins = Vec::new();
    for slot in [SLOT, SLOT, 2] {
        for address in V4.iter().chain(&V6) {
            // Slot 1 comes twice: some of its addresses have several ranges.
            if !random.random_bool(0.3) {
                continue;
            }
            let (first, last) = *RANGES.choose(random).expect("the list is not empty");
            let is_over = random.random_bool(0.2);
            pins.push(Pin {
                slot,
                address: address.parse().expect("an address"),
                ports: first..=last,
                until_ns: if is_over { now_ns } else { now_ns + HOUR_NS },
            });
        }
    }
    pins
}

fn rules(random: &mut SmallRng) -> Vec<String> {
    let count = random.random_range(0..5);
    let mut rules: Vec<String> = Vec::new();
    for _ in 0..count {
        let prefix = one(random, &PREFIXES);
        let rule = if random.random_bool(0.5) {
            prefix.to_owned()
        } else {
            format!("{prefix} {}", one(random, &SERVICES))
        };
        if !rules.contains(&rule) {
            rules.push(rule);
        }
    }
    rules
}
