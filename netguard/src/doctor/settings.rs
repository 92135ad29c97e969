//! The host's network settings (sysctl) around slots. What netguard closes itself whatever they are is told at most as a
//! note: it checks source addresses, drops ICMP redirects and router advertisements of slots, and lets none reach 127.0.0.0/8.

use super::{Check, Finding, Severity, list};
use crate::policy::{Facts, Policy, Ports};

/// Whom the settings are about.
pub(super) struct Place<'a> {
    pub(super) policy: &'a Policy,
    pub(super) bridges: Vec<&'a str>,
    pub(super) uplinks: Vec<&'a str>,
    /// How many interfaces lead out by IPv4, and whether one does by IPv6.
    pub(super) ways_out: usize,
    pub(super) has_way6: bool,
    /// True if somebody else's rules stand in the firewall.
    pub(super) has_rules: bool,
}

/// What is wrong with a group of interfaces.
struct Wrong<'a> {
    check: Check,
    severity: Severity,
    key: &'a str,
    on: &'a [&'a str],
    value: &'a str,
    better: &'a str,
    why: &'a str,
}

impl<'a> Place<'a> {
    pub(super) fn new(policy: &'a Policy, facts: &'a Facts) -> Self {
        let exists = |name: &&str| facts.interface(name).is_some();
        let mut bridges: Vec<_> = policy.slots.iter().map(|slot| slot.bridge.as_str()).collect();
        bridges.dedup();
        bridges.retain(exists);
        let uplinks = policy.host.uplinks.iter().map(String::as_str).filter(exists).collect();
        Self { policy, bridges, uplinks, ways_out: 1, has_way6: true, has_rules: false }
    }

    /// The bridges that several slots or ports share.
    fn shared(&self) -> Vec<&'a str> {
        let slots = self.policy.slots.iter();
        let is_shared = |bridge: &&str| {
            let on_it = slots.clone().filter(|slot| slot.bridge == **bridge);
            on_it.clone().count() > 1 || on_it.clone().any(|slot| slot.ports == Ports::Shared)
        };
        self.bridges.iter().copied().filter(is_shared).collect()
    }
}

/// Looks at all of them; `read` knows the value of `ipv4/ip_forward`, below `/proc/sys/net`.
pub(super) fn check(place: &Place<'_>, read: &dyn Fn(&str) -> Option<String>) -> Vec<Finding> {
    let mut found = Vec::new();
    forwarding(place, read, &mut found);
    let is = |key: &str, value: &str| read(key).as_deref() == Some(value);
    localnet(place, &is, &mut found);
    if place.ways_out > 1 {
        let effective = |it: &&str| {
            let of = |name: &str| read(&format!("ipv4/conf/{name}/rp_filter"));
            [of("all"), of(it)].into_iter().flatten().max().as_deref() == Some("1")
        };
        let strict: Vec<_> = place.uplinks.iter().copied().filter(effective).collect();
        found.extend(
            Wrong {
                check: Check::RpFilter,
                severity: Severity::Weak,
                key: "ipv4/conf/{}/rp_filter",
                on: &strict,
                value: "1",
                better: "2",
                why: "replies that come by another way than the host would take there are dropped, and several interfaces lead out",
            }
            .finding(),
        );
    }
    bridged(place, &is, &mut found);
    for_bridges(place, &is, &mut found);
    found
}

fn forwarding(place: &Place<'_>, read: &dyn Fn(&str) -> Option<String>, found: &mut Vec<Finding>) {
    let is = |key: &str, value: &str| read(key).as_deref() == Some(value);
    for (v4, family, key, conf) in [
        (true, "IPv4", "ipv4/ip_forward", "ipv4/conf"),
        (false, "IPv6", "ipv6/conf/all/forwarding", "ipv6/conf"),
    ] {
        if !place.policy.slots.iter().any(|slot| slot.gateway(v4).is_some()) {
            continue;
        }
        if is(key, "0") {
            found.push(Finding {
                check: Check::Forwarding,
                severity: Severity::Broken,
                what: format!("{} is 0: this host does not forward {family}", shown(key)),
                why: format!("slots reach nothing beyond the host by {family}"),
                fix: format!("sysctl -w {}=1, and a line in /etc/sysctl.d", shown(key)),
            });
            continue;
        }
        let interfaces = place.bridges.iter().chain(&place.uplinks).copied();
        let closed: Vec<_> =
            interfaces.filter(|it| is(&format!("{conf}/{it}/forwarding"), "0")).collect();
        found.extend(
            Wrong {
                check: Check::Forwarding,
                severity: Severity::Broken,
                key: &format!("{conf}/{{}}/forwarding"),
                on: &closed,
                value: "0",
                better: "1",
                why: "what arrives there is not forwarded",
            }
            .finding(),
        );
        let deaf = place.uplinks.iter().copied();
        let deaf: Vec<_> = deaf
            .filter(|it| !v4 && !place.has_way6 && is(&format!("{conf}/{it}/accept_ra"), "1"))
            .collect();
        found.extend(
            Wrong {
                check: Check::Forwarding,
                severity: Severity::Note,
                key: "ipv6/conf/{}/accept_ra",
                on: &deaf,
                value: "1",
                better: "2",
                why: "a host that forwards takes router advertisements only with 2, and this one has no way out by IPv6",
            }
            .finding(),
        );
    }
}

fn localnet(place: &Place<'_>, is: &dyn Fn(&str, &str) -> bool, found: &mut Vec<Finding>) {
    let all = is("ipv4/conf/all/route_localnet", "1");
    let interfaces = place.bridges.iter().chain(&place.uplinks).copied();
    let on: Vec<_> = match all {
        true => vec!["all"],
        false => {
            interfaces.filter(|it| is(&format!("ipv4/conf/{it}/route_localnet"), "1")).collect()
        }
    };
    found.extend(
        Wrong {
            check: Check::RouteLocalnet,
            severity: Severity::Weak,
            key: "ipv4/conf/{}/route_localnet",
            on: &on,
            value: "1",
            better: "0",
            why: "packets from there to 127.0.0.0/8 reach what listens on the host alone; from slots netguard drops them \
                  (private-destination), from elsewhere nobody does",
        }
        .finding(),
    );
}

fn bridged(place: &Place<'_>, is: &dyn Fn(&str, &str) -> bool, found: &mut Vec<Finding>) {
    for key in ["bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables"] {
        if !is(key, "1") {
            continue;
        }
        found.push(Finding {
            check: Check::BridgeNetfilter,
            severity: if place.has_rules { Severity::Weak } else { Severity::Note },
            what: format!("{} is 1", shown(key)),
            why: "iptables sees what bridges carry: a rule there may drop it, and one that changes its mark makes the bridge drop it"
                .to_owned(),
            fix: format!("sysctl -w {}=0, unless Kubernetes needs it", shown(key)),
        });
    }
}

/// What slots could use if netguard let them.
fn for_bridges(place: &Place<'_>, is: &dyn Fn(&str, &str) -> bool, found: &mut Vec<Finding>) {
    let on_bridges = |holds: &dyn Fn(&str) -> bool| {
        place.bridges.iter().copied().filter(|it| holds(it)).collect::<Vec<_>>()
    };
    let hears = |it: &str| {
        let of = |value| is(&format!("ipv6/conf/{it}/accept_ra"), value);
        of("2") || (of("1") && is(&format!("ipv6/conf/{it}/forwarding"), "0"))
    };
    let either = |it: &str, key: &str| {
        is(&format!("ipv4/conf/all/{key}"), "1") || is(&format!("ipv4/conf/{it}/{key}"), "1")
    };
    // With forwarding off the kernel takes them everywhere, and slots reach nothing: that is told.
    let takes = |it: &str| {
        is("ipv4/ip_forward", "1")
            && is("ipv4/conf/all/accept_redirects", "1")
            && is(&format!("ipv4/conf/{it}/accept_redirects"), "1")
    };
    let sends = place.shared().into_iter().filter(|it| either(it, "send_redirects"));
    let groups = [
        (
            Check::AcceptRa,
            Severity::Note,
            "ipv6/conf/{}/accept_ra",
            on_bridges(&hears),
            "a slot's router advertisement would change the host's routes, if netguard did not drop it (rogue-ra)",
        ),
        (
            Check::Proxy,
            Severity::Weak,
            "ipv4/conf/{}/proxy_arp",
            on_bridges(&|it| either(it, "proxy_arp")),
            "the host answers there for addresses that are not its own, so that packets for others come to it",
        ),
        (
            Check::Proxy,
            Severity::Weak,
            "ipv6/conf/{}/proxy_ndp",
            on_bridges(&|it| is(&format!("ipv6/conf/{it}/proxy_ndp"), "1")),
            "the host may answer there for addresses that are not its own",
        ),
        (
            Check::Redirects,
            Severity::Note,
            "ipv4/conf/{}/accept_redirects",
            on_bridges(&takes),
            "a slot's ICMP redirect would change the host's routes, if netguard did not drop it (icmp-type)",
        ),
        (
            Check::Redirects,
            Severity::Note,
            "ipv4/conf/{}/send_redirects",
            sends.collect(),
            "the host tells workloads on one bridge to reach each other directly, where netguard keeps them apart",
        ),
    ];
    for (check, severity, key, on, why) in &groups {
        let wrong =
            Wrong { check: *check, severity: *severity, key, on, value: "1", better: "0", why };
        found.extend(wrong.finding());
    }
}

impl Wrong<'_> {
    /// One finding for all interfaces.
    fn finding(&self) -> Option<Finding> {
        let first = self.on.first()?;
        let key = |name: &str| shown(&self.key.replace("{}", name));
        let what = match self.on {
            [one] => format!("{} is {}", key(one), self.value),
            all => format!("{} is {} on {}", key("*"), self.value, list(all)),
        };
        let others = if self.on.len() > 1 { ", and so for the others" } else { "" };
        Some(Finding {
            check: self.check,
            severity: self.severity,
            what,
            why: self.why.to_owned(),
            fix: format!("sysctl -w {}={}{others}", key(first), self.better),
        })
    }
}

/// A path below `/proc/sys/net` as `sysctl` takes it: with dots, unless an interface's name has one.
fn shown(path: &str) -> String {
    let path = format!("net/{path}");
    if path.contains('.') { path } else { path.replace('/', ".") }
}

#[cfg(test)]
mod tests {
    use super::{
        super::samples::{facts, found, policy},
        *,
    };

    /// A host as it should be, but for those settings.
    fn with(ways_out: usize, has_rules: bool, changed: &[(&str, &str)]) -> Vec<Finding> {
        let (policy, facts) = (policy(), facts());
        let place = Place { ways_out, has_rules, ..Place::new(&policy, &facts) };
        let read = |key: &str| {
            let changed = changed.iter().find(|(it, _)| *it == key);
            let good =
                if key.ends_with("forward") || key.ends_with("forwarding") { "1" } else { "0" };
            Some(changed.map_or(good, |(_, value)| value).to_owned())
        };
        check(&place, &read)
    }

    #[test]
    fn each_setting_is_named_with_what_to_do() {
        assert_eq!(with(1, false, &[]), []);
        for (key, value, expected) in [
            ("ipv4/ip_forward", "0", ("broken", "forwarding")),
            ("ipv6/conf/all/forwarding", "0", ("broken", "forwarding")),
            ("ipv4/conf/br-slot1/forwarding", "0", ("broken", "forwarding")),
            ("ipv4/conf/all/route_localnet", "1", ("weak", "route-localnet")),
            ("ipv4/conf/br-slot1/route_localnet", "1", ("weak", "route-localnet")),
            ("ipv4/conf/uplink0/route_localnet", "1", ("weak", "route-localnet")),
            ("bridge/bridge-nf-call-iptables", "1", ("note", "bridge-netfilter")),
            ("ipv6/conf/br-slot1/accept_ra", "2", ("note", "accept-ra")),
            ("ipv4/conf/br-slot1/proxy_arp", "1", ("weak", "proxy")),
            ("ipv6/conf/br-slot1/proxy_ndp", "1", ("weak", "proxy")),
        ] {
            let findings = with(1, false, &[(key, value)]);
            assert_eq!(found(&findings), [expected], "{key}");
            let name = format!("net.{}", key.replace('/', "."));
            assert!(findings[0].what.starts_with(&name), "{findings:?}");
            assert!(findings[0].fix.contains(&name), "{findings:?}");
        }
    }

    #[test]
    fn what_is_closed_or_needs_two_is_not_told() {
        // Taken only where it is on for all too, as the host forwards; heard only where it does not forward.
        assert_eq!(with(1, false, &[("ipv4/conf/br-slot1/accept_redirects", "1")]), []);
        assert_eq!(with(1, false, &[("ipv6/conf/br-slot1/accept_ra", "1")]), []);
        assert_eq!(with(1, false, &[("ipv4/conf/uplink0/rp_filter", "1")]), []);
        assert_eq!(with(1, false, &[("ipv4/conf/br-slot1/rp_filter", "1")]), []);
        // Nobody shares the bridge.
        assert_eq!(with(1, false, &[("ipv4/conf/all/send_redirects", "1")]), []);
        let both =
            [("ipv4/conf/br-slot1/accept_redirects", "1"), ("ipv4/conf/all/accept_redirects", "1")];
        assert_eq!(found(&with(1, false, &both)), [("note", "redirects")]);
    }

    #[test]
    fn a_strict_uplink_matters_with_several_ways_out() {
        let strict = [("ipv4/conf/uplink0/rp_filter", "1")];
        assert_eq!(found(&with(2, false, &strict)), [("weak", "rp-filter")]);
        // The larger of the two counts: 2 is loose.
        let loose = [strict[0], ("ipv4/conf/all/rp_filter", "2")];
        assert_eq!(with(2, false, &loose), []);
    }

    #[test]
    fn bridged_packets_meet_rules_where_there_are_some() {
        let on = [("bridge/bridge-nf-call-ip6tables", "1")];
        assert_eq!(found(&with(1, true, &on)), [("weak", "bridge-netfilter")]);
    }

    #[test]
    fn many_interfaces_are_one_finding() {
        let names = ["a", "b", "c", "d", "e", "f", "g"];
        let wrong = Wrong {
            check: Check::Proxy,
            severity: Severity::Weak,
            key: "ipv4/conf/{}/proxy_arp",
            on: &names,
            value: "1",
            better: "0",
            why: "",
        };
        let finding = wrong.finding().unwrap();
        assert_eq!(finding.what, "net.ipv4.conf.*.proxy_arp is 1 on a, b, c, d, e and 2 more");
        assert_eq!(shown("ipv4/conf/eth0.100/rp_filter"), "net/ipv4/conf/eth0.100/rp_filter");
    }
}
