//! The meaning of a configuration: slots, their addresses, and what lies where. Pure: no I/O, no
//! kernel, no file formats.
//!
//! `config` builds a [`Policy`] and has checked everything in it; [`Plan`] turns it into the bytes
//! of the maps.

mod places;
mod plan;

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use netguard_common::SlotId;

pub use plan::{Facts, InterfaceFact, Plan, Prefix};

use crate::dns::Allowlist;

/// Everything the operator asked for, checked.
#[derive(Clone, Debug)]
pub struct Policy {
    /// In the order of the file; names, ids, bridges and ports are each unique, subnets disjoint.
    pub slots: Vec<Slot>,
    /// Networks whose peers may open connections to slots.
    pub management: Vec<IpNet>,
    /// What the resolver may answer, and from whom.
    pub dns: DnsPolicy,
}

/// One workload's network identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Unique, at most [`netguard_common::maps::SLOT_NAME_LENGTH`] bytes.
    pub name: String,
    /// Unique, 1 to [`netguard_common::MAX_SLOT_ID`].
    pub id: SlotId,
    /// The bridge's interface name.
    pub bridge: String,
    /// The TAP's or veth's interface name.
    pub port: String,
    /// At most one per address family, at least one.
    pub subnets: Vec<Subnet>,
}

impl Slot {
    /// The slot's gateway of one family.
    #[must_use]
    pub fn gateway(&self, v4: bool) -> Option<IpAddr> {
        self.subnets.iter().map(|subnet| subnet.gateway).find(|gateway| gateway.is_ipv4() == v4)
    }
}

/// A subnet of a slot and the host's address in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// Without host bits.
    pub prefix: IpNet,
    /// In `prefix`, on the slot's bridge; the resolver listens there.
    pub gateway: IpAddr,
}

/// The resolver's part of the policy.
#[derive(Clone, Debug)]
pub struct DnsPolicy {
    /// Asked in this order; at least one.
    pub upstreams: Vec<SocketAddr>,
    /// The port on each gateway where the resolver listens.
    pub port: u16,
    /// The names that slots may resolve.
    pub allowlist: Allowlist,
}
