//! The host's whole ruleset as `nft -j` prints it, read as far as it matters: chains with their hooks, rules with their
//! verdicts, and what a rule names. Rules of iptables-nft are in it; `xt` expressions are known by their targets.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use serde_json::Value;

/// Every table but netguard's own.
#[derive(Clone, Debug, Default)]
pub(super) struct Ruleset {
    pub(super) chains: Vec<Chain>,
    pub(super) rules: Vec<Rule>,
    /// Named sets: table, name, elements.
    sets: Vec<(Table, String, Vec<Value>)>,
}

/// Family and name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) family: String,
    pub(super) name: String,
}

#[derive(Clone, Debug)]
pub(super) struct Chain {
    pub(super) table: Table,
    pub(super) name: String,
    /// Of one that the kernel itself calls: where.
    pub(super) hook: Option<String>,
    /// True if what no rule decides is dropped.
    pub(super) drops: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) table: Table,
    pub(super) chain: String,
    pub(super) handle: u64,
    pub(super) verdict: Verdict,
    /// True if it is not for every packet.
    pub(super) is_narrow: bool,
    /// What it says of packets, condition by condition.
    pub(super) conditions: Vec<Condition>,
}

/// What a rule does with a packet that fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Accept,
    /// Drop or reject.
    Drop,
    /// Another destination.
    Redirect,
    /// Another source.
    Masquerade,
    /// To another chain.
    To(String),
    /// It goes on.
    None,
}

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    /// `iifname`, `saddr`, `dport`, and others that nobody asks for.
    pub(super) field: String,
    /// True if it must not be so.
    pub(super) negated: bool,
    pub(super) values: Vec<Named>,
}

/// What a condition compares with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Named {
    Net(IpNet),
    /// An interface's name, with `*` at its end for all that begin so.
    Text(String),
    Ports(u64, u64),
}

impl Ruleset {
    pub(super) fn read(answer: &Value, is_own: &dyn Fn(&str) -> bool) -> Self {
        let mut ruleset = Self::default();
        let objects = || answer["nftables"].as_array().into_iter().flatten();
        let table = |of: &Value| {
            let text = |key: &str| of[key].as_str().map(str::to_owned);
            Some(Table { family: text("family")?, name: text("table")? })
                .filter(|it| !is_own(&it.name))
        };
        for object in objects() {
            let set = object.get("set").or_else(|| object.get("map"));
            if let Some(set) = set
                && let Some(table) = table(set)
            {
                let elements = set["elem"].as_array().cloned().unwrap_or_default();
                ruleset.sets.push((
                    table,
                    set["name"].as_str().unwrap_or_default().to_owned(),
                    elements,
                ));
            }
            if let Some(chain) = object.get("chain")
                && let Some(table) = table(chain)
            {
                ruleset.chains.push(Chain {
                    table,
                    name: chain["name"].as_str().unwrap_or_default().to_owned(),
                    hook: chain["hook"].as_str().map(str::to_owned),
                    drops: chain["policy"] == "drop",
                });
            }
        }
        for rule in objects().filter_map(|object| object.get("rule")) {
            let Some(table) = table(rule) else { continue };
            let expressions = rule["expr"].as_array().map_or(&[][..], Vec::as_slice);
            let mut read = Rule {
                table,
                chain: rule["chain"].as_str().unwrap_or_default().to_owned(),
                handle: rule["handle"].as_u64().unwrap_or(0),
                verdict: Verdict::None,
                is_narrow: false,
                conditions: Vec::new(),
            };
            for expression in expressions {
                ruleset.learn(&mut read, expression);
            }
            ruleset.rules.push(read);
        }
        ruleset
    }

    fn learn(&self, rule: &mut Rule, expression: &Value) {
        let Some((kind, value)) = expression.as_object().and_then(|it| it.iter().next()) else {
            return;
        };
        let target = |value: &Value| value["target"].as_str().unwrap_or_default().to_owned();
        match kind.as_str() {
            "accept" => rule.verdict = Verdict::Accept,
            "drop" | "reject" => rule.verdict = Verdict::Drop,
            "dnat" | "redirect" | "tproxy" => rule.verdict = Verdict::Redirect,
            "masquerade" | "snat" => rule.verdict = Verdict::Masquerade,
            "jump" | "goto" => rule.verdict = Verdict::To(target(value)),
            "match" => {
                rule.is_narrow = true;
                if let Some(condition) = self.condition(&rule.table, value) {
                    rule.conditions.push(condition);
                }
            }
            "xt" => match value["name"].as_str() {
                Some("REJECT" | "DROP") => rule.verdict = Verdict::Drop,
                Some("DNAT" | "REDIRECT" | "TPROXY") => rule.verdict = Verdict::Redirect,
                Some("MASQUERADE" | "SNAT") => rule.verdict = Verdict::Masquerade,
                _ if value["type"] == "target" => {}
                _ => rule.is_narrow = true, // a match that is not translated
            },
            "limit" | "vmap" | "lookup" | "fib" => rule.is_narrow = true,
            _ => {} // counters, logs, comments
        }
    }

    fn condition(&self, table: &Table, value: &Value) -> Option<Condition> {
        let left = &value["left"];
        let field = left["payload"]["field"].as_str().or_else(|| left["meta"]["key"].as_str())?;
        let mut values = Vec::new();
        self.collect(table, &value["right"], &mut values);
        Some(Condition { field: field.to_owned(), negated: value["op"] == "!=", values })
    }

    /// Every value of a text, number, prefix, range or set, named or not.
    fn collect(&self, table: &Table, value: &Value, values: &mut Vec<Named>) {
        match value {
            Value::String(text) => match text.strip_prefix('@') {
                Some(name) => {
                    let set = self.sets.iter().find(|(of, it, _)| of == table && it == name);
                    let elements = set.map(|(_, _, elements)| elements).into_iter().flatten();
                    elements.for_each(|element| self.collect(table, element, values));
                }
                None => values.push(match text.parse::<IpAddr>() {
                    Ok(address) => Named::Net(address.into()),
                    Err(_) => Named::Text(text.clone()),
                }),
            },
            Value::Number(number) => {
                let port = number.as_u64().unwrap_or_default();
                values.push(Named::Ports(port, port));
            }
            Value::Object(object) => {
                if let Some(prefix) = object.get("prefix") {
                    let address = prefix["addr"].as_str().and_then(|it| it.parse().ok());
                    let length = prefix["len"].as_u64().and_then(|it| u8::try_from(it).ok());
                    let net =
                        address.zip(length).and_then(|(it, length)| IpNet::new(it, length).ok());
                    values.extend(net.map(Named::Net));
                } else if let Some([first, last]) =
                    object.get("range").and_then(Value::as_array).map(Vec::as_slice)
                {
                    if let (Some(first), Some(last)) = (first.as_u64(), last.as_u64()) {
                        values.push(Named::Ports(first, last));
                    }
                } else {
                    // {"set": [...]}, {"elem": {"val": ...}}, {"concat": [...]}
                    object.values().for_each(|inner| self.collect(table, inner, values));
                }
            }
            Value::Array(all) => all.iter().for_each(|inner| self.collect(table, inner, values)),
            _ => {}
        }
    }

    /// The rules of a chain, and of those that it jumps to with the conditions on the way there.
    pub(super) fn reached_from(&self, chain: &Chain) -> Vec<Rule> {
        /// A chain is looked at from so many places: those of Kubernetes are jumped to from thousands.
        const VISITS: usize = 16;
        let mut rules = Vec::new();
        let mut visits: BTreeMap<&str, usize> = BTreeMap::new();
        let mut to_do: Vec<(&str, Vec<Condition>, bool)> = vec![(&chain.name, Vec::new(), false)];
        while let Some((name, conditions, is_narrow)) = to_do.pop() {
            let visit = visits.entry(name).or_default();
            *visit += 1;
            if *visit > VISITS {
                continue;
            }
            for rule in self.rules.iter().filter(|it| it.table == chain.table && it.chain == name) {
                let mut reached = rule.clone();
                reached.conditions.extend_from_slice(&conditions);
                reached.is_narrow |= is_narrow;
                if let Verdict::To(target) = &rule.verdict {
                    to_do.push((target, reached.conditions.clone(), reached.is_narrow));
                }
                rules.push(reached);
            }
        }
        rules
    }

    /// True if what no rule of the chain knows is dropped: by its policy, or by a last rule for every packet.
    pub(super) fn is_closed(&self, chain: &Chain) -> bool {
        let mut own =
            self.rules.iter().filter(|it| it.table == chain.table && it.chain == chain.name);
        chain.drops || own.any(|rule| rule.verdict == Verdict::Drop && !rule.is_narrow)
    }

    /// The names of the tables that can drop at a hook, for who asks where a packet has gone.
    pub(super) fn droppers(&self) -> Vec<String> {
        let mut names = Vec::new();
        for chain in self.chains.iter().filter(|chain| chain.hook.is_some()) {
            let mut rules = self.reached_from(chain).into_iter();
            let may_drop = chain.drops || rules.any(|rule| rule.verdict == Verdict::Drop);
            let name = chain.to_string();
            if may_drop && !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }
}

impl std::fmt::Display for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.table.family, self.table.name, self.name)
    }
}

impl Condition {
    /// True if it names that port.
    pub(super) fn has_port(&self, port: u64) -> bool {
        let has = |value: &Named| matches!(value, Named::Ports(a, b) if (*a..=*b).contains(&port));
        self.values.iter().any(has)
    }
}

impl Rule {
    /// The condition on a field, if it has one.
    pub(super) fn on<'a>(&'a self, fields: &'a [&str]) -> impl Iterator<Item = &'a Condition> {
        self.conditions.iter().filter(move |it| fields.contains(&it.field.as_str()))
    }
}
