//! Which line of the configuration each stage goes by: that which the record of the real packet names; and drops that are asked
//! about again.

use std::os::unix::net::UnixStream;

use hickory_proto::rr::RecordType;
use netguard_tests::{
    can_use_kernel, client::Asker, control, lab::Lab, lines::line_of, packet::ip, until, wire::Wire,
};
use serde_json::Value;

use crate::{answer, assert_same, explain, record};

/// Keys and rules of every kind that decides.
const CONFIG: &str = r#"
[host]
uplinks = ["eth0"]
management = ["100.64.0.0/10"]
[dns]
upstreams = ["1.1.1.1"]
categories = []
names = ["github.com"]
[limits]
flows = 4096
[[runtime]]
name = "vm"
isolate = true
[[runtime]]
name = "pods"
isolate = false

[[slot]]
name = "slot1"
id = 1
subnet = "10.1.0.0/24"
runtime = "vm"
egress = "listed"
allow = [
    "203.0.113.0/24 tcp/80",
    "192.168.1.0/24",
]
deny = ["203.0.113.66"]
host_services = ["tcp/22"]

[[slot]]
name = "slot2"
id = 2
subnet = "10.2.0.0/24"
runtime = "pods"
egress = "pinned"

[[slot]]
name = "slot3"
id = 3
subnet = "10.3.0.0/24"
runtime = "pods"
egress = "open"
metadata = true
limits.icmp_max_bytes = 1000

[[slot]]
name = "slot4"
id = 4
subnet = "10.4.0.0/24"
runtime = "vm"
mode = "lockdown"
"#;

/// The place of the only line that has this in it.
fn at(what: &str) -> String {
    line_of(CONFIG, "netguard.toml", what)
}

#[test]
fn the_answer_names_the_line_that_the_record_will_name() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::with(CONFIG, "veth");
    let told =
        lab.within("slot2", || Asker::of([10, 2, 0, 1].into()).ask("github.com", RecordType::A));
    assert!(told.is_some(), "nobody answers");
    let _ = lab.run(&["deny", "slot2", "github.com"]).success();
    for (slot, address, port, reason, line) in [
        ("slot1", "10.2.0.2", 80, "cross-runtime", "netguard.toml (default of gate)".to_owned()),
        ("slot1", "10.4.0.2", 80, "cross-slot", at("isolate = true")),
        ("slot1", "203.0.113.66", 80, "egress-denied", at("deny = [")),
        ("slot1", "203.0.113.10", 443, "egress-denied", at("egress = \"listed\"")),
        ("slot1", "10.1.0.1", 80, "host", at("host_services")),
        (
            "slot1",
            "169.254.169.254",
            80,
            "metadata",
            "netguard.toml (default of metadata)".to_owned(),
        ),
        ("slot1", "100.64.0.2", 80, "management", at("management = ")),
        ("slot1", "203.0.113.10", 853, "dns-over-tls", "built in".to_owned()),
        ("slot2", "203.0.113.77", 443, "not-pinned", at("egress = \"pinned\"")),
        ("slot2", "203.0.113.10", 443, "not-pinned", "ordered at run time".to_owned()),
        ("slot4", "203.0.113.10", 443, "lockdown", at("mode = \"lockdown\"")),
    ] {
        let destination = format!("{address}:{port}");
        let (code, answer) = answer(&lab, &[slot, &destination]);
        assert_eq!(
            (code, &answer["reason"], &answer["line"]),
            (3, &reason.into(), &line.into()),
            "{answer}"
        );
        // By a wire: who is locked down does not even get the MAC of where he wants to go.
        let source = format!("10.{}.0.2", &slot[4..]);
        let frame = ip(&source, address).from_mac(lab.mac(slot, "eth0")).tcp_syn(40_000, port);
        Wire::on(&lab, slot, "eth0").send(&frame);
        let query = format!("slot={slot}&reason={reason}");
        let record = record(&lab, &query, |it| it["dst"] == address && it["dst_port"] == port);
        assert_same(&answer, &record);
        let id = record["id"].as_str().expect("an id");
        let (code, again) = self::answer(&lab, &["--drop", id]);
        assert_eq!((code, &again["recorded"]), (3, &record));
        assert_same(&again, &record);
        assert_eq!(again["source"], record["src"], "it is the very packet");
        let stages = answer["hops"][0]["stages"].as_array().expect("stages");
        let decided: Vec<_> = stages.iter().filter(|it| it["result"] == "decided").collect();
        assert_eq!(decided.len(), 1, "{answer}");
        assert_eq!(
            (&decided[0]["line"], &decided[0]["because"]),
            (&record["line"], &record["because"])
        );
    }
}

#[test]
fn what_lets_a_packet_pass_has_its_line_too() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::with(CONFIG, "veth");
    let default = |key: &str| format!("netguard.toml (default of {key})");
    for (words, stage, line, because) in [
        (
            &["slot1", "203.0.113.10:80"][..],
            "rule",
            at("203.0.113.0/24"),
            "allow = [\"203.0.113.0/24 tcp/80\"]",
        ),
        (&["slot1", "192.168.1.1"], "rule", at("192.168.1.0/24"), "allow = [\"192.168.1.0/24\"]"),
        (&["slot1", "203.0.113.10:80"], "lockdown", default("mode"), "mode = \"guarded\""),
        (
            &["slot1", "203.0.113.10:80"],
            "identity",
            at("subnet = \"10.1"),
            "subnet = \"10.1.0.0/24\"",
        ),
        (
            &["slot1", "10.1.0.1:22"],
            "where to",
            at("host_services"),
            "host_services = [\"tcp/22\"]",
        ),
        (&["slot2", "10.3.0.2"], "where to", at("isolate = false"), "isolate = false"),
        (&["slot3", "203.0.113.10"], "rule", at("egress = \"open\""), "egress = \"open\""),
        (&["slot3", "169.254.169.254"], "where to", at("metadata = true"), "metadata = true"),
        (
            &["slot3", "203.0.113.10", "--proto", "icmp"],
            "encrypted dns",
            at("icmp_max"),
            "limits.icmp_max_bytes = 1000",
        ),
        (
            &["slot1", "100.64.0.2", "--in"],
            "where to",
            at("management = "),
            "management = [\"100.64.0.0/10\"]",
        ),
    ] {
        let (code, answer) = answer(&lab, words);
        assert_eq!((code, &answer["line"]), (0, &Value::Null), "{words:?}: {answer}");
        let stages = answer["hops"][0]["stages"].as_array().expect("stages");
        let told = stages.iter().find(|it| it["stage"] == stage).expect("the stage");
        assert_eq!(
            (&told["line"], &told["because"]),
            (&line.as_str().into(), &because.into()),
            "{words:?}"
        );
    }
    let words = ["slot1", "203.0.113.10:80"];
    let text = explain(&lab, &words);
    let line = format!(
        "  ok       rule           a rule of the slot for a /24 allows it\n{:26}by {}: allow = [",
        "",
        at("203.0.113.0/24")
    );
    assert!(text.stdout.contains(&line), "{text:?}");
    // The programs answer without a daemon, which alone knows lines.
    let pid = lab.daemon_pid().expect("a daemon");
    let _ = lab.exec("hv", &format!("kill -KILL {pid}")).success();
    until("the daemon has ended", || lab.daemon_pid().is_none());
    until("nobody answers", || UnixStream::connect(control::socket(&lab)).is_err());
    let text = explain(&lab, &words);
    assert!(
        text.success()
            .contains("  ok       rule           a rule of the slot for a /24 allows it\n  ok"),
        "{text:?}"
    );
}

#[test]
fn a_drop_is_explained_again_after_an_order() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::with(CONFIG, "veth");
    let address = "198.51.100.7";
    let mut wire = Wire::on(&lab, "slot1", "eth0");
    let mac = lab.mac("slot1", "eth0");
    // Of the long one the kernel keeps less than there is.
    let path = || ip("10.1.0.9", address).from_mac(mac);
    for (port, payload) in [(1000, 8), (1001, 1200)] {
        wire.send(&path().udp(port, 4000, &vec![7; payload]));
        let query = format!("slot=slot1&reason=egress-denied&to={address}");
        let record = record(&lab, &query, |it| it["src_port"] == port);
        let id = record["id"].as_str().expect("an id").to_owned();
        let told = explain(&lab, &["--drop", &format!("[{id}]")]);
        assert_eq!(told.code, 3, "{told:?}");
        let first = format!(
            ": dropped as egress-denied (540033) by {}: egress = \"listed\"; allow = [",
            at("egress = \"listed\"")
        );
        assert!(told.stdout.contains(&first), "{told:?}");
        assert!(
            told.stdout.contains(&format!(
                "udp 10.1.0.9:{port} -> {address}:4000: now it would be dropped: egress-denied"
            )),
            "{told:?}"
        );
        let rule = format!("{address} udp/4000");
        let say = |verb: &str| lab.run(&[verb, "slot1", &rule]);
        let _ = say("allow").success();
        let (code, answer) = answer(&lab, &["--drop", &id]);
        assert_eq!(
            (code, &answer["verdict"], &answer["reason"]),
            (0, &"pass".into(), &Value::Null)
        );
        assert_eq!(answer["recorded"], record, "what was, stays");
        let stages = answer["hops"][0]["stages"].as_array().expect("stages");
        let opened = stages.iter().find(|it| it["stage"] == "rule").expect("the stage");
        assert_eq!(
            (&opened["line"], &opened["because"]),
            (&"ordered at run time".into(), &format!("allow {rule}").into())
        );
        let _ = say("forget").success();
    }
    let unknown = explain(&lab, &["--drop", "1a2b"]);
    assert!(
        unknown.code == 2 && unknown.stderr.contains("no drop 1a2b is remembered"),
        "{unknown:?}"
    );
    for bad in [
        &["--drop", "slot1"][..],
        &["--drop", "1a2b", "--in"],
        &["--drop", "1a2b", "slot1"],
        &["slot1"],
    ] {
        assert_eq!(explain(&lab, bad).code, 2, "{bad:?}");
    }
}
