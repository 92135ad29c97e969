//! A host of one slot for the tests of the checks: br-slot1 with vm-slot1, uplink0, and the configuration that goes with it.

use std::path::Path;

use netguard_common::maps::LinkKind;

use super::Finding;
use crate::{
    config::Config,
    links::Details,
    policy::{Facts, InterfaceFact, Policy},
};

pub(super) fn policy() -> Policy {
    let text = "[host]\nuplinks = [\"uplink0\"]\n[dns]\nupstreams = [\"192.0.2.53\"]\n[[slot]]\nname = \"slot1\"\nid = 1\nbridge = \"br-slot1\"\nport = \"vm-slot1\"\n\
                subnet = \"10.1.0.0/24\"\nsubnet6 = \"fd00:10:1::/64\"\n";
    Config::parse(text, Path::new("netguard.toml")).unwrap().policy
}

pub(super) fn facts() -> Facts {
    let interface = |index, name: &str, controller| InterfaceFact {
        index,
        name: name.to_owned(),
        mac: [0; 6],
        controller,
        is_bridge: name.starts_with("br-"),
        link: LinkKind::Other,
        isolated: false,
    };
    let interfaces = vec![
        interface(2, "br-slot1", None),
        interface(3, "vm-slot1", Some(2)),
        interface(9, "uplink0", None),
    ];
    let addresses = [(2, "10.1.0.1"), (2, "fd00:10:1::1"), (9, "192.0.2.2")];
    Facts::new(interfaces, addresses.map(|(index, it)| (index, it.parse().unwrap())).into())
}

pub(super) fn links() -> Vec<Details> {
    let link = |index, name: &str, controller| Details {
        index,
        name: name.to_owned(),
        mtu: 1500,
        controller,
        ..Details::default()
    };
    vec![
        link(3, "vm-slot1", Some(2)),
        link(2, "br-slot1", None),
        link(9, "uplink0", None),
        link(10, "other", None),
    ]
}

/// Severity and check of each.
pub(super) fn found(findings: &[Finding]) -> Vec<(&'static str, &'static str)> {
    findings.iter().map(|it| (it.severity.name(), it.check.name())).collect()
}
