//! Policies of many slots with 20 rules each that take turns: what differs from one to the next.

use std::fmt::Write as _;

/// How many slots the largest has.
pub const SLOTS: u32 = 1000;
/// How many rules each slot has, but the first.
pub const RULES: u32 = 20;

/// A policy of so many slots. Of two packets one goes to the management network, and the other is denied: by even policies because a
/// rule says so, by odd ones because none says anything. The odd ones' rule would open what the even ones deny.
pub fn policy(slots: u32, number: u32, rules: u32) -> String {
    let mut toml = head(number);
    for id in 2..=slots {
        let (high, low) = (id / 250, id % 250 + 1);
        let _ = write!(
            toml,
            "[[slot]]\nname = \"slot{id}\"\nid = {id}\nsubnet = \"10.{}.{low}.0/24\"\nallow = [",
            high + 1
        );
        for (prefix, port) in rules_of(id, rules) {
            let _ = write!(toml, "\"{prefix} tcp/{port}\", ");
        }
        toml += "]\n";
    }
    toml
}

/// The rules of a slot: prefix and TCP port.
pub fn rules_of(id: u32, rules: u32) -> impl Iterator<Item = (String, u32)> {
    let (high, low) = (id / 250, id % 250 + 1);
    (0..RULES).map(move |rule| {
        let third = (rule + rules % 2 * RULES) % 250;
        let port = 1 + (id * RULES + rule + rules * 7) % 60_000;
        (format!("{}.{low}.{third}.0/24", 60 + high), port)
    })
}

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
