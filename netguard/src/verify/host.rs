//! Programs on interfaces and bridges with their ports, held against what the configuration wants of them.

use std::collections::BTreeSet;

use netguard_common::maps::{PortKind, read_name};

use super::{Case, Error};
use crate::datapath::{self, Attached, ProgramRow};

/// Looks at the programs of every port and bridge.
pub(super) fn programs(case: &Case<'_>, holes: &mut Vec<String>) -> Result<Vec<Attached>, Error> {
    let mut attached = Vec::new();
    for (ifindex, port) in &case.plan.ports {
        let is_uplink = port.kind == PortKind::Uplink as u8;
        if is_uplink || !case.is_asked(port.slot_id) {
            continue;
        }
        holes.extend(case.in_force.wrong_on(*ifindex, port)?);
        attached.extend(case.in_force.attached_to(port)?);
    }
    Ok(attached)
}

/// Holds the pinned programs against those that this netguard would load, by the fingerprints of their instructions.
pub(super) fn tags(loaded: &[ProgramRow], holes: &mut Vec<String>) -> Result<(), Error> {
    for own in datapath::verify()? {
        let found = loaded.iter().find(|it| it.name == own.name).map(|it| &it.tag);
        if found != Some(&own.tag) {
            let (name, tag) = (&own.name, &own.tag);
            let found = found.map_or("none", String::as_str);
            holes.push(format!(
                "the pinned program {name} has the tag {found}, and that of this netguard has {tag}: somebody has replaced it, or \
                 another version runs"
            ));
        }
    }
    Ok(())
}

/// Looks at what is on the slots' bridges, and whether it is kept apart.
pub(super) fn bridges(case: &Case<'_>, holes: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for slot in case.policy.slots.iter().filter(|slot| case.is_asked(slot.id)) {
        let Some(bridge) = case.facts.interface(&slot.bridge) else { continue };
        if !seen.insert(bridge.index) {
            continue;
        }
        for port in case.facts.ports_of(bridge.index) {
            if !case.plan.ports.contains_key(&port.index) {
                holes.push(format!(
                    "{} is a port of {}, and no slot's: take it off (ip link set {} nomaster)",
                    port.name, bridge.name, port.name
                ));
            }
            if case.plan.isolated.contains(&port.index) && !port.isolated {
                holes.push(format!(
                    "{} on {} is not isolated from the bridge's other ports (bridge link set dev {} isolated on)",
                    port.name, bridge.name, port.name
                ));
            }
        }
        let guarded = case.plan.ports.get(&bridge.index);
        if guarded.is_none_or(|it| read_name(&it.name) != bridge.name) {
            holes.push(format!("{} is guarded under another name", bridge.name));
        }
    }
}
