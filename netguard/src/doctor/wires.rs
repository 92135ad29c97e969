//! The slots' links: how long packets may be, and what their bridges do besides forwarding.

use std::collections::BTreeMap;

use super::{Check, Finding, Severity, list};
use crate::{links::Details, policy::Policy};

/// Looks at every port, bridge and uplink of the policy.
pub(super) fn check(policy: &Policy, links: &[Details]) -> Vec<Finding> {
    let named = |name: &str| links.iter().find(|link| link.name == name);
    let mut names: Vec<_> = policy.slots.iter().map(|slot| slot.bridge.as_str()).collect();
    names.dedup();
    let bridges: Vec<_> = names.into_iter().filter_map(named).collect();
    let uplinks: Vec<_> = policy.host.uplinks.iter().filter_map(|name| named(name)).collect();
    let mut found = Vec::new();
    let mut unequal: BTreeMap<(u32, u32), Vec<&str>> = BTreeMap::new();
    for bridge in &bridges {
        let ports = links.iter().filter(|link| link.controller == Some(bridge.index));
        for port in ports.filter(|port| port.mtu != bridge.mtu) {
            unequal.entry((port.mtu, bridge.mtu)).or_default().push(&port.name);
        }
    }
    for ((port, bridge), names) in unequal {
        let (takes, first) = (if names.len() > 1 { "take" } else { "takes" }, names[0]);
        found.push(Finding {
            check: Check::Mtu,
            severity: Severity::Weak,
            what: format!(
                "{} {takes} packets of {port} bytes, and the bridge of {bridge}",
                list(&names)
            ),
            why: "the bridge drops what is longer than the next wire takes, and tells nobody"
                .to_owned(),
            fix: format!("ip link set {first} mtu {bridge}, and the same within the workload"),
        });
    }
    for uplink in &uplinks {
        let longer: Vec<_> = bridges
            .iter()
            .filter(|bridge| bridge.mtu > uplink.mtu)
            .map(|bridge| bridge.name.as_str())
            .collect();
        if longer.is_empty() {
            continue;
        }
        found.push(Finding {
            check: Check::Mtu,
            severity: Severity::Note,
            what: format!(
                "{} takes packets of {} bytes, and {} of more",
                uplink.name,
                uplink.mtu,
                list(&longer)
            ),
            why: "longer packets come back as ICMP errors first, and workloads that do not heed those hang".to_owned(),
            fix: format!("ip link set {} mtu {}, and the same for ports and workloads", longer[0], uplink.mtu),
        });
    }
    let those = |is: fn(&&&Details) -> bool| {
        bridges.iter().filter(is).map(|it| it.name.as_str()).collect::<Vec<_>>()
    };
    let stp = those(|bridge| bridge.stp);
    if let Some(first) = stp.first() {
        found.push(Finding {
            check: Check::Stp,
            severity: Severity::Note,
            what: format!("the spanning tree protocol runs on {}", list(&stp)),
            why: "a port that comes carries nothing for half a minute, and slots' bridges have no loops".to_owned(),
            fix: format!("ip link set {first} type bridge stp_state 0"),
        });
    }
    let snooping = those(|bridge| bridge.snoops);
    if let Some(first) = snooping.first() {
        found.push(Finding {
            check: Check::Snooping,
            severity: Severity::Weak,
            what: format!("{} snoops multicast and asks who listens", list(&snooping)),
            why: "netguard drops the answers of slots, so that neighbour solicitations of the host do not reach them and IPv6 fails"
                .to_owned(),
            fix: format!("ip link set {first} type bridge mcast_querier 0"),
        });
    }
    let ports = policy.slots.iter().filter_map(|slot| named(slot.port()?));
    let plain: Vec<_> =
        ports.filter(|it| it.vnet_header == Some(false)).map(|it| it.name.as_str()).collect();
    if !plain.is_empty() {
        found.push(Finding {
            check: Check::Tap,
            severity: Severity::Note,
            what: format!("no offloads on {}: the TAP has no vnet_hdr", list(&plain)),
            why: "each segment of TCP goes alone through driver, programs and bridge, which costs several times as much".to_owned(),
            fix: "open the TAP with vnet_hdr (QEMU: vhost=on or vnet_hdr=on; ip tuntap add ... vnet_hdr)".to_owned(),
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{
        super::samples::{found, links, policy},
        *,
    };

    fn with(change: impl Fn(&mut Details)) -> Vec<Finding> {
        let mut links = links();
        links.iter_mut().for_each(change);
        check(&policy(), &links)
    }

    #[test]
    fn wires_that_differ_are_named() {
        assert_eq!(with(|_| ()), []);
        let of = |name: &'static str, mtu| {
            with(move |link| {
                if link.name == name {
                    link.mtu = mtu;
                }
            })
        };
        let port = of("vm-slot1", 1400);
        assert_eq!(found(&port), [("weak", "mtu")]);
        assert!(port[0].fix.starts_with("ip link set vm-slot1 mtu 1500"), "{port:?}");
        assert_eq!(found(&of("uplink0", 1400)), [("note", "mtu")]);
        assert_eq!(of("uplink0", 9000), []);
        assert_eq!(of("other", 1400), []);
    }

    #[test]
    fn what_bridges_and_taps_do_besides() {
        assert_eq!(found(&with(|link| link.stp = link.name == "br-slot1")), [("note", "stp")]);
        assert_eq!(found(&with(|link| link.snoops = true)), [("weak", "snooping")]);
        let tap = with(|link| link.vnet_header = (link.name == "vm-slot1").then_some(false));
        assert_eq!(found(&tap), [("note", "tap")]);
        assert_eq!(with(|link| link.vnet_header = Some(true)), []);
    }
}
