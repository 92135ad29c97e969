//! How much a slot may ask, over UDP and on connections; and that what one slot does is no other's trouble.

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use netguard_tests::{
    binary::netguard,
    can_use_kernel,
    lab::{Background, Lab, on_both_port_kinds},
    until,
};
use serde_json::{Value, json};

use crate::{
    decode,
    question::{A, ask, hex},
};

const CONFIG: &str = r#"
[host]
uplinks = ["eth0"]
[dns]
upstreams = ["1.1.1.1", "8.8.8.8"]
categories = ["code-hosting"]
names = ["lab.example"]
[[slot]]
name = "slot1"
id = 1
subnet = "10.1.0.0/24"
[slot.limits]
queries_per_second = 10
[[slot]]
name = "slot2"
id = 2
subnet = "10.2.0.0/24"
[slot.limits]
names_per_minute = 3
[[slot]]
name = "slot3"
id = 3
subnet = "10.3.0.0/24"
[[slot]]
name = "slot4"
id = 4
subnet = "10.4.0.0/24"
[slot.limits]
queries_per_second = 0
"#;

/// What the scripts share: `localhost(id)` and `late(id)` are queries, on a connection with their length before them.
const PRELUDE: &str = r#"
import select, socket, struct, sys, time
def name(text): return b"".join(bytes([len(it)]) + it.encode() for it in text.split(".")) + b"\0"
def query(id, text): return struct.pack("!6H", id, 256, 1, 0, 0, 0) + name(text) + b"\0\1\0\1"
def localhost(id): return query(id, "localhost")
def late(id): return query(id, f"n{id}.late.lab.example")
def framed(message): return struct.pack("!H", len(message)) + message
def connect(): return socket.create_connection((sys.argv[1], 53), timeout=30)
def receive(stream, length):
    received = b""
    while len(received) < length:
        more = stream.recv(length - len(received))
        if not more: raise EOFError
        received += more
    return received
def reply(stream): return receive(stream, struct.unpack("!H", receive(stream, 2))[0])
def reply_id(stream): return struct.unpack("!H", reply(stream)[:2])[0]
def ask(stream, id):
    stream.sendall(framed(localhost(id)))
    assert reply_id(stream) == id
"#;

fn script(lab: &Lab, slot: u8, body: &str) -> String {
    let server = format!("10.{slot}.0.1");
    let script = format!("{PRELUDE}{body}");
    lab.python(&format!("slot{slot}"), &script, &[&server]).success().to_owned()
}

fn notes(lab: &Lab, words: &str) -> Vec<String> {
    let texts =
        lab.events().into_iter().filter_map(|event| event["message"].as_str().map(str::to_owned));
    texts.filter(|text| text.contains(words)).collect()
}

#[test]
fn what_is_over_queries_per_second_gets_no_reply_and_every_one_is_reported() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::with(CONFIG, "veth");
    // The last is sent until it is answered: behind its reply there is none of an earlier one.
    let printed = script(
        &lab,
        1,
        r#"
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect((sys.argv[1], 53))
for id in range(500): s.send(localhost(id))
sent, answered, last = 500, 0, False
while not last:
    s.send(localhost(999))
    sent += 1
    while select.select([s], [], [], 0.2)[0]:
        answered += 1
        last |= s.recv(512)[:2] == b"\x03\xe7"
print(sent, answered)
"#,
    );
    let numbers: Vec<u64> = printed.split_whitespace().map(|it| it.parse().unwrap()).collect();
    let [sent, answered] = numbers[..] else { panic!("{printed}") };
    assert!((10..300).contains(&answered), "{answered} of {sent}, with ten a second");
    until("every dropped query is reported", || {
        let notes = notes(&lab, "slot slot1 asks more than 10 times a second: ");
        let dropped = notes
            .iter()
            .filter_map(|note| note.split(": ").nth(1)?.split(' ').next()?.parse::<u64>().ok());
        dropped.sum::<u64>() == sent - answered
    });
    let logged = lab.events().iter().filter(|event| event["name"] == "localhost").count();
    assert_eq!(logged as u64, answered, "what is dropped is no line of its own");
    // Nobody else's queries count.
    let other = script(&lab, 3, "c = connect()\nfor id in range(20): ask(c, id)\nprint('all')");
    assert_eq!(other, "all\n");
}

#[test]
fn too_many_names_of_a_domain_are_refused_for_the_rest_of_the_minute_and_told_once() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::with(CONFIG, "veth");
    let rcodes = |names: &[&str]| -> Vec<String> {
        let queries: Vec<Value> = names
            .iter()
            .map(|name| {
                let bytes = hex(&ask(name, A).opt().bytes());
                json!({"server": "10.2.0.1", "tcp": false, "bytes": bytes, "behind": ""})
            })
            .collect();
        let replies = decode(&lab, "slot2", &json!(queries));
        replies.iter().map(|reply| reply["rcode"].as_str().unwrap_or_default().to_owned()).collect()
    };
    let names = ["a.any.lab.example", "b.any.lab.example", "c.any.lab.example"];
    assert_eq!(rcodes(&names), ["NOERROR"; 3]);
    assert_eq!(rcodes(&["d.any.lab.example", "e.any.lab.example"]), ["REFUSED"; 2]);
    assert_eq!(rcodes(&names), ["NOERROR"; 3], "what is known is not cut off");
    assert_eq!(rcodes(&["github.com"]), ["NOERROR"], "nor another domain");
    let note = "slot slot2 is over names-per-minute below lab.example";
    until("it is told", || !notes(&lab, note).is_empty());
    assert_eq!(notes(&lab, note).len(), 1);
    let asked = lab.internet();
    let was_asked = |name: &str| asked.iter().any(|entry| entry["name"] == name);
    assert!(was_asked("c.any.lab.example") && !was_asked("d.any.lab.example"));
}

#[test]
fn a_ninth_connection_waits_until_one_of_eight_is_closed() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::with(CONFIG, "veth");
    let printed = script(
        &lab,
        3,
        r#"
eight = [connect() for _ in range(8)]
for c in eight: ask(c, 1)
ninth = connect()
ninth.sendall(framed(localhost(9)))
for id in range(3):
    for c in eight: ask(c, id)
print("early" if select.select([ninth], [], [], 0)[0] else "waits")
eight[0].close()
print(reply_id(ninth))
for c in eight[1:]: ask(c, 2)
"#,
    );
    assert_eq!(printed, "waits\n9\n");
}

#[test]
fn a_connection_that_stalls_is_closed_and_hinders_no_other() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::with(CONFIG, "veth");
    let printed = script(
        &lab,
        3,
        r#"
def closed(stream):
    try: return stream.recv(1) == b""
    except ConnectionError: return True
# Nothing, one byte, a length, half a query; and one query, then a byte of the next.
starts = [b"", b"\0", b"\0\x1b", framed(localhost(1))[:20]]
stalled = [connect() for _ in range(5)]
for c, start in zip(stalled, starts): c.sendall(start)
ask(stalled[4], 1)
stalled[4].sendall(b"\0")
for _ in range(2):
    good = connect()
    for id in range(20): ask(good, id)
print(sum(closed(c) for c in stalled))
# Their places are free again.
eight = [connect() for _ in range(8)]
for c in eight: ask(c, 1)
print("eight")
"#,
    );
    assert_eq!(printed, "5\neight\n");
}

#[test]
fn a_connection_has_32_queries_in_flight_and_a_quick_reply_overtakes_late_ones() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::with(CONFIG, "veth");
    let printed = script(
        &lab,
        3,
        r#"
def first_of(late_ones, quick):
    stream = connect()
    stream.sendall(b"".join(framed(late(id)) for id in late_ones) + framed(localhost(quick)))
    ids = [reply_id(stream) for _ in range(len(late_ones) + 1)]
    assert sorted(ids) == sorted([*late_ones, quick]), ids
    return "quick" if ids[0] == quick else "late"
print(first_of(range(100, 131), 1), first_of(range(200, 232), 1))
"#,
    );
    // With 31 late ones the quick one is the 32nd; with 32 it is not read before one is answered.
    assert_eq!(printed, "quick late\n");
}

#[test]
fn a_slot_that_floods_the_resolver_keeps_no_other_waiting() {
    on_both_port_kinds(|lab| {
        // Bounded: 20 million at most, ended with the test long before.
        let flood = format!(
            "{PRELUDE}
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect((sys.argv[1], 53))
for id in range(20_000_000):
    try: s.send(localhost(id & 0xffff))
    except OSError: pass
"
        );
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), flood).expect("the script");
        let path = file.path().display();
        let mut floods: Vec<_> = (1..=2)
            .map(|slot| {
                lab.start(&format!("slot{slot}"), &format!("exec python3 {path} 10.{slot}.0.1"))
            })
            .collect();
        for slot in 1..=2 {
            let words = format!("slot slot{slot} asks more than 1000 times a second");
            until("the flood is on", || !notes(lab, &words).is_empty());
        }
        let queries: Vec<_> = (0..20)
            .map(|number| {
                let bytes = ask("github.com", A).edit(|it| it.id = number).bytes();
                json!({"server": "10.3.0.1", "tcp": number % 2 == 0, "bytes": hex(&bytes), "behind": ""})
            })
            .collect();
        for reply in decode(lab, "slot3", &json!(queries)) {
            assert_eq!(reply["rcode"], "NOERROR", "{reply}");
        }
        for flood in &mut floods {
            assert!(flood.child().try_wait().expect("the flood").is_none(), "it outlasted them");
        }
    });
}

/// Replies that go out together arrive apart, each with its own id, question and checksum.
#[test]
fn many_queries_at_once_from_one_socket_get_each_its_own_reply() {
    if !can_use_kernel() {
        return;
    }
    // The resolver's, not the programs'.
    let config = format!("[datapath]\ndns_denials = false\n{CONFIG}");
    for ports in ["veth", "tap"] {
        let lab = Lab::with(&config, ports);
        let printed = script(
            &lab,
            4,
            r#"
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(30)
s.connect(("8.8.8.8", 53))
def denied(id):
    label = b"a" * (1 + id * 7 % 40 // 10 * 10)
    return struct.pack(">HHHHHH", id, 0x100, 1, 0, 0, 0) + bytes([len(label)]) + label + b"\4evil\4test\0\0\1\0\1"
for round in range(40):
    queries = [denied(id) if id % 5 else localhost(id) for id in range(100)]
    for one in queries: s.send(one)
    replies = {}
    for _ in queries:
        reply = s.recv(512)
        replies[struct.unpack(">H", reply[:2])[0]] = reply
    for id, one in enumerate(queries):
        reply, end = replies[id], len(one)
        assert reply[12:end] == one[12:], (id, reply)
        assert reply[3] & 15 == (3 if id % 5 else 0), (id, reply)
        assert len(reply) == end + (16 if id % 5 == 0 else 68), (id, reply)
print("each")
"#,
        );
        assert_eq!(printed, "each\n");
        assert_eq!(lab.packets("slot4", "ingress", "bad-header"), 0);
        let (frames, asked) =
            (lab.packets("slot4", "ingress", "pass"), lab.packets("slot4", "egress", "redirect"));
        eprintln!("{ports}: {frames} frames brought the replies to {asked} queries");
    }
}

/// Another daemon in the place of the lab's own, when it answers.
fn daemon_that_logs_to(lab: &Lab, log: Stdio) -> Background {
    netguard_tests::daemon::kill(lab, "TERM");
    let mut daemon = Background::from(
        netguard(&["run", "--lab", lab.name(), "--log", "json"])
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(Stdio::null())
            .spawn()
            .expect("the daemon starts"),
    );
    until("the daemon answers", || {
        assert!(daemon.child().try_wait().expect("the daemon").is_none(), "it ended");
        lab.exec("slot3", "dig +time=1 +tries=1 +short github.com").stdout == "203.0.113.10\n"
    });
    daemon
}

#[test]
fn a_full_disk_costs_lines_and_no_answer() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::with(CONFIG, "veth");
    let full = std::fs::File::options().write(true).open("/dev/full").expect("a full disk");
    let mut daemon = daemon_that_logs_to(&lab, full.into());
    let body = r#"
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(30)
s.connect((sys.argv[1], 53))
for id in range(2000):
    s.send(localhost(id))
    s.recv(512)
print("answered")
"#;
    assert_eq!(script(&lab, 4, body), "answered\n");
    let _ = daemon.child().kill();
}

#[test]
fn a_reader_of_the_log_that_stalls_costs_lines_which_are_counted_and_no_answer() {
    const QUERIES: u64 = 40_000;
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::with(CONFIG, "veth");
    let mut daemon = daemon_that_logs_to(&lab, Stdio::piped());
    // More lines than a pipe and the queue behind it hold, and each query is answered.
    let body = r#"
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(30)
s.connect((sys.argv[1], 53))
for _ in range(int(COUNT) // 50):
    for id in range(50): s.send(localhost(id))
    for _ in range(50): s.recv(512)
print("answered")
"#;
    let many = body.replace("COUNT", &QUERIES.to_string());
    assert_eq!(script(&lab, 4, &many), "answered\n");
    // Now somebody reads: what was written and what was lost is all that there was.
    let output = daemon.child().stdout.take().expect("its output");
    let (written, lost) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let reader = std::thread::spawn({
        let (written, lost) = (Arc::clone(&written), Arc::clone(&lost));
        move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let event: Value = serde_json::from_str(&line).expect("JSON");
                written.fetch_add((event["name"] == "localhost").into(), Ordering::Relaxed);
                let message = event["message"].as_str().unwrap_or_default();
                let count =
                    message.strip_suffix(" log lines were lost: whoever reads them is too slow");
                let count = count.and_then(|count| count.parse::<u64>().ok()).unwrap_or(0);
                lost.fetch_add(count, Ordering::Relaxed);
            }
        }
    });
    until("all lines are accounted for", || {
        // The count comes with the next line.
        let _ = lab.exec("slot3", "dig +time=5 +tries=1 +short gitlab.com").success();
        written.load(Ordering::Relaxed) + lost.load(Ordering::Relaxed) >= QUERIES
    });
    let (written, lost) = (written.load(Ordering::Relaxed), lost.load(Ordering::Relaxed));
    assert!(written > 0 && lost > 0, "{written} written, {lost} lost");
    assert!(written + lost < QUERIES + 1_000, "{written} written, {lost} lost");
    let _ = daemon.child().kill();
    reader.join().expect("the reader");
}
