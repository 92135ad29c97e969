//! What decided that a packet was dropped: a rule, a key, or netguard itself. Pure: where it stands is the configuration's
//! business, and the decision itself [`super::Openings`]'.

use std::net::IpAddr;

use ipnet::IpNet;
use netguard_common::{Direction, DropReason};

use super::{HostServices, Policy, Slot, Traffic, Unnamed, evaluate::winner};

/// What was dropped, as far as what decided depends on it.
#[derive(Clone, Debug)]
pub struct Dropped {
    /// Why.
    pub reason: DropReason,
    /// Which way it went, seen from the slot.
    pub direction: Direction,
    /// From where.
    pub src: Option<IpAddr>,
    /// Where to.
    pub dst: Option<IpAddr>,
    /// What it is to rules.
    pub traffic: Traffic,
}

/// What decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Because {
    /// A rule of the slot's own: of those that allow, or those that deny.
    Rule {
        /// One that allows.
        allow: bool,
        /// Its place in [`super::Egress::allow`] or [`super::Egress::deny`].
        index: usize,
    },
    /// A key of the slot, by what it says or by what counts without it.
    Key(Key),
    /// `isolate` of the slot's runtime.
    Isolate,
    /// `[gate]`, or that there is none.
    Gate,
    /// `[host] management`: one of its prefixes, or that none has the packet's sender.
    Management(Option<usize>),
    /// `[limits] flows`.
    Flows,
    /// A name that is denied to the slot at run time, and had given it the address.
    DeniedName(String),
    /// No configuration says otherwise.
    BuiltIn,
}

/// A key of a slot that can decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// `mode`
    Mode,
    /// `egress`
    Egress,
    /// `allow`, in which no rule fits.
    Allow,
    /// `mac`
    Mac,
    /// `subnet`
    Subnet,
    /// `subnet6`
    Subnet6,
    /// `host_services`
    HostServices,
    /// `metadata`
    Metadata,
    /// `limits.flows_per_second`
    FlowsPerSecond,
    /// `limits.packets_per_second`
    PacketsPerSecond,
    /// `limits.bytes_per_second`
    BytesPerSecond,
    /// `limits.icmp_per_second`
    IcmpPerSecond,
    /// `limits.icmp_max_bytes`
    IcmpMaxBytes,
}

impl Key {
    /// As the file has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mode => "mode",
            Self::Egress => "egress",
            Self::Allow => "allow",
            Self::Mac => "mac",
            Self::Subnet => "subnet",
            Self::Subnet6 => "subnet6",
            Self::HostServices => "host_services",
            Self::Metadata => "metadata",
            Self::FlowsPerSecond => "limits.flows_per_second",
            Self::PacketsPerSecond => "limits.packets_per_second",
            Self::BytesPerSecond => "limits.bytes_per_second",
            Self::IcmpPerSecond => "limits.icmp_per_second",
            Self::IcmpMaxBytes => "limits.icmp_max_bytes",
        }
    }

    /// The subnet of the address's family; without an address IPv4's.
    fn subnet_of(address: Option<IpAddr>) -> Self {
        if address.is_some_and(|it| it.is_ipv6()) { Self::Subnet6 } else { Self::Subnet }
    }
}

impl Because {
    /// What decided that this was dropped on its way from or to the slot.
    #[must_use]
    pub fn of(policy: &Policy, slot: &Slot, packet: &Dropped) -> Self {
        use DropReason as R;
        let is_egress = packet.direction == Direction::Egress;
        match packet.reason {
            R::Lockdown => Self::Key(Key::Mode),
            R::SpoofedMac if slot.mac.is_some() => Self::Key(Key::Mac),
            R::SpoofedSource if is_egress => Self::Key(Key::subnet_of(packet.src)),
            R::ArpSpoof => Self::Key(Key::Subnet),
            R::NdSpoof => Self::Key(Key::Subnet6),
            R::UnknownAddress if !is_egress => Self::Key(Key::subnet_of(packet.dst)),
            R::NoResolver => Self::Key(Key::subnet_of(packet.dst)),
            R::EgressDenied | R::NotPinned => {
                Self::denial(slot, packet).unwrap_or(Self::Key(Key::Egress))
            }
            R::PrivateDestination | R::LinkLocal | R::Multicast | R::DnsOverHttps => {
                Self::denial(slot, packet).unwrap_or(Self::Key(Key::Allow))
            }
            R::Host => Self::Key(Key::HostServices),
            R::Metadata => Self::Key(Key::Metadata),
            R::CrossRuntime => Self::Gate,
            R::CrossSlot | R::Isolated if isolates(policy, slot) => Self::Isolate,
            R::Management => Self::Management(managing(policy, packet.dst)),
            R::Unsolicited => Self::Management(managing(policy, packet.src)),
            R::FlowsFull => Self::Flows,
            R::FlowRate => Self::Key(Key::FlowsPerSecond),
            R::PacketRate => Self::Key(Key::PacketsPerSecond),
            R::ByteRate => Self::Key(Key::BytesPerSecond),
            R::IcmpRate => Self::Key(Key::IcmpPerSecond),
            R::IcmpSize => Self::Key(Key::IcmpMaxBytes),
            // Another slot's gateway, a group's MAC, an address that nobody has.
            R::CrossSlot | R::Isolated | R::SpoofedMac | R::SpoofedSource | R::UnknownAddress => {
                Self::BuiltIn
            }
            R::Truncated
            | R::VlanTag
            | R::EtherType
            | R::UnknownPort
            | R::UnguardedPort
            | R::BadHeader
            | R::IpOptions
            | R::Ipv6Extension
            | R::Fragment
            | R::Protocol
            | R::IcmpType
            | R::DnsOverTls
            | R::DnsOverQuic
            | R::DnsFlowsFull
            | R::DnsUnsolicited
            | R::Internal
            | R::TcpFlags
            | R::TcpState
            | R::IcmpError
            | R::RogueDhcp
            | R::RogueRa => Self::BuiltIn,
        }
    }

    /// The denial that decided, if one did.
    fn denial(slot: &Slot, packet: &Dropped) -> Option<Self> {
        let rule = winner(slot, packet.dst?, &packet.traffic)?;
        (!rule.allow).then_some(Self::Rule { allow: false, index: rule.index })
    }

    /// In words, as the file would have it; and what would let such a packet pass, where a key can say that.
    #[must_use]
    pub fn text(&self, policy: &Policy, slot: &Slot, packet: &Dropped) -> String {
        let said = self.said(policy, slot, packet);
        match self.way_out(slot, packet) {
            Some(way_out) => format!("{said}; {way_out} would let it pass"),
            None => said,
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

    fn said(&self, policy: &Policy, slot: &Slot, packet: &Dropped) -> String {
        match self {
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
            Self::BuiltIn => packet.reason.sentence().trim_end_matches('.').to_owned(),
        }
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

/// True if the slot's runtime keeps its own apart.
fn isolates(policy: &Policy, slot: &Slot) -> bool {
    policy.runtimes.get(slot.runtime).is_none_or(|runtime| runtime.isolate)
}

/// Which of the management networks has the address.
fn managing(policy: &Policy, address: Option<IpAddr>) -> Option<usize> {
    let address = address?;
    policy.host.management.iter().position(|prefix| prefix.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Protocol, evaluate::tests::policy};

    fn dropped(reason: DropReason, dst: &str) -> Dropped {
        Dropped {
            reason,
            direction: Direction::Egress,
            src: Some("10.1.0.2".parse().unwrap()),
            dst: Some(dst.parse().unwrap()),
            traffic: Traffic { protocol: Some(Protocol::Tcp), port: 443, is_echo_request: false },
        }
    }

    /// Of slot 1 with `egress = "listed"` and three rules.
    fn of(reason: DropReason, dst: &str) -> (Because, String) {
        let mut policy = policy();
        let slot = &mut policy.slots[0];
        slot.egress.unnamed = Unnamed::Closed;
        slot.egress.allow.push("203.0.113.0/24".parse().unwrap());
        slot.egress.deny.push("203.0.112.0/22 tcp/80".parse().unwrap());
        slot.egress.deny.push("203.0.113.0/24 tcp/443,udp/5".parse().unwrap());
        let packet = dropped(reason, dst);
        let because = Because::of(&policy, &policy.slots[0], &packet);
        let text = because.text(&policy, &policy.slots[0], &packet);
        (because, text)
    }

    #[test]
    fn the_rule_that_won_is_named_and_else_the_key_that_counts() {
        let deny = |index| Because::Rule { allow: false, index };
        let table = [
            (
                DropReason::EgressDenied,
                "203.0.113.9",
                deny(1),
                "deny = [\"203.0.113.0/24 tcp/443,udp/5\"]",
            ),
            (
                DropReason::EgressDenied,
                "203.0.112.9",
                Because::Key(Key::Egress),
                "egress = \"listed\"; allow = [\"203.0.112.9 tcp/443\"] would let it pass",
            ),
            (
                DropReason::PrivateDestination,
                "10.9.9.9",
                Because::Key(Key::Allow),
                "no rule of allow is for such an address; allow = [\"10.9.9.9 tcp/443\"] would let it pass",
            ),
            (
                DropReason::Host,
                "10.1.0.1",
                Because::Key(Key::HostServices),
                "host_services = []; host_services = [\"tcp/443\"] would let it pass",
            ),
            (
                DropReason::Host,
                "192.0.2.2",
                Because::Key(Key::HostServices),
                "host_services = []; host_services = \"all\" would let it pass",
            ),
            (
                DropReason::Metadata,
                "169.254.169.254",
                Because::Key(Key::Metadata),
                "metadata = false; metadata = true would let it pass",
            ),
            (DropReason::CrossRuntime, "10.3.0.2", Because::Gate, "not what [gate] lets pass"),
            (DropReason::CrossSlot, "10.2.0.1", Because::BuiltIn, "From one slot to another"),
            (
                DropReason::Management,
                "100.64.0.2",
                Because::Management(Some(0)),
                "management = [\"100.64.0.0/10\"]",
            ),
            (
                DropReason::IcmpRate,
                "192.0.2.9",
                Because::Key(Key::IcmpPerSecond),
                "limits.icmp_per_second = 50",
            ),
            (
                DropReason::SpoofedSource,
                "192.0.2.9",
                Because::Key(Key::Subnet),
                "subnet = \"10.1.0.0/24\"",
            ),
        ];
        for (reason, dst, because, text) in table {
            assert_eq!(of(reason, dst), (because, text.to_owned()), "{}", reason.name());
        }
    }

    #[test]
    fn a_runtime_that_isolates_says_so() {
        let policy = policy();
        let packet = dropped(DropReason::Isolated, "10.3.0.3");
        assert_eq!(Because::of(&policy, &policy.slots[2], &packet), Because::Isolate);
        let into = Dropped {
            direction: Direction::Ingress,
            ..dropped(DropReason::Unsolicited, "10.1.0.2")
        };
        assert_eq!(Because::of(&policy, &policy.slots[0], &into), Because::Management(None));
    }

    #[test]
    fn an_order_is_told_as_it_was_given() {
        let mut slot = policy().slots.remove(0);
        slot.egress.deny.push("203.0.113.7".parse().unwrap());
        slot.egress.deny.push("203.0.113.0/24".parse().unwrap());
        assert_eq!(
            Because::Rule { allow: false, index: 0 }.order_text(&slot),
            "deny 203.0.113.0/24"
        );
        assert_eq!(Because::Key(Key::Mode).order_text(&slot), "lock");
    }

    #[test]
    fn every_reason_has_words() {
        for reason in DropReason::ALL {
            assert!(!of(*reason, "198.51.100.7").1.is_empty(), "{}", reason.name());
        }
    }
}
