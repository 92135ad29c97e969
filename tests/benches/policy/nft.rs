//! The same policy for nftables: as the scripts write it that netguard replaces, a rule for each pair of slots; and as nftables
//! does it best, by sets and a verdict map.

use std::{fmt::Write as _, io::Write as _, process::Command, time::Instant};

use super::policies::rules_of;

const HEAD: &str = "chain forward {\n\ttype filter hook forward priority filter; policy drop;\n\
                    \tct state established,related accept\n\tct state invalid drop\n";

/// Each pair of its own, so that a drop tells whose it was.
pub fn pairs(slots: u32) -> String {
    let mut text = format!("table inet peer {{\n{HEAD}");
    for from in 1..=slots {
        for to in (1..=slots).filter(|to| *to != from) {
            let _ =
                writeln!(text, "iifname \"br-slot{from}\" oifname \"br-slot{to}\" counter drop");
        }
    }
    for id in 2..=slots {
        for (prefix, port) in rules_of(id, 0) {
            let _ =
                writeln!(text, "iifname \"br-slot{id}\" ip daddr {prefix} tcp dport {port} accept");
        }
    }
    text + "}\n}\n"
}

/// One rule keeps all slots apart, a map leads to a slot's chain, and a set has its rules.
pub fn sets(slots: u32) -> String {
    let mut text = String::from("table inet peer {\n");
    let mut jumps = Vec::new();
    for id in 2..=slots {
        let elements: Vec<_> =
            rules_of(id, 0).map(|(prefix, port)| format!("{prefix} . {port}")).collect();
        let _ = writeln!(
            text,
            "set rules{id} {{ type ipv4_addr . inet_service; flags interval; elements = {{ {} }} }}\n\
             chain slot{id} {{ ip daddr . tcp dport @rules{id} accept; }}",
            elements.join(", ")
        );
        jumps.push(format!("\"br-slot{id}\" : jump slot{id}"));
    }
    let _ = write!(
        text,
        "map slots {{ type ifname : verdict; elements = {{ {} }} }}\n{HEAD}\
         iifname \"br-slot*\" oifname \"br-slot*\" counter drop\niifname vmap @slots\n}}\n}}\n",
        jumps.join(", ")
    );
    text
}

/// A ruleset as nft reads it.
pub struct File(tempfile::NamedTempFile);

impl File {
    /// Writes it.
    pub fn new(text: &str) -> Self {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(text.as_bytes()).expect("the ruleset");
        Self(file)
    }

    /// How long `nft -f` takes in the calling thread's namespace where no rule is, in milliseconds. None if it is not done
    /// within so many seconds.
    pub fn ms(&self, patience: u32) -> Option<f64> {
        let flush = Command::new("nft").args(["flush", "ruleset"]).status();
        assert!(flush.expect("nft").success(), "nft flush ruleset");
        let began = Instant::now();
        let mut command = Command::new("timeout");
        let status =
            command.arg(patience.to_string()).args(["nft", "-f"]).arg(self.0.path()).status();
        let took = began.elapsed();
        match status.expect("nft").code() {
            Some(0) => Some(took.as_secs_f64() * 1e3),
            Some(124) => None,
            code => panic!("nft ends with {code:?}"),
        }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // The next one's measurement is not to wait for this one's rules to go.
        let _ = Command::new("nft").args(["flush", "ruleset"]).status();
    }
}
