//! What a file says of the resolver itself: upstreams, its port, what it answers and keeps.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use netguard_dns::{
    Entry, NAME_MAX, NameSet,
    forward::{Transport, Upstream},
};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use toml::Spanned;

use super::{super::file, Checker, is_host, names};
use crate::{
    config::template,
    policy::{DnsPolicy, Slot},
};

impl Checker<'_> {
    pub(super) fn dns(
        &mut self,
        dns: &file::Dns,
        slots: &[Slot],
        entries: &[template::Entry],
    ) -> DnsPolicy {
        let mut policy = DnsPolicy {
            upstreams: self.upstreams(&dns.upstreams, slots),
            tls_roots: self.tls_roots(dns),
            port: self.port(&dns.port),
            slots: names::of_slots(self, dns, entries),
            svcb: dns.svcb == file::Svcb::Strip,
            ..DnsPolicy::default()
        };
        let private_names = self.parse_all::<Entry>(&dns.private_names, "private_names");
        policy.private_names = Arc::new(private_names.into_iter().collect::<NameSet>());
        if let Some(types) = &dns.types {
            policy.types = self.types(types);
        }
        if let Some(bytes) = &dns.cache_bytes {
            policy.cache_bytes = *bytes.get_ref();
        }
        if let Some(at) = &dns.name_max {
            policy.name_max = *at.get_ref();
            if !(1..=NAME_MAX).contains(at.get_ref()) {
                self.refuse(at, format!("name_max {} must be 1 to {NAME_MAX} bytes", at.get_ref()));
            }
        }
        if let Some(at) = &dns.cache_max_ttl {
            policy.cache_max_ttl = Duration::from_secs((*at.get_ref()).into());
            if !(1..=86400).contains(at.get_ref()) {
                let message = format!("cache_max_ttl {} must be 1 to 86400 seconds", at.get_ref());
                self.refuse(at, message);
            }
        }
        policy
    }

    fn upstreams(
        &mut self,
        upstreams: &Spanned<Vec<Spanned<String>>>,
        slots: &[Slot],
    ) -> Vec<Upstream> {
        if upstreams.get_ref().is_empty() {
            self.refuse(
                upstreams,
                "upstreams is empty: name at least one resolver, as in [\"1.1.1.1\"]",
            );
        }
        let mut checked: Vec<Upstream> = Vec::new();
        for upstream in upstreams.get_ref() {
            let text = upstream.get_ref();
            let own = |ip| slots.iter().any(|slot| slot.subnets.iter().any(|it| it.gateway == ip));
            match read_upstream(text) {
                Some(it) if checked.iter().any(|other| other.address == it.address) => {
                    self.refuse(upstream, format!("upstream {text:?} is there twice"));
                }
                Some(it) if own(it.address.ip()) => {
                    let message =
                        format!("upstream {text:?} is a slot's gateway: netguard would ask itself");
                    self.refuse(upstream, message);
                }
                Some(it) if it.address.port() != 0 && is_host(it.address.ip()) => checked.push(it),
                _ => self.refuse(
                    upstream,
                    format!(
                        "upstream {text:?} is no address; write \"1.1.1.1\", \
                         \"[2606:4700:4700::1111]:53\" or \"tls://1.1.1.1#one.one.one.one\""
                    ),
                ),
            }
        }
        checked
    }

    fn tls_roots(&mut self, dns: &file::Dns) -> Option<Vec<CertificateDer<'static>>> {
        let path = dns.tls_roots.as_ref()?;
        let full = self.source.beside(path.get_ref());
        let text = match self.texts.read(&full) {
            Ok(text) => text,
            Err(error) => {
                self.refuse(path, format!("tls_roots {} cannot be read: {error}", full.display()));
                return None;
            }
        };
        match CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>() {
            Ok(roots) if !roots.is_empty() => return Some(roots),
            Ok(_) => {
                let message = format!("tls_roots {} has no certificate in PEM", full.display());
                self.refuse(path, message);
            }
            Err(error) => {
                self.refuse(path, format!("tls_roots {} cannot be read: {error}", full.display()));
            }
        }
        None
    }

    fn port(&mut self, port: &Spanned<u16>) -> u16 {
        if *port.get_ref() == 0 {
            self.refuse(port, "port 0 is no port; leave it out for 53");
        }
        *port.get_ref()
    }

    fn types(&mut self, named: &[Spanned<String>]) -> Vec<u16> {
        let mut types = Vec::new();
        for name in named {
            match read_type(name.get_ref()) {
                Some(number) => types.push(number),
                None => {
                    let text = name.get_ref();
                    let message = match text.as_str() {
                        "HTTPS" | "SVCB" => format!("type {text} is opened by svcb = \"strip\""),
                        _ => format!(
                            "{text:?} is no type of a record; write \"NAPTR\" or \"TYPE35\""
                        ),
                    };
                    self.refuse(name, message);
                }
            }
        }
        types.sort_unstable();
        types.dedup();
        types
    }
}

/// `1.1.1.1`, `1.1.1.1:53`, `tls://1.1.1.1#name`, `tls://1.1.1.1:853#name`.
fn read_upstream(text: &str) -> Option<Upstream> {
    let (address, transport, port) = match text.strip_prefix("tls://") {
        Some(rest) => match rest.split_once('#') {
            Some((address, name)) if !name.is_empty() => {
                (address, Transport::Tls { name: name.to_owned() }, 853)
            }
            Some(_) => return None,
            // The certificate must then be for the address itself.
            None => {
                let name = rest.parse::<SocketAddr>().map(|it| it.ip().to_string());
                (rest, Transport::Tls { name: name.unwrap_or_else(|_| rest.to_owned()) }, 853)
            }
        },
        None => (text, Transport::Plain, 53),
    };
    let with_port = || address.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, port));
    let address = address.parse::<SocketAddr>().or_else(|_| with_port()).ok()?;
    Some(Upstream { address, transport })
}

/// A type by its mnemonic or as RFC 3597 section 5 writes it; none that is about messages or zones, and none of those
/// that have a key of their own.
fn read_type(text: &str) -> Option<u16> {
    let number = match text.strip_prefix("TYPE") {
        Some(number) => number.parse().ok()?,
        None => hickory_proto::rr::RecordType::from_str(text).ok()?.into(),
    };
    (!matches!(number, 0 | 41 | 64 | 65 | 128..=255)).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_are_read_with_port_and_name() {
        let read = |text| read_upstream(text).map(|it| (it.address.to_string(), it.transport));
        let tls = |name: &str| Transport::Tls { name: name.to_owned() };
        assert_eq!(read("1.1.1.1"), Some(("1.1.1.1:53".into(), Transport::Plain)));
        assert_eq!(read("[::1]:5353"), Some(("[::1]:5353".into(), Transport::Plain)));
        assert_eq!(
            read("tls://9.9.9.9#dns.quad9.net"),
            Some(("9.9.9.9:853".into(), tls("dns.quad9.net")))
        );
        assert_eq!(read("tls://9.9.9.9:8853"), Some(("9.9.9.9:8853".into(), tls("9.9.9.9"))));
        assert_eq!(
            read("tls://2620:fe::fe"),
            Some(("[2620:fe::fe]:853".into(), tls("2620:fe::fe")))
        );
        for text in ["", "dns.quad9.net", "tls://", "tls://9.9.9.9#", "https://9.9.9.9/dns-query"] {
            assert_eq!(read(text), None, "{text:?}");
        }
    }

    #[test]
    fn types_are_read_by_name_or_number() {
        assert_eq!(read_type("NAPTR"), Some(35));
        assert_eq!(read_type("TYPE52"), Some(52));
        for text in ["", "AXFR", "ANY", "OPT", "HTTPS", "TYPE255", "TYPE70000", "naptr?"] {
            assert_eq!(read_type(text), None, "{text:?}");
        }
    }
}
