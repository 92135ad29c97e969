//! What the daemon says at one moment, and what has become more between two of them. No I/O.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;

use crate::status::CounterText;

/// What the daemon said.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Sample {
    /// On a clock that only goes forwards.
    pub(super) at: Duration,
    pub(super) instance: String,
    pub(super) generation: String,
    pub(super) since: String,
    pub(super) slots: Vec<Slot>,
    pub(super) programs: Vec<Program>,
    pub(super) records_lost: u64,
    /// What is not as it should be.
    pub(super) alarms: Vec<String>,
}

/// A slot, and what was counted of it since its counters began.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Slot {
    pub(super) name: String,
    pub(super) interfaces: Vec<String>,
    pub(super) egress: Count,
    pub(super) ingress: Count,
    pub(super) queries: Count,
    /// By direction and reason.
    pub(super) drops: BTreeMap<(String, String), Count>,
    pub(super) pins: Option<u64>,
    pub(super) flows: Option<u64>,
}

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Count {
    pub(super) packets: u64,
    pub(super) bytes: u64,
}

/// A program and what it has cost, if the kernel measures that.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Program {
    pub(super) name: String,
    pub(super) id: u64,
    pub(super) runs: u64,
    pub(super) time: Duration,
}

/// What something is in a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rate {
    pub(super) packets: f64,
    pub(super) bits: f64,
}

/// What a program costs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Cost {
    pub(super) runs: f64,
    /// Of one run.
    pub(super) nanoseconds: f64,
    /// Of one processor.
    pub(super) share: f64,
}

impl Sample {
    /// Reads what `GET /v1/status` answers.
    pub(super) fn read(status: &Value, at: Duration) -> Self {
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let daemon = &status["daemon"];
        let wrong = list(&daemon["failures"]).into_iter().chain(list(&daemon["alarms"]));
        Self {
            at,
            instance: text(&status["instance"]),
            generation: text(&status["generation"]),
            since: text(&daemon["since"])
                .split(['.', 'Z'])
                .next()
                .unwrap_or_default()
                .replace('T', " "),
            slots: list(&status["slots"]).iter().map(Slot::read).collect(),
            programs: list(&status["programs"]).iter().map(Program::read).collect(),
            records_lost: number(&status["records_lost"]),
            alarms: wrong.map(|it| text(&it)).collect(),
        }
    }

    pub(super) fn slot(&self, name: &str) -> Option<&Slot> {
        self.slots.iter().find(|slot| slot.name == name)
    }
}

impl Slot {
    fn read(slot: &Value) -> Self {
        let mut read = Self {
            name: text(&slot["name"]),
            interfaces: slot["interfaces"].as_array().into_iter().flatten().map(text).collect(),
            pins: slot["pins"].as_u64(),
            flows: slot["flows"].as_u64(),
            ..Self::default()
        };
        let counters = slot["counters"].as_array().into_iter().flatten();
        for counter in counters.filter_map(CounterText::of) {
            let CounterText { direction, outcome, packets, bytes, .. } = counter;
            let count = Count { packets, bytes };
            match (direction, outcome) {
                ("egress", "pass") => read.egress = count,
                ("ingress", "pass") => read.ingress = count,
                (_, "redirect" | "answer") => read.queries = read.queries.and(count),
                _ if counter.would_be().is_some() => {} // they have passed
                _ => drop(read.drops.insert((direction.to_owned(), outcome.to_owned()), count)),
            }
        }
        read
    }

    /// All that was dropped.
    pub(super) fn dropped(&self) -> Count {
        self.drops.values().fold(Count::default(), |sum, count| sum.and(*count))
    }
}

impl Count {
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            packets: self.packets.saturating_add(other.packets),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }

    /// How fast it has grown to this. What is less than before has begun anew.
    pub(super) fn rate(self, before: Self, time: Duration) -> Rate {
        let seconds = time.as_secs_f64();
        if seconds <= 0.0 {
            return Rate::default();
        }
        Rate {
            packets: self.packets.saturating_sub(before.packets) as f64 / seconds,
            bits: self.bytes.saturating_sub(before.bytes) as f64 * 8.0 / seconds,
        }
    }
}

impl Program {
    fn read(program: &Value) -> Self {
        Self {
            name: text(&program["name"]),
            id: number(&program["id"]),
            runs: number(&program["runs"]),
            time: Duration::from_nanos(number(&program["run_time_ns"])),
        }
    }

    /// What it has cost since. None if nobody measures, or another program has the name now.
    pub(super) fn cost(&self, before: &Self, time: Duration) -> Option<Cost> {
        let runs = self.runs.checked_sub(before.runs).filter(|runs| *runs > 0)?;
        let spent = self.time.checked_sub(before.time).filter(|_| self.id == before.id)?;
        let spent_ns = spent.as_nanos() as f64;
        (time > Duration::ZERO).then(|| Cost {
            runs: runs as f64 / time.as_secs_f64(),
            nanoseconds: spent_ns / runs as f64,
            share: spent.as_secs_f64() / time.as_secs_f64(),
        })
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("-").to_owned()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_status_is_read_with_what_is_wrong() {
        let counter = |direction, outcome, packets| json!({"direction": direction, "outcome": outcome, "packets": packets, "bytes": packets * 100});
        let sample = Sample::read(
            &json!({
                "instance": "host", "generation": "0000002a", "records_lost": 3,
                "slots": [{"name": "slot1", "interfaces": ["br1", "vm-slot1"], "pins": 4, "counters": [
                    counter("egress", "pass", 10), counter("egress", "redirect", 2), counter("ingress", "pass", 20),
                    counter("egress", "host", 5), counter("egress", "would-drop-not-pinned", 9), counter("ingress", "unsolicited", 6),
                ]}],
                "programs": [{"name": "ng_xdp", "id": 7, "runs": 100, "run_time_ns": 25_000}],
                "daemon": {"since": "2026-11-26T00:00:00Z", "failures": ["vm-slot2: busy"], "alarms": ["detached"]},
            }),
            Duration::from_secs(1),
        );
        assert_eq!(sample.alarms, ["vm-slot2: busy", "detached"]);
        let slot = sample.slot("slot1").unwrap();
        assert_eq!((slot.egress.packets, slot.ingress.packets, slot.queries.packets), (10, 20, 2));
        assert_eq!(slot.dropped(), Count { packets: 11, bytes: 1100 });
        assert_eq!((slot.pins, slot.flows), (Some(4), None));
        assert_eq!((sample.records_lost, sample.programs[0].runs), (3, 100));
    }

    #[test]
    fn a_rate_is_what_came_in_the_time_between() {
        let count = |packets| Count { packets, bytes: packets * 100 };
        let rate = count(30).rate(count(10), Duration::from_secs(2));
        assert_eq!(rate, Rate { packets: 10.0, bits: 8000.0 });
        // Counters that began anew, and a clock that stood still.
        assert_eq!(count(1).rate(count(10), Duration::from_secs(2)), Rate::default());
        assert_eq!(count(30).rate(count(10), Duration::ZERO), Rate::default());
    }

    #[test]
    fn a_program_costs_what_its_runs_took() {
        let program = |id, runs, nanoseconds| Program {
            name: "ng_xdp".to_owned(),
            id,
            runs,
            time: Duration::from_nanos(nanoseconds),
        };
        let second = Duration::from_secs(1);
        let cost = program(1, 1_000_000, 130_000_000).cost(&program(1, 0, 0), second).unwrap();
        assert_eq!((cost.runs, cost.nanoseconds, cost.share), (1e6, 130.0, 0.13));
        assert_eq!(program(2, 10, 10).cost(&program(1, 0, 0), second), None);
        assert_eq!(program(1, 0, 0).cost(&program(1, 0, 0), second), None);
    }
}
