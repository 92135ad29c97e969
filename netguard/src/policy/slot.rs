//! One workload's network identity and what it may do.

use std::net::IpAddr;

use ipnet::IpNet;
use netguard_common::SlotId;

use super::rules::{Rule, Service};

/// One slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Unique, at most [`netguard_common::maps::SLOT_NAME_LENGTH`] bytes.
    pub name: String,
    /// Unique, 1 to [`netguard_common::MAX_SLOT_ID`].
    pub id: SlotId,
    /// The bridge's interface name. Several slots may share a bridge, each with a port of its own.
    pub bridge: String,
    /// Which of the bridge's ports are the slot's.
    pub ports: Ports,
    /// At most one per address family, at least one.
    pub subnets: Vec<Subnet>,
    /// The only Ethernet address that the workload may send from; any if absent.
    pub mac: Option<[u8; 6]>,
    /// The family it belongs to, as an index into [`super::Policy::runtimes`].
    pub runtime: usize,
    /// True if it has no network at all.
    pub lockdown: bool,
    /// True if what no rule and no pin opens passes, and is recorded.
    pub audit: bool,
    /// True if it is told what is denied; else that is dropped without a word.
    pub rejects: bool,
    /// What it may reach beyond the host.
    pub egress: Egress,
    /// What it may reach on the host, besides DNS and ping of its own gateway.
    pub host_services: HostServices,
    /// True if it may reach the cloud's metadata service.
    pub metadata: bool,
    /// True if netguard makes and removes its bridge, port and addresses.
    pub manage_links: bool,
    /// How much it may send.
    pub limits: Limits,
}

/// The ports of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ports {
    /// The one TAP or veth of that name.
    One(String),
    /// Whatever is on the bridge, as containers come and go.
    Shared,
}

/// A subnet of a slot and the host's address in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// Without host bits.
    pub prefix: IpNet,
    /// In `prefix`, on the slot's bridge; the resolver listens there.
    pub gateway: IpAddr,
}

/// What a slot may open towards what is neither host nor slot. Of all rules that name a destination
/// and a service the longest prefix wins; of equal ones a denial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Egress {
    /// What it may reach that no rule names.
    pub unnamed: Unnamed,
    /// What it may reach. A private, link-local or multicast address only by a prefix that lies
    /// wholly within that range.
    pub allow: Vec<Rule>,
    /// What it may not reach.
    pub deny: Vec<Rule>,
}

/// What a slot may reach of the internet where no rule speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unnamed {
    /// Nothing.
    Closed,
    /// The addresses that a DNS answer gave the slot, as long as they are pinned.
    Pinned,
    /// All of it.
    Open,
}

/// What a slot may open on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostServices {
    /// These, on its own gateway.
    Listed(Vec<Service>),
    /// Everything, on every address of the host but other slots' gateways.
    All,
}

/// How much a slot may send; none means no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// New flows a second.
    pub flows_per_second: Option<u32>,
    /// Packets a second.
    pub packets_per_second: Option<u32>,
    /// Bytes a second, counted from the Ethernet header on.
    pub bytes_per_second: Option<u64>,
    /// ICMP messages a second, echo requests and errors.
    pub icmp_per_second: Option<u32>,
    /// The longest ICMP message, in bytes from the ICMP header on.
    pub icmp_max_bytes: u16,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            flows_per_second: None,
            packets_per_second: None,
            bytes_per_second: None,
            icmp_per_second: Some(50),
            icmp_max_bytes: 256,
        }
    }
}

impl Slot {
    /// The slot's gateway of one family.
    #[must_use]
    pub fn gateway(&self, v4: bool) -> Option<IpAddr> {
        self.subnet(v4).map(|subnet| subnet.gateway)
    }

    /// The slot's subnet of one family.
    #[must_use]
    pub fn subnet(&self, v4: bool) -> Option<&Subnet> {
        self.subnets.iter().find(|subnet| subnet.gateway.is_ipv4() == v4)
    }

    /// The name of the one port; none for a shared bridge.
    #[must_use]
    pub fn port(&self) -> Option<&str> {
        match &self.ports {
            Ports::One(port) => Some(port),
            Ports::Shared => None,
        }
    }
}
