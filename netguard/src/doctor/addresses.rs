//! Whether anything else on the host claims what is a slot's: routes, addresses, and networks in the files of programs that
//! make some.

use std::{fs, net::IpAddr, path::Path};

use ipnet::IpNet;
use serde_json::Value;

use super::{Check, Finding, Severity, list};
use crate::{
    links::{Route, Table},
    policy::{Facts, Policy, Slot, Subnet},
};

/// A network that somebody will use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Network {
    pub(super) net: IpNet,
    /// By whose word.
    pub(super) by: String,
}

/// Files and folders of them, and whose they are.
const FILES: [(&str, &str); 5] = [
    ("etc/cni/net.d", "CNI"),
    ("var/lib/rancher/k3s/agent/etc/cni/net.d", "k3s's CNI"),
    ("etc/containers/networks", "podman"),
    ("var/lib/containers/storage/networks", "podman"),
    ("etc/docker/daemon.json", "docker"),
];
/// Keys whose values are networks.
const KEYS: [&str; 6] = ["subnet", "base", "bip", "fixed-cidr", "fixed-cidr-v6", "cluster-cidr"];
/// What k3s uses if nobody says otherwise.
const K3S: &str = "var/lib/rancher/k3s";
const K3S_CONFIG: &str = "etc/rancher/k3s/config.yaml";
const K3S_NETWORKS: [&str; 2] = ["10.42.0.0/16", "10.43.0.0/16"];

/// Reads the files below a root.
pub(super) fn networks(root: &Path) -> Vec<Network> {
    let mut found = Vec::new();
    for (place, who) in FILES {
        let place = root.join(place);
        let entries = fs::read_dir(&place).into_iter().flatten().flatten();
        let mut files: Vec<_> = entries.map(|entry| entry.path()).chain([place]).collect();
        files.sort();
        for file in files {
            let text = fs::read_to_string(&file).unwrap_or_default();
            let Ok(value) = serde_json::from_str::<Value>(&text) else { continue };
            let by = format!("{who} ({})", file.display());
            collect(&value, &mut |net| found.push(Network { net, by: by.clone() }));
        }
    }
    if root.join(K3S).exists() {
        found.extend(of_k3s(&fs::read_to_string(root.join(K3S_CONFIG)).unwrap_or_default()));
    }
    found
}

fn of_k3s(config: &str) -> Vec<Network> {
    let mut networks = Vec::new();
    for (key, default) in ["cluster-cidr", "service-cidr"].into_iter().zip(K3S_NETWORKS) {
        let said = config.lines().find_map(|line| line.strip_prefix(key)?.trim().strip_prefix(':'));
        let by = match said {
            Some(_) => format!("k3s ({key} in /{K3S_CONFIG})"),
            None => format!("k3s (its default {key})"),
        };
        let texts = said.unwrap_or(default).split(',');
        let nets = texts.filter_map(|it| network(it.trim_matches([' ', '"', '\''])));
        networks.extend(nets.map(|net| Network { net, by: by.clone() }));
    }
    networks
}

/// Every network under one of the keys, however deep.
fn collect(value: &Value, found: &mut impl FnMut(IpNet)) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| collect(value, found)),
        Value::Object(object) => {
            for (key, value) in object {
                match value.as_str().filter(|_| KEYS.contains(&key.as_str())).and_then(network) {
                    Some(net) => found(net),
                    None => collect(value, found),
                }
            }
        }
        _ => {} // texts and numbers under other keys
    }
}

fn network(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>().ok().map(|net| net.trunc())
}

/// Everything that overlaps with a slot's subnet.
pub(super) fn check(
    policy: &Policy,
    facts: &Facts,
    routes: &[Route],
    networks: &[Network],
) -> Vec<Finding> {
    let mut found = Vec::new();
    for route in routes {
        found.extend(of_route(policy, route, facts));
    }
    for slot in &policy.slots {
        for subnet in &slot.subnets {
            found.extend(of_addresses(slot, subnet, facts));
        }
    }
    found.extend(networks.iter().filter_map(|network| of_network(policy, network)));
    found
}

/// The slots whose subnets overlap with a network, each with the subnet.
fn overlapping(policy: &Policy, net: IpNet) -> impl Iterator<Item = (&Slot, IpNet)> {
    let subnets = policy.slots.iter();
    let subnets = subnets.flat_map(|slot| slot.subnets.iter().map(move |it| (slot, it.prefix)));
    subnets.filter(move |(_, own)| own.contains(&net) || net.contains(own))
}

fn named(slots: &[(&Slot, IpNet)]) -> String {
    let names: Vec<_> = slots.iter().map(|(slot, own)| format!("{own} of {}", slot.name)).collect();
    list(&names.iter().map(String::as_str).collect::<Vec<_>>())
}

fn of_route(policy: &Policy, route: &Route, facts: &Facts) -> Vec<Finding> {
    let Route { net, interface, table } = *route;
    if net.prefix_len() == 0 {
        return Vec::new();
    }
    let is_own = |slot: &Slot| {
        interface.is_some() && facts.interface(&slot.bridge).map(|it| it.index) == interface
    };
    let others = overlapping(policy, net).filter(|(slot, _)| !is_own(slot));
    let (taken, behind): (Vec<_>, Vec<_>) =
        others.partition(|(_, own)| net.prefix_len() >= own.prefix_len());
    let device = facts.interfaces().iter().find(|it| Some(it.index) == interface);
    let device = device.map(|it| format!(" dev {}", it.name)).unwrap_or_default();
    let number = match table {
        Table::Main => String::new(),
        Table::Other(number) => format!(" table {number}"),
    };
    let route = format!("{net}{device}{number}");
    let finding = |severity, slots: &[(&Slot, IpNet)], why: String| {
        (!slots.is_empty()).then(|| Finding {
            check: Check::Route,
            severity,
            what: format!("the route {route} overlaps with {}", named(slots)),
            why,
            fix: format!("give the slot another subnet, or remove the route: ip route del {route}"),
        })
    };
    let (severity, why) = match table {
        Table::Other(number) => (
            Severity::Weak,
            format!(
                "where a rule asks table {number} before the main one, what is sent to the slot leaves by that route"
            ),
        ),
        Table::Main => (
            Severity::Note,
            "the slot's own route is the longer one and counts; whoever has its addresses behind the other one is out of reach"
                .to_owned(),
        ),
    };
    let gone = "what is sent to the slot's addresses leaves by that route, and not to the slot";
    let taken = finding(Severity::Broken, &taken, gone.to_owned());
    taken.into_iter().chain(finding(severity, &behind, why)).collect()
}

fn of_addresses<'a>(
    slot: &'a Slot,
    subnet: &'a Subnet,
    facts: &'a Facts,
) -> impl Iterator<Item = Finding> + 'a {
    let elsewhere = facts.addresses().iter().filter_map(move |(index, address)| {
        let interface = facts.interfaces().iter().find(|it| it.index == *index)?;
        (subnet.prefix.contains(address) && interface.name != slot.bridge)
            .then_some((*address, interface.name.as_str()))
    });
    elsewhere.map(move |(address, interface): (IpAddr, &str)| Finding {
        check: Check::Address,
        severity: Severity::Broken,
        what: format!(
            "{interface} has the address {address}, which lies in {} of slot {}",
            subnet.prefix, slot.name
        ),
        why: "the host takes that address, and perhaps the whole subnet, for a network of its own".to_owned(),
        fix: format!(
            "give the slot another subnet, or take the address off: ip addr del {address} dev {interface}"
        ),
    })
}

fn of_network(policy: &Policy, network: &Network) -> Option<Finding> {
    let Network { net, by } = network;
    let slots: Vec<_> = overlapping(policy, *net).collect();
    (!slots.is_empty()).then(|| Finding {
        check: Check::Network,
        severity: Severity::Weak,
        what: format!("{by} has the network {net}, which overlaps with {}", named(&slots)),
        why: "as soon as it makes that network, one of the two gets no packets".to_owned(),
        fix: "change the network there, or give the slot another subnet".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::{
        super::samples::{facts, found, policy},
        *,
    };

    fn route(net: &str, interface: u32, table: Table) -> Route {
        Route { net: net.parse().unwrap(), interface: Some(interface), table }
    }

    #[test]
    fn routes_into_a_slot_are_told_by_how_much_they_take() {
        let check = |route| check(&policy(), &facts(), &[route], &[]);
        // The slot's own, the default one, and what has nothing to do with it.
        for fine in [
            route("10.1.0.0/24", 2, Table::Main),
            route("0.0.0.0/0", 9, Table::Main),
            route("10.2.0.0/24", 9, Table::Main),
            route("fd00:10:9::/64", 9, Table::Main),
        ] {
            assert_eq!(check(fine), []);
        }
        let longer = check(route("10.1.0.128/25", 9, Table::Main));
        assert_eq!(found(&longer), [("broken", "route")]);
        assert!(longer[0].what.starts_with("the route 10.1.0.128/25 dev uplink0 overlaps"));
        assert_eq!(found(&check(route("10.1.0.0/24", 9, Table::Main))), [("broken", "route")]);
        assert_eq!(found(&check(route("10.0.0.0/8", 9, Table::Main))), [("note", "route")]);
        assert_eq!(found(&check(route("10.0.0.0/8", 9, Table::Other(52)))), [("weak", "route")]);
        assert_eq!(found(&check(route("fd00::/8", 9, Table::Main))), [("note", "route")]);
    }

    #[test]
    fn an_address_elsewhere_is_found_and_the_gateway_is_not() {
        let mut addresses = facts().addresses().clone();
        assert_eq!(check(&policy(), &facts(), &[], &[]), []);
        addresses.insert((9, "10.1.0.77".parse().unwrap()));
        let facts = Facts::new(facts().interfaces().to_vec(), addresses);
        let found_now = check(&policy(), &facts, &[], &[]);
        assert_eq!(found(&found_now), [("broken", "address")]);
        assert!(found_now[0].fix.ends_with("ip addr del 10.1.0.77 dev uplink0"));
    }

    #[test]
    fn networks_of_docker_podman_cni_and_k3s_are_read() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert_eq!(networks(root.path()), []);
        write(
            "etc/docker/daemon.json",
            r#"{"bip": "10.9.0.1/16", "default-address-pools": [{"base": "10.1.0.0/16", "size": 24}]}"#,
        );
        write(
            "etc/containers/networks/web.json",
            r#"{"subnets": [{"subnet": "10.88.0.0/16", "gateway": "10.88.0.1"}]}"#,
        );
        write(
            "etc/cni/net.d/10-x.conflist",
            r#"{"plugins": [{"ipam": {"ranges": [[{"subnet": "10.22.0.0/16"}]]}}]}"#,
        );
        write("etc/cni/net.d/broken.conf", "{");
        write("etc/rancher/k3s/config.yaml", "cluster-cidr: \"10.1.0.0/17,fd00:42::/56\"\n");
        fs::create_dir_all(root.path().join(K3S)).unwrap();
        let read = networks(root.path());
        let nets: Vec<_> = read.iter().map(|it| it.net.to_string()).collect();
        assert_eq!(
            nets,
            [
                "10.22.0.0/16",
                "10.88.0.0/16",
                "10.9.0.0/16",
                "10.1.0.0/16",
                "10.1.0.0/17",
                "fd00:42::/56",
                "10.43.0.0/16",
            ]
        );
        let hits = check(&policy(), &facts(), &[], &read);
        assert_eq!(found(&hits), [("weak", "network"); 2]);
        assert!(hits[0].what.starts_with("docker ("), "{hits:?}");
        assert!(hits[1].what.starts_with("k3s (cluster-cidr in "), "{hits:?}");
    }
}
