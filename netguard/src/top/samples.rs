//! A screen for the tests of this folder.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    sample::Sample,
    screen::{Screen, Seen},
};

fn counter(direction: &str, outcome: &str, packets: u64) -> Value {
    json!({"direction": direction, "outcome": outcome, "packets": packets, "bytes": packets * 1000})
}

fn status(seconds: u64) -> Value {
    json!({
        "instance": "lab-default", "generation": "1a2b3c4d", "records_lost": 0,
        "slots": [
            {"name": "slot1", "interfaces": ["br-slot1", "vm-slot1"], "pins": 3, "flows": 12, "counters": [
                counter("egress", "pass", 5000 + 1000 * seconds), counter("egress", "redirect", 40 + seconds),
                counter("ingress", "pass", 9000 + 10 * seconds), counter("egress", "cross-slot", 100 + 12 * seconds),
            ]},
            {"name": "slot2", "interfaces": ["br-slot2", "vm-slot2"], "counters": [
                counter("ingress", "pass", 2_000_000 * seconds), counter("egress", "metadata", 3 + 2 * seconds),
            ]},
        ],
        "programs": [
            {"name": "ng_xdp", "id": 7, "runs": 100 * seconds, "run_time_ns": 12_000 * seconds},
            {"name": "ng_port_egress", "id": 8, "runs": 0, "run_time_ns": 0},
        ],
        "daemon": {"since": "2026-11-26T00:00:00Z"},
    })
}

/// Two slots, two drops, two names, one second after another.
pub(super) fn screen() -> Screen {
    let mut screen = Screen::default();
    screen.take_sample(Sample::read(&status(0), Duration::from_secs(10)));
    screen.take_sample(Sample::read(&status(1), Duration::from_secs(11)));
    for (slot, reason, dst, port) in
        [("slot1", "cross-slot", "10.2.0.2", 22), ("slot2", "metadata", "169.254.169.254", 80)]
    {
        screen.take_drop(Seen::read(&json!({
            "time": "2026-11-26T12:34:56.789Z", "slot": slot, "direction": "egress", "reason": reason,
            "protocol": "tcp", "src": "10.0.0.9", "src_port": 4000, "dst": dst, "dst_port": port,
            "line": "netguard.toml:12",
        })));
    }
    for name in ["evil.example", "evil.example", "ads.example"] {
        screen.take_denied(name.to_owned(), "slot1".to_owned());
    }
    screen
}
