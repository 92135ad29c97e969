//! `netguard doctor --watch`: who dropped a slot's packet.

use std::{
    io::{BufRead as _, BufReader, Lines},
    process::{ChildStderr, ChildStdout, Stdio},
};

use netguard_tests::{
    binary::netguard,
    can_use_kernel,
    lab::{Background, Lab},
};
use nix::{
    sys::signal::{Signal, kill as signal},
    unistd::Pid,
};
use serde_json::Value;

use super::doctor;

/// A watch that has begun.
struct Watch {
    process: Background,
    lines: Lines<BufReader<ChildStdout>>,
    _stderr: BufReader<ChildStderr>,
}

impl Watch {
    fn begin(lab: &Lab) -> Self {
        let instance = lab.instance();
        // The time is for failures: a line that does not come.
        let time =
            format!("{}s", std::env::var("NETGUARD_TEST_PATIENCE").as_deref().unwrap_or("60"));
        let arguments = ["doctor", "--watch", "--json", "--for", &time, "--instance", &instance];
        let mut command = netguard(&arguments);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut process = Background::from(child.expect("it starts"));
        let stderr = process.child().stderr.take().expect("what it tells");
        let mut stderr = BufReader::new(stderr);
        let mut told = String::new();
        stderr.read_line(&mut told).expect("a line");
        assert!(told.starts_with("watching what the kernel drops of 5 slots"), "{told}");
        let stdout = process.child().stdout.take().expect("its output");
        Self { process, lines: BufReader::new(stdout).lines(), _stderr: stderr }
    }

    /// Everything until the first line that fits, and that line.
    fn until(&mut self, fits: impl Fn(&Value) -> bool) -> Vec<Value> {
        let mut seen = Vec::new();
        loop {
            let line = self.lines.next().expect("a line more").expect("text");
            let line: Value = serde_json::from_str(&line).expect("JSON");
            let is_it = fits(&line);
            seen.push(line);
            if is_it {
                return seen;
            }
        }
    }

    /// Interrupts it; what it still had to say.
    fn end(mut self) -> Vec<Value> {
        let pid = i32::try_from(self.process.child().id()).expect("a number");
        signal(Pid::from_raw(pid), Signal::SIGINT).expect("it runs");
        let rest = self.lines.map(|line| serde_json::from_str(&line.expect("text")).expect("JSON"));
        let rest = rest.collect();
        assert_eq!(self.process.child().wait().expect("it ends").code(), Some(0));
        rest
    }
}

/// Sends that many datagrams to a port.
fn send(lab: &Lab, from: &str, address: &str, port: u16, count: usize) {
    let script = format!(
        "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
         for _ in range({count}): s.sendto(b'x', ('{address}', {port}))"
    );
    let _ = lab.python(from, &script, &[]).success();
}

fn is(line: &Value, pairs: &[(&str, &str)]) -> bool {
    pairs.iter().all(|(key, value)| line[key] == *value)
}

#[test]
fn who_drops_is_told_with_the_slot() {
    if !can_use_kernel() {
        return;
    }
    for ports in ["veth", "tap"] {
        let lab = Lab::open(ports);
        let mut watch = Watch::begin(&lab);
        let rules = "add table inet other; add chain inet other forward { type filter hook forward priority 0; }; \
                     add rule inet other forward udp dport 7001 drop";
        let _ = lab.exec("hv", "ip route add blackhole 203.0.113.77/32").success();
        let _ = lab.shell("hv", &format!("nft '{rules}'")).success();
        // Nobody's business: a guest's own drop, which has a slot's address, and another slot's, which the driver drops or TC.
        send(&lab, "slot1", "10.1.0.2", 7000, 1);
        send(&lab, "slot1", "10.2.0.2", 7002, 1);
        send(&lab, "slot2", "203.0.113.77", 7003, 1);
        send(&lab, "slot1", "203.0.113.10", 7001, 1);
        let seen = watch.until(|line| line["dst_port"] == 7001);
        let last = seen.last().expect("a line");
        let firewall = [
            ("slot", "slot1"),
            ("direction", "egress"),
            ("who", "netfilter"),
            ("reason", "NETFILTER_DROP"),
            ("src", "10.1.0.2"),
            ("dst", "203.0.113.10"),
            ("protocol", "udp"),
        ];
        assert!(is(last, &firewall), "{last}");
        let chains = last["chains"].as_array().expect("chains");
        assert!(chains.contains(&"inet other forward".into()), "{last}");
        let routed = seen.iter().find(|it| it["dst_port"] == 7003).expect("the blackhole's");
        assert!(
            is(routed, &[("slot", "slot2"), ("who", "routing"), ("direction", "egress")]),
            "{routed}"
        );
        for line in seen.iter().chain(&watch.end()) {
            assert_ne!(line["dst_port"], 7000, "{line}");
            assert!(line["dst_port"] != 7002 || line["who"] == "netguard", "{line}");
        }
        assert!(lab.packets("slot1", "egress", "cross-slot") > 0);
    }
}

#[test]
fn a_flood_is_counted_and_hides_no_other_slots_drop() {
    const FLOOD: usize = 3000;
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::open("veth");
    let rules = "add table inet other; add chain inet other forward { type filter hook forward priority 0; }; \
                 add rule inet other forward udp dport 7001 drop";
    let _ = lab.shell("hv", &format!("nft '{rules}'")).success();
    let mut watch = Watch::begin(&lab);
    send(&lab, "slot1", "203.0.113.10", 7001, FLOOD);
    send(&lab, "slot2", "203.0.113.10", 7001, 1);
    let mut seen = watch.until(|line| line["slot"] == "slot2");
    seen.extend(watch.end());
    let of_flood = || seen.iter().filter(|it| it["slot"] == "slot1");
    let told = of_flood().filter(|it| it["event"] == "kernel-drop").count();
    let untold = of_flood().filter_map(|it| it["packets"].as_u64()).sum::<u64>() as usize;
    assert!(told > 0 && untold > 0 && told + untold <= FLOOD, "{told} told and {untold} not");
}

#[test]
fn a_watch_ends_with_its_time() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::up("veth");
    let ended = doctor(&lab, &["--watch", "--for", "100ms"]);
    assert_eq!(ended.code, 0, "{ended:?}");
}
