//! From shape to meaning: every rule that a file must keep beyond its types. All that is wrong is told at
//! once.

mod dns;
mod host;
mod names;
mod slots;

use std::net::IpAddr;

use ipnet::IpNet;
use toml::Spanned;

pub(super) use names::{Shelf, shipped_allowlist};

use super::{
    file,
    lines::Lines,
    problem::{Problem, Problems, Source},
    template,
    texts::Texts,
};
use crate::policy::Policy;

/// Checks the file and says what it means, with the places of the slots' keys, or everything that is wrong
/// with it. What is on the shelf of the same texts is not read again.
pub(super) fn check(
    file: &file::File,
    source: &Source,
    texts: &mut Texts,
    shelf: Shelf,
) -> Result<(Policy, Lines, Shelf), Problems> {
    let mut checker = Checker { source, texts, problems: Vec::new(), shelf };
    if file.slots.is_empty() {
        // A file that was cut short must not take the guards of every slot away.
        let message = "no slot is named: add [[slot]]; to stop guarding, use `netguard unload`";
        checker.problems.push(source.problem(0, message));
    }
    let mut entries = Vec::new();
    for slot in &file.slots {
        match template::expand(slot.get_ref(), slot.span().start) {
            Ok(expanded) => entries.extend(expanded),
            Err(lack) => checker.problems.push(source.problem(lack.at, lack.message)),
        }
    }
    let runtimes = checker.runtimes(&file.runtimes, &entries);
    let slots = checker.slots(&entries, &runtimes);
    let gate = checker.gate(file.gate.as_ref(), &slots);
    let mut host = checker.host(&file.host, &entries, &slots);
    host.metrics = checker.metrics(&file.metrics);
    host.fast_path = checker.fast_path(&file.datapath, &host);
    let flows_max = checker.flows_max(&file.limits);
    let mut dns = checker.dns(&file.dns, &slots, &entries);
    dns.denied_in_kernel = file.datapath.dns_denials.unwrap_or(true);
    let Checker { problems, shelf, .. } = checker;
    Problems::unless_empty(problems)?;
    let lines = Lines::of(file, &entries, shelf.categories.clone());
    Ok((Policy { slots, runtimes, gate, host, flows_max, dns }, lines, shelf))
}

fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(&other.network()) || other.contains(&one.network())
}

/// True for what one host can have: loopback too, where an upstream may listen.
fn is_host(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !address.is_unspecified() && !address.is_multicast() && !link_local
}

struct Checker<'a> {
    source: &'a Source,
    texts: &'a mut Texts,
    problems: Vec<Problem>,
    /// What was read of texts beside the file.
    shelf: Shelf,
}

impl Checker<'_> {
    fn refuse<T>(&mut self, at: &Spanned<T>, message: impl Into<String>) {
        self.problems.push(self.source.problem(at.span().start, message));
    }

    /// What a text means, or a problem at its place.
    fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(
        &mut self,
        text: &Spanned<String>,
        whose: &str,
    ) -> Option<T> {
        match text.get_ref().parse() {
            Ok(parsed) => Some(parsed),
            Err(error) => {
                self.refuse(text, format!("{whose}: {error}"));
                None
            }
        }
    }

    fn parse_all<T: std::str::FromStr<Err: std::fmt::Display>>(
        &mut self,
        texts: &[Spanned<String>],
        whose: &str,
    ) -> Vec<T> {
        texts.iter().filter_map(|text| self.parse(text, whose)).collect()
    }
}
