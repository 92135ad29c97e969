//! What the resolver must know of the policy: who may ask for what. Replaced as a whole.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use foldhash::fast::RandomState;
use netguard_common::SlotId;

use crate::{Allowlist, Entry, NameSet, QueryLimits, WireName};

/// The rules of all slots.
#[derive(Clone, Debug)]
pub struct Rules {
    /// By slot.
    pub slots: HashMap<SlotId, SlotRules, RandomState>,
    /// Names whose answers may have addresses that are not public.
    pub private_names: Arc<NameSet>,
    /// The types that are asked of upstreams, in ascending order.
    pub types: Vec<u16>,
    /// HTTPS and SVCB are answered, without `ech`; else with nothing.
    pub svcb: bool,
    /// The longest name that is asked of upstreams, in bytes on the wire.
    pub name_max: usize,
}

/// The rules of one slot.
#[derive(Clone, Debug)]
pub struct SlotRules {
    /// The slot's name.
    pub name: Arc<str>,
    /// The name of its runtime.
    pub runtime: Arc<str>,
    /// What it may ask for.
    pub allowlist: Allowlist,
    /// The addresses of its answers are pinned.
    pub pinned: bool,
    /// What is not listed is answered too, and remembered.
    pub audit: bool,
    /// How much it may ask.
    pub limits: QueryLimits,
}

/// A, NS, CNAME, SOA, PTR, MX, TXT, AAAA, SRV, CAA.
pub const DEFAULT_TYPES: [u16; 10] = [1, 2, 5, 6, 12, 15, 16, 28, 33, 257];
/// SVCB and HTTPS (RFC 9460 section 14.1).
pub const SVCB_TYPES: [u16; 2] = [64, 65];
/// Longer names than this are rarely a host's and often a tunnel's.
pub const DEFAULT_NAME_MAX: usize = 128;

/// `localhost` and what lies below it.
pub fn is_localhost(name: &WireName) -> bool {
    const NAME: &[u8] = b"\x09localhost\x00";
    let last = name.labels().last().map_or(0, |label| usize::from(*label));
    name.lower()[last..] == *NAME
}

/// Why a name that is not listed is nobody's business outside, if it is not.
pub fn local(name: &WireName) -> Option<&'static str> {
    if name.labels().len() == 1 {
        return Some("single-label");
    }
    PRIVATE_REVERSE.covers(name).then_some("private-reverse")
}

/// The reverse zones of addresses that are not public: RFC 6303 section 4, RFC 7793.
static PRIVATE_REVERSE: LazyLock<NameSet> = LazyLock::new(|| {
    let v4 = ["0", "10", "127", "254.169", "168.192", "2.0.192", "100.51.198", "113.0.203"];
    let v4 = v4.map(str::to_owned).into_iter();
    let v4 = v4.chain(["255.255.255.255".to_owned()]);
    let v4 = v4.chain((16..32).map(|second| format!("{second}.172")));
    let v4 = v4.chain((64..128).map(|second| format!("{second}.100")));
    let v4 = v4.map(|zone| format!("{zone}.in-addr.arpa"));
    let zeros = "0.".repeat(31);
    let v6 = [format!("0.{zeros}ip6.arpa"), format!("1.{zeros}ip6.arpa")].into_iter();
    let v6 = v6.chain(
        ["d.f", "c.f", "8.e.f", "9.e.f", "a.e.f", "b.e.f", "8.b.d.0.1.0.0.2"]
            .map(|zone| format!("{zone}.ip6.arpa")),
    );
    v4.chain(v6).filter_map(|zone| zone.parse::<Entry>().ok()).collect()
});

impl Rules {
    /// True if the type is asked of upstreams.
    #[must_use]
    pub fn answers_type(&self, record_type: u16) -> bool {
        self.types.binary_search(&record_type).is_ok()
            || (self.svcb && SVCB_TYPES.contains(&record_type))
    }

    /// True if the name's answers may have addresses that are not public.
    #[must_use]
    pub fn may_be_private(&self, name: &WireName) -> bool {
        self.private_names.covers(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DomainName;

    fn wire(text: &str) -> WireName {
        WireName::from(&text.parse::<DomainName>().unwrap())
    }

    #[test]
    fn names_of_private_networks_are_answered_here() {
        for name in [
            "1.0.0.10.in-addr.arpa",
            "254.169.in-addr.arpa",
            "1.1.31.172.in-addr.arpa",
            "9.127.100.in-addr.arpa",
            "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa",
            "1.0.d.f.ip6.arpa",
        ] {
            assert_eq!(local(&wire(name)), Some("private-reverse"), "{name}");
        }
        for name in ["1.0.0.11.in-addr.arpa", "32.172.in-addr.arpa", "128.100.in-addr.arpa"] {
            assert_eq!(local(&wire(name)), None, "{name}");
        }
        assert_eq!(local(&wire("printer")), Some("single-label"));
        assert!(is_localhost(&wire("LocalHost")) && is_localhost(&wire("a.localhost")));
        assert!(!is_localhost(&wire("notlocalhost")) && !is_localhost(&wire("localhost.com")));
        assert!(!is_localhost(&WireName::root()));
    }
}
