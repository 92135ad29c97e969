//! What a file says beyond its slots: the host, runtimes, the gate, totals.

use std::net::SocketAddr;

use ipnet::IpNet;
use toml::Spanned;

use super::{
    super::{file, template::Entry},
    Checker, is_host, overlap,
};
use crate::policy::{Gate, Host, Protection, Runtime, Service, Slot};

/// The runtime of slots that name none.
const DEFAULT_RUNTIME: &str = "default";
/// How many flows are tracked if the file does not say.
const FLOWS_DEFAULT: u32 = 100_000;
/// How many can be: 5 GiB of tables.
const FLOWS_MOST: u32 = 1 << 24;

impl Checker<'_> {
    /// Those of the file, and one for slots that name none, unless the file describes it itself.
    pub(super) fn runtimes(
        &mut self,
        runtimes: &[file::Runtime],
        entries: &[Entry],
    ) -> Vec<Runtime> {
        let mut checked: Vec<Runtime> = Vec::new();
        for runtime in runtimes {
            let name = runtime.name.get_ref();
            if name.is_empty() || checked.iter().any(|other| other.name == *name) {
                let message = if name.is_empty() {
                    "a runtime needs a name: name = \"podman\"".to_owned()
                } else {
                    format!("runtime {name:?} is there twice")
                };
                self.refuse(&runtime.name, message);
            }
            let isolate = runtime.isolate.as_ref().is_none_or(|isolate| *isolate.get_ref());
            checked.push(Runtime { name: name.clone(), isolate });
        }
        let is_described = checked.iter().any(|runtime| runtime.name == DEFAULT_RUNTIME);
        if !is_described && entries.iter().any(|entry| entry.rest.runtime.is_none()) {
            checked.push(Runtime { name: DEFAULT_RUNTIME.to_owned(), isolate: true });
        }
        checked
    }

    /// The index of a slot's runtime. A name that no `[[runtime]]` describes is refused: a misspelt one
    /// would be a runtime of its own.
    pub(super) fn runtime(
        &mut self,
        name: Option<&Spanned<String>>,
        slot: &str,
        runtimes: &[Runtime],
    ) -> usize {
        let wanted = name.map_or(DEFAULT_RUNTIME, |name| name.get_ref());
        let found = runtimes.iter().position(|runtime| runtime.name == wanted);
        if let (None, Some(name)) = (found, name) {
            let known: Vec<_> = runtimes.iter().map(|it| it.name.as_str()).collect();
            let message = format!(
                "slot {slot:?}: no [[runtime]] is named {wanted:?}; there are {}",
                known.join(", ")
            );
            self.refuse(name, message);
        }
        found.unwrap_or_default()
    }

    pub(super) fn gate(&mut self, gate: Option<&file::Gate>, slots: &[Slot]) -> Option<Gate> {
        let gate = gate?;
        if gate.addresses.get_ref().is_empty() {
            self.refuse(&gate.addresses, "the gate has no address: addresses = [\"10.99.0.1\"]");
        }
        if gate.ports.get_ref().is_empty() {
            self.refuse(&gate.ports, "the gate has no ports: ports = [\"tcp/443\"]");
        }
        let mut addresses = Vec::new();
        for address in gate.addresses.get_ref() {
            let ip = *address.get_ref();
            let gateway = slots.iter().find(|slot| slot.subnets.iter().any(|it| it.gateway == ip));
            if let Some(slot) = gateway {
                let message = format!(
                    "the gate {ip} is the gateway of slot {:?}; give the gate an address of its own",
                    slot.name
                );
                self.refuse(address, message);
            } else if !is_host(ip) || ip.is_loopback() {
                self.refuse(address, format!("the gate {ip} is no address that slots could reach"));
            } else if addresses
                .iter()
                .any(|other: &std::net::IpAddr| other.is_ipv4() == ip.is_ipv4())
            {
                let message = format!("the gate has two addresses of one family; leave out {ip}");
                self.refuse(address, message);
            }
            addresses.push(ip);
        }
        Some(Gate { addresses, services: self.parse_all(gate.ports.get_ref(), "the gate's ports") })
    }

    pub(super) fn host(&mut self, host: &file::Host, entries: &[Entry], slots: &[Slot]) -> Host {
        let management = self.management(&host.management, slots);
        for uplink in &host.uplinks {
            self.interface(uplink, "[host]", "uplink");
            let name = uplink.get_ref();
            let owner = entries.iter().find(|entry| {
                entry.bridge.get_ref() == name
                    || entry.port.as_ref().is_some_and(|port| port.get_ref() == name)
            });
            if let Some(owner) = owner {
                let message = format!("uplink {name} is slot {:?}'s", owner.name.get_ref());
                self.refuse(uplink, message);
            }
        }
        if let Some(masquerade) = host.masquerade.as_ref().filter(|it| *it.get_ref())
            && host.uplinks.is_empty()
        {
            let message = "masquerade needs to know where to: add uplinks = [\"eth0\"]";
            self.refuse(masquerade, message);
        }
        Host {
            management,
            masquerade: host.masquerade.as_ref().is_none_or(|it| *it.get_ref())
                && !host.uplinks.is_empty(),
            fast_path: false,
            protection: self.protection(host),
            metrics: None,
            uplinks: host.uplinks.iter().map(|uplink| uplink.get_ref().clone()).collect(),
        }
    }

    fn protection(&mut self, host: &file::Host) -> Option<Protection> {
        let protect = host.protect.as_ref()?;
        let dry_run = match protect.get_ref() {
            toml::Value::Boolean(false) => return None,
            toml::Value::Boolean(true) => false,
            toml::Value::String(text) if text == "dry-run" => true,
            other => {
                let message = format!("protect {other} must be true, false or \"dry-run\"");
                self.refuse(protect, message);
                return None;
            }
        };
        if host.uplinks.is_empty() {
            let message = "protect needs to know against whom: add uplinks = [\"eth0\"]";
            self.refuse(protect, message);
        }
        let ssh: Service = "tcp/22".parse().expect("a constant under test");
        let allow_in = match &host.allow_in {
            Some(services) => self.parse_all(services, "allow_in"),
            None => vec![ssh],
        };
        Some(Protection { allow_in, dry_run })
    }

    /// Whether there is a fast path; it sends with the host's address, so only where slots borrow that.
    pub(super) fn fast_path(&mut self, datapath: &file::Datapath, host: &Host) -> bool {
        let Some(wanted) = &datapath.fast_path else { return host.masquerade };
        if *wanted.get_ref() && !host.masquerade {
            let message = if host.uplinks.is_empty() {
                "the fast path needs to know where to: add uplinks = [\"eth0\"] to [host]"
            } else {
                "the fast path sends with the host's address, as masquerade does: leave out masquerade = false, or this"
            };
            self.refuse(wanted, message);
        }
        *wanted.get_ref()
    }

    /// Where metrics are served; never where anybody but the host could ask.
    pub(super) fn metrics(&mut self, metrics: &file::Metrics) -> Option<SocketAddr> {
        let listen = metrics.listen.as_ref()?;
        let at = listen.get_ref().parse::<SocketAddr>().ok();
        let at = at.filter(|at| at.ip().is_loopback() && at.port() != 0);
        if at.is_none() {
            let message = format!(
                "metrics are served on a loopback address with a port, like \"127.0.0.1:9540\" or \"[::1]:9540\", not on {:?}",
                listen.get_ref()
            );
            self.refuse(listen, message);
        }
        at
    }

    pub(super) fn flows_max(&mut self, totals: &file::Totals) -> u32 {
        let Some(flows) = &totals.flows else { return FLOWS_DEFAULT };
        if !(1..=FLOWS_MOST).contains(flows.get_ref()) {
            let message = format!("flows {} must be 1 to {FLOWS_MOST}", flows.get_ref());
            self.refuse(flows, message);
        }
        *flows.get_ref()
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
}
