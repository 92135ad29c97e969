//! What decided that a packet was dropped: a rule, a key, or netguard itself. Pure: where it stands is the configuration's
//! business, and the decision itself [`super::Openings`]'.

mod passing;
mod words;

use std::net::IpAddr;

use netguard_common::{Direction, DropReason};

pub use passing::{Passed, Passing};

use super::{Policy, Slot, Traffic, evaluate::winner};

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
    /// `mode` of a slot that is not in lockdown.
    Guarded,
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
        let peer = if is_egress { packet.dst } else { packet.src };
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
            R::CrossSlot | R::Isolated
                if isolates(policy, slot) && !is_gateway(policy, slot, peer) =>
            {
                Self::Isolate
            }
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
}

/// True if the slot's runtime keeps its own apart.
fn isolates(policy: &Policy, slot: &Slot) -> bool {
    policy.runtimes.get(slot.runtime).is_none_or(|runtime| runtime.isolate)
}

/// True for another slot's gateway, which is no slot's to reach, whoever may meet whom.
fn is_gateway(policy: &Policy, slot: &Slot, address: Option<IpAddr>) -> bool {
    let mut others = policy.slots.iter().filter(|other| other.id != slot.id);
    others.any(|other| other.subnets.iter().any(|subnet| Some(subnet.gateway) == address))
}

/// Which of the management networks has the address.
fn managing(policy: &Policy, address: Option<IpAddr>) -> Option<usize> {
    let address = address?;
    policy.host.management.iter().position(|prefix| prefix.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Protocol, Unnamed, evaluate::tests::policy};

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
        let gateway = dropped(DropReason::CrossSlot, "10.2.0.1");
        assert_eq!(Because::of(&policy, &policy.slots[2], &gateway), Because::BuiltIn);
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
