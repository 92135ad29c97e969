//! A table of query forms, every rule one line, put to the real resolver by a guest and asserted on the bytes of the
//! reply, which another DNS library decodes. Then what of queries leaves the host, and how much a slot may ask.

#[path = "queries/answers.rs"]
mod answers;
#[path = "queries/expect.rs"]
mod expect;
#[path = "queries/forms.rs"]
mod forms;
#[path = "queries/limits.rs"]
mod limits;
#[path = "queries/names.rs"]
mod names;
#[path = "queries/privacy.rs"]
mod privacy;
#[path = "queries/question.rs"]
mod question;

use std::{collections::BTreeSet, fs, io::Write as _, process::Stdio};

use netguard_tests::{binary::Ended, can_use_kernel, lab::Lab};
use serde_json::{Value, json};

use expect::{CONTROL_ID, Expect};
use question::{A, Question, ask, hex};

/// One rule.
struct Line {
    rule: &'static str,
    slot: &'static str,
    asked: Question,
    transports: &'static [&'static str],
    expected: Expect,
}

/// From slot 1, over both transports.
fn line(rule: &'static str, asked: Question, expected: Expect) -> Line {
    Line { rule, slot: "slot1", asked, transports: &["udp", "tcp"], expected }
}

impl Line {
    fn from(self, slot: &'static str) -> Self {
        Self { slot, ..self }
    }

    fn udp(self) -> Self {
        Self { transports: &["udp"], ..self }
    }

    fn tcp(self) -> Self {
        Self { transports: &["tcp"], ..self }
    }
}

/// Slots that may ask for different names, and so much that no limit is in the way.
const LISTS: &str = r#"
[host]
uplinks = ["eth0"]
[dns]
upstreams = ["1.1.1.1", "8.8.8.8"]
categories = ["code-hosting"]
names = ["all.any.lab.example"]
private_names = ["private.lab.example"]
[[slot]]
name = "slot1"
id = 1
subnet = "10.1.0.0/24"
[slot.dns]
names = [
    "lab.example", "!secret.any.lab.example", "open.secret.any.lab.example", "!gone.any.lab.example",
    "deep.below.test",
]
[[slot]]
name = "slot2"
id = 2
subnet = "10.2.0.0/24"
[slot.dns]
categories = []
names = ["=www.lab.example"]
[[slot]]
name = "slot3"
id = 3
subnet = "10.3.0.0/24"
[slot.dns]
categories = []
names = []
lists = ["LIST"]
[[slot]]
name = "slot4"
id = 4
subnet = "10.4.0.0/24"
"#;

const LIST: &str =
    "# of slot 3\nlisted.any.lab.example\n\n!no.listed.any.lab.example # not this one\n";

/// `/usr/bin/python3` is Debian's, which has Debian's dnspython, whatever stands before it on the path.
const PYTHON: &str = "/usr/bin/python3";

/// Puts lines to the resolver and holds the replies against them; what does not fit, one text each.
fn put(lab: &Lab, lines: &[Line]) -> Vec<String> {
    let mut wrong = Vec::new();
    let slots: BTreeSet<_> = lines.iter().map(|line| line.slot).collect();
    for slot in slots {
        let own = lines.iter().filter(|line| line.slot == slot);
        let asked: Vec<_> = own
            .flat_map(|line| line.transports.iter().map(move |it| (line, *it == "tcp")))
            .collect();
        let control = ask("localhost", A).edit(|it| it.id = CONTROL_ID).bytes();
        let server = format!("10.{}.0.1", &slot[4..]);
        let queries: Vec<_> = asked
            .iter()
            .map(|(line, tcp)| {
                let behind = if line.expected.is_silent(*tcp) { hex(&control) } else { String::new() };
                json!({"server": server, "tcp": tcp, "bytes": hex(&line.asked.bytes()), "behind": behind})
            })
            .collect();
        let replies = decode(lab, slot, &json!(queries));
        assert_eq!(replies.len(), asked.len());
        for ((line, tcp), reply) in asked.into_iter().zip(replies) {
            if let Err(why) = line.expected.check(&line.asked, tcp, &reply) {
                let transport = if tcp { "tcp" } else { "udp" };
                wrong.push(format!("{} ({slot}, {transport}): {why}\n{reply}", line.rule));
            }
        }
    }
    wrong
}

fn decode(lab: &Lab, slot: &str, queries: &Value) -> Vec<Value> {
    let script = include_str!("queries/ask.py");
    let output = run(lab, slot, script, queries.to_string().as_bytes());
    let replies: Value = serde_json::from_str(output.success()).expect("the script prints JSON");
    replies.as_array().expect("a list").clone()
}

/// Runs a Python script on a host with that input.
fn run(lab: &Lab, host: &str, script: &str, input: &[u8]) -> Ended {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(input).expect("the input");
    std::io::Seek::rewind(&mut file).expect("the input");
    Ended::of(lab.command(host, &[PYTHON, "-c", script]).stdin(Stdio::from(file)))
}

#[test]
fn every_form_of_a_query_gets_the_reply_of_its_line() {
    if !can_use_kernel() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let list = directory.path().join("list");
    fs::write(&list, LIST).expect("the list");
    let lab = Lab::with(&LISTS.replace("LIST", list.to_str().expect("its path")), "veth");
    let lines: Vec<_> =
        [names::lines(), answers::lines(), forms::lines()].into_iter().flatten().collect();
    let wrong = put(&lab, &lines);
    assert!(wrong.is_empty(), "{} lines:\n{}", wrong.len(), wrong.join("\n"));

    // What was decided here was not asked there.
    let names = lab.internet();
    let asked_there: BTreeSet<_> = names.iter().filter_map(|it| it["bytes"].as_str()).collect();
    let (there, here): (Vec<_>, Vec<_>) = lines.iter().partition(|it| it.expected.asks_upstream);
    let question = |line: &Line| {
        let lower = line.asked.name.to_ascii_lowercase();
        hex(&[&lower[..], &line.asked.record_type.to_be_bytes()].concat())
    };
    let lower_there: BTreeSet<_> = asked_there.iter().map(|bytes| lower(bytes)).collect();
    let was_asked =
        |line: &Line| lower_there.iter().any(|it| it[24..].starts_with(&question(line)));
    let mut missed = 0;
    for line in &there {
        missed += usize::from(!was_asked(line));
    }
    assert_eq!(missed, 0, "the upstreams' log is a witness of what they were asked");
    let allowed: BTreeSet<_> = there.iter().map(|line| question(line)).collect();
    for line in here.iter().filter(|line| !allowed.contains(&question(line))) {
        assert!(!was_asked(line), "{} was asked upstream", line.rule);
    }
}

/// A message in hexadecimal, its letters in lower case.
fn lower(hexadecimal: &str) -> String {
    let bytes = unhex(hexadecimal);
    hex(&[&bytes[..12], &bytes[12..].to_ascii_lowercase()].concat())
}

fn unhex(text: &str) -> Vec<u8> {
    let pairs = text.as_bytes().chunks(2).map(|pair| str::from_utf8(pair).expect("ASCII"));
    pairs.map(|pair| u8::from_str_radix(pair, 16).expect("hexadecimal")).collect()
}

#[test]
fn with_svcb_strip_https_passes_without_what_hides_names() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::with(
        &LISTS.replace("[dns]", "[dns]\nsvcb = \"strip\"").replace("lists = [\"LIST\"]", ""),
        "veth",
    );
    let wrong = put(&lab, &answers::svcb_lines());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
