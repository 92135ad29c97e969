//! Queries that the programs deny: their answers are the resolver's, byte for byte, whatever is asked, and so is all that is told of them.

#[path = "kernel_denials/asked.rs"]
mod asked;
#[path = "kernel_denials/sets.rs"]
mod sets;

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use netguard::datapath::{self, PinnedProgram};
use netguard_common::Hook;
use netguard_tests::{
    answer::read,
    can_use_kernel,
    daemon::is_note,
    kernel::{Kernel, Outcome},
    lab::{Lab, on_both_port_kinds_with},
    packet::ip,
    until,
};
use rand::{SeedableRng as _, rngs::SmallRng};
use serde_json::Value;

use asked::{Asked, LISTED, TOP, is_denied_here, random, wire};

const CONFIG: &str = r#"
[host]
uplinks = ["eth0"]
[datapath]
dns_denials = true
[dns]
upstreams = ["1.1.1.1"]
categories = []
names = NAMES
[[slot]]
name = "slot1"
id = 1
subnet = "10.1.0.0/24"
subnet6 = "fd00:10:1::/64"
egress = "open"
dns.names = OWN
limits.queries_per_second = 0
limits.names_per_minute = 0
[[slot]]
name = "slot2"
id = 2
subnet = "10.2.0.0/24"
limits.queries_per_second = 10
[[slot]]
name = "slot3"
id = 3
subnet = "10.3.0.0/24"
mode = "audit"
"#;

const SERVERS: [&str; 2] = ["10.1.0.1", "fd00:10:1::1"];

fn config() -> String {
    CONFIG.replace("OWN", &format!("{LISTED:?}")).replace("NAMES", "[\"lab.example\"]")
}

/// What a guest is answered, if it is.
fn ask(lab: &Lab, slot: &str, server: &str, all: &[Asked]) -> Vec<Option<Vec<u8>>> {
    let server: SocketAddr = (server.parse::<IpAddr>().expect("an address"), 53).into();
    lab.within(slot, || {
        let any: SocketAddr =
            if server.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
        let socket = UdpSocket::bind(any).expect("a socket");
        socket.connect(server).expect("a way to the resolver");
        socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        let mut buffer = [0; 4096];
        let one = |asked: &Asked| {
            socket.send(&asked.message()).expect("a query");
            let length = socket.recv(&mut buffer).ok()?;
            Some(buffer[..length].to_vec())
        };
        all.iter().map(one).collect()
    })
}

/// What the journal has of a slot's queries from some line on, but for times.
fn told(lab: &Lab, slot: &str, from: usize) -> Vec<String> {
    let queries = lab.events().into_iter().filter(|it| it["event"] == "dns" && it["slot"] == slot);
    let mut told: Vec<_> = queries
        .skip(from)
        .map(|mut query| {
            let keys = query.as_object_mut().expect("an object");
            for of_the_moment in ["time", "latency_ms", "cached", "upstream", "addresses"] {
                assert!(keys.remove(of_the_moment).is_some(), "{of_the_moment}");
            }
            Value::from(keys.clone()).to_string()
        })
        .collect();
    told.sort();
    told
}

#[test]
fn what_the_programs_say_is_what_the_resolver_says() {
    const QUERIES: usize = 400;
    let seed = seed();
    on_both_port_kinds_with(&config(), |lab| {
        let mut random_numbers = SmallRng::seed_from_u64(seed);
        let all: Vec<_> = (0..QUERIES).map(|_| random(&mut random_numbers)).collect();
        let here = all.iter().filter(|it| is_denied_here(it, &LISTED)).count();
        assert!((QUERIES / 4..QUERIES * 3 / 4).contains(&here), "{here} of them are denied");
        let mut rounds = Vec::new();
        for is_on in [true, false] {
            if !is_on {
                lab.reconfigure(&config().replace("dns_denials = true", "dns_denials = false"));
                let _ = lab.run(&["reload"]).success();
            }
            let counted = |what: &str| lab.packets("slot1", "egress", what);
            let before = (counted("answer"), counted("redirect"), told(lab, "slot1", 0).len());
            let replies = SERVERS.map(|server| ask(lab, "slot1", server, &all));
            until("all of it is told", || {
                told(lab, "slot1", before.2).len() >= QUERIES * SERVERS.len()
            });
            let answered = (counted("answer") - before.0) as usize;
            let redirected = (counted("redirect") - before.1) as usize;
            assert_eq!(answered, if is_on { here * SERVERS.len() } else { 0 });
            assert_eq!(answered + redirected, QUERIES * SERVERS.len());
            rounds.push((replies, told(lab, "slot1", before.2)));
        }
        let [(by_programs, told_on), (by_resolver, told_off)] = &rounds[..] else {
            panic!("two rounds");
        };
        assert_eq!(told_on.len(), told_off.len());
        for (on, off) in told_on.iter().zip(told_off) {
            assert_eq!(on, off);
        }
        for (on, off) in by_programs.iter().zip(by_resolver) {
            for ((on, off), asked) in on.iter().zip(off).zip(&all) {
                assert!(on.is_some(), "{asked:?} is not answered");
                if is_denied_here(asked, &LISTED) {
                    assert_eq!(on, off, "{asked:?}");
                }
                let code = |reply: &Option<Vec<u8>>| reply.as_ref().map(|it| it[3] & 15);
                assert_eq!(code(on), code(off), "{asked:?}");
            }
        }
    });
}

/// The fixture's slots, and names around those that the first may ask for.
const SLOT: &str = r#"
[dns]
upstreams = ["1.1.1.1"]
categories = []
names = ["listed.example"]
[[slot]]
name = "slot1"
id = 1
bridge = "br-slot1"
port = "lo"
subnet = "10.1.0.0/24"
subnet6 = "fd00:10:1::/64"
"#;

#[test]
fn an_answer_is_right_from_the_first_byte_to_the_last_checksum() {
    if !can_use_kernel() {
        return;
    }
    let mut kernel = Kernel::on_tap(SLOT);
    let mut lengths = BTreeSet::new();
    for (from, to) in [("10.1.0.2", "8.8.8.8"), ("fd00:10:1::2", "2001:4860:4860::8888")] {
        for length in 1..=60 {
            for edns in [None, Some(asked::Edns::PLAIN), Some(asked::Edns::DNSSEC)] {
                let name = format!("{}.denied.example", "x".repeat(length));
                let asked = Asked { name: wire(&name), edns, ..Asked::default() };
                let frame = ip(from, to).udp(40000, 53, &asked.message());
                let (outcome, early) = kernel.probe(Hook::Xdp, &frame, 0);
                assert_eq!(outcome, Outcome::Answer);
                let (outcome, late) = kernel.probe(Hook::PortEgress, &frame, 0);
                assert_eq!(outcome, Outcome::Answer);
                assert_eq!(early.frame, late.frame, "{asked:?}");
                let answer = read(&early.frame);
                assert_eq!(
                    (answer.src.to_string(), answer.dst.to_string()),
                    (to.to_owned(), from.to_owned())
                );
                assert_eq!(answer.payload[..4], [0, 53, 0x9c, 0x40], "the ports");
                assert_eq!(answer.payload[8 + 3], 0x83, "NXDOMAIN");
                lengths.insert(early.frame.len());
            }
        }
    }
    assert!(lengths.len() > 100, "every length that a question may have, odd and even");
}

#[test]
fn what_is_not_plainly_a_query_is_the_resolvers_business() {
    if !can_use_kernel() {
        return;
    }
    let mut kernel = Kernel::on_tap(SLOT);
    let good = Asked {
        name: wire("a.denied.example"),
        edns: Some(asked::Edns::PLAIN),
        ..Asked::default()
    };
    let put = |kernel: &mut Kernel, message: &[u8]| {
        let frame = ip("10.1.0.2", "8.8.8.8").udp(40000, 53, message);
        let early = kernel.probe(Hook::Xdp, &frame, 0).0;
        (early, kernel.probe(Hook::PortEgress, &frame, 0).0)
    };
    let (denied, left) =
        ((Outcome::Answer, Outcome::Answer), (Outcome::Continue, Outcome::Redirect));
    let message = good.message();
    assert_eq!(put(&mut kernel, &message), denied);
    for length in 0..message.len() {
        assert_eq!(put(&mut kernel, &message[..length]), left, "{length} bytes of it");
    }
    assert_eq!(put(&mut kernel, &[&message[..], &[0]].concat()), left, "a byte more");
    let name_ends = 12 + wire("a.denied.example").len();
    for (at, value, what) in [
        (2, 0x81, "a response"),
        (2, 0x09, "another operation"),
        (2, 0x05, "authoritative"),
        (2, 0x03, "truncated"),
        (3, 0x80, "recursion available"),
        (3, 0x40, "a bit that nobody has named"),
        (3, 0x01, "a code"),
        (5, 2, "two questions"),
        (7, 1, "an answer"),
        (9, 1, "an authority"),
        (11, 0, "no record where one is"),
        (11, 2, "two of them"),
        (12, 0xc0, "a pointer"),
        (12, 0x41, "a label of another kind"),
        (13, b'.', "an odd byte"),
        (13, 0xe9, "one above ASCII"),
        (name_ends + 1, 41, "the type OPT"),
        (name_ends + 1, 252, "a transfer"),
        (name_ends + 3, 3, "another class"),
        (name_ends + 4, 1, "an OPT with a name"),
        (name_ends + 6, 1, "no OPT"),
        (name_ends + 10, 1, "another version"),
        (name_ends + 14, 1, "an option that is not there"),
    ] {
        let mut broken = message.clone();
        broken[at] = value;
        assert_eq!(put(&mut kernel, &broken), left, "{what}");
    }
    for (name, expected) in [
        ("a.denied.example", denied),
        ("example", left),
        ("", left),
        ("listed.example", left),
        ("WWW.Listed.Example", left),
        ("notlisted.example", denied),
        ("a.localhost", left),
        ("1.0.0.10.in-addr.arpa", left),
        (&format!("{0}.{0}.denied.example", "y".repeat(55)), denied),
        (&format!("{0}.{0}.denied.example", "y".repeat(56)), left),
    ] {
        let asked = Asked { name: wire(name), ..Asked::default() };
        assert_eq!(put(&mut kernel, &asked.message()), expected, "{name:?}");
    }
    // To a group nobody answers; over TCP the resolver does.
    let frame = ip("10.1.0.2", "8.8.8.8").to_mac([0xff; 6]).udp(40000, 53, &message);
    assert_eq!(kernel.probe(Hook::PortEgress, &frame, 0).0, Outcome::Redirect);
    // An order takes the slot's network; an audited one is answered what no list has; and a key turns all of it off.
    let text = SLOT.to_owned();
    for (toml, expected) in [
        (text.replace("id = 1", "id = 1\nmode = \"audit\""), left),
        (format!("{text}\n[datapath]\ndns_denials = false"), left),
        (text.replace("\"listed.example\"", "\"denied.example\""), left),
        (text.replace("\"listed.example\"", ""), denied),
    ] {
        kernel.apply(&toml);
        assert_eq!(put(&mut kernel, &message), expected, "{toml}");
    }
}

#[test]
fn the_programs_deny_what_no_list_has_and_nothing_else() {
    const QUERIES: usize = 10_000;
    if !can_use_kernel() {
        return;
    }
    let mut random_numbers = SmallRng::seed_from_u64(seed());
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("list");
    std::fs::write(&file, TOP.join("\n")).expect("the list");
    let slot = SLOT.replace("id = 1", "id = 1\nlimits.queries_per_second = 0");
    let with = |names: &[&str], lists: &str| {
        slot.replace("[\"listed.example\"]", &format!("{names:?}\nlists = [{lists}]"))
    };
    let all = [&LISTED[..], &TOP].concat();
    for (text, listed) in [
        (with(&LISTED, ""), &LISTED[..]),
        (with(&all, ""), &all),
        (with(&LISTED, &format!("{file:?}")), &all),
    ] {
        let mut kernel = Kernel::on_tap(&text);
        let mut denied = 0;
        for _ in 0..QUERIES {
            let asked = random(&mut random_numbers);
            let frame = ip("10.1.0.2", "8.8.8.8").udp(40000, 53, &asked.message());
            let is_denied = kernel.probe(Hook::Xdp, &frame, 0).0 == Outcome::Answer;
            assert_eq!(is_denied, is_denied_here(&asked, listed), "{asked:?} of {listed:?}");
            denied += usize::from(is_denied);
        }
        assert!((QUERIES / 4..QUERIES * 3 / 4).contains(&denied), "{denied} of them are denied");
    }
}

fn seed() -> u64 {
    let given = std::env::var("NETGUARD_SEED").ok();
    let seed = given.map_or_else(rand::random, |it| it.parse().expect("a seed"));
    eprintln!("NETGUARD_SEED={seed}");
    seed
}

#[test]
fn a_question_about_a_query_is_answered_and_leaves_nothing() {
    if !can_use_kernel() {
        return;
    }
    let mut kernel =
        Kernel::on_tap(&SLOT.replace("id = 1", "id = 1\nlimits.queries_per_second = 1"));
    let asked = Asked { name: wire("a.denied.example"), ..Asked::default() };
    let frame = ip("10.1.0.2", "8.8.8.8").udp(40000, 53, &asked.message());
    let program = PinnedProgram::open(kernel.pins(), Hook::PortEgress).expect("it is pinned");
    for _ in 0..5 {
        let told = program.ask(&frame, 1, 0).expect("an answer");
        assert_eq!(told, datapath::Asked::Answer);
    }
    // None of these was taken off what the slot may ask, nor counted.
    assert_eq!(kernel.probe(Hook::PortEgress, &frame, 0).0, Outcome::Answer);
    assert_eq!(kernel.probe(Hook::PortEgress, &frame, 0).0, Outcome::Redirect, "over the limit");
}

fn resolves(lab: &Lab, name: &str) -> bool {
    let asked = Asked { name: wire(name), ..Asked::default() };
    let replies = ask(lab, "slot1", SERVERS[0], &[asked]);
    let reply = replies[0].as_ref().expect("a reply");
    (reply[3] & 15, reply[7]) == (0, 1)
}

#[test]
fn a_name_that_is_allowed_at_run_time_is_answered_at_once_and_denied_as_soon() {
    on_both_port_kinds_with(&config(), |lab| {
        let name = "www.lab.test";
        for _ in 0..3 {
            assert!(!resolves(lab, name));
            let _ = lab.run(&["allow", "slot1", "lab.test"]).success();
            assert!(answered_upstream(lab, name));
            let _ = lab.run(&["forget", "slot1", "lab.test"]).success();
        }
        assert!(!resolves(lab, name));
    });
}

/// True if it is no denial of netguard's own.
fn answered_upstream(lab: &Lab, name: &str) -> bool {
    let asked = Asked { name: wire(name), edns: Some(asked::Edns::PLAIN), ..Asked::default() };
    let replies = ask(lab, "slot1", SERVERS[0], &[asked]);
    let reply = replies[0].as_ref().expect("a reply");
    !reply.windows(8).any(|it| it == b"netguard")
}

#[test]
fn queries_that_the_programs_deny_and_those_that_the_resolver_answers_have_one_limit() {
    on_both_port_kinds_with(&config(), |lab| {
        let replies = lab.within("slot2", || {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
            socket.connect("10.2.0.1:53").expect("a way to the resolver");
            for index in 0..100 {
                let name = if index % 2 == 0 { "a.denied.test" } else { "localhost" };
                let asked = Asked { name: wire(name), ..Asked::default() };
                socket.send(&asked.message()).expect("a query");
            }
            socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
            let mut buffer = [0; 512];
            std::iter::from_fn(|| socket.recv(&mut buffer).ok()).count()
        });
        // Ten at once, and some more in the time that this takes.
        assert!((10..20).contains(&replies), "{replies} replies");
        let counted = |what: &str| lab.packets("slot2", "egress", what);
        assert!(counted("answer") >= 5, "the programs deny some");
        assert_eq!(counted("answer") + counted("redirect"), 100);
        let _ = lab.event("slot over its limit", |event| {
            is_note(event, "slot2 asks more than 10 times a second")
        });
    });
}

#[test]
fn a_flood_of_denied_queries_is_told_to_the_last() {
    const QUERIES: u64 = 30_000;
    on_both_port_kinds_with(&config(), |lab| {
        // What its own queue has no room for is never sent; what the resolver answers last came behind all the rest.
        lab.within("slot1", || {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
            socket.connect("10.1.0.1:53").expect("a way to the resolver");
            let asked = Asked { name: wire("a.denied.test"), ..Asked::default() };
            let message = asked.message();
            for _ in 0..QUERIES {
                socket.send(&message).expect("a query");
            }
        });
        let last = Asked { name: wire("localhost"), ..Asked::default() };
        until("the last one is answered", || {
            ask(lab, "slot1", SERVERS[0], std::slice::from_ref(&last))[0].is_some()
        });
        let counted = |what: &str| lab.packets("slot1", "egress", what);
        let (answered, redirected) = (counted("answer"), counted("redirect"));
        assert!(answered > QUERIES / 4, "{answered} of {QUERIES}");
        until("what the programs have answered is told", || {
            told(lab, "slot1", 0).len() as u64 >= answered
        });
        assert!(told(lab, "slot1", 0).len() as u64 <= answered + redirected);
        assert!(!lab.events().iter().any(|event| is_note(event, "log lines were lost")));
    });
}
