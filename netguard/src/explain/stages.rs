//! The stages of the decision, as `ARCHITECTURE.md` lists them, and which of them a reason belongs to.

use netguard_common::DropReason as R;

/// A stage, in the order in which they are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// What the frame is.
    Frame,
    /// Whether the slot has a network.
    Lockdown,
    /// Whose MAC and address the sender gives.
    Identity,
    /// Whether headers and lengths agree.
    Sanity,
    /// Port 53, which goes to the resolver.
    Dns,
    /// What would pass by the resolver.
    EncryptedDns,
    /// What lies at the other address.
    Place,
    /// Whether a connection is there.
    State,
    /// What the slot's rules and pins say of the internet.
    Rule,
    /// How much the slot has sent.
    Limits,
}

impl Stage {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Frame,
        Self::Lockdown,
        Self::Identity,
        Self::Sanity,
        Self::Dns,
        Self::EncryptedDns,
        Self::Place,
        Self::State,
        Self::Rule,
        Self::Limits,
    ];

    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Frame => "frame",
            Self::Lockdown => "lockdown",
            Self::Identity => "identity",
            Self::Sanity => "sanity",
            Self::Dns => "dns",
            Self::EncryptedDns => "encrypted dns",
            Self::Place => "where to",
            Self::State => "state",
            Self::Rule => "rule",
            Self::Limits => "limits",
        }
    }

    /// The stage that drops for a reason.
    #[must_use]
    pub const fn of(reason: R) -> Self {
        match reason {
            R::VlanTag | R::EtherType | R::UnknownPort | R::Internal => Self::Frame,
            R::Lockdown => Self::Lockdown,
            R::SpoofedSource
            | R::SpoofedMac
            | R::ArpSpoof
            | R::NdSpoof
            | R::RogueDhcp
            | R::RogueRa
            | R::UnguardedPort => Self::Identity,
            R::Truncated
            | R::BadHeader
            | R::IpOptions
            | R::Ipv6Extension
            | R::Fragment
            | R::Protocol
            | R::IcmpType
            | R::TcpFlags => Self::Sanity,
            R::NoResolver | R::DnsFlowsFull | R::DnsUnsolicited => Self::Dns,
            R::DnsOverTls | R::DnsOverQuic | R::IcmpSize => Self::EncryptedDns,
            R::CrossRuntime
            | R::CrossSlot
            | R::Host
            | R::Metadata
            | R::PrivateDestination
            | R::LinkLocal
            | R::Multicast
            | R::Management
            | R::UnknownAddress
            | R::DnsOverHttps
            | R::Isolated
            | R::Unsolicited => Self::Place,
            R::TcpState | R::IcmpError => Self::State,
            R::EgressDenied | R::NotPinned => Self::Rule,
            R::FlowsFull | R::FlowRate | R::PacketRate | R::ByteRate | R::IcmpRate => Self::Limits,
        }
    }
}
