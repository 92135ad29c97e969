//! The meaning of a configuration: slots, their addresses, and what may open a connection to what. Pure:
//! no I/O, no kernel, no file formats.
//!
//! `config` builds a [`Policy`] and has checked everything in it; [`Plan`] turns it into the bytes
//! of the maps.

mod because;
mod dns;
mod evaluate;
mod facts;
mod matrix;
mod name_because;
mod places;
mod plan;
mod rules;
mod slot;

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

pub use because::{Because, Dropped, Key, Passed, Passing};
pub use dns::{DnsPolicy, SlotDns, is_public};
pub use evaluate::{Evaluator, IsLocal, Openings, Pin, Traffic, Verdict};
pub use facts::{Facts, InterfaceFact};
pub use matrix::{Cell, Matrix, Row};
pub use name_because::{NameBecause, NameKey, origin};
pub use plan::{Plan, Prefix, ServicePrefix};
pub use rules::{Protocol, Rule, Service};
pub use slot::{Egress, HostServices, Limits, Ports, Slot, Subnet, Unnamed};

/// Everything the operator asked for, checked.
#[derive(Clone, Debug)]
pub struct Policy {
    /// In the order of the file; names and ids are each unique, subnets disjoint.
    pub slots: Vec<Slot>,
    /// The families that slots belong to; [`Slot::runtime`] is an index into this.
    pub runtimes: Vec<Runtime>,
    /// How one runtime may reach another; none means not at all.
    pub gate: Option<Gate>,
    /// The host beyond its slots.
    pub host: Host,
    /// How many flows are tracked at once; every slot has an equal share of its own.
    pub flows_max: u32,
    /// What the resolver may answer, and from whom.
    pub dns: DnsPolicy,
}

/// A family of slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runtime {
    /// Unique.
    pub name: String,
    /// True if its workloads may not reach each other either.
    pub isolate: bool,
}

/// The only addresses and ports through which one runtime may reach another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gate {
    /// At most one per address family, at least one; the host's own or in a slot's subnet.
    pub addresses: Vec<IpAddr>,
    /// What every slot may open there. What the gate opens to slots is not limited.
    pub services: Vec<Service>,
}

/// The host's own side of the policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Networks whose peers may open connections to slots.
    pub management: Vec<IpNet>,
    /// Interfaces towards the internet.
    pub uplinks: Vec<String>,
    /// True if what leaves slots by an uplink takes the host's address there.
    pub masquerade: bool,
    /// True if what leaves slots by an uplink may go past the bridge, the host's routing and its netfilter.
    pub fast_path: bool,
    /// What may enter the host by an uplink; none if that is not netguard's business.
    pub protection: Option<Protection>,
    /// Where metrics are served beside the control socket: a loopback address.
    pub metrics: Option<SocketAddr>,
}

/// What may enter the host by its uplinks, besides the replies to what it opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protection {
    /// What anybody may open.
    pub allow_in: Vec<Service>,
    /// True if the rest is only counted.
    pub dry_run: bool,
}
