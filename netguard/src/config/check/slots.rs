//! What a file says of each slot, and what slots must not share.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use netguard_common::{
    MAX_SLOT_ID,
    maps::{INTERFACE_NAME_LENGTH, SLOT_NAME_LENGTH},
};
use toml::Spanned;

use super::{
    super::{file, template::Entry},
    Checker, is_host, overlap,
};
use crate::policy::{Egress, HostServices, Limits, Ports, Runtime, Slot, Subnet, Unnamed};

impl Checker<'_> {
    pub(super) fn slots(&mut self, entries: &[Entry], runtimes: &[Runtime]) -> Vec<Slot> {
        for entry in entries {
            let name = entry.name.get_ref();
            self.slot_name(&entry.name);
            self.slot_id(entry);
            self.interface(&entry.bridge, &format!("slot {name:?}"), "bridge");
            if let Some(port) = &entry.port {
                self.interface(port, &format!("slot {name:?}"), "port");
            }
        }
        self.unique(entries, "name", |entry| vec![&entry.name]);
        self.unique(entries, "id", |entry| vec![&entry.id]);
        self.unique(entries, "interface", |entry| entry.port.iter().collect());
        self.bridges(entries);
        let checked: Vec<_> =
            entries.iter().filter_map(|entry| self.slot(entry, runtimes)).collect();
        self.disjoint(entries, &checked);
        checked
    }

    fn slot(&mut self, entry: &Entry, runtimes: &[Runtime]) -> Option<Slot> {
        let name = entry.name.get_ref();
        let rest = &entry.rest;
        let subnet4 = self.subnet(name, entry.subnet.as_ref(), entry.gateway.as_ref(), true);
        let subnet6 = self.subnet(name, entry.subnet6.as_ref(), entry.gateway6.as_ref(), false);
        if entry.subnet.is_none() && entry.subnet6.is_none() {
            let message = format!("slot {name:?} has no addresses: add subnet = \"10.1.0.0/24\"");
            self.refuse(&entry.name, message);
        }
        Some(Slot {
            name: name.clone(),
            id: *entry.id.get_ref(),
            bridge: entry.bridge.get_ref().clone(),
            ports: entry.port.as_ref().map_or(Ports::Shared, |it| Ports::One(it.get_ref().clone())),
            subnets: subnet4.into_iter().chain(subnet6).collect(),
            mac: entry.mac.as_ref().and_then(|mac| self.mac(name, mac)),
            runtime: self.runtime(rest.runtime.as_ref(), name, runtimes),
            lockdown: *rest.mode.get_ref() == file::Mode::Lockdown,
            audit: *rest.mode.get_ref() == file::Mode::Audit,
            rejects: *rest.denial.get_ref() == file::Denial::Reject,
            egress: self.egress(name, rest),
            host_services: self.host_services(name, rest.host_services.as_ref()),
            metadata: *rest.metadata.get_ref(),
            manage_links: rest.manage_links,
            limits: limits(&rest.limits),
        })
    }

    fn egress(&mut self, name: &str, slot: &file::Slot) -> Egress {
        let whose = format!("slot {name:?}");
        let mode = slot.egress.as_ref().map_or(file::Egress::Open, |egress| *egress.get_ref());
        if let (file::Egress::None, Some(rule)) = (mode, slot.allow.first()) {
            let message =
                format!("{whose}: egress = \"none\" allows nothing; write egress = \"listed\"");
            self.refuse(rule, message);
        }
        if let (file::Egress::Listed, Some(egress), true) =
            (mode, &slot.egress, slot.allow.is_empty())
        {
            let message = format!(
                "{whose}: egress = \"listed\" without a list; add allow = [\"203.0.113.0/24 tcp/443\"], or \
                 write \"none\""
            );
            self.refuse(egress, message);
        }
        Egress {
            unnamed: match mode {
                file::Egress::Open => Unnamed::Open,
                file::Egress::Pinned => Unnamed::Pinned,
                file::Egress::Listed | file::Egress::None => Unnamed::Closed,
            },
            allow: self.parse_all(&slot.allow, &whose),
            deny: self.parse_all(&slot.deny, &whose),
        }
    }

    fn host_services(
        &mut self,
        name: &str,
        services: Option<&Spanned<toml::Value>>,
    ) -> HostServices {
        let Some(services) = services else { return HostServices::Listed(Vec::new()) };
        let texts = match services.get_ref() {
            toml::Value::String(text) if text == "all" => return HostServices::All,
            toml::Value::Array(texts) => texts.as_slice(),
            other => std::slice::from_ref(other),
        };
        let mut listed = Vec::new();
        for text in texts {
            match text.as_str().unwrap_or_default().parse() {
                Ok(service) => listed.push(service),
                Err(_) => {
                    let message = format!(
                        "slot {name:?}: host_services {text} must be \"all\" or a list like [\"tcp/4317\"]"
                    );
                    self.refuse(services, message);
                }
            }
        }
        HostServices::Listed(listed)
    }

    fn mac(&mut self, name: &str, mac: &Spanned<String>) -> Option<[u8; 6]> {
        let bytes: Vec<_> =
            mac.get_ref().split(':').map(|byte| u8::from_str_radix(byte, 16)).collect();
        let bytes: Option<Vec<u8>> = bytes.into_iter().collect::<Result<_, _>>().ok();
        let parsed = bytes.and_then(|bytes| <[u8; 6]>::try_from(bytes).ok());
        // The lowest bit of the first byte is a group's (IEEE 802.3 section 3.2.3).
        let parsed = parsed.filter(|mac| mac[0] & 1 == 0 && *mac != [0; 6]);
        if parsed.is_none() {
            let message = format!(
                "slot {name:?}: mac {:?} is no address of one machine; write \"02:00:00:00:00:01\"",
                mac.get_ref()
            );
            self.refuse(mac, message);
        }
        parsed
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

    fn slot_id(&mut self, entry: &Entry) {
        let (id, name) = (*entry.id.get_ref(), entry.name.get_ref());
        if id == 0 || id > MAX_SLOT_ID {
            let message = format!("slot {name:?}: id {id} must be 1 to {MAX_SLOT_ID}");
            self.refuse(&entry.id, message);
        }
    }

    /// Linux's rule for interface names (dev_valid_name in net/core/dev.c).
    pub(super) fn interface(&mut self, interface: &Spanned<String>, whose: &str, what: &str) {
        let text = interface.get_ref();
        let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
        if text.is_empty()
            || text.len() > INTERFACE_NAME_LENGTH
            || text == "."
            || text == ".."
            || text.contains(bad)
        {
            let message = format!(
                "{whose}: {what} {text:?} is no interface name (1 to {INTERFACE_NAME_LENGTH} bytes \
                 without '/', ':' and spaces)"
            );
            self.refuse(interface, message);
        }
    }

    /// No two slots may say the same thing.
    fn unique<'a, T: Ord + std::fmt::Display + 'a>(
        &mut self,
        entries: &'a [Entry],
        what: &str,
        things: impl Fn(&'a Entry) -> Vec<&'a Spanned<T>>,
    ) {
        let mut seen: BTreeMap<&T, (&Spanned<T>, &String)> = BTreeMap::new();
        for entry in entries {
            for thing in things(entry) {
                match seen.get(thing.get_ref()) {
                    Some((other, owner)) => self.refuse_second(entry, thing, what, other, owner),
                    None => drop(seen.insert(thing.get_ref(), (thing, entry.name.get_ref()))),
                }
            }
        }
    }

    fn refuse_second<T: std::fmt::Display>(
        &mut self,
        entry: &Entry,
        thing: &Spanned<T>,
        what: &str,
        first: &Spanned<T>,
        owner: &str,
    ) {
        let line = self.source.line(first.span().start);
        let name = entry.name.get_ref();
        let thing_text = thing.get_ref();
        let message =
            format!("slot {name:?}: {what} {thing_text} is already slot {owner:?}'s (line {line})");
        self.refuse(thing, message);
    }

    /// Slots with a port each may be on one bridge; a bridge whose ports are all one slot's is that slot's
    /// alone, and no bridge is a port.
    fn bridges(&mut self, entries: &[Entry]) {
        for (index, entry) in entries.iter().enumerate() {
            let bridge = &entry.bridge;
            let is_port = entries
                .iter()
                .filter_map(|other| Some((other.port.as_ref()?, other)))
                .find(|(port, _)| port.get_ref() == bridge.get_ref());
            if let Some((port, other)) = is_port {
                self.refuse_second(other, port, "interface", bridge, entry.name.get_ref());
            }
            let shared = entries[..index].iter().find(|other| {
                other.bridge.get_ref() == bridge.get_ref()
                    && (other.port.is_none() || entry.port.is_none())
            });
            if let Some(other) = shared {
                let (first, owner) = (&other.bridge, other.name.get_ref());
                self.refuse_second(entry, bridge, "shared bridge", first, owner);
            }
        }
    }

    fn subnet(
        &mut self,
        slot: &str,
        subnet: Option<&Spanned<String>>,
        gateway: Option<&Spanned<String>>,
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
        let net: IpNet =
            self.parse(subnet, &format!("slot {slot:?}: {key} {}", subnet.get_ref()))?;
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
        let address: IpAddr = match gateway {
            Some(gateway) => {
                self.parse(gateway, &format!("slot {slot:?}: {gateway_key} {}", gateway.get_ref()))?
            }
            None => derived?,
        };
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
    fn disjoint(&mut self, entries: &[Entry], slots: &[Slot]) {
        let mut subnets: Vec<(&Entry, &Spanned<String>, IpNet)> = Vec::new();
        for (entry, slot) in entries.iter().zip(slots) {
            for subnet in &slot.subnets {
                let v4 = subnet.gateway.is_ipv4();
                let text = if v4 { &entry.subnet } else { &entry.subnet6 };
                subnets.extend(text.as_ref().map(|text| (entry, text, subnet.prefix)));
            }
        }
        // Prefixes nest or are disjoint: in this order each has what it overlaps right in front of it. The
        // place in the file decides who is told.
        let mut sorted: Vec<usize> = (0..subnets.len()).collect();
        sorted.sort_by_key(|index| subnets[*index].2);
        let mut outer: Option<usize> = None;
        for index in sorted {
            let Some(before) = outer.filter(|it| overlap(&subnets[*it].2, &subnets[index].2))
            else {
                outer = Some(index);
                continue;
            };
            let (first, second) = (before.min(index), before.max(index));
            let ((owner, other, other_net), (entry, text, net)) = (subnets[first], subnets[second]);
            let line = self.source.line(other.span().start);
            let (name, owner) = (entry.name.get_ref(), owner.name.get_ref());
            let message = if other_net == net {
                format!("slot {name:?}: subnet {net} is already slot {owner:?}'s (line {line})")
            } else {
                format!(
                    "slot {name:?}: subnet {net} overlaps {other_net} of slot {owner:?} (line {line})"
                )
            };
            self.refuse(text, message);
        }
    }
}

fn limits(limits: &file::SlotLimits) -> Limits {
    fn of<T: Copy>(limit: &Option<Spanned<T>>) -> Option<T> {
        limit.as_ref().map(|limit| *limit.get_ref())
    }
    let default = Limits::default();
    let some = |limit: u32| (limit > 0).then_some(limit);
    Limits {
        flows_per_second: of(&limits.flows_per_second).and_then(some),
        packets_per_second: of(&limits.packets_per_second).and_then(some),
        bytes_per_second: of(&limits.bytes_per_second).filter(|limit| *limit > 0),
        icmp_per_second: of(&limits.icmp_per_second).map_or(default.icmp_per_second, some),
        icmp_max_bytes: of(&limits.icmp_max_bytes).unwrap_or(default.icmp_max_bytes),
    }
}
