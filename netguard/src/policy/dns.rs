//! The resolver's part of the policy.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use ipnet::IpNet;
use netguard_common::{SlotId, maps::Place};
use netguard_dns::{
    Allowlist, DEFAULT_NAME_MAX, DEFAULT_TYPES, NameSet, QueryLimits, forward::Upstream,
};
use rustls_pki_types::CertificateDer;

use super::places::SPECIAL;

/// What slots may ask, and who is asked for them.
#[derive(Clone, Debug)]
pub struct DnsPolicy {
    /// At least one.
    pub upstreams: Vec<Upstream>,
    /// Who vouches for upstreams over TLS; Mozilla's list if none is given.
    pub tls_roots: Option<Vec<CertificateDer<'static>>>,
    /// The port on each gateway where the resolver listens.
    pub port: u16,
    /// By slot; every slot has an entry.
    pub slots: BTreeMap<SlotId, SlotDns>,
    /// Names whose answers may have addresses that are not public.
    pub private_names: Arc<NameSet>,
    /// The numbers of the types that are asked of upstreams, in ascending order.
    pub types: Vec<u16>,
    /// HTTPS and SVCB are answered, without `ech`; else with nothing.
    pub svcb: bool,
    /// The longest name that is asked of upstreams, in bytes on the wire.
    pub name_max: usize,
    /// Names that no list has are denied by the programs in the kernel where that can be.
    pub denied_in_kernel: bool,
    /// How many bytes of answers are kept.
    pub cache_bytes: u64,
    /// How long an answer is kept at most.
    pub cache_max_ttl: Duration,
}

/// What one slot may ask.
#[derive(Clone, Debug, Default)]
pub struct SlotDns {
    /// The names.
    pub allowlist: Allowlist,
    /// How many.
    pub limits: QueryLimits,
}

impl Default for DnsPolicy {
    /// Nobody may ask anything.
    fn default() -> Self {
        Self {
            upstreams: Vec::new(),
            tls_roots: None,
            port: 53,
            slots: BTreeMap::new(),
            private_names: Arc::default(),
            types: DEFAULT_TYPES.to_vec(),
            svcb: false,
            name_max: DEFAULT_NAME_MAX,
            denied_in_kernel: true,
            cache_bytes: 32 << 20,
            cache_max_ttl: Duration::from_secs(300),
        }
    }
}

impl DnsPolicy {
    /// How many names the slot with the most may ask for.
    #[must_use]
    pub fn names_max(&self) -> usize {
        self.slots.values().map(|slot| slot.allowlist.len()).max().unwrap_or_default()
    }
}

/// True if a public name may lead to the address: it is the internet's by the special-purpose registries.
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    let covers = |(prefix, place): &(&str, Place)| {
        let net: IpNet = prefix.parse().ok()?;
        net.contains(&address).then_some((net.prefix_len(), *place))
    };
    let longest = SPECIAL.iter().filter_map(covers).max_by_key(|(length, _)| *length);
    // Known resolvers are public, if closed.
    matches!(longest, Some((_, Place::Internet | Place::Resolver)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_the_internets_is_not_public() {
        for address in ["1.2.3.4", "8.8.8.8", "203.0.113.10", "2001:db8::1", "2606:4700:4700::1111"]
        {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
        for address in [
            "0.0.0.0",
            "10.0.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "168.63.129.16",
            "172.31.255.255",
            "192.168.0.1",
            "224.0.0.251",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "fd00::1",
            "fe80::1",
            "ff02::1",
            "4000::1",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
    }
}
