//! Orders to a running daemon, at its control socket and by the command line: what they put in force, what is remembered,
//! and what is answered when they are wrong.

use std::{
    fs,
    io::Write as _,
    net::TcpStream,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        net::UnixStream,
    },
    path::PathBuf,
    process::Command,
};

use hickory_proto::{op::ResponseCode, rr::RecordType::A};
use netguard_tests::{
    binary::{self, Ended, netguard},
    can_use_kernel,
    client::{ask, connects},
    control::{request, socket},
    daemon::{self, is_note},
    lab::Lab,
    until,
};
use serde_json::Value;

const GITHUB: &str = "203.0.113.10";
const GITLAB: &str = "203.0.113.12";

/// Two pinned slots with these names, and what else a slot has.
fn config(names: &str, more: &str) -> String {
    format!(
        "[host]\nuplinks = [\"eth0\"]\n[dns]\nupstreams = [\"1.1.1.1\"]\ncategories = []\nnames = [{names}]\n\
         [[slot]]\ncount = 2\negress = \"pinned\"\n{more}\n"
    )
}

/// The slot may ask for the name, and use what it is told.
fn may(lab: &Lab, slot: u8, name: &str, address: &str) {
    assert_eq!(ask(lab, slot, name, A).0, ResponseCode::NoError, "{name}");
    assert!(connects(lab, slot, address), "slot {slot} to {address}");
}

/// The slot may not ask for the name, nor use what it was told.
fn may_not(lab: &Lab, slot: u8, name: &str, address: &str) {
    assert_eq!(ask(lab, slot, name, A).0, ResponseCode::NXDomain, "{name}");
    assert!(!connects(lab, slot, address), "slot {slot} reached {address}");
}

fn hang_up(pid: u64) {
    let pid = pid.to_string();
    let _ = Ended::of(Command::new("kill").args(["-HUP", &pid])).success();
}

fn has_noted(lab: &Lab, words: &str) -> bool {
    lab.events().iter().any(|event| is_note(event, words))
}

#[test]
fn a_reload_puts_all_of_another_policy_in_force_or_nothing() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::with(&config("\"github.com\"", ""), "veth");
    let pid = lab.daemon_pid().expect("a daemon");
    may(&lab, 1, "github.com.", GITHUB);
    may_not(&lab, 1, "gitlab.com.", GITLAB);
    assert_eq!(lab.run(&["diff"]).success(), "no change\n");

    lab.reconfigure(&config("\"gitlab.com\"", "allow = [\"203.0.113.20 tcp/80\"]"));
    let difference = "- slot slot1: name github.com\n- slot slot1: reaches pinned addresses\n\
         + slot slot1: allow 203.0.113.20/32 tcp/80\n+ slot slot1: name gitlab.com\n\
         + slot slot1: reaches pinned addresses, what 1 rule allows\n";
    let difference = format!("{difference}{}", difference.replace("slot1", "slot2"));
    assert_eq!(lab.run(&["diff"]).success(), difference);
    may(&lab, 1, "github.com.", GITHUB);
    assert_eq!(lab.run(&["reload"]).success(), difference);
    // The pin of a name that is no longer allowed is gone too.
    may_not(&lab, 1, "github.com.", GITHUB);
    may(&lab, 1, "gitlab.com.", GITLAB);
    assert!(connects(&lab, 2, "203.0.113.20"));

    lab.reconfigure("[[slot]]\nname = 7\n");
    let refused = lab.run(&["reload"]);
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.stderr.contains("netguard.toml:2:8: must be text in quotes"), "{refused:?}");
    hang_up(pid);
    until("the refusal is told", || has_noted(&lab, "not reloaded"));
    // What fits the file but not the host.
    lab.reconfigure(&config("\"github.com\"", "bridge = \"nobridge{n}\""));
    let refused = lab.run(&["reload"]);
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.stderr.contains("bridge nobridge1 does not exist"), "{refused:?}");
    may(&lab, 1, "gitlab.com.", GITLAB);
    may_not(&lab, 1, "github.com.", GITHUB);

    lab.reconfigure(&config("\"github.com\"", ""));
    hang_up(pid);
    until("it is reloaded", || {
        lab.events().iter().filter(|event| is_note(event, "reloaded: guarding 2 slots")).count()
            == 2
    });
    may(&lab, 1, "github.com.", GITHUB);
}

#[test]
fn a_reload_that_nobody_confirms_is_taken_back() {
    if !can_use_kernel() {
        return;
    }
    let (old, new) = (config("\"github.com\"", ""), config("\"gitlab.com\"", ""));
    let lab = Lab::with(&old, "veth");
    let nothing = lab.run(&["confirm"]);
    assert_eq!(nothing.code, 1);
    assert!(nothing.stderr.contains("no reload waits for a confirmation"), "{nothing:?}");
    lab.reconfigure(&new);
    let reloaded = lab.run(&["reload", "--confirm", "1"]);
    assert!(reloaded.success().ends_with("in force for 1 s; keep it with `netguard confirm`\n"));
    until("it is taken back", || has_noted(&lab, "nobody has confirmed the latest reload: back"));
    may(&lab, 1, "github.com.", GITHUB);
    may_not(&lab, 1, "gitlab.com.", GITLAB);

    let _ = lab.run(&["reload", "--confirm", "600"]).success();
    may(&lab, 1, "gitlab.com.", GITLAB);
    assert_eq!(lab.run(&["confirm"]).success(), "the latest reload stays in force\n");
    assert_eq!(lab.run(&["confirm"]).code, 1);
    may_not(&lab, 1, "github.com.", GITHUB);
}

#[test]
fn a_lock_cuts_what_is_open_and_outlives_the_daemon() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::with(&config("\"github.com\"", ""), "veth");
    may(&lab, 1, "github.com.", GITHUB);
    let server = format!("{GITHUB}:80");
    let mut open = lab.within("slot1", || TcpStream::connect(&server)).expect("a connection");
    assert_eq!(lab.run(&["lock", "slot1"]).success(), "slot1 is locked\n");
    let before = lab.packets("slot1", "egress", "lockdown");
    open.write_all(b"x").expect("the guest's own system takes it");
    until("its packet is dropped", || lab.packets("slot1", "egress", "lockdown") > before);
    assert!(!connects(&lab, 1, GITHUB));
    may(&lab, 2, "github.com.", GITHUB);

    daemon::kill(&lab, "KILL");
    let _daemon = daemon::start(&lab);
    assert!(!connects(&lab, 1, GITHUB));
    let list = lab.run(&["slot", "list", "--json"]);
    let list: Value = serde_json::from_str(list.success()).expect("JSON");
    assert_eq!((&list["slots"][0]["locked"], &list["slots"][1]["locked"]), {
        (&Value::Bool(true), &Value::Bool(false))
    });
    assert_eq!(lab.run(&["unlock", "slot1"]).success(), "slot1 is unlocked\n");
    may(&lab, 1, "github.com.", GITHUB);
}

#[test]
fn the_latest_word_about_a_name_or_a_prefix_counts() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::with(&config("\"github.com\"", "allow = [\"203.0.113.20 tcp/80\"]"), "veth");
    assert!(connects(&lab, 1, "203.0.113.20"));
    let denied = lab.run(&["deny", "slot1", "203.0.113.0/24"]);
    assert_eq!(denied.success(), "203.0.113.0/24 is denied to slot1\n");
    // Whatever the file, or a name, says of a part of it.
    assert!(!connects(&lab, 1, "203.0.113.20") && connects(&lab, 2, "203.0.113.20"));
    assert_eq!(ask(&lab, 1, "github.com.", A).0, ResponseCode::NoError);
    assert!(!connects(&lab, 1, GITHUB));
    let _ = lab.run(&["forget", "slot1", "203.0.113.0/24"]).success();
    assert!(connects(&lab, 1, "203.0.113.20") && connects(&lab, 1, GITHUB));

    let denied = lab.run(&["deny", "slot1", "github.com", "--for", "10m"]);
    assert_eq!(denied.success(), "github.com is denied to slot1: 1 pin removed\n");
    may_not(&lab, 1, "github.com.", GITHUB);
    may_not(&lab, 1, "api.github.com.", GITHUB);
    let list = lab.run(&["slot", "list"]);
    assert!(list.success().contains("deny github.com for "), "{list:?}");
    daemon::kill(&lab, "KILL");
    let _daemon = daemon::start(&lab);
    may_not(&lab, 1, "github.com.", GITHUB);
    let _ = lab.run(&["allow", "slot1", "github.com"]).success();
    may(&lab, 1, "github.com.", GITHUB);
    may_not(&lab, 1, "gitlab.com.", GITLAB);
    let _ = lab.run(&["allow", "slot1", "gitlab.com", "--for", "1s"]).success();
    let pinned = || ask(&lab, 1, "gitlab.com.", A).0 == ResponseCode::NoError;
    let was_allowed = pinned();
    until("its second is over", || !pinned());
    assert!(was_allowed);
    assert!(!connects(&lab, 1, GITLAB), "its pin is gone too");
}

#[test]
fn slots_are_made_and_removed_while_the_daemon_runs_and_it_remembers_them() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::with(&config("\"github.com\"", ""), "veth");
    let entry =
        "manage_links = true\nname = \"web\"\nsubnet = \"10.99.0.0/24\"\negress = \"pinned\"\n";
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("web.toml");
    fs::write(&file, entry).expect("the entry");
    let file = file.to_str().expect("its path");
    let made = lab.run(&["slot", "add", file]);
    assert_eq!(made.success(), "slot web is made, number 3\n");
    let again = lab.run(&["slot", "add", file]);
    assert!(
        again.code == 1 && again.stderr.contains("there is a slot \"web\" already"),
        "{again:?}"
    );
    let is_guarded = || {
        let status = lab.status();
        let interfaces = status["slots"].as_array().expect("slots").iter().find(|it| it["id"] == 3);
        interfaces.map(|slot| slot["interfaces"].to_string()).unwrap_or_default()
    };
    assert!(is_guarded().contains("vm-web"), "{}", is_guarded());
    // Its resolver answers on its own gateway, as the host of the lab sees it.
    let addresses = lab.exec("hv", "ip -br addr show br-web");
    assert!(addresses.success().contains("10.99.0.1/24"));

    for signal in ["TERM", "KILL"] {
        daemon::kill(&lab, signal);
        let daemon = daemon::start(&lab);
        assert!(is_guarded().contains("vm-web"), "after {signal}: {}", is_guarded());
        std::mem::forget(daemon); // the next signal ends it
    }
    let not_made = lab.run(&["slot", "remove", "slot1"]);
    assert_eq!(not_made.code, 1);
    assert!(not_made.stderr.contains("remove it there and reload"), "{not_made:?}");
    assert_eq!(lab.run(&["slot", "remove", "web"]).success(), "slot web is removed\n");
    assert_eq!(is_guarded(), "");
    assert_ne!(lab.exec("hv", "ip link show br-web").code, 0, "its links are gone");

    for (bad, words) in [
        ("subnet = \"10.98.0.0/24\"", "the slot has no name"),
        ("name = \"b\"\ncount = 2", "make them one by one"),
        ("name = \"b\"\nsubnet = \"10.1.0.0/24\"", "a slot made at run time: "),
        ("name = \"b\"\nbanana = 1", "a slot made at run time: unknown field `banana`"),
        ("name = \"b\"\nsubnet = \"10.98.0.0/24\"", "bridge br-b does not exist"),
    ] {
        fs::write(directory.path().join("bad.toml"), bad).expect("the entry");
        let bad_file = directory.path().join("bad.toml");
        let refused = lab.run(&["slot", "add", bad_file.to_str().expect("its path")]);
        assert_eq!(refused.code, 2, "{bad}: {refused:?}");
        assert!(refused.stderr.contains(words), "{bad}: {refused:?}");
    }
    assert_eq!(lab.run(&["slot", "list"]).success().lines().count(), 3);
}

#[test]
fn a_slot_made_at_run_time_may_name_a_list_that_no_other_slot_names() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::with(&config("\"github.com\"", ""), "veth");
    let directory = tempfile::tempdir().expect("a directory");
    let (file, list) = (directory.path().join("web.toml"), directory.path().join("own.list"));
    fs::write(&list, "own.example\n").expect("the list");
    let list = list.to_str().expect("its path");
    let entry = format!(
        "name = \"web\"\nmanage_links = true\nsubnet = \"10.99.0.0/24\"\ndns.lists = [\"{list}\"]\n"
    );
    fs::write(&file, entry).expect("the entry");
    let _ = lab.run(&["slot", "add", file.to_str().expect("its path")]).success();
    // The worker, which may open no file, has it too; so has its successor.
    may(&lab, 1, "github.com.", GITHUB);
    let restarts = || request(&lab, "GET", "/v1/status", "").1["daemon"]["worker_restarts"].clone();
    assert_eq!(restarts(), 0);
    daemon::kill(&lab, "KILL");
    let _daemon = daemon::start(&lab);
    may(&lab, 2, "github.com.", GITHUB);
    assert_eq!(restarts(), 0);
}

#[test]
fn a_state_that_is_damaged_is_not_taken_for_an_empty_one() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::with(&config("\"github.com\"", ""), "veth");
    let _ = lab.run(&["lock", "slot1"]).success();
    daemon::kill(&lab, "TERM");
    let state = PathBuf::from("/run/netguard").join(lab.instance()).join("state");
    let whole = fs::read_to_string(&state).expect("the state");
    assert!(whole.contains("slot1"));
    fs::write(&state, &whole[..whole.len() / 2]).expect("the state");
    let refused = Ended::of(&mut netguard(&["run", "--lab", lab.name()]));
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("state is damaged"), "{refused:?}");
    assert!(!connects(&lab, 1, GITHUB), "and enforced is what was");
    fs::write(&state, &whole).expect("the state");
    let _daemon = daemon::start(&lab);
    assert!(!connects(&lab, 1, GITHUB));
}

#[test]
fn the_control_socket_answers_what_is_wrong_and_takes_only_so_much() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::with(&config("\"github.com\"", ""), "veth");
    let mode = fs::metadata(socket(&lab)).expect("the socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    may(&lab, 1, "github.com.", GITHUB);
    let get = |path: &str| request(&lab, "GET", path, "");
    let pins = |(status, body): (u16, Value)| (status, body["pins"].as_array().map(Vec::len));
    assert_eq!(pins(get("/v1/pins")), (200, Some(1)));
    assert_eq!(pins(get("/v1/pins?slot=slot2")), (200, Some(0)));
    let long = format!("{{\"what\": \"{}\"}}", "x".repeat(70_000));
    for (method, path, body, expected, words) in [
        ("GET", "/v1/pins?slot=slot9", "", 404, "there are slot1, slot2"),
        ("GET", "/v1/pins?name=x", "", 400, "write slot=NAME"),
        ("GET", "/v2", "", 404, "no such resource"),
        ("GET", "/v1/reload", "", 405, "no such method"),
        ("POST", "/v1/reload", "{\"confirm\": 1}", 400, "the body must be like"),
        ("POST", "/v1/reload", "{\"confirm_seconds\": 0}", 400, "must be 1 to 3600"),
        ("POST", "/v1/confirm", "", 409, "no reload waits"),
        ("POST", "/v1/slots", "[]", 400, "the keys of a [[slot]] entry"),
        ("POST", "/v1/slots", "{\"name\": null}", 400, "the slot has no name"),
        ("DELETE", "/v1/slots/slot9", "", 404, "there are slot1, slot2"),
        ("PUT", "/v1/slots/slot9/lock", "", 404, "there are slot1, slot2"),
        ("POST", "/v1/slots/slot1/deny", "{}", 400, "the body must be like"),
        ("POST", "/v1/slots/slot1/deny", "{\"what\": \"a b\"}", 400, "is neither a name"),
        ("POST", "/v1/slots/slot1/deny", "{\"what\": \"a.example:1\"}", 400, "with all its ports"),
        ("POST", "/v1/slots/slot1/forget", "{\"what\": \"a.b\"}", 404, "nothing was said"),
        ("POST", "/v1/slots/slot1/deny", &long, 413, ""),
    ] {
        let (status, body) = request(&lab, method, path, body);
        assert_eq!(status, expected, "{method} {path}: {body}");
        assert!(
            body["error"].as_str().is_some_and(|error| error.contains(words)),
            "{path}: {body}"
        );
    }
    assert_eq!(get("/v1/slots").1["slots"].as_array().map(Vec::len), Some(2));

    // A thousand callers that say nothing, or a byte and no more, keep nobody out.
    let silent: Vec<_> = (0..1000)
        .map(|number| {
            let mut stream = UnixStream::connect(socket(&lab)).expect("the socket");
            if number % 2 == 0 {
                let _ = stream.write_all(b"G"); // it may have been sent away already
            }
            stream
        })
        .collect();
    for _ in 0..10 {
        assert_eq!(get("/v1/slots").0, 200);
    }
    may(&lab, 2, "github.com.", GITHUB);
    drop(silent);
    let nobody = Ended::of(&mut netguard(&["lock", "slot1", "--instance", "nobody-is-this"]));
    assert_eq!(nobody.code, 1);
    assert!(nobody.stderr.contains("no instance nobody-is-this is loaded"), "{nobody:?}");
    daemon::kill(&lab, "TERM");
    assert!(!socket(&lab).exists());
    let nobody = lab.run(&["lock", "slot1"]);
    assert!(nobody.stderr.contains("no netguard runs as instance"), "{nobody:?}");
}

#[test]
fn the_daemon_says_how_it_is() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::with(&config("\"github.com\"", ""), "veth");
    may(&lab, 1, "github.com.", GITHUB);
    let status = || {
        let (code, status) = request(&lab, "GET", "/v1/status", "");
        assert_eq!(code, 200, "{status}");
        status
    };
    // What everybody can read of the kernel, and one thing more.
    let mut whole = status();
    let daemon = whole.as_object_mut().and_then(|it| it.remove("daemon")).expect("the daemon");
    let counted = |status: &Value| status["slots"][0]["counters"].as_array().map(Vec::len);
    let kernel = lab.status();
    assert!(counted(&whole) > Some(0));
    let keys = |status: &Value| status.as_object().expect("an object").keys().cloned().collect();
    let (own, kernels): (Vec<_>, Vec<_>) = (keys(&whole), keys(&kernel));
    assert_eq!(own, kernels);
    assert_eq!(
        (&whole["daemon_pid"], &whole["programs"]),
        (&kernel["daemon_pid"], &kernel["programs"])
    );
    let generation = whole["generation"].as_str().expect("a generation").to_owned();
    assert!(daemon["since"].as_str().is_some_and(|since| since.ends_with('Z')), "{daemon}");
    assert_eq!(
        (&daemon["reload"], &daemon["unconfirmed_seconds_left"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(
        (&daemon["failures"], &daemon["alarms"]),
        (&serde_json::json!([]), &serde_json::json!([]))
    );
    assert_eq!((&daemon["worker_restarts"], &daemon["log_lines_lost"]), (&0.into(), &0.into()));

    lab.reconfigure("[[slot]]\nname = 7\n");
    assert_eq!(lab.run(&["reload"]).code, 2);
    let reload = status()["daemon"]["reload"].clone();
    assert_eq!(reload["result"], "refused");
    assert!(
        reload["error"].as_str().is_some_and(|error| error.contains("netguard.toml:2:8")),
        "{reload}"
    );
    let text = lab.run(&["status"]);
    assert!(text.success().contains("daemon running since "), "{text:?}");
    assert!(
        text.success().contains(": refused: ") && text.success().contains("netguard.toml:2:8"),
        "{text:?}"
    );

    lab.reconfigure(&config("\"github.com\"", "allow = [\"203.0.113.20 tcp/80\"]"));
    let _ = lab.run(&["reload", "--confirm", "600"]).success();
    let after = status();
    assert_eq!(after["daemon"]["reload"]["result"], "in force");
    assert!(after["daemon"]["unconfirmed_seconds_left"].as_u64().is_some_and(|left| left > 500));
    assert_ne!(after["generation"], generation.as_str());

    let pid = lab.daemon_pid().expect("a daemon");
    let worker = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("children");
    let _ = Ended::of(Command::new("kill").args(["-KILL", worker.trim()])).success();
    until("another worker answers and is counted", || {
        request(&lab, "GET", "/v1/status", "").1["daemon"]["worker_restarts"] == 1
    });
    assert!(lab.run(&["status"]).success().contains(", 1 worker restart\n"));
    daemon::kill(&lab, "TERM");
    let text = lab.run(&["status"]);
    assert!(
        text.success().contains("no daemon: enforcing") && !text.stdout.contains("since"),
        "{text:?}"
    );
}

#[test]
fn who_may_write_to_the_socket_needs_no_other_right() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::with(&config("\"github.com\"", ""), "veth");
    let group = fs::metadata(socket(&lab)).expect("the socket").gid();
    let lock_as = |group: u32| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", &format!("--regid={group}"), "--clear-groups"]);
        let order = ["lock", "slot1", "--instance", &lab.instance()];
        Ended::of(command.arg("--inh-caps=-all").arg(binary::path()).args(order))
    };
    assert_eq!(lock_as(group).success(), "slot1 is locked\n");
    let stranger = lock_as(12345);
    assert_eq!(stranger.code, 4, "{stranger:?}");
    assert!(stranger.stderr.contains("Permission denied"), "{stranger:?}");
}
