//! `netguard status`: slots, programs and counters, read back from the kernel. Says what is
//! enforced, whether or not a daemon runs.

use std::{collections::BTreeMap, fmt::Write as _};

use netguard_common::{
    Direction, DropReason, NO_SLOT, SlotId,
    maps::{OUTCOME_ANSWER, OUTCOME_PASS, OUTCOME_REDIRECT, Outcome, read_name, would_drop},
};
use serde_json::{Value, json};

use crate::{
    daemon::{self, Counted},
    datapath::{self, PinDirectory, View},
    instance::Instance,
};

/// One instance, ready to print.
pub struct Status {
    instance: Instance,
    daemon_pid: Option<u32>,
    view: View,
    /// By slot, what was counted elsewhere before it came here.
    carried: BTreeMap<String, Vec<Counted>>,
}

impl Status {
    /// Reads an instance.
    ///
    /// # Errors
    ///
    /// The instance has no pins, or they may not be read.
    pub fn read(instance: &Instance) -> Result<Self, datapath::Error> {
        let view = View::open(&PinDirectory::of(instance))?;
        let carried = daemon::carried(instance);
        Ok(Self { instance: instance.clone(), daemon_pid: instance.running_pid(), view, carried })
    }

    /// As one JSON object.
    #[must_use]
    pub fn json(&self) -> Value {
        let slots: Vec<_> = self
            .view
            .slots
            .iter()
            .map(|(id, slot)| {
                json!({
                    "id": id,
                    "name": read_name(&slot.name),
                    "interfaces": self.interfaces(*id),
                    "counters": self.counters(*id),
                    "flows": self.view.flows.as_ref().map(|flows| flows.get(id).copied().unwrap_or_default()),
                    "carried": self.carried.get(read_name(&slot.name)).map_or(&[][..], Vec::as_slice),
                })
            })
            .collect();
        let programs: Vec<_> = self
            .view
            .programs
            .iter()
            .map(|program| {
                json!({
                    "name": program.name,
                    "id": program.id,
                    "tag": program.tag,
                    "verified_instructions": program.verified_instructions,
                    "runs": program.runs,
                    "run_time_ns": u64::try_from(program.run_time.as_nanos()).unwrap_or(u64::MAX),
                    "interfaces": self.attached(&program.name),
                })
            })
            .collect();
        json!({
            "instance": self.instance.as_str(),
            "daemon_pid": self.daemon_pid,
            "generation": self.generation(),
            "slots": slots,
            "no_slot_counters": self.counters(NO_SLOT),
            "programs": programs,
            "records_lost": self.view.records_lost,
        })
    }

    /// The process of the instance's daemon, if one runs.
    #[must_use]
    pub fn daemon_pid(&self) -> Option<u32> {
        self.daemon_pid
    }

    /// What became of a slot's packets, here and where it was before.
    #[must_use]
    pub fn counted(&self, slot: &str) -> Vec<Counted> {
        let mut sums = BTreeMap::new();
        let mut add = |direction: &str, outcome: &str, packets, bytes| {
            let sum: &mut (u64, u64) =
                sums.entry((direction.to_owned(), outcome.to_owned())).or_default();
            *sum = (sum.0.saturating_add(packets), sum.1.saturating_add(bytes));
        };
        let id = self.view.slots.iter().find(|(_, it)| read_name(&it.name) == slot);
        let rows = self.view.counters.iter();
        for row in rows.filter(|row| id.is_some_and(|(id, _)| row.slot_id == *id)) {
            let outcome = outcome_name(row.outcome);
            add(row.direction.name(), outcome, row.counter.packets, row.counter.bytes);
        }
        for it in self.carried.get(slot).into_iter().flatten() {
            add(&it.direction, &it.outcome, it.packets, it.bytes);
        }
        let sums = sums.into_iter();
        sums.map(|((direction, outcome), (packets, bytes))| Counted {
            direction,
            outcome,
            packets,
            bytes,
        })
        .collect()
    }

    /// The fingerprint of the policy that the programs go by; all slots have the same. None without slots.
    fn generation(&self) -> Option<String> {
        let slot = self.view.slots.values().next()?;
        Some(format!("{:08x}", slot.generation))
    }

    /// As text for people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        let daemon = match self.daemon_pid {
            Some(pid) => format!("daemon running (pid {pid})"),
            None if self.view.links.iter().all(|link| link.ifindex == 0) => {
                "no daemon, and no program on any interface".to_owned()
            }
            None => "no daemon: enforcing, but nobody answers DNS".to_owned(),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(out, "instance {}: {daemon}\n", self.instance);
        let _ = writeln!(
            out,
            "{:<4} {:<12} {:>9} {:>9} {:>10} {:>8}  interfaces",
            "id", "slot", "egress", "ingress", "dns", "dropped"
        );
        for (id, slot) in &self.view.slots {
            let passed = |direction| self.packets(*id, direction, |it| it == OUTCOME_PASS);
            let is_dns = |outcome| matches!(outcome, OUTCOME_REDIRECT | OUTCOME_ANSWER);
            let dns = self.packets(*id, Direction::Egress, is_dns);
            let dropped = [Direction::Egress, Direction::Ingress]
                .map(|direction| self.packets(*id, direction, is_drop))
                .iter()
                .sum::<u64>();
            let _ = writeln!(
                out,
                "{id:<4} {:<12} {:>9} {:>9} {dns:>10} {dropped:>8}  {}",
                read_name(&slot.name),
                passed(Direction::Egress),
                passed(Direction::Ingress),
                self.interfaces(*id).join(" "),
            );
        }
        self.write_drops(&mut out);
        self.write_carried(&mut out);
        let _ = writeln!(
            out,
            "\n{:<15} {:>6}  {:<16} {:>8}  attached to",
            "program", "id", "tag", "verified"
        );
        for program in &self.view.programs {
            let verified =
                program.verified_instructions.map_or("-".to_owned(), |count| count.to_string());
            let _ = writeln!(
                out,
                "{:<15} {:>6}  {} {verified:>8}  {}",
                program.name,
                program.id,
                program.tag,
                few(&self.attached(&program.name)),
            );
        }
        if self.view.records_lost > 0 {
            let _ = writeln!(out, "\n{} drop records were lost", self.view.records_lost);
        }
        out
    }

    fn write_drops(&self, out: &mut String) {
        let is_told = |outcome| is_drop(outcome) || would_drop(outcome).is_some();
        let drops: Vec<_> = self.view.counters.iter().filter(|row| is_told(row.outcome)).collect();
        if drops.is_empty() {
            return;
        }
        let _ = writeln!(
            out,
            "\n{:<12} {:<8} {:<20} {:>6} {:>9} {:>11}",
            "slot", "way", "dropped because", "code", "packets", "bytes"
        );
        for row in drops {
            let slot = self.view.slots.get(&row.slot_id).map_or("-", |slot| read_name(&slot.name));
            let reason = DropReason::from_raw(row.outcome).or(would_drop(row.outcome));
            let _ = writeln!(
                out,
                "{slot:<12} {:<8} {:<20} {:>6} {:>9} {:>11}",
                row.direction.name(),
                outcome_name(row.outcome),
                reason.map_or(0, DropReason::code),
                row.counter.packets,
                row.counter.bytes,
            );
        }
    }

    fn write_carried(&self, out: &mut String) {
        for (slot, counted) in &self.carried {
            let packets = |wanted: fn(&str) -> bool| {
                let counted = counted.iter().filter(|it| wanted(&it.outcome));
                counted.map(|it| it.packets).sum::<u64>()
            };
            let _ = writeln!(
                out,
                "\n{slot}: carried from elsewhere, not in these numbers: {} packets passed, {} of DNS, {} dropped",
                packets(|outcome| outcome == "pass"),
                packets(|outcome| matches!(outcome, "redirect" | "answer")),
                packets(|outcome| DropReason::ALL.iter().any(|reason| reason.name() == outcome)),
            );
        }
    }

    fn packets(
        &self,
        slot_id: SlotId,
        direction: Direction,
        wanted: impl Fn(Outcome) -> bool,
    ) -> u64 {
        let rows = self.view.counters.iter();
        rows.filter(|row| {
            row.slot_id == slot_id && row.direction == direction && wanted(row.outcome)
        })
        .map(|row| row.counter.packets)
        .sum()
    }

    fn counters(&self, slot_id: SlotId) -> Vec<Value> {
        let rows = self.view.counters.iter().filter(|row| row.slot_id == slot_id);
        rows.map(|row| {
            json!({
                "direction": row.direction.name(),
                "outcome": outcome_name(row.outcome),
                "code": DropReason::from_raw(row.outcome)
                    .or(would_drop(row.outcome))
                    .map(DropReason::code),
                "packets": row.counter.packets,
                "bytes": row.counter.bytes,
            })
        })
        .collect()
    }

    /// The slot's guarded interfaces.
    fn interfaces(&self, slot_id: SlotId) -> Vec<&str> {
        let own = self.view.ports.iter().filter(|(_, port)| port.slot_id == slot_id);
        own.map(|(_, port)| read_name(&port.name)).collect()
    }

    /// The interfaces that a program is really on, and the pins that hold it nowhere.
    fn attached(&self, program: &str) -> Vec<String> {
        let links = self.view.links.iter().filter(|link| link.program == program);
        links
            .map(|link| match self.view.ports.get(&link.ifindex) {
                Some(port) => read_name(&port.name).to_owned(),
                None => format!("{} (gone)", link.interface),
            })
            .collect()
    }
}

/// What a daemon says of itself, for people: a line, and more only if something is wrong.
#[must_use]
pub fn daemon_text(daemon: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let mut out = format!("daemon running since {}", text(&daemon["since"]));
    for (key, one, many) in [
        ("worker_restarts", "worker restart", "worker restarts"),
        ("log_lines_lost", "log line lost", "log lines lost"),
    ] {
        match daemon[key].as_u64() {
            None | Some(0) => {}
            Some(1) => out += &format!(", 1 {one}"),
            Some(count) => out += &format!(", {count} {many}"),
        }
    }
    let reload = &daemon["reload"];
    if reload.is_object() {
        out += &format!("\nlatest reload {}: {}", text(&reload["time"]), text(&reload["result"]));
        if let Some(error) = reload["error"].as_str() {
            out += &format!(": {error}");
        }
        if let Some(left) = daemon["unconfirmed_seconds_left"].as_u64() {
            out += &format!("; taken back in {left} s unless `netguard confirm`");
        }
    }
    let failing = daemon["failures"].as_array().into_iter().flatten();
    for failure in failing.chain(daemon["alarms"].as_array().into_iter().flatten()) {
        out += &format!("\nnot as it should be: {}", text(failure));
    }
    out
}

/// The first of many names: a line has 80 columns, JSON has them all.
fn few(names: &[String]) -> String {
    match names {
        [first, second, _, ..] => format!("{first} {second} and {} more", names.len() - 2),
        [] => "-".to_owned(),
        _ => names.join(" "),
    }
}

/// A counter of a status, as its JSON has it.
#[derive(Clone, Copy, Debug)]
pub struct CounterText<'a> {
    /// `egress` or `ingress`.
    pub direction: &'a str,
    /// `pass`, `redirect`, `answer`, the name of a reason, or that with `would-drop-` before it.
    pub outcome: &'a str,
    /// Of a reason.
    pub code: Option<u64>,
    /// How many packets.
    pub packets: u64,
    /// How many bytes.
    pub bytes: u64,
}

impl<'a> CounterText<'a> {
    /// Reads one; none if it is no counter.
    #[must_use]
    pub fn of(row: &'a Value) -> Option<Self> {
        Some(Self {
            direction: row["direction"].as_str()?,
            outcome: row["outcome"].as_str()?,
            code: row["code"].as_u64(),
            packets: row["packets"].as_u64()?,
            bytes: row["bytes"].as_u64()?,
        })
    }

    /// The reason that packets would have been dropped for, which passed because their slot is audited.
    #[must_use]
    pub fn would_be(&self) -> Option<&'a str> {
        self.outcome.strip_prefix("would-drop-")
    }
}

fn is_drop(outcome: Outcome) -> bool {
    let is_pass = matches!(outcome, OUTCOME_PASS | OUTCOME_REDIRECT | OUTCOME_ANSWER);
    !is_pass && would_drop(outcome).is_none()
}

fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        OUTCOME_PASS => "pass",
        OUTCOME_REDIRECT => "redirect",
        OUTCOME_ANSWER => "answer",
        outcome => match (DropReason::from_raw(outcome), would_drop(outcome)) {
            (Some(reason), _) => reason.name(),
            (_, Some(reason)) => reason.would_name(),
            _ => "unknown",
        },
    }
}
