//! What a file says of the resolver: upstreams, its port, and the names that slots may ask for.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use netguard_dns::{Allowlist, DomainName};
use toml::Spanned;

use super::{
    super::{
        file::{self, AllowlistFile},
        problem::Source,
        read_text,
    },
    Checker, is_host,
};
use crate::policy::Slot;

/// The allowlist that netguard ships.
const SHIPPED_ALLOWLIST: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../dist/allowlist.toml"));

pub(in crate::config) fn shipped_allowlist() -> AllowlistFile {
    toml::from_str(SHIPPED_ALLOWLIST).expect("the shipped allowlist is under test")
}

impl Checker<'_> {
    pub(super) fn upstreams(
        &mut self,
        upstreams: &Spanned<Vec<Spanned<String>>>,
        slots: &[Slot],
    ) -> Vec<SocketAddr> {
        if upstreams.get_ref().is_empty() {
            self.refuse(
                upstreams,
                "upstreams is empty: name at least one resolver, as in [\"1.1.1.1\"]",
            );
        }
        let mut addresses = Vec::new();
        for upstream in upstreams.get_ref() {
            let text = upstream.get_ref();
            let address = text
                .parse::<SocketAddr>()
                .or_else(|_| text.parse::<IpAddr>().map(|address| SocketAddr::new(address, 53)));
            let own = |ip| slots.iter().any(|slot| slot.subnets.iter().any(|it| it.gateway == ip));
            match address {
                Ok(address) if addresses.contains(&address) => {
                    self.refuse(upstream, format!("upstream {text:?} is there twice"));
                }
                Ok(address) if own(address.ip()) => {
                    let message =
                        format!("upstream {text:?} is a slot's gateway: netguard would ask itself");
                    self.refuse(upstream, message);
                }
                Ok(address) if address.port() != 0 && is_host(address.ip()) => {
                    addresses.push(address);
                }
                _ => self.refuse(
                    upstream,
                    format!("upstream {text:?} is no address; write \"1.1.1.1\" or \"[2606:4700:4700::1111]:53\""),
                ),
            }
        }
        addresses
    }

    pub(super) fn port(&mut self, port: &Spanned<u16>) -> u16 {
        if *port.get_ref() == 0 {
            self.refuse(port, "port 0 is no port; leave it out for 53");
        }
        *port.get_ref()
    }

    pub(super) fn allowlist(&mut self, dns: &file::Dns) -> Allowlist {
        let Some((categories, list_source)) = self.categories(dns) else {
            return Allowlist::default();
        };
        let mut names = Vec::new();
        for (category, list) in &categories {
            if !self.is_wanted(dns, category) {
                continue;
            }
            for name in &list.names {
                match name.get_ref().parse::<DomainName>() {
                    Ok(parsed) => names.push(parsed),
                    Err(error) => {
                        let at = name.span().start;
                        self.problems.push(list_source.problem(at, error.to_string()));
                    }
                }
            }
        }
        for wanted in dns.categories.iter().flatten() {
            if !categories.contains_key(wanted.get_ref()) {
                let known = categories.keys().cloned().collect::<Vec<_>>().join(", ");
                let message = format!("no category {:?}; there are {known}", wanted.get_ref());
                self.refuse(wanted, message);
            }
        }
        for name in &dns.names {
            match name.get_ref().parse::<DomainName>() {
                Ok(parsed) => names.push(parsed),
                Err(error) => self.refuse(name, error.to_string()),
            }
        }
        names.into_iter().collect()
    }

    fn is_wanted(&self, dns: &file::Dns, category: &str) -> bool {
        dns.categories
            .as_ref()
            .is_none_or(|wanted| wanted.iter().any(|wanted| wanted.get_ref() == category))
    }

    /// The file that the operator names, or the shipped one.
    fn categories(&mut self, dns: &file::Dns) -> Option<(AllowlistFile, Source)> {
        let Some(path) = &dns.allowlist else {
            let source = Source::new(Path::new("the shipped allowlist"), SHIPPED_ALLOWLIST);
            return Some((shipped_allowlist(), source));
        };
        let directory = self.source.path().parent().unwrap_or(Path::new("."));
        let full = directory.join(path.get_ref());
        let text = match read_text(&full) {
            Ok(text) => text,
            Err(error) => {
                let message = format!("allowlist {} cannot be read: {error}", full.display());
                self.refuse(path, message);
                return None;
            }
        };
        let source = Source::new(&full, &text);
        match toml::from_str::<BTreeMap<_, _>>(&text) {
            Ok(categories) => Some((categories, source)),
            Err(error) => {
                self.problems.push(source.toml_problem(&error));
                None
            }
        }
    }
}
