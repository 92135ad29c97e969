//! A slot that is carried to another name, with another guest behind it: what it may, what was ordered about it, what it has pinned
//! and what it has counted.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use hickory_proto::{op::ResponseCode, rr::RecordType::A};
use netguard_tests::{
    binary::{Ended, netguard},
    can_use_kernel,
    client::{ask, connects},
    control::request,
    daemon,
    lab::Lab,
};
use serde_json::Value;

const GITHUB: &str = "203.0.113.10";
const GITLAB: &str = "203.0.113.12";
const ELSE: &str = "203.0.113.20";

/// Pinned slots of those numbers, and what else each has.
fn config(slots: &[u8], more: &str) -> String {
    let head = "[host]\nuplinks = [\"eth0\"]\n[dns]\nupstreams = [\"1.1.1.1\"]\ncategories = []\n\
                names = [\"github.com\", \"gitlab.com\"]\n";
    let slots = slots.iter().map(|number| {
        format!(
            "[[slot]]\nname = \"slot{number}\"\nid = {number}\nsubnet = \"10.{number}.0.0/24\"\n\
             egress = \"pinned\"\n{more}\n"
        )
    });
    slots.fold(head.to_owned(), |file, slot| file + &slot)
}

/// A lab with two guests, the second of which has no slot any more.
fn lab() -> Lab {
    let lab = Lab::with(&config(&[1, 2], ""), "veth");
    lab.reconfigure(&config(&[1], ""));
    let _ = lab.run(&["reload"]).success();
    lab
}

fn fed(command: &mut Command, input: &str) -> Ended {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("its input");
    // One that refuses its arguments reads nothing.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    Ended {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn export(lab: &Lab, slot: &str) -> String {
    lab.run(&["state", "export", slot]).success().to_owned()
}

fn import(lab: &Lab, document: &str, arguments: &[&str]) -> Ended {
    let instance = lab.instance();
    let all = [&["state", "import"], arguments, &["--instance", &instance]].concat();
    fed(&mut netguard(&all), document)
}

/// Where the second guest is.
const PLACE: [&str; 9] = [
    "slot1",
    "--as",
    "two",
    "--subnet",
    "10.2.0.0/24",
    "--bridge",
    "br-slot2",
    "--port",
    "vm-slot2",
];

fn listed(lab: &Lab) -> Value {
    serde_json::from_str(lab.run(&["slot", "list", "--json"]).success()).expect("JSON")
}

/// Packets of a slot of the status, by one of its lists of counters.
fn passed(status: &Value, slot: &str, list: &str) -> u64 {
    let slots = status["slots"].as_array().expect("slots");
    let slot = slots.iter().find(|it| it["name"] == slot).expect("the slot");
    let counters = slot[list].as_array().expect("counters").iter();
    let passed = counters.filter(|it| it["direction"] == "egress" && it["outcome"] == "pass");
    passed.map(|it| it["packets"].as_u64().expect("a number")).sum()
}

#[test]
fn a_slot_is_carried_with_pins_words_lock_and_counters() {
    if !can_use_kernel() {
        return;
    }
    let lab = lab();
    assert_eq!(ask(&lab, 1, "github.com.", A).0, ResponseCode::NoError);
    assert!(connects(&lab, 1, GITHUB));
    let _ = lab.run(&["deny", "slot1", "gitlab.com", "--for", "1h"]).success();
    let _ = lab.run(&["allow", "slot1", "203.0.113.20 tcp/80"]).success();
    let document = export(&lab, "slot1");
    let counted = passed(&lab.status(), "slot1", "counters");
    assert!(counted > 0);

    let made = import(&lab, &document, &PLACE);
    assert_eq!(made.success(), "slot two is made and has taken over slot slot1 with 1 of 1 pins\n");
    // Nobody there has asked for a name.
    assert!(connects(&lab, 2, GITHUB), "the pin is there");
    assert!(connects(&lab, 2, ELSE), "what was allowed is allowed");
    assert_eq!(ask(&lab, 2, "gitlab.com.", A).0, ResponseCode::NXDomain);
    assert_eq!(ask(&lab, 2, "github.com.", A).0, ResponseCode::NoError);
    assert!(!connects(&lab, 2, GITLAB));
    let list = listed(&lab);
    let (one, two) = (&list["slots"][0], &list["slots"][1]);
    assert_eq!((&two["name"], &two["made_at_run_time"]), (&"two".into(), &true.into()));
    assert_eq!((two["said"].as_array().map(Vec::len), &two["locked"]), (Some(2), &false.into()));
    assert_eq!((&one["reaches"], &one["runtime"]), (&two["reaches"], &two["runtime"]));
    assert_eq!(passed(&lab.status(), "two", "carried"), counted);
    let text = lab.run(&["status"]);
    assert!(text.success().contains("two: carried from elsewhere"), "{text:?}");

    // The latest import counts, in one step with what it says of locks and words.
    let _ = lab.run(&["forget", "slot1", "203.0.113.20 tcp/80"]).success();
    let _ = lab.run(&["lock", "slot1"]).success();
    let again = import(&lab, &export(&lab, "slot1"), &PLACE);
    assert_eq!(again.success(), "slot two has taken over slot slot1 with 1 of 1 pins\n");
    assert!(!connects(&lab, 2, GITHUB));
    daemon::kill(&lab, "KILL");
    let _daemon = daemon::start(&lab);
    assert!(!connects(&lab, 2, GITHUB), "it is remembered");
    let _ = lab.run(&["unlock", "two"]).success();
    assert!(connects(&lab, 2, GITHUB) && !connects(&lab, 2, ELSE));
    assert_eq!(ask(&lab, 2, "gitlab.com.", A).0, ResponseCode::NXDomain);

    // What was counted at each place is counted where it has come to.
    let sum = passed(&lab.status(), "two", "carried") + passed(&lab.status(), "two", "counters");
    let document: Value = serde_json::from_str(&export(&lab, "two")).expect("JSON");
    let counters = document["state"]["counters"].as_array().expect("counters").iter();
    let found = counters.filter(|it| it["direction"] == "egress" && it["outcome"] == "pass");
    let found: u64 = found.filter_map(|it| it["packets"].as_u64()).sum();
    assert!(sum > counted && found >= sum, "{found} of {sum}");
    let _ = lab.run(&["slot", "remove", "two"]).success();
    assert!(!lab.run(&["status"]).success().contains("carried"));
}

#[test]
fn a_slot_of_the_file_takes_over_what_was_said_but_no_other_policy() {
    if !can_use_kernel() {
        return;
    }
    let lab = lab();
    let made = import(&lab, &export(&lab, "slot1"), &PLACE);
    let _ = made.success();
    let _ = lab.run(&["allow", "two", "203.0.113.20 tcp/80"]).success();
    assert_eq!(ask(&lab, 2, "github.com.", A).0, ResponseCode::NoError);
    assert!(!connects(&lab, 1, ELSE) && !connects(&lab, 1, GITHUB));
    let document = export(&lab, "two");
    let back = import(&lab, &document, &["two", "--as", "slot1"]);
    assert_eq!(back.success(), "slot slot1 has taken over slot two with 1 of 1 pins\n");
    assert!(connects(&lab, 1, ELSE) && connects(&lab, 1, GITHUB));

    lab.reconfigure(&config(&[1], "deny = [\"203.0.113.99\"]"));
    let _ = lab.run(&["reload"]).success();
    let _ = lab.run(&["forget", "slot1", "203.0.113.20 tcp/80"]).success();
    let refused = import(&lab, &document, &["two", "--as", "slot1"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("which says something else of deny"), "{refused:?}");
    assert!(!connects(&lab, 1, ELSE), "nothing has changed");
}

#[test]
fn what_is_no_state_or_fits_nowhere_changes_nothing() {
    if !can_use_kernel() {
        return;
    }
    let lab = lab();
    let _ = lab.run(&["deny", "slot1", "gitlab.com"]).success();
    assert_eq!(ask(&lab, 1, "github.com.", A).0, ResponseCode::NoError);
    let document = export(&lab, "slot1");
    let before = listed(&lab);
    let path = "/v1/slots/two/state?subnet=10.2.0.0%2F24&bridge=br-slot2&port=vm-slot2";
    let compact = request(&lab, "GET", "/v1/slots/slot1/state", "").1.to_string();
    for at in (0..compact.len()).step_by(23) {
        let mut bytes = compact.clone().into_bytes();
        bytes[at] ^= 1;
        for text in [String::from_utf8(bytes).expect("text"), compact[..at].to_owned()] {
            let (status, body) = request(&lab, "PUT", path, &text);
            assert_eq!(status, 400, "{at}: {body} for {text}");
        }
    }
    for (arguments, code, words) in [
        (&["slot2"][..], 2, "write `netguard state import slot1 --as slot2`"),
        (&["slot1", "--as", "two"], 2, "subnet 10.1.0.0/24"),
        (&["slot1", "--as", "two", "--subnet", "here"], 2, "\"here\" is no subnet"),
        (&["slot1", "--as", "two", "--subnet", "10.2.0.0/24"], 2, "bridge br-two does not exist"),
    ] {
        let refused = import(&lab, &document, arguments);
        assert_eq!(refused.code, code, "{arguments:?}: {refused:?}");
        assert!(refused.stderr.contains(words), "{arguments:?}: {refused:?}");
    }
    let refused = import(&lab, "{}", &PLACE);
    assert!(refused.code == 2 && refused.stderr.contains("no state of a slot"), "{refused:?}");
    let absent = lab.run(&["state", "export", "slot9"]);
    assert!(absent.code == 2 && absent.stderr.contains("no slot is called"), "{absent:?}");
    assert_eq!(listed(&lab), before);
    assert_eq!(lab.run(&["pins"]).success().lines().count(), 2, "a head and one pin");
    let long = format!("\"{}\"", "x".repeat(5 << 20));
    assert_eq!(request(&lab, "PUT", path, &long).0, 413);
}
