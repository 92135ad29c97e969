//! The host around the programs: what the file says of it must be true, and what netguard manages of it is made.

use std::collections::BTreeMap;

use ipnet::IpNet;

use crate::{
    config::{Config, Problems},
    firewall::{self, Allow, Masquerade, Protect, Table},
    instance::Instance,
    links::{self, Host, Made, Wanted},
    policy::{Facts, Policy, Protocol, Service, Slot},
};

/// Makes the bridges and ports of slots that want it.
pub(super) fn make_links(
    policy: &Policy,
    instance: &Instance,
    host: &Host,
) -> Result<Made, links::Error> {
    links::make(&wanted_links(policy), instance.as_str(), host)
}

/// Removes links that an earlier policy of this instance wanted.
pub(super) fn remove_stale_links(
    policy: &Policy,
    instance: &Instance,
    host: &Host,
) -> Result<Vec<String>, links::Error> {
    links::remove_stale(instance.as_str(), &wanted_links(policy), host)
}

/// One entry for each bridge, whatever the number of slots on it.
fn wanted_links(policy: &Policy) -> Vec<Wanted> {
    let mut bridges: BTreeMap<&str, Wanted> = BTreeMap::new();
    for slot in policy.slots.iter().filter(|slot| slot.manage_links) {
        let [high, low] = slot.id.to_be_bytes();
        let bridge = bridges.entry(&slot.bridge).or_insert_with(|| Wanted {
            bridge: slot.bridge.clone(),
            mac: [0x02, 0x6e, 0x67, high, low, 0x01],
            addresses: Vec::new(),
            ports: Vec::new(),
            isolated: false,
        });
        let gateways = slot.subnets.iter();
        bridge.addresses.extend(gateways.filter_map(|subnet| {
            IpNet::new(subnet.gateway, subnet.prefix.prefix_len()).ok() // the length is the prefix's
        }));
        bridge.ports.extend(slot.port().map(str::to_owned));
        bridge.isolated |= policy.runtimes.get(slot.runtime).is_none_or(|it| it.isolate);
    }
    bridges.into_values().collect()
}

/// Puts netguard's table into the host's firewall, or takes it away if the policy needs none; with as little as possible if it is
/// known of which policy the table should be.
pub(super) fn apply_firewall(
    policy: &Policy,
    old: Option<&Policy>,
    instance: &Instance,
) -> Result<(), firewall::Error> {
    begin_firewall(policy, old, instance)?.map_or(Ok(()), |running| running.finish().map(drop))
}

/// Begins that; what is returned must be waited for.
pub(super) fn begin_firewall(
    policy: &Policy,
    old: Option<&Policy>,
    instance: &Instance,
) -> Result<Option<firewall::Running>, firewall::Error> {
    let new = table(policy, instance);
    if new.masquerade.is_some() || new.protect.is_some() {
        let old = old.map(|policy| table(policy, instance));
        return firewall::begin(&new, old.as_ref());
    }
    match firewall::remove(&new.name) {
        Err(firewall::Error::Missing) | Ok(_) => Ok(None), // without nft there is no table of ours
        Err(error) => Err(error),
    }
}

/// True if both policies want the same of the host's firewall.
pub(super) fn is_same_firewall(one: &Policy, other: &Policy, instance: &Instance) -> bool {
    table(one, instance) == table(other, instance)
}

fn table(policy: &Policy, instance: &Instance) -> Table {
    let host = &policy.host;
    let subnets = policy.slots.iter().flat_map(|slot| &slot.subnets);
    let allow = |service: &Service| match service.protocol {
        Protocol::Tcp => Allow::Tcp(service.ports.clone()),
        Protocol::Udp => Allow::Udp(service.ports.clone()),
        Protocol::Icmp => Allow::Ping,
    };
    Table {
        name: Table::name_of(instance),
        masquerade: host.masquerade.then(|| Masquerade {
            uplinks: host.uplinks.clone(),
            sources: subnets.map(|subnet| subnet.prefix).collect(),
        }),
        protect: host.protection.as_ref().map(|protection| Protect {
            uplinks: host.uplinks.clone(),
            allow_in: protection.allow_in.iter().map(allow).collect(),
            dry_run: protection.dry_run,
        }),
    }
}

/// What the file says of bridges and ports must be true of the host.
pub(super) fn check(config: &Config, facts: &Facts) -> Result<(), Problems> {
    let slots = config.policy.slots.iter().enumerate();
    let problems = slots.filter_map(|(index, slot)| {
        let bridge = if config.waits_for_bridges() {
            check_kind(slot, facts)
        } else {
            check_bridge(slot, facts)
        };
        bridge
            .map(|message| config.bridge_problem(index, message))
            .or_else(|| Some(config.port_problem(index, check_port(slot, facts)?)))
    });
    Problems::unless_empty(problems.collect())
}

fn check_bridge(slot: &Slot, facts: &Facts) -> Option<String> {
    let (name, bridge) = (&slot.name, &slot.bridge);
    let Some(interface) = facts.interface(bridge) else {
        return Some(format!(
            "slot {name:?}: bridge {bridge} does not exist; make it first (ip link add {bridge} \
             type bridge), or let netguard: manage_links = true"
        ));
    };
    if let Some(message) = check_kind(slot, facts) {
        return Some(message);
    }
    let missing = slot
        .subnets
        .iter()
        .find(|subnet| !facts.addresses().contains(&(interface.index, subnet.gateway)))?;
    let (gateway, length) = (missing.gateway, missing.prefix.prefix_len());
    Some(format!(
        "slot {name:?}: bridge {bridge} lacks the gateway address {gateway}; add it: ip addr add \
         {gateway}/{length} dev {bridge}"
    ))
}

/// What has a bridge's name must be one, or programs would close something else.
fn check_kind(slot: &Slot, facts: &Facts) -> Option<String> {
    let (name, bridge) = (&slot.name, &slot.bridge);
    let is_other = facts.interface(bridge).is_some_and(|interface| !interface.is_bridge);
    is_other.then(|| {
        format!("slot {name:?}: {bridge} is no bridge; name the bridge that the port is on")
    })
}

/// The bridges that are not there, and the ports that are not on theirs.
pub(super) fn absent<'a>(policy: &'a Policy, facts: &Facts) -> Vec<&'a str> {
    let mut absent = Vec::new();
    for slot in &policy.slots {
        let bridge = facts.interface(&slot.bridge).map(|bridge| bridge.index);
        if bridge.is_none() && !absent.contains(&slot.bridge.as_str()) {
            absent.push(slot.bridge.as_str());
        }
        let is_on_it = |port| facts.interface(port).is_some_and(|it| it.controller == bridge);
        absent.extend(slot.port().filter(|port| bridge.is_none() || !is_on_it(port)));
    }
    absent
}

/// A port may be absent, or on no bridge yet; it may not be something else.
fn check_port(slot: &Slot, facts: &Facts) -> Option<String> {
    let (name, port, bridge) = (&slot.name, slot.port()?, &slot.bridge);
    let interface = facts.interface(port)?;
    if interface.is_bridge {
        return Some(format!(
            "slot {name:?}: port {port} is a bridge itself; name the TAP or veth on {bridge}"
        ));
    }
    let own = facts.interface(bridge).map(|bridge| bridge.index);
    if interface.controller.is_some() && interface.controller != own {
        return Some(format!(
            "slot {name:?}: port {port} is on another bridge; move it: ip link set {port} master \
             {bridge}"
        ));
    }
    None
}
