//! Rulesets as nft prints them, and what is said of each.

use serde_json::{Value, json};

use super::{
    super::samples::{found, policy},
    *,
};

fn chain(family: &str, table: &str, name: &str, hook: Option<&str>, policy: &str) -> Value {
    let mut chain = json!({ "family": family, "table": table, "name": name, "handle": 1 });
    if let Some(hook) = hook {
        chain["hook"] = hook.into();
        chain["policy"] = policy.into();
    }
    json!({ "chain": chain })
}

fn rule(of: &str, expressions: &[Value]) -> Value {
    let [family, table, chain] = of.split(' ').collect::<Vec<_>>()[..] else { panic!("{of}") };
    json!({ "rule": { "family": family, "table": table, "chain": chain, "handle": 7, "expr": expressions } })
}

fn meta(key: &str, right: &str) -> Value {
    json!({ "match": { "op": "==", "left": { "meta": { "key": key } }, "right": right } })
}

fn field(protocol: &str, field: &str, right: Value) -> Value {
    json!({ "match": { "op": "==", "left": { "payload": { "protocol": protocol, "field": field } }, "right": right } })
}

fn not(mut condition: Value) -> Value {
    condition["match"]["op"] = "!=".into();
    condition
}

fn net(address: &str, length: u8) -> Value {
    json!({ "prefix": { "addr": address, "len": length } })
}

fn established() -> Value {
    json!({ "match": { "op": "in", "left": { "ct": { "key": "state" } }, "right": ["established"] } })
}

fn verdict(name: &str) -> Value {
    json!({ name: null })
}

/// On a host without the fast path.
fn judged(objects: &[Value]) -> Vec<Finding> {
    judged_with(objects, false)
}

fn judged_with(objects: &[Value], fast_path: bool) -> Vec<Finding> {
    let mut policy = policy();
    policy.host.fast_path = fast_path;
    let names = Names::new(&policy, vec![("br-slot1", "vm-slot1")]);
    let answer = json!({ "nftables": objects });
    let ruleset = Ruleset::read(&answer, &|name| name == "netguard");
    check(&names, &Firewall::Known(ruleset), &[])
}

#[test]
fn a_closed_chain_is_found_unless_it_knows_the_slots() {
    let forward = chain("inet", "fw", "forward", Some("forward"), "drop");
    let with =
        |expressions: &[Value]| judged(&[forward.clone(), rule("inet fw forward", expressions)]);
    let closed = with(&[established(), verdict("accept")]);
    assert_eq!(found(&closed), [("broken", "firewall-closed")]);
    assert!(closed[0].what.starts_with("the chain inet fw forward drops"), "{closed:?}");
    assert_eq!(
        found(&with(&[meta("iifname", "docker0"), verdict("accept")])),
        [("broken", "firewall-closed")]
    );
    for good in [
        [meta("iifname", "br-slot1"), verdict("accept")],
        [meta("iifname", "br-*"), verdict("accept")],
        [field("ip", "saddr", net("10.0.0.0", 8)), json!({ "jump": { "target": "slots" } })],
        [json!({ "counter": {} }), verdict("accept")],
    ] {
        assert_eq!(with(&good), [], "{good:?}");
    }
    // netguard's own tables are not looked at, and what the host sends itself is no slot's.
    assert_eq!(judged(&[chain("inet", "netguard", "input", Some("input"), "drop")]), []);
    assert_eq!(judged(&[chain("inet", "fw", "output", Some("output"), "drop")]), []);
    assert_eq!(judged(&[chain("inet", "fw", "forward", Some("forward"), "accept")]), []);
    let last = [
        chain("inet", "fw", "f", Some("forward"), "accept"),
        rule("inet fw f", &[verdict("reject")]),
    ];
    assert_eq!(found(&judged(&last)), [("broken", "firewall-closed")], "closed by its last rule");
}

#[test]
fn a_slot_that_a_closed_chain_does_not_know_is_named() {
    let mut policy = policy();
    let mut second = policy.slots[0].clone();
    (second.name, second.bridge) = ("slot2".into(), "br-slot2".into());
    second.subnets[0].prefix = "10.2.0.0/24".parse().unwrap();
    policy.slots.push(second);
    let with = |policy: &Policy, name: &str| {
        let answer = json!({ "nftables": [
            chain("inet", "fw", "forward", Some("forward"), "drop"),
            rule("inet fw forward", &[meta("iifname", name), verdict("accept")]),
        ]});
        let ruleset = Ruleset::read(&answer, &|_| false);
        check(&Names::new(policy, Vec::new()), &Firewall::Known(ruleset), &[])
    };
    let one = with(&policy, "br-slot1");
    assert!(one[0].what.ends_with("and no rule of it names slot2"), "{one:?}");
    assert!(one[0].fix.contains("iifname br-slot2 accept"), "{one:?}");
    assert_eq!(with(&policy, "br-*"), []);
    policy.slots[1].lockdown = true;
    assert_eq!(with(&policy, "br-slot1"), []);
}

#[test]
fn an_input_chain_may_know_the_resolver_instead() {
    let input = chain("inet", "fw", "input", Some("input"), "drop");
    let with = |expressions: &[Value]| judged(&[input.clone(), rule("inet fw input", expressions)]);
    let dns = || field("udp", "dport", json!({ "set": [22, 53] }));
    assert_eq!(with(&[dns(), verdict("accept")]), []);
    assert_eq!(
        found(&with(&[meta("iifname", "lo"), dns(), verdict("accept")])),
        [("broken", "firewall-closed")]
    );
    let ssh = [field("tcp", "dport", 22.into()), verdict("accept")];
    assert_eq!(found(&with(&ssh)), [("broken", "firewall-closed")]);
}

#[test]
fn dockers_and_ufws_chains_are_called_by_their_names() {
    let docker = judged(&[
        chain("ip", "filter", "FORWARD", Some("forward"), "drop"),
        chain("ip", "filter", "DOCKER-USER", None, ""),
        rule("ip filter FORWARD", &[json!({ "jump": { "target": "DOCKER-USER" } })]),
        rule("ip filter FORWARD", &[meta("oifname", "docker0"), verdict("accept")]),
    ]);
    assert_eq!(found(&docker), [("broken", "firewall-closed")]);
    assert!(docker[0].what.starts_with("docker: the chain ip filter FORWARD"), "{docker:?}");
    assert!(docker[0].fix.starts_with("iptables -I DOCKER-USER -i br-slot1"), "{docker:?}");
    let ufw = judged(&[
        chain("ip", "filter", "INPUT", Some("input"), "drop"),
        chain("ip", "filter", "ufw-user-input", None, ""),
    ]);
    assert_eq!(ufw[0].fix, "ufw allow in on br-slot1 to any port 53");
}

#[test]
fn rules_that_name_a_slot_are_found_also_behind_jumps_and_in_sets() {
    let chains = [
        chain("ip", "t", "FORWARD", Some("forward"), "accept"),
        chain("ip", "t", "inner", None, ""),
        json!({ "set": { "family": "ip", "table": "t", "name": "bad", "elem": [net("10.1.0.0", 25), "192.0.2.1"] } }),
        rule("ip t FORWARD", &[json!({ "jump": { "target": "inner" } })]),
    ];
    let with =
        |expressions: &[Value]| judged(&[&chains[..], &[rule("ip t inner", expressions)]].concat());
    let by_set = with(&[field("ip", "daddr", "@bad".into()), verdict("drop")]);
    assert_eq!(found(&by_set), [("weak", "firewall-rule")]);
    assert!(by_set[0].what.starts_with("ip t inner (from FORWARD): "), "{by_set:?}");
    assert_eq!(by_set[0].fix, "if that is not meant: nft delete rule ip t inner handle 7");
    let xt = json!({ "xt": { "type": "target", "name": "REJECT" } });
    assert_eq!(found(&with(&[meta("oifname", "vm-slot1"), xt])), [("weak", "firewall-rule")]);
    for fine in [
        [meta("iifname", "br-slot1"), verdict("accept")],
        [meta("iifname", "docker0"), verdict("drop")],
        [field("ip", "saddr", net("0.0.0.0", 0)), verdict("drop")],
        [not(meta("iifname", "br-slot1")), verdict("drop")],
    ] {
        assert_eq!(with(&fine), [], "{fine:?}");
    }
}

#[test]
fn rules_behind_a_jump_count_with_the_conditions_on_the_way() {
    let with = |jump: &[Value], inner: &[Value]| {
        judged(&[
            chain("ip", "t", "FORWARD", Some("forward"), "accept"),
            chain("ip", "t", "inner", None, ""),
            rule("ip t FORWARD", &[jump, &[json!({ "jump": { "target": "inner" } })]].concat()),
            rule("ip t inner", inner),
        ])
    };
    let private = || [field("ip", "daddr", net("10.0.0.0", 8)), verdict("drop")];
    assert_eq!(found(&with(&[], &private())), [("weak", "firewall-rule")]);
    assert_eq!(
        found(&with(&[meta("iifname", "uplink0")], &private())),
        [("weak", "firewall-rule")]
    );
    assert_eq!(with(&[meta("iifname", "docker0")], &private()), [], "from a container");
    let twice = judged(&[
        chain("ip", "t", "FORWARD", Some("forward"), "accept"),
        chain("ip", "t", "inner", None, ""),
        rule("ip t FORWARD", &[json!({ "jump": { "target": "inner" } })]),
        rule("ip t FORWARD", &[established(), json!({ "jump": { "target": "inner" } })]),
        rule("ip t inner", &private()),
    ]);
    assert_eq!(found(&twice), [("weak", "firewall-rule")]);
    // What others are let through is nothing for slots.
    let closed = judged(&[
        chain("ip", "t", "FORWARD", Some("forward"), "drop"),
        chain("ip", "t", "inner", None, ""),
        rule(
            "ip t FORWARD",
            &[meta("iifname", "docker0"), json!({ "jump": { "target": "inner" } })],
        ),
        rule("ip t inner", &[verdict("accept")]),
        rule("ip t inner", &[json!({ "jump": { "target": "FORWARD" } })]),
    ]);
    assert_eq!(found(&closed), [("broken", "firewall-closed")]);
}

#[test]
fn queries_that_go_elsewhere_and_double_translation() {
    let chains = [
        chain("ip", "nat", "PRE", Some("prerouting"), "accept"),
        chain("ip", "nat", "POST", Some("postrouting"), "accept"),
    ];
    let with =
        |of: &str, expressions: &[Value]| judged(&[&chains[..], &[rule(of, expressions)]].concat());
    let dns = || field("udp", "dport", 53.into());
    let redirect = || json!({ "redirect": { "port": 5353 } });
    assert_eq!(found(&with("ip nat PRE", &[dns(), redirect()])), [("broken", "firewall-dns")]);
    let other = with("ip nat PRE", &[not(meta("iifname", "docker0")), dns(), redirect()]);
    assert_eq!(found(&other), [("broken", "firewall-dns")]);
    assert_eq!(with("ip nat PRE", &[meta("iifname", "docker0"), dns(), redirect()]), []);
    assert_eq!(with("ip nat PRE", &[field("tcp", "dport", 80.into()), redirect()]), []);
    let source = || field("ip", "saddr", net("10.1.0.0", 24));
    let double = with("ip nat POST", &[source(), verdict("masquerade")]);
    assert_eq!(found(&double), [("note", "firewall-nat")]);
    assert_eq!(with("ip nat POST", &[meta("oifname", "eth0"), verdict("masquerade")]), []);
}

#[test]
fn rules_that_the_fast_path_passes_are_told() {
    let with = |expressions: &[Value]| {
        let chain = chain("inet", "fw", "forward", Some("forward"), "accept");
        judged_with(&[chain, rule("inet fw forward", expressions)], true)
    };
    let drop = || verdict("drop");
    let passed = [("weak", "firewall-passed")];
    let address = || field("ip", "daddr", "203.0.113.9".into());
    assert_eq!(found(&with(&[address(), drop()])), passed);
    assert_eq!(found(&with(&[field("tcp", "dport", 25.into()), drop()])), passed);
    assert_eq!(found(&with(&[meta("iifname", "br-slot1"), drop()])), passed);
    // Of others, of any kind, and what comes back.
    assert_eq!(with(&[meta("iifname", "docker0"), address(), drop()]), []);
    assert_eq!(with(&[established(), drop()]), []);
    assert_eq!(found(&with(&[meta("oifname", "br-slot1"), drop()])), [("weak", "firewall-rule")]);
}

#[test]
fn what_cannot_be_seen_is_told() {
    let policy = policy();
    let names = Names::new(&policy, Vec::new());
    let unknown = Firewall::Unknown("nft is missing".into());
    let legacy = ["ip filter".to_owned()];
    let found_now = check(&names, &unknown, &legacy);
    assert_eq!(found(&found_now), [("note", "firewall-unseen"); 2]);
    assert!(found_now[0].what.ends_with("ip filter"));
}

#[test]
fn chains_that_can_drop_are_listed_for_who_asks_where_packets_go() {
    let answer = json!({ "nftables": [
        chain("ip", "filter", "FORWARD", Some("forward"), "drop"),
        chain("inet", "fw", "input", Some("input"), "accept"),
        chain("inet", "fw", "more", None, ""),
        chain("inet", "nat", "post", Some("postrouting"), "accept"),
        rule("inet fw input", &[json!({ "jump": { "target": "more" } })]),
        rule("inet fw more", &[established(), verdict("drop")]),
    ]});
    let ruleset = Ruleset::read(&answer, &|_| false);
    assert_eq!(ruleset.droppers(), ["ip filter FORWARD", "inet fw input"]);
}
