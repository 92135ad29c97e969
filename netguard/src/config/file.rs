//! The shape of `netguard.toml`: names and types of keys, nothing of their meaning.
//!
//! Unknown keys are refused everywhere: a misspelt key must not silently open anything.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use ipnet::IpNet;
use serde::Deserialize;
use toml::Spanned;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[serde(default)]
    pub(super) host: Host,
    pub(super) dns: Dns,
    #[serde(default, rename = "slot")]
    pub(super) slots: Vec<Slot>,
}

/// `[host]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Host {
    /// Networks whose peers may open connections to slots.
    #[serde(default)]
    pub(super) management: Vec<Spanned<IpNet>>,
}

/// `[dns]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Dns {
    /// Addresses, with or without a port.
    pub(super) upstreams: Spanned<Vec<Spanned<String>>>,
    /// Where the resolver listens on each gateway.
    #[serde(default = "default_port")]
    pub(super) port: Spanned<u16>,
    /// A file of categories in place of the shipped one.
    pub(super) allowlist: Option<Spanned<PathBuf>>,
    /// Which categories count; all of them if absent.
    pub(super) categories: Option<Vec<Spanned<String>>>,
    /// Further names.
    #[serde(default)]
    pub(super) names: Vec<Spanned<String>>,
}

fn default_port() -> Spanned<u16> {
    Spanned::new(0..0, 53)
}

/// `[[slot]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Slot {
    pub(super) name: Spanned<String>,
    pub(super) id: Spanned<u16>,
    pub(super) bridge: Spanned<String>,
    pub(super) port: Spanned<String>,
    pub(super) subnet: Option<Spanned<IpNet>>,
    pub(super) gateway: Option<Spanned<IpAddr>>,
    pub(super) subnet6: Option<Spanned<IpNet>>,
    pub(super) gateway6: Option<Spanned<IpAddr>>,
}

/// Byte offsets of what the host may contradict later.
#[derive(Clone, Copy, Debug)]
pub(super) struct SlotSpans {
    pub(super) bridge: usize,
    pub(super) port: usize,
}

impl Slot {
    pub(super) fn spans(&self) -> SlotSpans {
        SlotSpans { bridge: self.bridge.span().start, port: self.port.span().start }
    }
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
