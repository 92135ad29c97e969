//! Rules about destinations and services: their form in text, and how many of them become few map
//! entries that one lookup finds.
//!
//! Text: `PREFIX [SERVICE[,SERVICE...]]`, where a service is `tcp`, `udp`, `icmp`, `tcp/443` or
//! `udp/1000-2000`.

use std::{
    collections::BTreeMap,
    fmt,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::IpAddr,
    ops::RangeInclusive,
    str::FromStr,
};

use ipnet::{IpNet, Ipv4Net};
use netguard_common::maps::{SERVICE_SET_MAX, ServiceEntry};

use super::ServicePrefix;

/// A transport protocol that rules can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP and ICMPv6 echo.
    Icmp,
}

impl Protocol {
    /// Every protocol.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Icmp];

    /// The IP protocol number that maps hold; ICMPv6 goes by ICMP's.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Icmp => 1,
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// The word in rules.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        }
    }
}

/// A protocol and a range of destination ports.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Service {
    /// The protocol.
    pub protocol: Protocol,
    /// The destination ports; all of them for ICMP.
    pub ports: RangeInclusive<u16>,
}

impl Service {
    /// True if a packet of that protocol to that port is of this service. ICMP has no ports: any fits.
    #[must_use]
    pub fn covers(&self, protocol: Protocol, port: u16) -> bool {
        self.protocol == protocol && (protocol == Protocol::Icmp || self.ports.contains(&port))
    }
}

/// A destination and the services there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// The destination, without host bits.
    pub prefix: IpNet,
    /// The services; all of them if empty.
    pub services: Vec<Service>,
}

impl Rule {
    /// True if the rule names the service.
    #[must_use]
    pub fn covers(&self, protocol: Protocol, port: u16) -> bool {
        self.services.is_empty() || self.services.iter().any(|it| it.covers(protocol, port))
    }
}

/// As a file has it, in the shortest form.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = &self.prefix;
        match prefix.prefix_len() == prefix.max_prefix_len() {
            true => write!(f, "{}", prefix.addr())?,
            false => write!(f, "{prefix}")?,
        }
        let mut before = ' ';
        for service in &self.services {
            write!(f, "{before}{service}")?;
            before = ',';
        }
        Ok(())
    }
}

/// A text that is no rule or service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRule {
    /// No service.
    #[error("{0:?} is no service; write \"tcp/443\", \"udp/1000-2000\", \"tcp\" or \"icmp\"")]
    Service(String),
    /// No prefix.
    #[error("{0:?} is no prefix; write \"203.0.113.0/24\" or \"203.0.113.0/24 tcp/443,udp/53\"")]
    Prefix(String),
    /// A prefix with host bits.
    #[error("{0} has host bits set; the prefix is {1}")]
    HostBits(IpNet, IpNet),
}

impl FromStr for Service {
    type Err = BadRule;

    fn from_str(text: &str) -> Result<Self, BadRule> {
        let bad = || BadRule::Service(text.to_owned());
        let (name, ports) = match text.split_once('/') {
            Some((name, ports)) => (name, Some(ports)),
            None => (text, None),
        };
        let protocol = Protocol::ALL.into_iter().find(|it| it.name() == name).ok_or_else(bad)?;
        let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(bad);
        let ports = match ports {
            None => 0..=u16::MAX,
            Some(_) if protocol == Protocol::Icmp => return Err(bad()),
            Some(ports) => match ports.split_once('-') {
                Some((first, last)) => number(first)?..=number(last)?,
                None => number(ports)?..=number(ports)?,
            },
        };
        if ports.is_empty() { Err(bad()) } else { Ok(Self { protocol, ports }) }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.protocol.name())?;
        match (*self.ports.start(), *self.ports.end()) {
            (0, u16::MAX) => Ok(()),
            (first, last) if first == last => write!(f, "/{first}"),
            (first, last) => write!(f, "/{first}-{last}"),
        }
    }
}

impl FromStr for Rule {
    type Err = BadRule;

    fn from_str(text: &str) -> Result<Self, BadRule> {
        let (prefix, services) = text.split_once(' ').unwrap_or((text, ""));
        let bad = || BadRule::Prefix(prefix.to_owned());
        let net = prefix.parse::<IpNet>();
        let net = net.or_else(|_| prefix.parse::<IpAddr>().map(IpNet::from)).map_err(|_| bad())?;
        if net.trunc() != net {
            return Err(BadRule::HostBits(net, net.trunc()));
        }
        let services = services.split(',').map(str::trim).filter(|it| !it.is_empty());
        Ok(Self { prefix: net, services: services.map(str::parse).collect::<Result<_, _>>()? })
    }
}

/// Sets of services as the map `SERVICES` holds them. Equal sets are one.
///
/// A set's number comes from what it says, so that a rule that is added changes the entries of no other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ServiceSets {
    /// What each set says, by its number; set 0 is empty.
    sets: BTreeMap<u32, Spans>,
}

/// What a set says of the ports of each protocol: spans in order, without gaps or overlaps between those of
/// one protocol, but for ports of which nothing is said.
type Spans = Vec<Span>;

/// Ports of one protocol of which one thing is said.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Span {
    protocol: Protocol,
    ports: RangeInclusive<u16>,
    allowed: bool,
    /// The length of the address prefix that says so, in the map's form.
    prefix_length: u8,
}

impl ServiceSets {
    /// The set that allows these services, whatever the address.
    pub(super) fn allow(&mut self, services: &[Service]) -> u32 {
        let mut spans = Spans::new();
        for service in services {
            paint(&mut spans, service, true, 0);
        }
        self.number(spans)
    }

    /// The sets of a slot's rules, by prefix: at each prefix that a rule names, what all rules that cover
    /// it say together. The longest prefix wins, then a denial.
    pub(super) fn rules(&mut self, allow: &[Rule], deny: &[Rule]) -> Vec<(IpNet, u32)> {
        let mut rules: Vec<_> = allow.iter().map(|rule| (rule, true)).collect();
        rules.extend(deny.iter().map(|rule| (rule, false)));
        // Those of one prefix are neighbours, and denials behind: what is painted last wins.
        rules.sort_by_key(|(rule, allowed)| (rule.prefix, !allowed));
        let mut lengths: Vec<_> = rules.iter().map(|(rule, _)| rule.prefix.prefix_len()).collect();
        lengths.sort_unstable();
        lengths.dedup();
        let rules_of = |prefix: IpNet| {
            let first = rules.partition_point(|(rule, _)| rule.prefix < prefix);
            rules.iter().skip(first).take_while(move |(rule, _)| rule.prefix == prefix)
        };
        let set_of = |prefix: &IpNet| {
            let mut spans = Spans::new();
            let above = lengths.iter().take_while(|length| **length <= prefix.prefix_len());
            let above = above.filter_map(|length| IpNet::new(prefix.addr(), *length).ok());
            let covering = above.flat_map(|net| rules_of(net.trunc()));
            for (rule, allowed) in covering {
                let length = super::Prefix::from(rule.prefix).length as u8;
                let everything =
                    Protocol::ALL.map(|protocol| Service { protocol, ports: 0..=u16::MAX });
                let services =
                    if rule.services.is_empty() { &everything[..] } else { &rule.services };
                for service in services {
                    paint(&mut spans, service, *allowed, length);
                }
            }
            spans
        };
        let of_prefix = rules.chunk_by(|(one, _), (other, _)| one.prefix == other.prefix);
        let prefixes = of_prefix.filter_map(|rules| Some(rules.first()?.0.prefix));
        let sets = prefixes.map(|prefix| (prefix, self.number(set_of(&prefix))));
        let mut sets: Vec<_> = sets.collect();
        // In the map IPv4 lies within IPv6 (::ffff:0:0/96): what is said of `::/0` must end there.
        let ipv4 = IpNet::from(Ipv4Net::default());
        if !sets.is_empty() && sets.iter().all(|(prefix, _)| *prefix != ipv4) {
            sets.push((ipv4, 0));
        }
        sets
    }

    /// Every entry of the map.
    pub(super) fn entries(&self) -> impl Iterator<Item = (ServicePrefix, ServiceEntry)> {
        self.sets.iter().flat_map(|(&set, spans)| {
            spans.iter().flat_map(move |span| {
                let value = ServiceEntry {
                    allowed: span.allowed.into(),
                    prefix_length: span.prefix_length,
                    _reserved: 0,
                };
                let protocol = span.protocol.number();
                port_prefixes(span.ports.clone()).into_iter().map(move |(port, length)| {
                    (ServicePrefix { set, protocol, port, length }, value)
                })
            })
        })
    }

    /// The number of a set: its fingerprint, or the next one that is free.
    fn number(&mut self, spans: Spans) -> u32 {
        if spans.is_empty() {
            return 0;
        }
        let mut hasher = DefaultHasher::new();
        spans.hash(&mut hasher);
        let mut number = hasher.finish() as u32;
        loop {
            number &= SERVICE_SET_MAX;
            match self.sets.get(&number) {
                Some(other) if *other == spans => return number,
                None if number != 0 => break,
                _ => number += 1, // another set's, or the empty one's
            }
        }
        self.sets.insert(number, spans);
        number
    }
}

/// Says something of a service, in place of whatever was said before.
fn paint(spans: &mut Spans, service: &Service, allowed: bool, prefix_length: u8) {
    let Service { protocol, ports } = service.clone();
    let (first, last) = (*ports.start(), *ports.end());
    let mut painted = Spans::new();
    for span in spans.drain(..) {
        let (start, end) = (*span.ports.start(), *span.ports.end());
        if span.protocol != protocol || end < first || start > last {
            painted.push(span);
            continue;
        }
        if start < first {
            painted.push(Span { ports: start..=first - 1, ..span.clone() });
        }
        if end > last {
            painted.push(Span { ports: last + 1..=end, ..span });
        }
    }
    painted.push(Span { protocol, ports, allowed, prefix_length });
    painted.sort_by_key(|span| (span.protocol, *span.ports.start()));
    *spans = painted;
}

/// The fewest aligned blocks that make up a range of ports: each with its first port and how many of the 16
/// bits its ports share.
fn port_prefixes(ports: RangeInclusive<u16>) -> Vec<(u16, u32)> {
    let (mut first, end) = (u32::from(*ports.start()), u32::from(*ports.end()) + 1);
    let mut blocks = Vec::new();
    while first < end {
        let aligned = if first == 0 { 16 } else { first.trailing_zeros().min(16) };
        let fitting = (end - first).ilog2();
        let bits = aligned.min(fitting);
        blocks.push((first as u16, 16 - bits));
        first += 1 << bits;
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_becomes_aligned_blocks_that_cover_it_and_nothing_else() {
        assert_eq!(port_prefixes(0..=u16::MAX), [(0, 0)]);
        assert_eq!(port_prefixes(443..=443), [(443, 16)]);
        for (first, last) in [(1, 65535), (1000, 2000), (0, 1), (65535, 65535), (7, 4242)] {
            let blocks = port_prefixes(first..=last);
            assert!(blocks.len() <= 30);
            let covered: u32 = blocks.iter().map(|(_, length)| 1 << (16 - length)).sum();
            assert_eq!(covered, u32::from(last - first) + 1);
            for (start, length) in blocks {
                let size = 1_u32 << (16 - length);
                assert_eq!(u32::from(start) % size, 0);
                assert!(start >= first && u32::from(start) + size - 1 <= u32::from(last));
            }
        }
    }

    #[test]
    fn of_rules_the_longest_prefix_wins_and_then_a_denial() {
        let rule = |text: &str| text.parse::<Rule>().unwrap();
        let mut sets = ServiceSets::default();
        let allow = [rule("10.0.0.0/8"), rule("10.1.0.0/16 tcp/80-90")];
        let deny = [rule("10.0.0.0/8 tcp/22"), rule("10.1.0.0/16 tcp/85"), rule("192.0.2.1")];
        let found = sets.rules(&allow, &deny);
        let prefixes: Vec<_> = found.iter().map(|(prefix, _)| prefix.to_string()).collect();
        assert_eq!(prefixes, ["10.0.0.0/8", "10.1.0.0/16", "192.0.2.1/32", "0.0.0.0/0"]);
        let says = |set: u32, protocol, port| {
            let spans = &sets.sets[&set];
            let fits = |span: &&Span| span.protocol == protocol && span.ports.contains(&port);
            spans.iter().find(fits).map(|span| (span.allowed, span.prefix_length))
        };
        let (ten, ten_one) = (found[0].1, found[1].1);
        assert_eq!(says(ten, Protocol::Tcp, 22), Some((false, 104)));
        assert_eq!(says(ten, Protocol::Udp, 22), Some((true, 104)));
        assert_eq!(says(ten_one, Protocol::Tcp, 22), Some((false, 104)));
        assert_eq!(says(ten_one, Protocol::Tcp, 80), Some((true, 112)));
        assert_eq!(says(ten_one, Protocol::Tcp, 85), Some((false, 112)));
        assert_eq!(says(found[2].1, Protocol::Icmp, 0), Some((false, 128)));
        assert_eq!(sets.allow(&[]), 0);
        let one = sets.allow(&["tcp/22".parse().unwrap(), "udp/53".parse().unwrap()]);
        assert_eq!(sets.allow(&["udp/53".parse().unwrap(), "tcp/22".parse().unwrap()]), one);
    }

    #[test]
    fn texts_that_are_no_rules_are_refused_with_the_way_out() {
        for bad in ["", "tcp/0", "tcp/9-1", "tcp/70000", "sctp/1", "icmp/8", "tcp/1-"] {
            assert!(bad.parse::<Service>().is_err(), "{bad:?}");
        }
        for bad in ["", "10.0.0.0/33", "example.com", "10.1.2.3/8", "10.0.0.0/8 tcp/x"] {
            assert!(bad.parse::<Rule>().is_err(), "{bad:?}");
        }
        for good in ["tcp", "udp/53", "tcp/1-65535", "icmp"] {
            assert_eq!(good.parse::<Service>().unwrap().to_string(), good);
        }
    }
}
