//! Queries as they come, at the control socket and by `netguard dns`: what guests ask and get, what decided, and where that stands.

use std::{
    io::{BufRead as _, BufReader},
    net::{IpAddr, UdpSocket},
    process::Stdio,
    time::Duration,
};

use hickory_proto::rr::RecordType::{self, A, AAAA, HTTPS, MX};
use netguard_tests::{
    binary::netguard,
    can_use_kernel,
    client::Asker,
    control::{Stream, request},
    lab::{Background, Lab},
    lines::line_of,
    until,
};
use serde_json::{Value, json};

const CONFIG: &str = r#"
[host]
uplinks = ["eth0"]
[dns]
upstreams = ["1.1.1.1"]
categories = ["code-hosting"]
names = [
    "lab.example",
    "deb.debian.org",
]
[[runtime]]
name = "vm"
[[runtime]]
name = "some pods"

[[slot]]
name = "slot1"
id = 1
subnet = "10.1.0.0/24"
runtime = "vm"

[[slot]]
name = "slot2"
id = 2
subnet = "10.2.0.0/24"
runtime = "some pods"
dns.names = [
    "www.lab.example",
    "!bad.www.lab.example",
]
limits.names_per_minute = 1

[[slot]]
name = "slot3"
id = 3
subnet = "10.3.0.0/24"
runtime = "vm"
limits.queries_per_second = 0
limits.names_per_minute = 0
limits.answer_bytes_per_minute = 0
"#;

fn at(what: &str) -> String {
    line_of(CONFIG, "netguard.toml", what)
}

fn shipped(name: &str) -> String {
    let list = include_str!("../dist/allowlist.toml");
    line_of(list, "the shipped allowlist", &format!("    \"{name}\""))
}

fn asker(lab: &Lab, slot: u8) -> Asker {
    lab.within(&format!("slot{slot}"), || Asker::of(IpAddr::from([10, slot, 0, 1])))
}

fn ask(lab: &Lab, slot: u8, name: &str, kind: RecordType) {
    let answered = asker(lab, slot).ask(name, kind);
    assert!(answered.is_some(), "nobody answers slot{slot} for {name}");
}

/// What the daemon remembers.
fn remembered(lab: &Lab, query: &str) -> Vec<Value> {
    let stream = Stream::get(lab, &format!("/v1/dns?{query}"));
    assert_eq!(stream.status, 200, "{query}");
    stream.collect()
}

#[test]
fn a_query_is_told_with_what_decided_and_where_that_stands() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::with(CONFIG, "veth");
    let first_name = at("    \"lab.example\"");
    let table = [
        // slot, name, type; decision, why, rule, category, code; line
        (
            (1, "github.com", A),
            ("allow", None, Some("github.com"), Some("code-hosting"), "NOERROR"),
            shipped("github.com"),
        ),
        (
            (1, "github.com", MX), // NODATA
            ("allow", None, Some("github.com"), Some("code-hosting"), "NOERROR"),
            shipped("github.com"),
        ),
        (
            (1, "deb.debian.org", AAAA),
            ("allow", None, Some("deb.debian.org"), Some("dns.names"), "NOERROR"),
            at("\"deb.debian.org\""),
        ),
        ((1, "evil.example", A), ("deny", None, None, None, "NXDOMAIN"), first_name.clone()),
        ((1, "example", A), ("deny", None, None, None, "NOERROR"), first_name),
        (
            (1, "github.com", HTTPS),
            ("deny", Some("type"), Some("github.com"), Some("code-hosting"), "NOERROR"),
            "netguard.toml (default of types)".to_owned(),
        ),
        (
            (1, "localhost", A),
            ("local", Some("localhost"), None, None, "NOERROR"),
            "built in".to_owned(),
        ),
        (
            (1, "printer", A),
            ("local", Some("single-label"), None, None, "NXDOMAIN"),
            "built in".to_owned(),
        ),
        (
            (2, "www.lab.example", A),
            ("allow", None, Some("www.lab.example"), Some("slot.dns.names"), "NOERROR"),
            at("    \"www.lab.example\""),
        ),
        (
            (2, "x.bad.www.lab.example", A),
            (
                "deny",
                Some("exception"),
                Some("!bad.www.lab.example"),
                Some("slot.dns.names"),
                "NXDOMAIN",
            ),
            at("!bad.www"),
        ),
        (
            (2, "more.www.lab.example", A),
            ("refuse", Some("names-per-minute"), None, None, "REFUSED"),
            at("limits.names_per_minute = 1"),
        ),
    ];
    for ((slot, name, kind), (decision, why, rule, category, rcode), line) in table {
        ask(&lab, slot, name, kind);
        let kind = kind.to_string();
        let is_it = |it: &Value| it["name"] == name && it["type"] == kind.as_str();
        // What the programs deny is told some milliseconds later.
        let mut told = Vec::new();
        until(&format!("{name} is remembered"), || {
            told = remembered(&lab, &format!("slot=slot{slot}&last=1"));
            told.iter().any(is_it)
        });
        let told = &told[0];
        let runtime = if slot == 2 { "some pods" } else { "vm" };
        let expected = json!({
            "event": "dns", "version": 1, "slot": format!("slot{slot}"), "runtime": runtime,
            "decision": decision, "why": why, "rule": rule, "category": category, "rcode": rcode, "line": line,
        });
        for (key, value) in expected.as_object().expect("an object") {
            assert_eq!(&told[key], value, "{key} of {told}");
        }
        let has_addresses = decision == "allow" && kind != "MX" || name == "localhost";
        assert_eq!(
            told["addresses"][0].is_string(),
            has_addresses && name != "localhost",
            "{told}"
        );
        assert_eq!(told["upstream"].is_string(), decision == "allow", "{told}");
        // The very line of the journal, which does not look for places.
        let mut logged = told.clone();
        logged.as_object_mut().expect("an object").remove("line");
        assert_eq!(lab.event(&format!("query for {name}"), is_it), logged);
    }

    // What is ordered at run time, and what the resolver would say of the name, are the same.
    let judged = |name: &str| {
        let (status, body) = request(&lab, "GET", &format!("/v1/slots/slot1/names/{name}"), "");
        assert_eq!(status, 200, "{body}");
        (body["category"].clone(), body["line"].clone())
    };
    assert_eq!(judged("x.github.com"), ("code-hosting".into(), shipped("github.com").into()));
    let ordered: Value = "ordered at run time".into();
    let orders: Value = "orders at run time".into();
    let _ = lab.run(&["allow", "slot1", "evil.example"]).success();
    let _ = lab.run(&["deny", "slot1", "deb.debian.org"]).success();
    for (name, decision, category) in
        [("evil.example", "allow", orders), ("deb.debian.org", "deny", "dns.names".into())]
    {
        ask(&lab, 1, name, A);
        let told = remembered(&lab, &format!("name={name}&last=1"));
        assert_eq!((&told[0]["decision"], &told[0]["category"]), (&decision.into(), &category));
        assert_eq!(told[0]["line"], ordered, "{name}");
        assert_eq!(judged(name), (category, ordered.clone()));
    }
}

#[test]
fn who_asks_gets_what_fits_and_who_follows_what_comes() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::with(CONFIG, "veth");
    for (slot, name, kind) in [
        (1, "github.com", A),
        (1, "api.github.com", AAAA),
        (1, "evilgithub.com", A),
        (1, "localhost", A),
        (2, "www.lab.example", A),
        (2, "evil.example", A),
    ] {
        ask(&lab, slot, name, kind);
    }
    until("all of them are remembered", || remembered(&lab, "").len() == 6);
    for (query, expected) in [
        ("", 6),
        ("last=2", 2),
        ("slot=slot1", 4),
        ("runtime=some%20pods", 2),
        ("name=github.com", 2),
        ("type=AAAA", 1),
        ("rcode=NXDOMAIN", 2),
        ("side=allowed", 3),
        ("side=denied", 2),
        ("side=denied&slot=slot2&name=example", 1),
        ("since=1h", 6),
        ("since=0s", 0),
    ] {
        assert_eq!(remembered(&lab, query).len(), expected, "{query}");
    }
    let printed =
        |arguments: &[&str]| lab.run(&[&["dns"], arguments].concat()).success().to_owned();
    let line = printed(&["--denied", "--slot", "slot1"]);
    assert!(
        line.contains(" dns   slot1    deny                A evilgithub.com -> NXDOMAIN (udp, "),
        "{line}"
    );
    assert!(line.ends_with(&format!(" ms) by {}\n", at("    \"lab.example\""))), "{line}");
    let compact = printed(&["--name", "github.com", "--type", "a", "-o", "compact"]);
    let (_, compact) = compact.split_once(' ').expect("a time");
    assert_eq!(
        compact,
        format!("slot1 allow A github.com NOERROR 203.0.113.10 {}\n", shipped("github.com"))
    );
    let object: Value =
        printed(&["--allowed", "--runtime", "some pods", "--rcode", "noerror", "-o", "json"])
            .parse()
            .expect("JSON");
    assert_eq!(object["name"], "www.lab.example");
    assert_eq!(printed(&["--last", "3", "--since", "10m"]).lines().count(), 3);
    for (query, expected, words) in [
        ("slot=slot9", 404, "there are slot1, slot2"),
        ("runtime=pods", 404, "there are vm, some pods"),
        ("name=*.example", 400, "\"*.example\" is no domain name"),
        ("type=QUAD", 400, "\"QUAD\" is no type of a record"),
        ("rcode=FINE", 400, "\"FINE\" is no code of a reply"),
        ("side=left", 400, "side=left is no condition"),
        ("format=pcapng", 400, "format=json, text or compact"),
        ("since=soon", 400, "since=soon is no time like 10m"),
    ] {
        let (status, body) = request(&lab, "GET", &format!("/v1/dns?{query}"), "");
        assert_eq!(status, expected, "{query}: {body}");
        assert!(body["error"].as_str().is_some_and(|error| error.contains(words)), "{body}");
    }

    let mut follower = Stream::get(&lab, "/v1/dns?follow=true&last=0&side=denied");
    assert_eq!(follower.status, 200);
    let arguments = ["dns", "-f", "--last", "1", "--slot", "slot2", "--instance"];
    let mut command = netguard(&[&arguments[..], &[&lab.instance()]].concat());
    let mut printed = Background::from(command.stdout(Stdio::piped()).spawn().expect("it starts"));
    let mut printed = BufReader::new(printed.child().stdout.take().expect("its output")).lines();
    let mut line = || printed.next().expect("a line").expect("text");
    assert!(line().contains(" evil.example -> "), "what was there before");
    ask(&lab, 1, "gitlab.com", A);
    ask(&lab, 1, "exfil.evil.example", A);
    ask(&lab, 2, "www.lab.example", A);
    assert_eq!(follower.next().expect("a query")["name"], "exfil.evil.example");
    assert!(line().contains(" www.lab.example -> NOERROR 203.0.113.15 (udp cached, "));
}

#[test]
fn one_slots_flood_hides_no_others_query_and_is_told_to_the_last() {
    if !can_use_kernel() {
        return;
    }
    /// More than all threads may tell in the time that it takes.
    const FLOOD: u64 = 20_000;
    let lab = Lab::with(CONFIG, "veth");
    let mut follower = Stream::get(&lab, "/v1/dns?follow=true&last=0&slot=slot3");
    ask(&lab, 1, "evil.example", A);
    let mut denied = asker(&lab, 3);
    lab.within("slot3", || {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        socket.connect("10.3.0.1:53").expect("a way");
        let query = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x09localhost\0\0\x01\0\x01";
        for _ in 0..FLOOD {
            // What its own system does not take is not sent.
            let _ = socket.send(query);
        }
    });
    assert!(denied.ask("evil.example", A).is_some());
    ask(&lab, 1, "github.com", A);
    // Nothing of the other slot is missing, and nothing of the flooding one's other decisions.
    assert_eq!(remembered(&lab, "slot=slot1").len(), 2);
    let (mut told, mut suppressed, mut is_denied_told) = (0, 0, false);
    let logged = || {
        let of_flood = |event: &&Value| event["slot"] == "slot3" && event["event"] == "dns";
        lab.events().iter().filter(of_flood).count() as u64
    };
    // The latest of it comes when its second is over; the log has every one.
    while suppressed == 0 || told + suppressed < logged() {
        let line = follower.next().expect("a line");
        assert_eq!((&line["slot"], &line["lost"]), (&"slot3".into(), &Value::Null), "{line}");
        is_denied_told |= line["decision"] == "deny";
        match line["suppressed"].as_u64() {
            Some(count) => {
                assert_eq!(
                    (&line["event"], &line["decision"]),
                    (&"dns-suppressed".into(), &"local".into())
                );
                suppressed += count;
            }
            None => told += 1,
        }
    }
    until("the log has all of it", || told + suppressed == logged());
    assert!(is_denied_told, "what was denied is told beside what was not");
    let share = remembered(&lab, "slot=slot3").len();
    assert!(share <= 256, "{share}");
    assert_eq!(remembered(&lab, "slot=slot1").len(), 2);
}

/// Those that wait for upstreams are told by nobody's thread: their count is not left lying when no more come.
#[test]
fn what_upstreams_answered_is_told_to_the_last() {
    if !can_use_kernel() {
        return;
    }
    const AT_ONCE: u32 = 200;
    const BURSTS: u32 = 3;
    let lab = Lab::with(CONFIG, "veth");
    let mut follower = Stream::get(&lab, "/v1/dns?follow=true&last=0&slot=slot3&side=allowed");
    lab.within("slot3", || {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        socket.connect("10.3.0.1:53").expect("a way");
        socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        for burst in 0..BURSTS {
            for number in 0..AT_ONCE {
                let mut query = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x08".to_vec();
                query.extend(format!("n{:07}", burst * AT_ONCE + number).bytes());
                query.extend(b"\x03lab\x07example\0\0\x01\0\x01");
                socket.send(&query).expect("it is sent");
            }
            for _ in 0..AT_ONCE {
                let _ = socket.recv(&mut [0; 512]).expect("a reply");
            }
        }
    });
    let is_it = |event: &&Value| event["slot"] == "slot3" && event["decision"] == "allow";
    let logged = || lab.events().iter().filter(is_it).count() as u64;
    until("the log has all of it", || logged() == u64::from(BURSTS * AT_ONCE));
    let mut told = 0;
    while told < logged() {
        told += follower.next().expect("a line")["suppressed"].as_u64().unwrap_or(1);
    }
    assert_eq!(told, logged());
}
