//! What decided, in the words of the file or of the order that it was, and what would let such a packet pass.

use ipnet::IpNet;

use super::{Because, Dropped, Key};
use crate::policy::{HostServices, Policy, Slot, Unnamed};

impl Because {
    /// In words, as the file would have it; and what would let such a packet pass, where a key can say that.
    #[must_use]
    pub fn text(&self, policy: &Policy, slot: &Slot, packet: &Dropped) -> String {
        let sentence = || packet.reason.sentence().trim_end_matches('.').to_owned();
        let said = self.said(policy, slot).unwrap_or_else(sentence);
        match self.way_out(slot, packet) {
            Some(way_out) => format!("{said}; {way_out} would let it pass"),
            None => said,
        }
    }

    /// In words, of what let a packet pass.
    #[must_use]
    pub fn opening_text(&self, policy: &Policy, slot: &Slot) -> String {
        match self {
            Self::Isolate => "isolate = false".to_owned(),
            Self::Gate => "what [gate] lets pass".to_owned(),
            _ => self.said(policy, slot).unwrap_or_default(),
        }
    }

    /// In the words of the order that it was.
    #[must_use]
    pub fn order_text(&self, slot: &Slot) -> String {
        match self {
            Self::Rule { allow, index } => {
                let rules = if *allow { &slot.egress.allow } else { &slot.egress.deny };
                let Some(rule) = rules.get(*index) else { return String::new() };
                // What was denied also where the file allows a part of it was said of the whole.
                let said = rules
                    .iter()
                    .skip(*index)
                    .filter(|it| it.prefix.contains(&rule.prefix) && it.services == rule.services);
                let said = said.min_by_key(|it| it.prefix.prefix_len()).unwrap_or(rule);
                format!("{} {said}", if *allow { "allow" } else { "deny" })
            }
            Self::DeniedName(name) => format!("deny of {name}, or of a name above it"),
            _ => "lock".to_owned(), // nothing else is ordered
        }
    }

    /// None if nobody has written it.
    fn said(&self, policy: &Policy, slot: &Slot) -> Option<String> {
        Some(match self {
            Self::Rule { allow, index } => {
                let (key, rules) = match allow {
                    true => ("allow", &slot.egress.allow),
                    false => ("deny", &slot.egress.deny),
                };
                let rule = rules.get(*index).map(ToString::to_string).unwrap_or_default();
                format!("{key} = [{rule:?}]")
            }
            Self::Key(key) => key.said(slot),
            Self::Isolate => "isolate = true".to_owned(),
            Self::Gate if policy.gate.is_some() => "not what [gate] lets pass".to_owned(),
            Self::Gate => "no [gate]".to_owned(),
            Self::Management(Some(index)) => {
                let prefix = policy.host.management.get(*index);
                format!("management = [\"{}\"]", prefix.map_or(String::new(), IpNet::to_string))
            }
            Self::Management(None) => "not in management".to_owned(),
            Self::Flows => format!("limits.flows = {}", policy.flows_max),
            Self::DeniedName(name) => format!("deny of {name}"),
            Self::Guarded => "mode = \"guarded\"".to_owned(),
            Self::BuiltIn => return None,
        })
    }

    fn way_out(&self, slot: &Slot, packet: &Dropped) -> Option<String> {
        let service = || {
            let protocol = packet.traffic.protocol?;
            Some(match packet.traffic.port {
                0 => protocol.name().to_owned(),
                port => format!("{}/{port}", protocol.name()),
            })
        };
        match self {
            Self::Key(Key::Egress | Key::Allow) => {
                let (dst, service) = (packet.dst?, service()?);
                // Nothing at all is allowed, and that is what the key says.
                let is_none =
                    slot.egress.unnamed == Unnamed::Closed && slot.egress.allow.is_empty();
                let listed = if is_none { "egress = \"listed\", " } else { "" };
                Some(format!("{listed}allow = [\"{dst} {service}\"]"))
            }
            Self::Key(Key::HostServices) => {
                let dst = packet.dst?;
                let is_own = slot.gateway(dst.is_ipv4()) == Some(dst);
                match service().filter(|_| is_own) {
                    Some(service) => Some(format!("host_services = [{service:?}]")),
                    None => Some("host_services = \"all\"".to_owned()),
                }
            }
            Self::Key(Key::Metadata) => Some("metadata = true".to_owned()),
            Self::Isolate => Some("isolate = false".to_owned()),
            _ => None, // no key for this very packet, or it is plain
        }
    }
}

impl Key {
    /// The key with what counts.
    fn said(self, slot: &Slot) -> String {
        let subnet = |v4| match slot.subnet(v4) {
            Some(subnet) => format!("{} = \"{}\"", self.name(), subnet.prefix),
            None => format!("no {}", self.name()),
        };
        let limit = |limit: Option<u64>| format!("{} = {}", self.name(), limit.unwrap_or(0));
        let limits = &slot.limits;
        match self {
            Self::Mode => "mode = \"lockdown\"".to_owned(),
            Self::Egress => match slot.egress.unnamed {
                Unnamed::Open => "egress = \"open\"",
                Unnamed::Pinned => "egress = \"pinned\"",
                Unnamed::Closed if slot.egress.allow.is_empty() => "egress = \"none\"",
                Unnamed::Closed => "egress = \"listed\"",
            }
            .to_owned(),
            Self::Allow => "no rule of allow is for such an address".to_owned(),
            Self::Mac => {
                let bytes = slot.mac.unwrap_or_default().map(|byte| format!("{byte:02x}"));
                format!("mac = \"{}\"", bytes.join(":"))
            }
            Self::Subnet => subnet(true),
            Self::Subnet6 => subnet(false),
            Self::HostServices => match &slot.host_services {
                HostServices::All => "host_services = \"all\"".to_owned(),
                HostServices::Listed(services) => {
                    let texts: Vec<_> = services.iter().map(ToString::to_string).collect();
                    format!("host_services = {texts:?}")
                }
            },
            Self::Metadata => format!("metadata = {}", slot.metadata),
            Self::FlowsPerSecond => limit(limits.flows_per_second.map(Into::into)),
            Self::PacketsPerSecond => limit(limits.packets_per_second.map(Into::into)),
            Self::BytesPerSecond => limit(limits.bytes_per_second),
            Self::IcmpPerSecond => limit(limits.icmp_per_second.map(Into::into)),
            Self::IcmpMaxBytes => limit(Some(limits.icmp_max_bytes.into())),
        }
    }
}
