//! `netguard verify`: whether what is loaded now keeps to the policy. Every pair of slots and every kind of place is put to the
//! loaded programs as a question that leaves no trace, and the answers are held against the oracle; programs, maps and bridges are
//! held against what the configuration compiles to. Reads, mends nothing, and needs no daemon.

mod host;
mod matrix;
mod report;

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use netguard_common::SlotId;
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};

pub use matrix::{Cell, Row};

use crate::{
    config::Config,
    daemon,
    datapath::{self, Attached, InForce, PinDirectory, ProgramRow},
    instance::Instance,
    links::{self, Host},
    pinned::NoSlot,
    policy::{Facts, Plan, Policy},
};

/// What was found.
#[derive(Debug)]
pub struct Verified {
    instance: Instance,
    /// Where the configuration stands, and its fingerprint with all the files that it names.
    config: String,
    config_hash: String,
    generation: Option<String>,
    kernel: String,
    programs: Vec<ProgramRow>,
    attached: Vec<Attached>,
    columns: Vec<String>,
    rows: Vec<Row>,
    /// What is not as the configuration has it, each in one sentence.
    holes: Vec<String>,
    /// What could not be asked.
    notes: Vec<String>,
    questions: u64,
    took: Duration,
}

/// Why nothing can be verified.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel does not answer.
    #[error(transparent)]
    Datapath(#[from] datapath::Error),
    /// The host does not tell of its interfaces.
    #[error(transparent)]
    Links(#[from] links::Error),
    /// What was ordered at run time does not fit the configuration.
    #[error(transparent)]
    Orders(#[from] daemon::Error),
    /// There is no such slot.
    #[error(transparent)]
    NoSlot(#[from] NoSlot),
    /// The configuration cannot be fingerprinted.
    #[error("cannot read the configuration again")]
    Config(#[source] std::io::Error),
}

/// What is held against what.
struct Case<'a> {
    policy: &'a Policy,
    facts: &'a Facts,
    plan: &'a Plan,
    in_force: &'a InForce,
    /// Only this one, if one is named.
    only: Option<SlotId>,
}

impl Case<'_> {
    fn is_asked(&self, slot: SlotId) -> bool {
        self.only.is_none_or(|only| only == slot)
    }
}

/// Verifies an instance, or one of its slots, against a configuration and what was ordered beside it. To be called in the network
/// namespace that it guards. `with_tags`: the programs' instructions are compared too, for which this netguard's own are loaded once
/// more, most of a second.
///
/// # Errors
///
/// The kernel does not answer, or there is no such slot.
pub fn verify(
    instance: &Instance,
    config: &Config,
    slot: Option<&str>,
    with_tags: bool,
) -> Result<Verified, Error> {
    let began = Instant::now();
    let policy = daemon::with_orders(config, instance)?;
    let only = slot.map(|name| find(&policy, name)).transpose()?;
    let facts = Host::read()?.facts();
    let plan = Plan::compile(&policy, &facts);
    let in_force = InForce::open(&PinDirectory::of(instance))?;
    let case = Case { policy: &policy, facts: &facts, plan: &plan, in_force: &in_force, only };
    let mut holes = Vec::new();
    if let Some((map, entry)) = in_force.differs_from(&plan)? {
        let file = config.path().display();
        holes.push(format!("the map {map} is not what {file} compiles to: {entry}"));
    }
    let programs = in_force.programs()?;
    if with_tags {
        host::tags(&programs, &mut holes)?;
    }
    let attached = host::programs(&case, &mut holes)?;
    host::bridges(&case, &mut holes);
    let asked = matrix::ask(&case)?;
    holes.extend(asked.holes);
    let packed = config.pack().map_err(Error::Config)?;
    let hash = digest(&SHA256, &packed);
    Ok(Verified {
        instance: instance.clone(),
        config: config.path().display().to_string(),
        config_hash: hash.as_ref().iter().fold(String::new(), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        }),
        generation: plan.slots.values().next().map(|slot| format!("{:08x}", slot.generation)),
        kernel: datapath::kernel_release(),
        programs,
        attached,
        columns: asked.columns,
        rows: asked.rows,
        holes,
        notes: asked.notes,
        questions: asked.questions,
        took: began.elapsed(),
    })
}

fn find(policy: &Policy, name: &str) -> Result<SlotId, NoSlot> {
    let slots = policy.slots.iter().map(|slot| (slot.id, slot.name.clone())).collect();
    NoSlot::find(&slots, name)
}

impl Verified {
    /// True if everything is as the configuration has it.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.holes.is_empty()
    }

    /// As text for people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        for hole in &self.holes {
            let _ = writeln!(out, "HOLE {hole}");
        }
        for note in &self.notes {
            let _ = writeln!(out, "note {note}");
        }
        let (slots, questions) = (self.rows.len(), self.questions);
        let (took, file) = (self.took.as_secs_f64() * 1000.0, &self.config);
        let found = match self.holes.len() {
            0 => "as it says".to_owned(),
            1 => "1 hole".to_owned(),
            holes => format!("{holes} holes"),
        };
        let _ = writeln!(
            out,
            "instance {} against {file}: {slots} slots, {questions} questions, {} programs on interfaces, in {took:.1} ms: \
             {found}",
            self.instance,
            self.attached.len(),
        );
        out
    }

    /// As one JSON object.
    #[must_use]
    pub fn json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            let cells = row.cells.iter().map(|(column, cell)| {
                (self.columns.get(*column).cloned().unwrap_or_default(), cell.to_string().into())
            });
            let cells: serde_json::Map<String, Value> = cells.collect();
            json!({ "slot": row.slot, "cells": cells })
        });
        let programs = self.programs.iter();
        let programs = programs.map(|it| json!({ "name": it.name, "id": it.id, "tag": it.tag }));
        let attached = self
            .attached
            .iter()
            .map(|it| json!({ "interface": it.interface, "program": it.program, "link": it.link }));
        json!({
            "version": 1,
            "instance": self.instance.as_str(),
            "good": self.is_good(),
            "holes": self.holes,
            "notes": self.notes,
            "config": self.config,
            "config_sha256": self.config_hash,
            "generation": self.generation,
            "kernel": self.kernel,
            "questions": self.questions,
            "milliseconds": self.took.as_secs_f64() * 1000.0,
            "programs": programs.collect::<Vec<_>>(),
            "attached": attached.collect::<Vec<_>>(),
            "matrix": rows.collect::<Vec<_>>(),
        })
    }
}
