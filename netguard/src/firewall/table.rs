//! netguard's table as a value, and the text that makes nft put it in place. Pure.

use std::{
    fmt::{self, Write as _},
    ops::RangeInclusive,
};

use ipnet::IpNet;

use super::Error;
use crate::{instance::Instance, links::is_name};

/// What every table of ours is called, or starts with before a dash.
const NAME: &str = "netguard";

/// The whole table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// As [`Table::name_of`] has it.
    pub name: String,
    /// Which addresses of slots are hidden behind the host's.
    pub masquerade: Option<Masquerade>,
    /// Which of the host's services the uplinks reach.
    pub protect: Option<Protect>,
}

/// Packets from slots leave through the uplinks with the host's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Masquerade {
    /// The interfaces to the outside, by name; they may come and go.
    pub uplinks: Vec<String>,
    /// The slots' subnets.
    pub sources: Vec<IpNet>,
}

/// What arrives on the uplinks for the host itself is dropped, but for replies, what keeps the link
/// working, and what is allowed. Packets that the host forwards are not looked at.
///
/// A connection that began while the kernel tracked none (no rule of anybody asked it to) is new to
/// it, and a reply once the host has sent its next packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protect {
    /// The interfaces to the outside, by name; they may come and go.
    pub uplinks: Vec<String>,
    /// The services that are open to everybody there.
    pub allow_in: Vec<Allow>,
    /// True to count what would be dropped, and to let it pass.
    pub dry_run: bool,
}

/// A service of the host, over IPv4 and IPv6.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allow {
    /// TCP to these ports.
    Tcp(RangeInclusive<u16>),
    /// UDP to these ports.
    Udp(RangeInclusive<u16>),
    /// Echo requests.
    Ping,
}

/// What keeps an uplink working; state cannot tell, because these messages ask or announce.
///
/// Neighbour discovery is believed from the link only (RFC 4861, section 7.1), and so is membership
/// (RFC 3376, section 4; RFC 2710, section 3). Redirects and router solicitations are nothing that a
/// host needs. Servers answer DHCP to an address that the client does not have yet, or did not ask
/// from (RFC 2131, section 4.1; RFC 8415, section 7.2).
const LINK: &str = "\
\t\tip6 hoplimit 255 icmpv6 type { nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert } accept
\t\tip6 hoplimit 1 icmpv6 type { mld-listener-query, mld-listener-report, mld-listener-done, \
mld2-listener-report } accept
\t\tip ttl 1 ip protocol igmp accept
\t\tmeta nfproto ipv4 udp sport 67 udp dport 68 accept
\t\tip6 daddr fe80::/10 udp sport 547 udp dport 546 accept
";

impl Table {
    /// The name of an instance's table: no two instances share one.
    #[must_use]
    pub fn name_of(instance: &Instance) -> String {
        if *instance == Instance::host() {
            return NAME.to_owned();
        }
        format!("{NAME}-{instance}")
    }

    /// The input of `nft -f -`: one transaction that replaces the table, whether or not it is there.
    ///
    /// # Errors
    ///
    /// The table's name is not one of ours, or an uplink's is not one that can be written down.
    pub fn script(&self) -> Result<String, Error> {
        check_name(&self.name)?;
        let name = &self.name;
        // "destroy table" would do, but nft knows it only since 1.0.7 (Linux 6.3).
        let mut text = format!("table inet {name} {{}}\ndelete table inet {name}\n");
        let _ = writeln!(text, "table inet {name} {{");
        if let Some(masquerade) = &self.masquerade {
            masquerade.write(&mut text)?;
        }
        if let Some(protect) = &self.protect {
            protect.write(&mut text)?;
        }
        text.push_str("}\n");
        Ok(text)
    }
}

impl Table {
    /// What makes this table of an earlier one of the same name and leaves everything else as it is, counters too. `None` if
    /// more than subnets of slots have come or gone.
    pub(super) fn changes(&self, old: &Self) -> Option<Vec<Change>> {
        let (new, was) = (self.masquerade.as_ref()?, old.masquerade.as_ref()?);
        if (&self.name, &self.protect, &new.uplinks) != (&old.name, &old.protect, &was.uplinks) {
            return None;
        }
        let (mut gone, mut come) = (Vec::new(), Vec::new());
        for Family { set, v4, .. } in FAMILIES {
            let (was, new) = (was.of(v4), new.of(v4));
            if was.is_empty() != new.is_empty() {
                return None; // a rule comes or goes with the set
            }
            for (changes, comes, some, others) in
                [(&mut gone, false, &was, &new), (&mut come, true, &new, &was)]
            {
                let changed = some.iter().filter(|it| !others.contains(it));
                changes.extend(changed.map(|prefix| Change { set, prefix: *prefix, comes }));
            }
        }
        // What comes may lie in what goes.
        gone.append(&mut come);
        Some(gone)
    }
}

/// A subnet that comes to a set or goes from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) set: &'static str,
    pub(super) prefix: IpNet,
    pub(super) comes: bool,
}

/// Refuses every name that is not an instance's table: nothing else may be replaced or removed.
pub(super) fn check_name(name: &str) -> Result<(), Error> {
    let rest = name.strip_prefix(NAME);
    let instance = rest.and_then(|rest| rest.strip_prefix('-'));
    let is_ours = rest == Some("") || instance.is_some_and(|it| it.parse::<Instance>().is_ok());
    if is_ours { Ok(()) } else { Err(Error::Table(name.to_owned())) }
}

/// The set of one family's subnets.
#[derive(Clone, Copy)]
struct Family {
    set: &'static str,
    kind: &'static str,
    family: &'static str,
    v4: bool,
}

const FAMILIES: [Family; 2] = [
    Family { set: "slots4", kind: "ipv4_addr", family: "ip", v4: true },
    Family { set: "slots6", kind: "ipv6_addr", family: "ip6", v4: false },
];

impl Masquerade {
    /// The elements of one family's set. Overlapping ones are refused by nft.
    fn of(&self, v4: bool) -> Vec<IpNet> {
        let mut sources = IpNet::aggregate(&self.sources);
        sources.retain(|source| source.addr().is_ipv4() == v4);
        sources
    }

    fn write(&self, text: &mut String) -> Result<(), Error> {
        write_set(text, "uplinks", "ifname", &interfaces(&self.uplinks)?);
        let mut rules = String::new();
        for family in FAMILIES {
            let Family { set, kind, family, v4 } = family;
            let elements: Vec<_> = self.of(v4).iter().map(ToString::to_string).collect();
            if elements.is_empty() {
                continue;
            }
            write_set(text, set, &format!("{kind}; flags interval"), &elements);
            let _ = writeln!(
                rules,
                "\t\toifname @uplinks {family} saddr @{set} {family} daddr != @{set} masquerade"
            );
        }
        let _ = write!(
            text,
            "\tchain postrouting {{
\t\ttype nat hook postrouting priority srcnat; policy accept;
{rules}\t}}
"
        );
        Ok(())
    }
}

impl Protect {
    fn write(&self, text: &mut String) -> Result<(), Error> {
        write_set(text, "protected", "ifname", &interfaces(&self.uplinks)?);
        let (suffix, verdict) = if self.dry_run { ("-dry-run", "accept") } else { ("", "drop") };
        let allowed: String = self.allow_in.iter().map(ToString::to_string).collect();
        // Neighbour discovery is never tracked, so never invalid.
        let _ = write!(
            text,
            "\tcounter host-invalid{suffix} {{}}
\tcounter host-closed{suffix} {{}}
\tchain input {{
\t\ttype filter hook input priority filter - 10; policy accept;
\t\tiifname @protected jump host
\t}}
\tchain host {{
\t\tct state established,related accept
\t\tct state invalid counter name host-invalid{suffix} {verdict}
{LINK}{allowed}\t\tcounter name host-closed{suffix} {verdict}
\t}}
"
        );
        Ok(())
    }
}

/// The rules of a service.
impl fmt::Display for Allow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (protocol, ports) = match self {
            Self::Tcp(ports) => ("tcp", ports),
            Self::Udp(ports) => ("udp", ports),
            Self::Ping => {
                return f.write_str(
                    "\t\ticmp type echo-request accept\n\t\ticmpv6 type echo-request accept\n",
                );
            }
        };
        let (first, last) = (ports.start(), ports.end());
        if first == last {
            writeln!(f, "\t\t{protocol} dport {first} accept")
        } else {
            writeln!(f, "\t\t{protocol} dport {first}-{last} accept")
        }
    }
}

fn write_set(text: &mut String, name: &str, kind: &str, elements: &[String]) {
    let _ = writeln!(text, "\tset {name} {{\n\t\ttype {kind}");
    if !elements.is_empty() {
        let _ = writeln!(text, "\t\telements = {{ {} }}", elements.join(", "));
    }
    let _ = writeln!(text, "\t}}");
}

/// The names in quotes. nft's quotes know no escapes, and a final `*` would match more than one name.
fn interfaces(names: &[String]) -> Result<Vec<String>, Error> {
    let mut quoted = Vec::new();
    for name in names {
        let bad = |c: char| c.is_control() || matches!(c, '"' | '\\' | '*');
        if !is_name(name) || name.contains(bad) {
            return Err(Error::Interface(name.clone()));
        }
        quoted.push(format!("\"{name}\""));
    }
    quoted.sort();
    quoted.dedup();
    Ok(quoted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn table() -> Table {
        let uplinks = ["eth0", "eth0.100", "eth0"].map(str::to_owned).to_vec();
        let sources = nets(&["10.1.0.0/24", "fd00:10:1::/64", "10.1.0.128/25", "10.3.0.1/24"]);
        Table {
            name: "netguard".to_owned(),
            masquerade: Some(Masquerade { uplinks: uplinks.clone(), sources }),
            protect: Some(Protect {
                uplinks,
                allow_in: vec![Allow::Tcp(22..=22), Allow::Udp(60000..=61000), Allow::Ping],
                dry_run: false,
            }),
        }
    }

    #[test]
    fn subnets_come_and_go_without_the_rest() {
        let old = table();
        let with = |sources: &[&str]| {
            let mut table = table();
            table.masquerade.as_mut().unwrap().sources = nets(sources);
            table
        };
        let new = with(&["10.1.0.0/24", "10.3.0.0/25", "10.9.0.0/24", "fd00:10:1::/64"]);
        let change = |comes, prefix: &str| {
            let prefix = prefix.parse().unwrap();
            Change { set: "slots4", prefix, comes }
        };
        assert_eq!(
            new.changes(&old).unwrap(),
            [
                change(false, "10.3.0.0/24"),
                change(true, "10.3.0.0/25"),
                change(true, "10.9.0.0/24")
            ]
        );
        assert_eq!(old.changes(&old).unwrap(), []);
        assert_eq!(with(&["10.1.0.0/24"]).changes(&old), None, "a family less");
        assert_eq!(Table { protect: None, ..table() }.changes(&old), None);
        assert_eq!(Table { name: "netguard-a".to_owned(), ..table() }.changes(&old), None);
    }

    #[test]
    fn the_whole_text() {
        assert_eq!(
            table().script().unwrap(),
            "table inet netguard {}
delete table inet netguard
table inet netguard {
	set uplinks {
		type ifname
		elements = { \"eth0\", \"eth0.100\" }
	}
	set slots4 {
		type ipv4_addr; flags interval
		elements = { 10.1.0.0/24, 10.3.0.0/24 }
	}
	set slots6 {
		type ipv6_addr; flags interval
		elements = { fd00:10:1::/64 }
	}
	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		oifname @uplinks ip saddr @slots4 ip daddr != @slots4 masquerade
		oifname @uplinks ip6 saddr @slots6 ip6 daddr != @slots6 masquerade
	}
	set protected {
		type ifname
		elements = { \"eth0\", \"eth0.100\" }
	}
	counter host-invalid {}
	counter host-closed {}
	chain input {
		type filter hook input priority filter - 10; policy accept;
		iifname @protected jump host
	}
	chain host {
		ct state established,related accept
		ct state invalid counter name host-invalid drop
		ip6 hoplimit 255 icmpv6 type { nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert } accept
		ip6 hoplimit 1 icmpv6 type { mld-listener-query, mld-listener-report, mld-listener-done, \
		 mld2-listener-report } accept
		ip ttl 1 ip protocol igmp accept
		meta nfproto ipv4 udp sport 67 udp dport 68 accept
		ip6 daddr fe80::/10 udp sport 547 udp dport 546 accept
		tcp dport 22 accept
		udp dport 60000-61000 accept
		icmp type echo-request accept
		icmpv6 type echo-request accept
		counter name host-closed drop
	}
}
"
        );
    }

    #[test]
    fn a_dry_run_drops_nothing() {
        let mut table = table();
        table.protect.as_mut().unwrap().dry_run = true;
        let text = table.script().unwrap();
        assert!(text.contains("\t\tcounter name host-closed-dry-run accept\n"), "{text}");
        assert!(!text.contains("drop"), "{text}");
    }

    #[test]
    fn what_is_not_wanted_is_not_written() {
        let name = Table::name_of(&"lab-ng".parse().unwrap());
        let mut table = Table { name, masquerade: None, protect: None };
        let start = "table inet netguard-lab-ng {}\ndelete table inet netguard-lab-ng\n";
        assert_eq!(table.script().unwrap(), format!("{start}table inet netguard-lab-ng {{\n}}\n"));
        let masquerade = Masquerade { uplinks: Vec::new(), sources: nets(&["fd00::/64"]) };
        table.masquerade = Some(masquerade);
        let text = table.script().unwrap();
        assert!(!text.contains("slots4") && !text.contains("{  }"), "{text}");
        assert_eq!(Table::name_of(&Instance::host()), "netguard");
    }

    #[test]
    fn no_name_says_more_than_a_name() {
        for bad in ["", "e\"; }", "eth*", "a\\", "a b", "a\nb", "sixteen-bytes-xx", "e\u{7f}"] {
            let mut table = table();
            table.protect.as_mut().unwrap().uplinks = vec![bad.to_owned()];
            assert!(
                matches!(table.script(), Err(Error::Interface(name)) if name == bad),
                "{bad:?}"
            );
        }
        for bad in
            ["", "filter", "netguardian", "netguard-", "netguard x", "netguard-a;b", "x-netguard"]
        {
            let table = Table { name: bad.to_owned(), ..table() };
            assert!(matches!(table.script(), Err(Error::Table(name)) if name == bad), "{bad:?}");
        }
    }
}
