//! What an audited slot did that its policy does not open, and the keys of its entry that would open exactly that.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use netguard_common::{DropReason, SlotId, pin::PIN_LANES};
use serde_json::{Map, Value};

use crate::{drops::Drop, policy::Protocol};

/// How many different openings of one slot are remembered.
const OPENINGS_MAX: usize = 1024;

/// What audited slots have opened; a bounded memory for each, of which nothing is left when its slot is audited no more.
#[derive(Debug, Default)]
pub struct Learnt(Mutex<BTreeMap<SlotId, BTreeMap<Opening, u64>>>);

/// What a slot has opened.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Opening {
    /// The DNS name that the address was told by; none where only a rule could open it.
    name: Option<String>,
    address: IpAddr,
    protocol: &'static str,
    port: Option<u16>,
}

impl Opening {
    fn of(drop: &Drop) -> Option<Self> {
        let protocol = drop.packet.traffic().protocol?;
        // A name opens what is not pinned, and nothing else.
        let name = drop.name.clone().filter(|_| drop.reason == DropReason::NotPinned);
        let port = drop.packet.dst_port.filter(|_| protocol != Protocol::Icmp);
        Some(Self { name, address: drop.packet.dst?, protocol: protocol.name(), port })
    }

    /// As `allow` has it.
    fn rule(&self) -> String {
        let Self { address, protocol, .. } = self;
        match self.port {
            Some(port) => format!("{address} {protocol}/{port}"),
            None => format!("{address} {protocol}"),
        }
    }
}

impl Learnt {
    /// Whoever panicked has left nothing half done: each entry is written at once.
    fn slots(&self) -> MutexGuard<'_, BTreeMap<SlotId, BTreeMap<Opening, u64>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers what would have been dropped.
    pub fn saw(&self, slot: SlotId, drop: &Drop) {
        let Some(opening) = Opening::of(drop).filter(|_| drop.passed) else { return };
        let mut slots = self.slots();
        let openings = slots.entry(slot).or_default();
        if let Some(count) = openings.get_mut(&opening) {
            *count += 1;
        } else if openings.len() < OPENINGS_MAX {
            openings.insert(opening, 1);
        }
    }

    /// Forgets what slots have opened that are audited no more.
    pub fn keep(&self, is_audited: impl Fn(SlotId) -> bool) {
        self.slots().retain(|slot, _| is_audited(*slot));
    }

    /// What that slot has opened, and how often each.
    #[must_use]
    pub fn of(&self, slot: SlotId) -> BTreeMap<Opening, u64> {
        self.slots().get(&slot).cloned().unwrap_or_default()
    }
}

/// The keys of a slot's entry, as TOML, that open what it opens now, and what was learnt: names that it was answered, and what it has
/// opened.
#[must_use]
pub fn toml(
    entry: &Map<String, Value>,
    asked: &BTreeMap<String, u64>,
    openings: &BTreeMap<Opening, u64>,
) -> String {
    let slot = entry.get("name").and_then(Value::as_str).unwrap_or_default();
    if asked.is_empty() && openings.is_empty() {
        return format!("# {slot} has done nothing yet that its entry does not open.\n");
    }
    let mut out = format!(
        "# Learnt of {slot}. Put these keys in the place of the same ones in its [[slot]] entry, and take mode = \"audit\" out.\n"
    );
    // Names by the ports that were opened with them; without any where one was not enough.
    let mut names: BTreeMap<&str, Bound> =
        asked.iter().map(|(name, count)| (name.as_str(), Bound::asked(*count))).collect();
    let mut rules = Vec::new();
    for (opening, count) in openings {
        match &opening.name {
            Some(name) => names.entry(name).or_default().open(opening.port, *count),
            None => rules.push((opening.rule(), format!("opened {}", times(*count)))),
        }
    }
    if !rules.is_empty() && entry.get("egress").and_then(Value::as_str) == Some("none") {
        out += "egress = \"listed\"\n";
    }
    write_list(&mut out, "allow", entry.get("allow"), rules);
    if !names.is_empty() {
        out += "[slot.dns]\n";
        let names = names.into_iter().map(|(name, bound)| (bound.entry(name), bound.told()));
        let listed = entry.get("dns").and_then(|dns| dns.get("names"));
        write_list(&mut out, "names", listed, names.collect());
    }
    out
}

/// What was done with a name.
#[derive(Default)]
struct Bound {
    asked: u64,
    opened: u64,
    ports: BTreeSet<u16>,
    /// Something was opened that has no port.
    any: bool,
}

impl Bound {
    fn asked(count: u64) -> Self {
        Self { asked: count, ..Self::default() }
    }

    fn open(&mut self, port: Option<u16>, count: u64) {
        self.opened += count;
        self.any |= port.is_none();
        self.ports.extend(port);
    }

    /// As `names` has it. A pin holds only so many ranges of ports.
    fn entry(&self, name: &str) -> String {
        if self.any || self.ports.is_empty() || self.ports.len() > PIN_LANES {
            return format!("={name}");
        }
        let ports: Vec<_> = self.ports.iter().map(u16::to_string).collect();
        format!("={name}:{}", ports.join(","))
    }

    fn told(&self) -> String {
        match (self.asked, self.opened) {
            (asked, 0) => format!("asked for {}", times(asked)),
            (0, opened) => format!("opened {}", times(opened)),
            (asked, opened) => format!("asked for {}, opened {}", times(asked), times(opened)),
        }
    }
}

fn times(count: u64) -> String {
    if count == 1 { "once".to_owned() } else { format!("{count} times") }
}

/// A key with what is listed there now, and what was learnt.
fn write_list(out: &mut String, key: &str, now: Option<&Value>, learnt: Vec<(String, String)>) {
    if learnt.is_empty() {
        return;
    }
    // Writing to a String cannot fail. What JSON quotes TOML reads.
    let _ = writeln!(out, "{key} = [");
    for text in now.and_then(Value::as_array).into_iter().flatten() {
        let _ = writeln!(out, "    {text},");
    }
    for (text, told) in learnt {
        let _ = writeln!(out, "    {},  # {told}", Value::from(text));
    }
    out.push_str("]\n");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::drops::{Summary, samples};

    fn opening(name: &str, address: &str, reason: DropReason, port: Option<u16>) -> Drop {
        let tcp = samples::tcp();
        let (protocol, detail) = match port {
            Some(_) => ("tcp".to_owned(), None),
            None => ("icmp".to_owned(), Some("echo-request".to_owned())),
        };
        let dst = Some(address.parse().unwrap());
        let name = (!name.is_empty()).then(|| name.to_owned());
        let packet = Summary { protocol, detail, dst, dst_port: port, ..tcp.packet.clone() };
        Drop { packet, name, reason, passed: true, ..tcp }
    }

    fn suggested(entry: &Value, asked: &[(&str, u64)], opened: &[Drop]) -> String {
        let learnt = Learnt::default();
        for drop in opened {
            learnt.saw(1, drop);
        }
        let asked = asked.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        toml(entry.as_object().unwrap(), &asked, &learnt.of(1))
    }

    #[test]
    fn names_open_what_is_pinned_and_rules_the_rest() {
        use DropReason::{EgressDenied, NotPinned, PrivateDestination};
        let entry = json!({
            "name": "one",
            "egress": "pinned",
            "allow": ["192.0.2.0/24 tcp/22"],
            "dns": { "names": ["b.example"] },
        });
        let web = || opening("a.example", "203.0.113.9", NotPinned, Some(443));
        let opened = [
            web(),
            web(),
            opening("a.example", "203.0.113.9", NotPinned, Some(80)),
            opening("c.example", "203.0.113.7", NotPinned, None),
            opening("", "203.0.113.8", NotPinned, Some(80)),
            opening("d.example", "192.168.7.7", PrivateDestination, Some(5432)),
        ];
        assert_eq!(
            suggested(&entry, &[("a.example", 3), ("e.example", 1)], &opened),
            "# Learnt of one. Put these keys in the place of the same ones in its [[slot]] entry, and take mode = \"audit\" out.\n\
             allow = [\n    \"192.0.2.0/24 tcp/22\",\n    \"192.168.7.7 tcp/5432\",  # opened once\n    \
             \"203.0.113.8 tcp/80\",  # opened once\n]\n\
             [slot.dns]\nnames = [\n    \"b.example\",\n    \"=a.example:80,443\",  # asked for 3 times, opened 3 times\n    \
             \"=c.example\",  # opened once\n    \"=e.example\",  # asked for once\n]\n"
        );
        let denied = [opening("a.example", "203.0.113.9", EgressDenied, Some(443))];
        let entry = json!({ "name": "one", "egress": "none" });
        let text = suggested(&entry, &[], &denied);
        assert!(
            text.contains("egress = \"listed\"\nallow = [\n    \"203.0.113.9 tcp/443\""),
            "{text}"
        );
        assert!(suggested(&entry, &[], &[]).starts_with("# one has done nothing yet"));
    }

    #[test]
    fn only_what_passed_is_learnt_and_only_so_much() {
        let learnt = Learnt::default();
        let with = |port| opening("", "203.0.113.8", DropReason::NotPinned, Some(port));
        learnt.saw(1, &Drop { passed: false, ..with(1) });
        assert!(learnt.of(1).is_empty());
        for port in 0..2000 {
            learnt.saw(1, &with(port));
        }
        learnt.saw(2, &with(1));
        assert_eq!((learnt.of(1).len(), learnt.of(2).len()), (OPENINGS_MAX, 1));
        learnt.keep(|slot| slot == 2);
        assert_eq!((learnt.of(1).len(), learnt.of(2).len()), (0, 1));
    }
}
