//! Other firewalls on the same host: what they drop, send elsewhere or translate of a slot's packets after netguard has let them
//! pass. Judged by their rules' conditions, without the packets: what is told is worth a look, and says where.

use std::fs;

use super::{
    Check, Finding, Severity, list,
    ruleset::{Chain, Condition, Named, Rule, Ruleset, Verdict},
};
use crate::policy::{Policy, Slot};

/// What the host's firewall has besides netguard's table.
pub(super) enum Firewall {
    Known(Ruleset),
    /// nft does not tell.
    Unknown(String),
}

/// What rules call slots by: some of them, or all.
pub(super) struct Names<'a> {
    policy: &'a Policy,
    slots: Vec<&'a Slot>,
    /// Each port with its bridge.
    ports: Vec<(&'a str, &'a str)>,
}

const SOURCES: [&str; 4] = ["iifname", "iif", "saddr", "ibrname"];
const TARGETS: [&str; 4] = ["oifname", "oif", "daddr", "obrname"];

impl<'a> Names<'a> {
    /// Of all slots; `ports` are those that exist, each with its bridge.
    pub(super) fn new(policy: &'a Policy, ports: Vec<(&'a str, &'a str)>) -> Self {
        Self { policy, slots: policy.slots.iter().collect(), ports }
    }

    fn only(&self, slot: &'a Slot) -> Self {
        let own = self.ports.iter().filter(|(bridge, port)| {
            *bridge == slot.bridge && slot.port().is_none_or(|own| own == *port)
        });
        Self { policy: self.policy, slots: vec![slot], ports: own.copied().collect() }
    }

    fn is_interface(&self, name: &str) -> bool {
        let fits = |own: &str| match name.strip_suffix(['*', '+']) {
            Some(start) => own.starts_with(start),
            None => own == name,
        };
        self.slots.iter().any(|slot| fits(&slot.bridge))
            || self.ports.iter().any(|(_, port)| fits(port))
    }

    fn is_subnet(&self, net: &ipnet::IpNet) -> bool {
        let mut subnets = self.slots.iter().flat_map(|slot| &slot.subnets);
        subnets.any(|it| it.prefix.contains(net) || net.contains(&it.prefix))
    }

    /// True if the condition is about a slot, and not about everybody.
    fn names(&self, condition: &Condition) -> bool {
        !condition.negated
            && condition.values.iter().any(|value| match value {
                Named::Net(net) => net.prefix_len() > 0 && self.is_subnet(net),
                Named::Text(name) => self.is_interface(name),
                Named::Ports(..) => false,
            })
    }

    /// True if it can be met at the end that is not the slot.
    fn may_be_outside(&self, condition: &Condition) -> bool {
        let is_others = |value: &Named| match value {
            Named::Text(name) => {
                !self.is_interface(name) && OF_OTHERS.iter().any(|start| name.starts_with(start))
            }
            Named::Net(_) | Named::Ports(..) => false,
        };
        condition.negated || condition.values.is_empty() || !condition.values.iter().all(is_others)
    }

    /// True if a packet of a slot can meet the condition.
    fn can_meet(&self, condition: &Condition) -> bool {
        let is_met = condition.values.iter().any(|value| match value {
            Named::Net(net) => self.is_subnet(net),
            Named::Text(name) => self.is_interface(name),
            Named::Ports(..) => true,
        });
        // Not one of them: some other slot, or all of them.
        condition.values.is_empty() || is_met != condition.negated
    }
}

/// How interfaces of other workloads are called: what goes from or to them is no slot's way to the internet.
const OF_OTHERS: [&str; 9] =
    ["docker", "br-", "cni", "podman", "virbr", "veth", "flannel", "cali", "lxc"];

/// Reads which tables iptables-legacy has, of this thread's namespace.
pub(super) fn legacy_tables() -> Vec<String> {
    let mut found = Vec::new();
    for (file, family) in [("ip_tables_names", "ip"), ("ip6_tables_names", "ip6")] {
        let text = fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
        found.extend(text.lines().map(|table| format!("{family} {table}")));
    }
    found
}

pub(super) fn check(names: &Names<'_>, firewall: &Firewall, legacy: &[String]) -> Vec<Finding> {
    let mut found = Vec::new();
    if !legacy.is_empty() {
        found.push(Finding {
            check: Check::FirewallUnseen,
            severity: Severity::Note,
            what: format!("iptables-legacy has rules in {}", legacy.join(", ")),
            why: "nft does not list them, so nothing is known of what they drop".to_owned(),
            fix: "look yourself: iptables-legacy-save, ip6tables-legacy-save".to_owned(),
        });
    }
    let ruleset = match firewall {
        Firewall::Known(ruleset) => ruleset,
        Firewall::Unknown(why) => {
            found.push(Finding {
                check: Check::FirewallUnseen,
                severity: Severity::Note,
                what: format!("the host's rules cannot be read: {why}"),
                why: "nothing is known of what other firewalls drop".to_owned(),
                fix: "install the package nftables, and ask as root".to_owned(),
            });
            return found;
        }
    };
    for chain in &ruleset.chains {
        let Some(hook) = chain.hook.as_deref() else { continue };
        let rules = ruleset.reached_from(chain);
        found.extend(closed(names, ruleset, chain, hook, &rules));
        for rule in &rules {
            let passed = passed_by(names, chain, hook, rule);
            let said = [
                if passed.is_none() { by_name(names, chain, hook, rule) } else { passed },
                queries(names, chain, hook, rule),
                nat(names, chain, hook, rule),
            ];
            // A rule that is reached by several ways is one.
            for finding in said.into_iter().flatten() {
                if !found.contains(&finding) {
                    found.push(finding);
                }
            }
        }
    }
    found
}

/// A chain that drops what it does not know.
fn closed(
    names: &Names<'_>,
    ruleset: &Ruleset,
    chain: &Chain,
    hook: &str,
    rules: &[Rule],
) -> Option<Finding> {
    let (is_input, why) = match (chain.table.family.as_str(), hook) {
        (_, "input") => (true, "queries of slots do not reach netguard's resolver"),
        (_, "forward") => (
            false,
            "what slots send to the internet, and what comes back, is dropped after netguard let it pass",
        ),
        ("bridge" | "ip" | "ip6" | "inet", "prerouting") => {
            (true, "what slots send is dropped after netguard let it pass")
        }
        _ => return None, // what the host itself sends is no slot's
    };
    if !ruleset.is_closed(chain) {
        return None;
    }
    let port = u64::from(names.policy.dns.port);
    let is_let_in = |names: &Names<'_>, rule: &Rule| {
        let both = || rule.on(&SOURCES).chain(rule.on(&TARGETS));
        let is_dns = is_input
            && rule.on(&["dport"]).any(|it| it.has_port(port))
            && both().all(|it| names.can_meet(it));
        let accepts = matches!(rule.verdict, Verdict::Accept | Verdict::To(_));
        let is_for_all = rule.verdict == Verdict::Accept && !rule.is_narrow;
        accepts && (both().any(|it| names.names(it)) || is_dns) || is_for_all
    };
    // Those in lockdown miss nothing.
    let open: Vec<&Slot> = names.slots.iter().filter(|slot| !slot.lockdown).copied().collect();
    let shut = |slot: &&&Slot| !rules.iter().any(|rule| is_let_in(&names.only(slot), rule));
    let shut: Vec<&Slot> = open.iter().filter(shut).copied().collect();
    let bridge = shut.first()?.bridge.as_str();
    let whom = match shut.len() == open.len() {
        true => "a slot".to_owned(),
        false => list(&shut.iter().map(|slot| slot.name.as_str()).collect::<Vec<_>>()),
    };
    Some(Finding {
        check: Check::FirewallClosed,
        severity: Severity::Broken,
        what: format!(
            "{}the chain {chain} drops what it does not know, and no rule of it names {whom}",
            whose(ruleset, chain)
        ),
        why: why.to_owned(),
        fix: way_in(ruleset, chain, bridge, is_input, port),
    })
}

/// How to let slots through, in the words of who owns the chain.
fn way_in(ruleset: &Ruleset, chain: &Chain, bridge: &str, is_input: bool, port: u64) -> String {
    let has = |start: &str| {
        ruleset.chains.iter().any(|it| it.table == chain.table && it.name.starts_with(start))
    };
    if has("ufw") {
        return match is_input {
            true => format!("ufw allow in on {bridge} to any port {port}"),
            false => format!(
                "ufw route allow in on {bridge}, and out on it: ufw route allow out on {bridge}"
            ),
        };
    }
    if chain.table.name == "firewalld" {
        return format!(
            "firewall-cmd --permanent --zone=trusted --add-interface={bridge}, then --reload"
        );
    }
    if has("DOCKER-USER") && !is_input {
        return format!(
            "iptables -I DOCKER-USER -i {bridge} -j ACCEPT, and -o {bridge}, for each bridge; or \"ip-forward-no-drop\": true in \
             /etc/docker/daemon.json"
        );
    }
    let (family, table, name) = (&chain.table.family, &chain.table.name, &chain.name);
    match is_input {
        true => format!("nft insert rule {family} {table} {name} iifname {bridge} accept"),
        false => format!(
            "nft insert rule {family} {table} {name} iifname {bridge} accept, and the same with oifname, for each bridge"
        ),
    }
}

/// Who makes such chains.
fn whose(ruleset: &Ruleset, chain: &Chain) -> &'static str {
    let has = |start: &str| {
        ruleset.chains.iter().any(|it| it.table == chain.table && it.name.starts_with(start))
    };
    match chain.table.name.as_str() {
        "firewalld" => "firewalld: ",
        "libvirt_network" => "libvirt: ",
        "netavark" => "podman: ",
        _ if has("ufw") => "ufw: ",
        _ if has("DOCKER") => "docker: ",
        _ if has("LIBVIRT") => "libvirt: ",
        _ if has("KUBE") => "Kubernetes: ",
        _ if has("NETAVARK") => "podman: ",
        _ => "",
    }
}

/// A rule that drops what is a slot's.
fn by_name(names: &Names<'_>, chain: &Chain, hook: &str, rule: &Rule) -> Option<Finding> {
    let is_on_the_way =
        matches!(hook, "forward" | "input" | "prerouting" | "postrouting" | "ingress");
    if rule.verdict != Verdict::Drop || !is_on_the_way {
        return None;
    }
    // One side is the slot's, the other one may be the internet's.
    let named =
        [[&SOURCES, &TARGETS], [&TARGETS, &SOURCES]].into_iter().find_map(|[own, other]| {
            let named = rule.on(own).find(|it| names.names(it))?;
            let fits = rule.on(own).all(|it| names.can_meet(it))
                && rule.on(other).all(|it| names.may_be_outside(it));
            fits.then_some(named)
        })?;
    let value = named.values.first().map(ToString::to_string).unwrap_or_default();
    Some(Finding {
        check: Check::FirewallRule,
        severity: Severity::Weak,
        what: format!("{}: a rule drops packets with {} {value}", place(chain, rule), named.field),
        why: "netguard lets them pass and counts them as passed; they go missing behind it"
            .to_owned(),
        fix: format!("if that is not meant: {}", delete(rule)),
    })
}

/// A rule that would drop what slots send to the internet, and does not see it.
fn passed_by(names: &Names<'_>, chain: &Chain, hook: &str, rule: &Rule) -> Option<Finding> {
    let is_on_the_way = matches!(hook, "forward" | "prerouting" | "postrouting");
    // What speaks of no end and no service is about packets of any kind: those without a state, say.
    let is_about = rule.on(&["oifname", "oif", "daddr", "dport"]).next().is_some()
        || rule.on(&SOURCES).any(|it| names.names(it));
    let is_passed = names.policy.host.fast_path
        && rule.verdict == Verdict::Drop
        && is_on_the_way
        && is_about
        && rule.on(&SOURCES).all(|it| names.can_meet(it))
        && rule.on(&TARGETS).all(|it| names.may_be_outside(it) && !names.names(it));
    is_passed.then(|| Finding {
        check: Check::FirewallPassed,
        severity: Severity::Weak,
        what: format!("{}: a rule drops what slots may send out of an uplink", place(chain, rule)),
        why: "TCP and UDP go past it by the fast path: nothing of them is dropped there".to_owned(),
        fix: format!(
            "deny it in the slots' own rules; or fast_path = false in [datapath]; or, if it is not meant for slots: {}",
            delete(rule)
        ),
    })
}

/// A rule that takes queries away from the resolver.
fn queries(names: &Names<'_>, chain: &Chain, hook: &str, rule: &Rule) -> Option<Finding> {
    let port = u64::from(names.policy.dns.port);
    let asks = hook == "prerouting"
        && rule.verdict == Verdict::Redirect
        && rule.on(&["dport"]).any(|it| it.has_port(port) != it.negated)
        && rule.on(&SOURCES).chain(rule.on(&TARGETS)).all(|it| names.can_meet(it));
    asks.then(|| Finding {
        check: Check::FirewallDns,
        severity: Severity::Broken,
        what: format!("{}: a rule sends packets to port {port} elsewhere", place(chain, rule)),
        why: "queries of slots reach whoever that is, and not netguard's resolver: nothing decides what they may ask".to_owned(),
        fix: format!("limit it to other interfaces (iifname), or {}", delete(rule)),
    })
}

/// A rule that gives slots another source address, where netguard does so.
fn nat(names: &Names<'_>, chain: &Chain, hook: &str, rule: &Rule) -> Option<Finding> {
    let is_double = hook == "postrouting"
        && rule.verdict == Verdict::Masquerade
        && names.policy.host.masquerade
        && rule.on(&["saddr"]).any(|it| names.names(it));
    is_double.then(|| Finding {
        check: Check::FirewallNat,
        severity: Severity::Note,
        what: format!(
            "{}: a rule masquerades a slot's subnet, as netguard does",
            place(chain, rule)
        ),
        why: "whichever comes first counts, and the other one's counters stay".to_owned(),
        fix: format!("{}, or masquerade = false", delete(rule)),
    })
}

fn place(chain: &Chain, rule: &Rule) -> String {
    let jumped =
        if rule.chain == chain.name { String::new() } else { format!(" (from {})", chain.name) };
    format!("{} {} {}{jumped}", rule.table.family, rule.table.name, rule.chain)
}

fn delete(rule: &Rule) -> String {
    let (table, chain, handle) = (&rule.table, &rule.chain, rule.handle);
    format!("nft delete rule {} {} {chain} handle {handle}", table.family, table.name)
}

impl std::fmt::Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Net(net) => write!(f, "{net}"),
            Self::Text(text) => f.write_str(text),
            Self::Ports(first, last) => write!(f, "{first}-{last}"),
        }
    }
}

#[cfg(test)]
mod tests;
