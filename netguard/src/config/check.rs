//! From shape to meaning: every rule that a file must keep beyond its types.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use ipnet::IpNet;
use netguard_common::{
    MAX_SLOT_ID,
    maps::{INTERFACE_NAME_LENGTH, SLOT_NAME_LENGTH},
};
use toml::Spanned;

use super::{
    file::{self, AllowlistFile},
    problem::{Problem, Problems, Source},
};
use crate::{
    dns::{Allowlist, DomainName},
    policy::{DnsPolicy, Policy, Slot, Subnet},
};

/// The allowlist that netguard ships.
const SHIPPED_ALLOWLIST: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../dist/allowlist.toml"));

pub(super) fn shipped_allowlist() -> AllowlistFile {
    toml::from_str(SHIPPED_ALLOWLIST).expect("the shipped allowlist is under test")
}

/// Checks the file and says what it means, or everything that is wrong with it.
pub(super) fn check(file: &file::File, source: &Source) -> Result<Policy, Problems> {
    let mut checker = Checker { source, problems: Vec::new() };
    if file.slots.is_empty() {
        // A file that was cut short must not take the guards of every slot away.
        let message = "no slot is named: add [[slot]]; to stop guarding, use `netguard unload`";
        checker.problems.push(source.problem(0, message));
    }
    let slots = checker.slots(&file.slots);
    let management = checker.management(&file.host.management, &slots);
    let upstreams = checker.upstreams(&file.dns.upstreams, &slots);
    let port = checker.port(&file.dns.port);
    let allowlist = checker.allowlist(&file.dns);
    Problems::unless_empty(checker.problems)?;
    Ok(Policy { slots, management, dns: DnsPolicy { upstreams, port, allowlist } })
}

fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(&other.network()) || other.contains(&one.network())
}

/// True for what one host can have: loopback too, where an upstream may listen.
fn is_host(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !address.is_unspecified() && !address.is_multicast() && !link_local
}

struct Checker<'a> {
    source: &'a Source,
    problems: Vec<Problem>,
}

impl Checker<'_> {
    fn refuse<T>(&mut self, at: &Spanned<T>, message: impl Into<String>) {
        self.problems.push(self.source.problem(at.span().start, message));
    }

    fn slots(&mut self, slots: &[file::Slot]) -> Vec<Slot> {
        for slot in slots {
            self.slot_name(&slot.name);
            self.slot_id(slot);
            self.interface(&slot.bridge, slot.name.get_ref(), "bridge");
            self.interface(&slot.port, slot.name.get_ref(), "port");
        }
        self.unique(slots, "name", |slot| vec![&slot.name]);
        self.unique(slots, "id", |slot| vec![&slot.id]);
        self.unique(slots, "interface", |slot| vec![&slot.bridge, &slot.port]);
        let checked: Vec<_> = slots.iter().map(|slot| self.slot(slot)).collect();
        self.disjoint(slots);
        checked
    }

    fn slot(&mut self, slot: &file::Slot) -> Slot {
        let name = slot.name.get_ref();
        let subnet4 = self.subnet(name, slot.subnet.as_ref(), slot.gateway.as_ref(), true);
        let subnet6 = self.subnet(name, slot.subnet6.as_ref(), slot.gateway6.as_ref(), false);
        let subnets: Vec<_> = subnet4.into_iter().chain(subnet6).collect();
        if slot.subnet.is_none() && slot.subnet6.is_none() {
            let message = format!("slot {name:?} has no addresses: add subnet = \"10.1.0.0/24\"");
            self.refuse(&slot.name, message);
        }
        Slot {
            name: name.clone(),
            id: *slot.id.get_ref(),
            bridge: slot.bridge.get_ref().clone(),
            port: slot.port.get_ref().clone(),
            subnets,
        }
    }

    fn slot_name(&mut self, name: &Spanned<String>) {
        let text = name.get_ref();
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if text.is_empty() || text.len() > SLOT_NAME_LENGTH || !text.chars().all(good) {
            let message = format!(
                "slot name {text:?} must be 1 to {SLOT_NAME_LENGTH} letters, digits, '-', '_' or '.'"
            );
            self.refuse(name, message);
        }
    }

    fn slot_id(&mut self, slot: &file::Slot) {
        let (id, name) = (*slot.id.get_ref(), slot.name.get_ref());
        if id == 0 || id > MAX_SLOT_ID {
            let message = format!("slot {name:?}: id {id} must be 1 to {MAX_SLOT_ID}");
            self.refuse(&slot.id, message);
        }
    }

    /// Linux's rule for interface names (dev_valid_name in net/core/dev.c).
    fn interface(&mut self, interface: &Spanned<String>, slot: &str, what: &str) {
        let text = interface.get_ref();
        let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
        if text.is_empty()
            || text.len() > INTERFACE_NAME_LENGTH
            || text == "."
            || text == ".."
            || text.contains(bad)
        {
            let message = format!(
                "slot {slot:?}: {what} {text:?} is no interface name (1 to {INTERFACE_NAME_LENGTH} bytes \
                 without '/', ':' and spaces)"
            );
            self.refuse(interface, message);
        }
    }

    /// No two slots, nor one slot twice, may say the same thing.
    fn unique<'a, T: PartialEq + std::fmt::Display + 'a>(
        &mut self,
        slots: &'a [file::Slot],
        what: &str,
        things: impl Fn(&'a file::Slot) -> Vec<&'a Spanned<T>>,
    ) {
        let mut seen: Vec<(&Spanned<T>, &str)> = Vec::new();
        for slot in slots {
            for thing in things(slot) {
                let first = seen.iter().find(|(other, _)| other.get_ref() == thing.get_ref());
                if let Some((other, owner)) = first {
                    let line = self.source.line(other.span().start);
                    let message = format!(
                        "slot {:?}: {what} {} is already slot {owner:?}'s (line {line})",
                        slot.name.get_ref(),
                        thing.get_ref(),
                    );
                    self.refuse(thing, message);
                } else {
                    seen.push((thing, slot.name.get_ref()));
                }
            }
        }
    }

    fn subnet(
        &mut self,
        slot: &str,
        subnet: Option<&Spanned<IpNet>>,
        gateway: Option<&Spanned<IpAddr>>,
        v4: bool,
    ) -> Option<Subnet> {
        let (key, gateway_key) = if v4 { ("subnet", "gateway") } else { ("subnet6", "gateway6") };
        let Some(subnet) = subnet else {
            if let Some(gateway) = gateway {
                let message = format!("slot {slot:?}: {gateway_key} needs {key} too");
                self.refuse(gateway, message);
            }
            return None;
        };
        let net = *subnet.get_ref();
        let family = if v4 { "an IPv4" } else { "an IPv6" };
        if net.addr().is_ipv4() != v4 {
            let message = format!("slot {slot:?}: {key} {net} must be {family} prefix");
            self.refuse(subnet, message);
            return None;
        }
        if net.trunc() != net {
            let message = format!(
                "slot {slot:?}: {key} {net} has host bits set; the prefix is {}",
                net.trunc()
            );
            self.refuse(subnet, message);
            return None;
        }
        if !is_host(net.network()) || net.network().is_loopback() {
            let message = format!("slot {slot:?}: {key} {net} is no network of hosts");
            self.refuse(subnet, message);
            return None;
        }
        let longest = net.max_prefix_len() - 2;
        if net.prefix_len() == 0 || net.prefix_len() > longest {
            let message = format!(
                "slot {slot:?}: {key} {net} must be /1 to /{longest}: it holds a gateway and a guest"
            );
            self.refuse(subnet, message);
            return None;
        }
        let derived = net.hosts().find(|host| *host != net.network());
        let address = gateway.map_or(derived, |gateway| Some(*gateway.get_ref()))?;
        let ends = [net.network(), net.broadcast()];
        if !net.contains(&address) || (v4 && ends.contains(&address)) || address == net.network() {
            let message = format!("slot {slot:?}: {gateway_key} {address} is no host of {net}");
            match gateway {
                Some(gateway) => self.refuse(gateway, message),
                None => self.refuse(subnet, message),
            }
            return None;
        }
        Some(Subnet { prefix: net, gateway: address })
    }

    /// No address may belong to two slots.
    fn disjoint(&mut self, slots: &[file::Slot]) {
        let subnets: Vec<_> = slots
            .iter()
            .flat_map(|slot| slot.subnet.iter().chain(&slot.subnet6).map(move |net| (slot, net)))
            .collect();
        for (index, (slot, net)) in subnets.iter().enumerate() {
            let first =
                subnets[..index].iter().find(|(_, other)| overlap(net.get_ref(), other.get_ref()));
            if let Some((owner, other)) = first {
                let line = self.source.line(other.span().start);
                let (name, owner) = (slot.name.get_ref(), owner.name.get_ref());
                let message = if other.get_ref() == net.get_ref() {
                    format!(
                        "slot {name:?}: subnet {} is already slot {owner:?}'s (line {line})",
                        net.get_ref()
                    )
                } else {
                    format!(
                        "slot {name:?}: subnet {} overlaps {} of slot {owner:?} (line {line})",
                        net.get_ref(),
                        other.get_ref()
                    )
                };
                self.refuse(*net, message);
            }
        }
    }

    fn management(&mut self, nets: &[Spanned<IpNet>], slots: &[Slot]) -> Vec<IpNet> {
        for net in nets {
            let prefix = net.get_ref();
            let slots = slots.iter();
            let subnets = slots.flat_map(|slot| slot.subnets.iter().map(move |it| (slot, it)));
            for (slot, subnet) in subnets {
                if overlap(prefix, &subnet.prefix) {
                    let (name, own) = (&slot.name, subnet.prefix);
                    let message = format!(
                        "management {prefix} overlaps {own} of slot {name:?}: a slot is no manager"
                    );
                    self.refuse(net, message);
                }
            }
            if prefix.trunc() != *prefix {
                let message = format!(
                    "management {prefix} has host bits set; the prefix is {}",
                    prefix.trunc()
                );
                self.refuse(net, message);
            }
        }
        nets.iter().map(|net| *net.get_ref()).collect()
    }

    fn upstreams(
        &mut self,
        upstreams: &Spanned<Vec<Spanned<String>>>,
        slots: &[Slot],
    ) -> Vec<SocketAddr> {
        if upstreams.get_ref().is_empty() {
            self.refuse(
                upstreams,
                "upstreams is empty: name at least one resolver, as in [\"1.1.1.1\"]",
            );
        }
        let mut addresses = Vec::new();
        for upstream in upstreams.get_ref() {
            let text = upstream.get_ref();
            let address = text
                .parse::<SocketAddr>()
                .or_else(|_| text.parse::<IpAddr>().map(|address| SocketAddr::new(address, 53)));
            let own = |ip| slots.iter().any(|slot| slot.subnets.iter().any(|it| it.gateway == ip));
            match address {
                Ok(address) if addresses.contains(&address) => {
                    self.refuse(upstream, format!("upstream {text:?} is there twice"));
                }
                Ok(address) if own(address.ip()) => {
                    let message =
                        format!("upstream {text:?} is a slot's gateway: netguard would ask itself");
                    self.refuse(upstream, message);
                }
                Ok(address) if address.port() != 0 && is_host(address.ip()) => {
                    addresses.push(address);
                }
                _ => self.refuse(
                    upstream,
                    format!("upstream {text:?} is no address; write \"1.1.1.1\" or \"[2606:4700:4700::1111]:53\""),
                ),
            }
        }
        addresses
    }

    fn port(&mut self, port: &Spanned<u16>) -> u16 {
        if *port.get_ref() == 0 {
            self.refuse(port, "port 0 is no port; leave it out for 53");
        }
        *port.get_ref()
    }

    fn allowlist(&mut self, dns: &file::Dns) -> Allowlist {
        let Some((categories, list_source)) = self.categories(dns) else {
            return Allowlist::default();
        };
        let mut names = Vec::new();
        for (category, list) in &categories {
            if !self.is_wanted(dns, category) {
                continue;
            }
            for name in &list.names {
                match name.get_ref().parse::<DomainName>() {
                    Ok(parsed) => names.push(parsed),
                    Err(error) => {
                        let at = name.span().start;
                        self.problems.push(list_source.problem(at, error.to_string()));
                    }
                }
            }
        }
        for wanted in dns.categories.iter().flatten() {
            if !categories.contains_key(wanted.get_ref()) {
                let known = categories.keys().cloned().collect::<Vec<_>>().join(", ");
                let message = format!("no category {:?}; there are {known}", wanted.get_ref());
                self.refuse(wanted, message);
            }
        }
        for name in &dns.names {
            match name.get_ref().parse::<DomainName>() {
                Ok(parsed) => names.push(parsed),
                Err(error) => self.refuse(name, error.to_string()),
            }
        }
        names.into_iter().collect()
    }

    fn is_wanted(&self, dns: &file::Dns, category: &str) -> bool {
        dns.categories
            .as_ref()
            .is_none_or(|wanted| wanted.iter().any(|wanted| wanted.get_ref() == category))
    }

    /// The file that the operator names, or the shipped one.
    fn categories(&mut self, dns: &file::Dns) -> Option<(AllowlistFile, Source)> {
        let Some(path) = &dns.allowlist else {
            let source = Source::new(Path::new("the shipped allowlist"), SHIPPED_ALLOWLIST);
            return Some((shipped_allowlist(), source));
        };
        let directory = self.source.path().parent().unwrap_or(Path::new("."));
        let full = directory.join(path.get_ref());
        let text = match super::read_text(&full) {
            Ok(text) => text,
            Err(error) => {
                let message = format!("allowlist {} cannot be read: {error}", full.display());
                self.refuse(path, message);
                return None;
            }
        };
        let source = Source::new(&full, &text);
        match toml::from_str::<BTreeMap<_, _>>(&text) {
            Ok(categories) => Some((categories, source)),
            Err(error) => {
                self.problems.push(source.toml_problem(&error));
                None
            }
        }
    }
}
