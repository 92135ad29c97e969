//! For each drop reason one packet that is sent for real: the kernel's counter, the record with its code and line of the
//! configuration, and what `netguard explain` says of it agree.

#[path = "reasons/table.rs"]
mod table;

use std::collections::BTreeSet;

use netguard::datapath::PinDirectory;
use netguard_common::{DropReason as R, maps::PORTS};
use netguard_tests::{can_use_kernel, lab::Lab, until, wire::Wire};
use nix::net::if_::if_nametoindex;
use serde_json::Value;

use table::{CONFIG, Case, table};

/// The latest record of a reason.
fn record(lab: &Lab, reason: R, fits: impl Fn(&Value) -> bool) -> Value {
    let is_it = |event: &Value| event["reason"] == reason.name() && fits(event);
    let _ = lab.event(&format!("drop as {}", reason.name()), is_it);
    lab.events().into_iter().rfind(is_it).expect("it was there")
}

/// What `explain --drop` says of a record agrees with it; what is no matter of room or rates is decided so now, too.
fn is_explained(lab: &Lab, record: &Value) {
    let id = record["id"].as_str().expect("an id");
    let ended = lab.run(&["explain", "--drop", id, "-o", "json"]);
    let told: Value =
        serde_json::from_str(ended.stdout.trim()).unwrap_or_else(|_| panic!("{ended:?}"));
    for key in ["reason", "code", "line", "because"] {
        assert_eq!(told["recorded"][key], record[key], "{key}: {told}");
    }
    let reason = record["code"].as_u64().and_then(|code| R::from_raw((code - 540_000) as u8));
    if !reason.expect("a reason").is_about_resources() && told["unasked"].is_null() {
        for key in ["reason", "code", "line"] {
            assert_eq!(told[key], record[key], "now: {key}: {told}");
        }
        assert_eq!(ended.code, 3, "{ended:?}");
    }
}

fn check(lab: &Lab, case: &Case) {
    let Case { reason, slot, direction, from, frames, line, is_exact } = case;
    let counted = || lab.packets(slot, direction.name(), reason.name());
    let before = counted();
    let mut wire = Wire::on(lab, from.0, from.1);
    for some in frames.chunks(2000) {
        some.iter().for_each(|frame| wire.send(frame));
        if counted() > before {
            break; // the rest would be more of the same
        }
    }
    let count = if *is_exact { frames.len() as u64 } else { 1 };
    until(&format!("{} is counted", reason.name()), || counted() >= before + count);
    if *is_exact {
        assert_eq!(counted(), before + count, "{}", reason.name());
    }
    let record = record(lab, *reason, |event| {
        event["direction"] == direction.name() && event["slot"] == *slot
    });
    assert_eq!(record["code"], reason.code(), "{record}");
    assert_eq!(record["line"], line.as_str(), "{record}");
    is_explained(lab, &record);
}

#[test]
fn counter_record_code_line_and_explanation_agree() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::with(CONFIG, "veth");
    let cases = table();
    cases.iter().for_each(|case| check(&lab, case));
    a_share_of_flows_is_full(&lab);
    a_port_is_unknown(&lab);

    let mut seen: BTreeSet<_> = cases.iter().map(|case| case.reason).collect();
    seen.extend([R::FlowsFull, R::UnknownPort]);
    // No packet has the kernel's helpers fail.
    let unseen: Vec<_> = R::ALL.iter().filter(|reason| !seen.contains(reason)).collect();
    assert_eq!(unseen, [&R::Internal]);
}

/// Connections that stand, because what is half open makes room.
fn a_share_of_flows_is_full(lab: &Lab) {
    let connect = "import socket
held = []
try:
    for _ in range(512):
        held.append(socket.create_connection(('203.0.113.10', 80), timeout=0.3))
except OSError:
    pass
print(len(held))";
    let held = lab.python("slot1", connect, &[]);
    assert!(
        held.success().trim().parse::<u32>().is_ok_and(|it| (8..512).contains(&it)),
        "{held:?}"
    );
    let counted = || lab.packets("slot1", "egress", "flows-full");
    until("it is counted", || counted() > 0);
    let record = record(lab, R::FlowsFull, |event| event["slot"] == "slot1");
    assert_eq!(record["code"], R::FlowsFull.code());
    assert!(
        record["line"].as_str().is_some_and(|line| line.starts_with("netguard.toml:")),
        "{record}"
    );
    is_explained(lab, &record);
}

/// The watch puts the map right within a second; what is sent until then is an unknown port's.
fn a_port_is_unknown(lab: &Lab) {
    let pins = PinDirectory::of(&lab.instance().parse().expect("an instance"));
    let index = lab.within("hv", || if_nametoindex("vm-slot2")).expect("its number");
    let [a, b, c, d] = index.to_le_bytes();
    let map = pins.map(PORTS).display().to_string();
    let forget = [0, 1].map(|side| {
        format!("bpftool map delete pinned {map} key {a} {b} {c} {d} {side} 0 0 0 || true")
    });
    let mut wire = Wire::on(lab, "slot2", "eth0");
    let of_nobody = |event: &Value| event["reason"] == R::UnknownPort.name();
    until("a drop of no slot is told", || {
        let _ = lab.shell("hv", &forget.join("; ")).success();
        wire.send(&table::any(2));
        lab.events().iter().any(of_nobody)
    });
    let record = record(lab, R::UnknownPort, |_| true);
    assert_eq!((&record["slot"], &record["line"]), (&Value::Null, &"built in".into()), "{record}");
    assert_eq!(record["code"], R::UnknownPort.code());
    let status = lab.status();
    let counters = status["no_slot_counters"].as_array().expect("counters");
    assert!(counters.iter().any(|it| it["outcome"] == R::UnknownPort.name()), "{status}");
    let id = record["id"].as_str().expect("an id");
    let told = lab.run(&["explain", "--drop", id]);
    assert!(told.success().contains("vm-slot2 was no slot's"), "{told:?}");
}
