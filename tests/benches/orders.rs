//! What an order costs, from the request at the control socket until it is in force, read back and answered, with few slots and with a
//! thousand; and how long a port that comes is without programs of its own.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use netguard::datapath::{PinDirectory, held};
use netguard_common::Hook;
use netguard_tests::{
    control,
    daemon::Own,
    lab::Lab,
    report::{Report, Row, machine},
    spread::Spread,
    until,
};

const ROUNDS: usize = 20;
/// The links are made by netguard.
const MANY: &str = "[host]\nuplinks = [\"eth0\"]\n[dns]\nupstreams = [\"1.1.1.1\"]\n[[slot]]\ncount = 1000\nname = \"s{n}\"\n\
                    subnet = \"10.{hi}.{lo}.0/24\"\nmanage_links = true\n";

fn main() {
    println!("{}: median (lowest to highest) of {ROUNDS} rounds", machine());
    let mut report = Report::new("orders");
    few_slots(&mut report);
    let lab = Lab::unguarded("veth");
    let many = Own::start(&lab, "bench", MANY);
    orders(&mut report, "1,000 slots", &many.socket(), "s500");
    report.finish();
}

fn few_slots(report: &mut Report) {
    let lab = Lab::up("veth");
    let socket = PathBuf::from("/run/netguard").join(lab.instance()).join("control.sock");
    orders(report, "5 slots", &socket, "slot1");
    // The last program that a port gets.
    let pins = PinDirectory::of(&lab.instance().parse().expect("an instance"));
    let is_guarded = || {
        let held = held(&pins).expect("what the instance holds");
        let program = Hook::PortEgress.program();
        held.iter().any(|it| it.interface == "vm-slot1" && it.program == program)
    };
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let _ = lab.exec("hv", "ip link del vm-slot1").success();
        until("its programs are gone", || !is_guarded());
        let script = "ip link add vm-slot1 type veth peer name gone && ip link set vm-slot1 up";
        let _ = lab.shell("hv", script).success();
        let _ = lab.exec("hv", "ip link set vm-slot1 master br-slot1").success();
        let joined = Instant::now();
        until("it has its programs", is_guarded);
        times.push(joined.elapsed());
    }
    report.add(row("5 slots: a port on its bridge, until its programs are attached", times));
}

fn orders(report: &mut Report, slots: &str, socket: &Path, slot: &str) {
    let entry = "{\"name\": \"bench\", \"subnet\": \"192.168.77.0/24\", \"manage_links\": true}";
    let lock = format!("/v1/slots/{slot}/lock");
    let deny = format!("/v1/slots/{slot}/deny");
    let forget = format!("/v1/slots/{slot}/forget");
    let word = "{\"what\": \"198.51.100.0/24\"}";
    for (what, there, back) in [
        ("a slot is locked", ("PUT", lock.as_str(), ""), ("DELETE", lock.as_str(), "")),
        ("a prefix is denied", ("POST", &deny, word), ("POST", &forget, word)),
        (
            "a slot is made, its bridge and TAP with it",
            ("POST", "/v1/slots", entry),
            ("DELETE", "/v1/slots/bench", ""),
        ),
    ] {
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            times.push(request(socket, there));
            request(socket, back);
            // The other side of the maps is brought up to date within a second.
            std::thread::sleep(Duration::from_millis(1100));
        }
        report.add(row(&format!("{slots}: {what}"), times));
    }
}

fn request(socket: &Path, (method, path, body): (&str, &str, &str)) -> Duration {
    let began = Instant::now();
    let (status, answer) = control::send(socket, method, path, body);
    let time = began.elapsed();
    assert_eq!(status / 100, 2, "{method} {path}: {answer}");
    time
}

fn row(what: &str, times: Vec<Duration>) -> Row {
    let ms = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
    Row::new(what, "ms", Spread::of(ms))
}
