//! Knot as an upstream, with a zone that it signs itself: what DNSSEC needs passes to the guest and validates there.

use std::fs;

use netguard_tests::{
    can_use_kernel,
    lab::{Background, Lab},
    servers::Servers,
    until,
};

const CONFIG: &str = r#"
[host]
uplinks = ["eth0"]
[dns]
upstreams = ["192.0.2.1:5300"]
categories = []
names = ["signed.test"]
types = ["A", "AAAA", "CNAME", "TXT", "SOA", "NS", "DNSKEY", "DS"]
[[slot]]
name = "slot1"
id = 1
subnet = "10.1.0.0/24"
"#;

const KNOT: &str = r#"
server:
    rundir: "DIRECTORY"
    listen: 192.0.2.1@5300
    automatic-acl: off
log:
  - target: stderr
    any: info
database:
    storage: "DIRECTORY"
policy:
  - id: quick
    algorithm: ecdsap256sha256
    single-type-signing: on
    nsec3: NSEC3
template:
  - id: default
    storage: "DIRECTORY"
    file: "zone"
    zonefile-sync: -1
    journal-content: none
    dnssec-signing: on
    dnssec-policy: quick
zone:
  - domain: signed.test
"#;

const ZONE: &str = "\
$ORIGIN signed.test.
$TTL 3600
@ SOA ns root 1 3600 600 86400 90
@ NS ns
ns A 203.0.113.20
www A 203.0.113.21
www AAAA 2001:db8:113::21
alias CNAME www
*.wild A 203.0.113.22
";

/// Knot on the lab's internet, ready to answer.
fn start(lab: &Lab, servers: &Servers, directory: &std::path::Path, nsec3: &str) -> Background {
    let at = directory.display().to_string();
    let config = KNOT.replace("DIRECTORY", &at).replace("NSEC3", nsec3);
    fs::write(directory.join("knot.conf"), config).expect("the configuration");
    let text = |number| format!("large TXT \"{number:0>200}\"\n");
    let large: String = (0..20).map(text).collect();
    fs::write(directory.join("zone"), format!("{ZONE}{large}")).expect("the zone");
    let call = servers.call("usr/sbin/knotd");
    let mut knot = lab.start("net", &format!("exec {call} -c {at}/knot.conf 2>{at}/log >&2"));
    until("Knot answers", || {
        let log = || fs::read_to_string(directory.join("log")).unwrap_or_default();
        assert!(knot.child().try_wait().expect("Knot").is_none(), "it ended: {}", log());
        let probe = "dig +short +time=1 +tries=1 +dnssec -p 5300 @192.0.2.1 www.signed.test";
        lab.exec("net", probe).stdout.lines().count() == 2
    });
    knot
}

#[test]
fn what_knot_has_signed_reaches_the_guest_whole_and_validates_there() {
    let Some(servers) = can_use_kernel().then(Servers::find).flatten() else { return };
    for nsec3 in ["off", "on"] {
        let lab = Lab::with(CONFIG, "veth");
        let directory = tempfile::tempdir().expect("a directory");
        let _knot = start(&lab, &servers, directory.path(), nsec3);
        let dig = |words: &str| {
            let ended = lab.exec("slot1", &format!("dig +time=5 +tries=1 {words}"));
            ended.success().to_owned()
        };
        let signed = dig("+dnssec www.signed.test");
        assert!(signed.contains("\tRRSIG\tA 13 3 ") && signed.contains("flags: do;"), "{signed}");
        let plain = dig("www.signed.test");
        assert!(plain.contains("203.0.113.21") && !plain.contains("RRSIG"), "{plain}");
        assert!(!plain.contains("flags: do;"), "{plain}");
        let none = dig("+dnssec nothing.signed.test");
        assert!(none.contains("NXDOMAIN") && none.contains("NSEC"), "{none}");
        assert_eq!(none.contains("NSEC3"), nsec3 == "on", "{none}");
        assert!(none.contains("\tRRSIG\tSOA 13 2 "), "{none}");
        assert!(!dig("nothing.signed.test").contains("NSEC"), "no proofs for who does not ask");
        // 4,000 bytes: Knot cuts it over UDP for netguard, and netguard for the guest.
        let cut = dig("+ignore large.signed.test TXT");
        assert!(cut.contains(" tc ") && cut.contains("ANSWER: 5,"), "{cut}");
        let large = dig("+dnssec large.signed.test TXT");
        assert!(large.contains("retrying in TCP mode") && large.contains("ANSWER: 21,"), "{large}");

        // The guest validates with the zone's own key and nothing else.
        let key = dig("+short signed.test DNSKEY");
        let [flags, protocol, algorithm, rest] = key.trim().splitn(4, ' ').collect::<Vec<_>>()[..]
        else {
            panic!("no key: {key}")
        };
        let anchors = directory.path().join("anchors");
        let anchor = format!(
            "trust-anchors {{ signed.test. static-key {flags} {protocol} {algorithm} \"{rest}\"; }};\n"
        );
        fs::write(&anchors, anchor).expect("the anchor");
        for (name, kind, expected) in [
            ("www.signed.test", "A", "; fully validated"),
            ("alias.signed.test", "AAAA", "; fully validated"),
            ("x.wild.signed.test", "A", "; fully validated"),
            ("large.signed.test", "TXT", "; fully validated"),
            ("nothing.signed.test", "A", "; negative response, fully validated"),
            ("www.signed.test", "TXT", "; negative response, fully validated"),
        ] {
            let words =
                format!("delv @10.1.0.1 -a {} +root=signed.test {name} {kind}", anchors.display());
            let delv = lab.exec("slot1", &words);
            let said = format!("{}{}", delv.stdout, delv.stderr);
            assert!(said.contains(expected), "{name} {kind}, NSEC3 {nsec3}: {said}");
        }
    }
}
