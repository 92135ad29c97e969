//! `netguard pins`: the addresses that DNS answers gave slots, read back from the kernel. Says what the programs
//! let through, whether or not a daemon runs.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use netguard_common::{SlotId, maps::read_name};
use netguard_dns::{Moment, Pin};
use serde_json::{Value, json};

use crate::{
    datapath::{self, PinDirectory, PinnedAddresses},
    instance::Instance,
};

/// The pins of an instance, ready to print.
#[derive(Clone, Debug)]
pub struct Pinned {
    slots: BTreeMap<SlotId, String>,
    /// By number of slot, name and address.
    pins: Vec<Pin>,
}

/// A slot that is not there.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("no slot is called {slot:?}; there are {}", .slots.join(", "))]
pub struct NoSlot {
    /// What was asked for.
    pub slot: String,
    /// The slots that there are.
    pub slots: Vec<String>,
}

impl NoSlot {
    /// The number of a slot.
    ///
    /// # Errors
    ///
    /// There is none of that name.
    pub fn find(slots: &BTreeMap<SlotId, String>, name: &str) -> Result<SlotId, Self> {
        let found = slots.iter().find(|(_, slot)| *slot == name).map(|(id, _)| *id);
        let others = || Self { slot: name.to_owned(), slots: slots.values().cloned().collect() };
        found.ok_or_else(others)
    }
}

impl Pinned {
    /// Of those slots, by number.
    #[must_use]
    pub fn new(slots: BTreeMap<SlotId, String>, mut pins: Vec<Pin>) -> Self {
        pins.sort_by(|one, other| {
            (one.slot, &one.name, one.address).cmp(&(other.slot, &other.name, other.address))
        });
        Self { slots, pins }
    }

    /// Reads an instance.
    ///
    /// # Errors
    ///
    /// The instance has no pins, or they may not be read.
    pub fn read(instance: &Instance) -> Result<Self, datapath::Error> {
        let held = PinnedAddresses::open(&PinDirectory::of(instance))?;
        let now = Moment::now();
        let slots =
            held.slots.iter().map(|(id, slot)| (*id, read_name(&slot.name).to_owned())).collect();
        let pins = held.entries.iter().filter_map(|(key, entry)| Pin::of_entry(key, entry, now));
        Ok(Self::new(slots, pins.collect()))
    }

    /// Only those of one slot.
    ///
    /// # Errors
    ///
    /// There is no slot of that name.
    pub fn of_slot(mut self, slot: &str) -> Result<Self, NoSlot> {
        let id = NoSlot::find(&self.slots, slot)?;
        self.pins.retain(|pin| pin.slot == id);
        Ok(self)
    }

    /// As one JSON object; times in whole seconds.
    #[must_use]
    pub fn json(&self) -> Value {
        let pins: Vec<_> = self
            .pins
            .iter()
            .map(|pin| {
                json!({
                    "slot": self.name(pin.slot),
                    "name": pin.name,
                    "address": pin.address,
                    "ports": pin.ports.to_string(),
                    "age_seconds": pin.age.as_secs(),
                    "left_seconds": pin.left.as_secs(),
                })
            })
            .collect();
        json!({ "pins": pins })
    }

    /// As a table for a person.
    #[must_use]
    pub fn text(&self) -> String {
        if self.pins.is_empty() {
            return "no address is pinned".to_owned();
        }
        let longest = self.pins.iter().map(|pin| pin.name.len()).max().unwrap_or_default().max(4);
        let mut out = format!(
            "{:<12} {:<longest$} {:<39} {:<12} {:>9} {:>9}\n",
            "slot", "name", "address", "ports", "age", "left"
        );
        for pin in &self.pins {
            // Writing to a String cannot fail.
            let _ = writeln!(
                out,
                "{:<12} {:<longest$} {:<39} {:<12} {:>9} {:>9}",
                self.name(pin.slot),
                pin.name,
                pin.address.to_string(),
                pin.ports.to_string(),
                short(pin.age),
                short(pin.left),
            );
        }
        out
    }

    /// The slot's name; its number, if the slot is gone and the daemon has not yet removed its pins.
    fn name(&self, slot: SlotId) -> String {
        self.slots.get(&slot).cloned().unwrap_or_else(|| slot.to_string())
    }
}

/// As in "4m12s".
fn short(time: Duration) -> String {
    let seconds = Duration::from_secs(time.as_secs());
    humantime::format_duration(seconds).to_string().replace(' ', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pinned() -> Pinned {
        let pin = |slot, name: &str, address: &str, ports: &str| Pin {
            slot,
            name: name.to_owned(),
            address: address.parse().expect("an address"),
            ports: ports.parse().unwrap_or_default(),
            age: Duration::from_millis(252_900),
            left: Duration::from_secs(59),
        };
        let slots = [(1, "web".to_owned()), (2, "ci".to_owned())];
        Pinned::new(
            slots.into(),
            vec![
                pin(2, "a.example", "2001:db8::9", ""),
                pin(1, "github.com", "203.0.113.9", "22,443"),
                pin(1, "github.com", "203.0.113.8", ""),
            ],
        )
    }

    #[test]
    fn the_table_is_sorted_and_says_how_long() {
        let expected = "\
slot         name       address                                 ports              age      left
web          github.com 203.0.113.8                             any              4m12s       59s
web          github.com 203.0.113.9                             22,443           4m12s       59s
ci           a.example  2001:db8::9                             any              4m12s       59s
";
        assert_eq!(pinned().text(), expected);
        let one = pinned().of_slot("ci").expect("a slot");
        let expected = r#"{"pins":[{"address":"2001:db8::9","age_seconds":252,"left_seconds":59,"name":"a.example","ports":"any","slot":"ci"}]}"#;
        assert_eq!(one.json().to_string(), expected);
    }

    #[test]
    fn a_slot_that_is_not_there_is_told_with_those_that_are() {
        let error = pinned().of_slot("ic").expect_err("no such slot").to_string();
        assert_eq!(error, "no slot is called \"ic\"; there are web, ci");
    }
}
