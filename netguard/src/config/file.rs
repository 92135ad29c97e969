//! The shape of `netguard.toml`: names and types of keys, nothing of their meaning.
//!
//! Unknown keys are refused everywhere: a misspelt key must not silently open anything.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use toml::Spanned;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[serde(default)]
    pub(super) host: Host,
    #[serde(default)]
    pub(super) limits: Totals,
    #[serde(default)]
    pub(super) metrics: Metrics,
    #[serde(default)]
    pub(super) datapath: Datapath,
    pub(super) dns: Dns,
    pub(super) gate: Option<Gate>,
    #[serde(default, rename = "runtime")]
    pub(super) runtimes: Vec<Runtime>,
    #[serde(default, rename = "slot")]
    pub(super) slots: Vec<Spanned<Slot>>,
}

/// `[host]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Host {
    /// Networks whose peers may open connections to slots.
    #[serde(default)]
    pub(super) management: Vec<Spanned<IpNet>>,
    /// Interfaces towards the internet.
    #[serde(default)]
    pub(super) uplinks: Vec<Spanned<String>>,
    /// Whether slots borrow the host's address there; yes if absent.
    pub(super) masquerade: Option<Spanned<bool>>,
    /// `true`, `false` or `"dry-run"`.
    pub(super) protect: Option<Spanned<toml::Value>>,
    /// Services of the host that anybody may reach; SSH if absent.
    pub(super) allow_in: Option<Vec<Spanned<String>>>,
}

/// `[limits]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Totals {
    /// How many flows are tracked at once.
    pub(super) flows: Option<Spanned<u32>>,
}

/// `[datapath]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Datapath {
    /// Whether what leaves by an uplink goes past the bridge and the host's netfilter; where slots borrow the host's address if
    /// absent.
    pub(super) fast_path: Option<Spanned<bool>>,
    /// Whether the programs answer queries for names that no list has; yes if absent.
    pub(super) dns_denials: Option<bool>,
}

/// `[metrics]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Metrics {
    /// An address of the host's own and a port; served on the control socket alone if absent.
    pub(super) listen: Option<Spanned<String>>,
}

/// `[gate]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Gate {
    pub(super) addresses: Spanned<Vec<Spanned<IpAddr>>>,
    pub(super) ports: Spanned<Vec<Spanned<String>>>,
}

/// `[[runtime]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Runtime {
    pub(super) name: Spanned<String>,
    /// Whether its own workloads are kept apart too; yes if absent.
    pub(super) isolate: Option<Spanned<bool>>,
}

/// `[dns]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Dns {
    /// Addresses, with or without a port; with `tls://` before and `#name` behind for DNS over TLS.
    pub(super) upstreams: Spanned<Vec<Spanned<String>>>,
    /// A PEM file of the authorities that vouch for upstreams over TLS; Mozilla's if absent.
    pub(super) tls_roots: Option<Spanned<PathBuf>>,
    /// Where the resolver listens on each gateway.
    #[serde(default = "default_port")]
    pub(super) port: Spanned<u16>,
    /// A file of categories in place of the shipped one.
    pub(super) allowlist: Option<Spanned<PathBuf>>,
    /// Which categories count; all of them if absent.
    pub(super) categories: Option<Vec<Spanned<String>>>,
    /// Files with a name on each line.
    pub(super) lists: Option<Vec<Spanned<PathBuf>>>,
    /// Further names.
    pub(super) names: Option<Vec<Spanned<String>>>,
    /// Names whose answers may have addresses that are not public.
    #[serde(default)]
    pub(super) private_names: Vec<Spanned<String>>,
    /// The types that are asked of upstreams.
    pub(super) types: Option<Vec<Spanned<String>>>,
    #[serde(default)]
    pub(super) svcb: Svcb,
    pub(super) name_max: Option<Spanned<usize>>,
    pub(super) cache_bytes: Option<Spanned<u64>>,
    /// Seconds.
    pub(super) cache_max_ttl: Option<Spanned<u32>>,
}

/// `svcb`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Svcb {
    /// HTTPS and SVCB have no answer.
    #[default]
    None,
    /// They have, without the keys that hide names from their own server's neighbours.
    Strip,
}

fn default_port() -> Spanned<u16> {
    Spanned::new(0..0, 53)
}

/// What a key means that is not there: at no place.
fn absent<T: Default>() -> Spanned<T> {
    Spanned::new(0..0, T::default())
}

/// `[[slot]]`: one slot, or with `count` a template of many, in whose texts `{n}` is each one's number.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Slot {
    pub(super) name: Option<Spanned<String>>,
    pub(super) id: Option<Spanned<u16>>,
    pub(super) count: Option<Spanned<u16>>,
    pub(super) bridge: Option<Spanned<String>>,
    pub(super) port: Option<Spanned<String>>,
    /// Every port of the bridge is the slot's.
    #[serde(default)]
    pub(super) shared: bool,
    pub(super) subnet: Option<Spanned<String>>,
    pub(super) gateway: Option<Spanned<String>>,
    pub(super) subnet6: Option<Spanned<String>>,
    pub(super) gateway6: Option<Spanned<String>>,
    pub(super) mac: Option<Spanned<String>>,
    pub(super) runtime: Option<Spanned<String>>,
    #[serde(default = "absent")]
    pub(super) mode: Spanned<Mode>,
    #[serde(default = "absent")]
    pub(super) denial: Spanned<Denial>,
    pub(super) egress: Option<Spanned<Egress>>,
    #[serde(default)]
    pub(super) allow: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) deny: Vec<Spanned<String>>,
    /// A list of services, or `"all"`.
    pub(super) host_services: Option<Spanned<toml::Value>>,
    #[serde(default = "absent")]
    pub(super) metadata: Spanned<bool>,
    #[serde(default)]
    pub(super) manage_links: bool,
    #[serde(default)]
    pub(super) dns: SlotDns,
    #[serde(default)]
    pub(super) limits: SlotLimits,
}

/// `[slot.dns]`: each key in place of the same one in `[dns]`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SlotDns {
    pub(super) categories: Option<Vec<Spanned<String>>>,
    pub(super) lists: Option<Vec<Spanned<PathBuf>>>,
    pub(super) names: Option<Vec<Spanned<String>>>,
}

/// `mode`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Mode {
    /// What the other keys say.
    #[default]
    Guarded,
    /// What the other keys do not open passes too, and is recorded.
    Audit,
    /// No network at all.
    Lockdown,
}

/// `denial`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Denial {
    /// Nobody is told.
    #[default]
    Drop,
    /// The slot is told.
    Reject,
}

/// `egress`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Egress {
    /// The internet, but for `deny`.
    Open,
    /// What DNS answers gave the slot, and what `allow` lists.
    Pinned,
    /// What `allow` lists.
    Listed,
    /// Nothing.
    None,
}

/// `[slot.limits]`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SlotLimits {
    pub(super) flows_per_second: Option<Spanned<u32>>,
    pub(super) packets_per_second: Option<Spanned<u32>>,
    pub(super) bytes_per_second: Option<Spanned<u64>>,
    pub(super) icmp_per_second: Option<Spanned<u32>>,
    pub(super) icmp_max_bytes: Option<Spanned<u16>>,
    pub(super) queries_per_second: Option<u32>,
    pub(super) names_per_minute: Option<Spanned<u32>>,
    pub(super) answer_bytes_per_minute: Option<Spanned<u32>>,
}

/// An allowlist file: categories by name.
pub(super) type AllowlistFile = BTreeMap<String, Category>;

/// One category of an allowlist file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Category {
    /// One sentence for the reader.
    #[serde(rename = "about")]
    pub(super) _about: Option<String>,
    pub(super) names: Vec<Spanned<String>>,
}
