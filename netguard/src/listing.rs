//! A policy for people and programs: `netguard policy`. What is printed here is derived; nothing is decided.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::policy::{HostServices, Matrix, Policy, Service, Slot, Unnamed};

/// Every slot with what its entry means, defaults and derivations filled in.
#[must_use]
pub fn slots_text(policy: &Policy) -> String {
    let mut text = format!(
        "{:<4} {:<12} {:<10} {:<12} {:<12} {:<18} {:<18} {}\n",
        "id", "slot", "runtime", "bridge", "port", "subnet", "mac", "reaches"
    );
    for slot in &policy.slots {
        let subnets: Vec<_> = slot.subnets.iter().map(|it| it.prefix.to_string()).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{:<4} {:<12} {:<10} {:<12} {:<12} {:<18} {:<18} {}",
            slot.id,
            slot.name,
            runtime(policy, slot),
            slot.bridge,
            slot.port().unwrap_or("(shared)"),
            subnets.first().map_or("-", String::as_str),
            slot.mac.map_or("any".to_owned(), mac),
            reaches(slot),
        );
        for subnet in subnets.iter().skip(1) {
            let _ = writeln!(text, "{:54} {subnet}", "");
        }
    }
    text
}

/// The same as one JSON object.
#[must_use]
pub fn slots_json(policy: &Policy) -> Value {
    let slots: Vec<_> = policy.slots.iter().map(|slot| slot_json(policy, slot)).collect();
    json!({ "slots": slots })
}

/// One slot of a policy as a JSON object.
#[must_use]
pub fn slot_json(policy: &Policy, slot: &Slot) -> Value {
    json!({
        "id": slot.id,
        "name": slot.name,
        "runtime": runtime(policy, slot),
        "bridge": slot.bridge,
        "port": slot.port(),
        "mac": slot.mac.map(mac),
        "subnets": slot.subnets.iter().map(|subnet| json!({
            "prefix": subnet.prefix,
            "gateway": subnet.gateway,
        })).collect::<Vec<_>>(),
        "reaches": reaches(slot),
    })
}

/// The matrix as one JSON object.
#[must_use]
pub fn matrix_json(matrix: &Matrix) -> Value {
    let rows: Vec<_> = matrix
        .rows
        .iter()
        .map(|row| {
            let to: serde_json::Map<_, _> = matrix
                .columns
                .iter()
                .zip(&row.cells)
                .map(|(column, cell)| (column.clone(), cell.to_string().into()))
                .collect();
            json!({ "runtime": row.runtime, "slots": row.slots, "is_slot": row.is_slot, "to": to })
        })
        .collect();
    json!({ "rows": rows })
}

pub(crate) fn runtime<'a>(policy: &'a Policy, slot: &Slot) -> &'a str {
    policy.runtimes.get(slot.runtime).map_or("-", |runtime| runtime.name.as_str())
}

pub(crate) fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

pub(crate) fn reaches(slot: &Slot) -> String {
    if slot.lockdown {
        return "nothing (lockdown)".to_owned();
    }
    let rules =
        |count: usize| if count == 1 { "1 rule".to_owned() } else { format!("{count} rules") };
    let allowed = match slot.egress.allow.len() {
        0 => None,
        1 => Some("what 1 rule allows".to_owned()),
        count => Some(format!("what {} allow", rules(count))),
    };
    let mut parts = match slot.egress.unnamed {
        Unnamed::Open => vec!["internet".to_owned()],
        Unnamed::Pinned => ["pinned addresses".to_owned()].into_iter().chain(allowed).collect(),
        Unnamed::Closed => vec![allowed.unwrap_or_else(|| "no internet".to_owned())],
    };
    if !slot.egress.deny.is_empty() {
        parts.push(format!("less {}", rules(slot.egress.deny.len())));
    }
    match &slot.host_services {
        HostServices::All => parts.push("all of the host".to_owned()),
        HostServices::Listed(services) => parts.extend(services.iter().map(Service::to_string)),
    }
    if slot.metadata {
        parts.push("metadata".to_owned());
    }
    if slot.audit {
        parts.push("what else it asks for (audit)".to_owned());
    }
    parts.join(", ")
}
