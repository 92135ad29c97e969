//! `netguard doctor`: a host as it should be has nothing to complain of; what is broken there is named, and so is who drops
//! packets. All of it in a lab's own hypervisor.

use std::{
    io::{BufRead as _, BufReader, Lines},
    path::Path,
    process::{ChildStderr, ChildStdout, Stdio},
};

use aya::programs::{
    LinkOrder, SchedClassifier, TcAttachType,
    tc::{SchedClassifierLink, TcAttachOptions},
};
use netguard::{
    config::Config,
    datapath::Tc,
    doctor::{Machine, examine},
};
use netguard_common::Hook;
use netguard_tests::{
    binary::{Ended, netguard},
    can_use_kernel,
    daemon::kill,
    kernel::Kernel,
    lab::{Background, Lab},
    until,
};
use nix::{
    sys::signal::{Signal, kill as signal},
    unistd::Pid,
};
use serde_json::Value;

/// What is the machine's own and no lab's.
const OF_MACHINE: [&str; 4] = ["kernel-config", "bpf-jit", "unprivileged-bpf", "network"];

fn doctor(lab: &Lab, words: &[&str]) -> Ended {
    let instance = lab.instance();
    Ended::of(&mut netguard(&[&["doctor"], words, &["--instance", &instance]].concat()))
}

/// What was found about the lab: severity, check, and the finding itself.
fn findings(lab: &Lab) -> Vec<(String, String, Value)> {
    let ended = doctor(lab, &["--json"]);
    let answer: Value = serde_json::from_str(ended.stdout.trim()).expect("JSON");
    let all = answer["findings"].as_array().expect("findings").clone();
    let has_fault = all.iter().any(|it| it["severity"] != "note");
    assert_eq!(ended.code, if has_fault { 3 } else { 0 }, "{ended:?}");
    assert_eq!(answer["good"], !has_fault);
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let of_lab = all.into_iter().filter(|it| !OF_MACHINE.contains(&text(&it["check"]).as_str()));
    of_lab.map(|it| (text(&it["severity"]), text(&it["check"]), it)).collect()
}

fn faults(lab: &Lab) -> Vec<(String, String, Value)> {
    findings(lab).into_iter().filter(|(severity, ..)| severity != "note").collect()
}

#[test]
fn a_host_as_it_should_be_has_nothing_broken_or_weak() {
    if !can_use_kernel() {
        return;
    }
    for lab in
        [Lab::up("veth"), Lab::up("tap"), Lab::of("mixed", "veth"), Lab::of("lockdown", "tap")]
    {
        assert_eq!(faults(&lab), []);
    }
}

/// What is done on the hypervisor, what undoes it, and what is said of it: severity, check, and words.
const BROKEN: [[&str; 5]; 15] = [
    [
        "echo 0 >/proc/sys/net/ipv4/ip_forward",
        "echo 1 >/proc/sys/net/ipv4/ip_forward",
        "broken",
        "forwarding",
        "net.ipv4.ip_forward is 0",
    ],
    [
        "echo 0 >/proc/sys/net/ipv6/conf/all/forwarding",
        "echo 1 >/proc/sys/net/ipv6/conf/all/forwarding",
        "broken",
        "forwarding",
        "IPv6",
    ],
    [
        "echo 0 >/proc/sys/net/ipv4/conf/br-slot2/forwarding",
        "echo 1 >/proc/sys/net/ipv4/conf/br-slot2/forwarding",
        "broken",
        "forwarding",
        "net.ipv4.conf.br-slot2.forwarding is 0",
    ],
    [
        "echo 1 >/proc/sys/net/ipv4/conf/br-slot3/route_localnet",
        "echo 0 >/proc/sys/net/ipv4/conf/br-slot3/route_localnet",
        "weak",
        "route-localnet",
        "br-slot3",
    ],
    [
        "echo 1 >/proc/sys/net/ipv4/conf/all/proxy_arp",
        "echo 0 >/proc/sys/net/ipv4/conf/all/proxy_arp",
        "weak",
        "proxy",
        "br-slot1, br-slot2",
    ],
    [
        "ip route add 10.1.0.128/25 dev tailscale0",
        "ip route del 10.1.0.128/25",
        "broken",
        "route",
        "the route 10.1.0.128/25 dev tailscale0 overlaps with 10.1.0.0/24 of slot slot1",
    ],
    [
        "ip route add 10.0.0.0/8 dev tailscale0 table 52",
        "ip route del 10.0.0.0/8 table 52",
        "weak",
        "route",
        "dev tailscale0 table 52",
    ],
    [
        "ip route add 10.0.0.0/8 dev tailscale0",
        "ip route del 10.0.0.0/8",
        "note",
        "route",
        "the route 10.0.0.0/8",
    ],
    [
        "ip addr add 10.2.0.77/32 dev lo",
        "ip addr del 10.2.0.77/32 dev lo",
        "broken",
        "address",
        "lo has the address 10.2.0.77",
    ],
    [
        "ip link set br-slot4 mtu 1400",
        "ip link set br-slot4 mtu 1500",
        "weak",
        "mtu",
        "vm-slot4 takes packets of 1500 bytes, and its bridge br-slot4 of 1400",
    ],
    [
        "ip link set br-slot5 type bridge stp_state 1",
        "ip link set br-slot5 type bridge stp_state 0",
        "note",
        "stp",
        "br-slot5",
    ],
    [
        "ip link set br-slot5 type bridge mcast_querier 1",
        "ip link set br-slot5 type bridge mcast_querier 0",
        "weak",
        "snooping",
        "br-slot5",
    ],
    [
        "nft 'add table inet x; add chain inet x f { type filter hook forward priority 0; policy drop; }'",
        "nft delete table inet x",
        "broken",
        "firewall-closed",
        "the chain inet x f drops",
    ],
    [
        "nft 'add table ip x; add chain ip x i { type filter hook input priority 0; }; add rule ip x i iifname br-slot1 drop'",
        "nft delete table ip x",
        "weak",
        "firewall-rule",
        "ip x i: a rule drops packets with iifname br-slot1",
    ],
    [
        "nft 'add table ip x; add chain ip x p { type nat hook prerouting priority -100; }; add rule ip x p udp dport 53 redirect to :5353'",
        "nft delete table ip x",
        "broken",
        "firewall-dns",
        "ip x p: a rule sends packets to port 53 elsewhere",
    ],
];

#[test]
fn what_is_broken_on_the_host_is_named_and_nothing_else() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::up("veth");
    let before = findings(&lab);
    for [done, undone, severity, check, words] in BROKEN {
        let _ = lab.shell("hv", done).success();
        let mut found = findings(&lab);
        found.retain(|it| !before.contains(it));
        assert!(!found.is_empty(), "{done}: nothing was found");
        for (its_severity, its_check, finding) in &found {
            assert_eq!((its_severity.as_str(), its_check.as_str()), (severity, check), "{finding}");
            assert!(finding["what"].as_str().is_some_and(|it| it.contains(words)), "{finding}");
        }
        let _ = lab.shell("hv", undone).success();
        assert_eq!(findings(&lab), before, "after {undone}");
    }
    let text = doctor(&lab, &[]);
    assert_eq!(text.code, 0, "{text:?}");
    assert!(text.stdout.contains("31 checks: ") && !text.stdout.contains('\u{1b}'), "{text:?}");
}

#[test]
fn a_listener_in_the_resolvers_place_is_named_with_its_process() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::up("veth");
    kill(&lab, "TERM");
    assert_eq!(faults(&lab), []);
    for address in ["10.3.0.1", "0.0.0.0"] {
        let script = format!(
            "import socket, time\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.bind(('{address}', 53))\n\
             time.sleep(600)"
        );
        let mut server = lab.start("hv", &format!("exec python3 -c \"{script}\""));
        let pid = server.child().id();
        let found = || faults(&lab);
        until("it is found", || !found().is_empty());
        let found = found();
        let [(severity, check, finding)] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((severity.as_str(), check.as_str()), ("broken", "resolver-port"));
        let what = finding["what"].as_str().expect("a text");
        assert!(what.contains(&format!("(process {pid}) listens on udp {address}:53")), "{what}");
        drop(server);
        assert_eq!(faults(&lab), []);
    }
}

#[test]
fn programs_of_others_are_named_before_netguards_and_behind() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::up("veth");
    let before = findings(&lab);
    let other = std::thread::spawn(Kernel::new).join().expect("other programs");
    let pin = other.pins().program(Hook::BridgeIngress);
    let mut program = SchedClassifier::from_pin(&pin).expect("its program");
    let name = format!("program {} (ng_br_ingress)", program.info().expect("the program").id());
    let new = || {
        let mut found = findings(&lab);
        found.retain(|it| !before.contains(it));
        let [(severity, check, finding)] = found.as_slice() else { panic!("{found:?}") };
        (severity.clone(), check.clone(), finding["what"].as_str().expect("a text").to_owned())
    };
    let filter = format!(
        "tc qdisc add dev br-slot1 clsact 2>/dev/null; \
         tc filter add dev br-slot1 ingress protocol all prio 7 bpf da object-pinned {}",
        pin.display()
    );
    let _ = lab.shell("hv", &filter).success();
    let behind =
        ("note".into(), "program-behind".into(), format!("{name} is on br-slot1 too (ingress)"));
    assert_eq!(new(), behind);
    let _ = lab.exec("hv", "tc filter del dev br-slot1 ingress protocol all prio 7").success();
    assert_eq!(findings(&lab), before);
    if Tc::of_kernel() != Tc::Tcx {
        return; // nothing comes before netguard's filters there
    }
    let link: SchedClassifierLink = lab.within("hv", || {
        let first = TcAttachOptions::TcxOrder(LinkOrder::first());
        let id = program.attach_with_options("vm-slot2", TcAttachType::Ingress, first);
        program.take_link(id.expect("it is attached")).expect("the link")
    });
    let what = format!("{name} runs before netguard's on vm-slot2 (ingress)");
    assert_eq!(new(), ("weak".into(), "program-before".into(), what));
    drop(link);
    assert_eq!(findings(&lab), before);
}

#[test]
fn a_configuration_is_enough_before_anything_is_loaded() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::unguarded("veth");
    let config = Config::parse(netguard::lab::CONFIG, Path::new("netguard.toml")).expect("good");
    let machine = Machine::read();
    let broken = |lab: &Lab| {
        let found = lab.within("hv", || examine(None, &config, &machine)).expect("a diagnosis");
        assert!(found.text(false).contains("\nno instance, netguard.toml, kernel "));
        let found = found.json();
        let all = found["findings"].as_array().expect("findings").iter();
        let broken = all.filter(|it| it["severity"] == "broken" && it["check"] != "kernel-config");
        broken.map(|it| it["check"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(broken(&lab), Vec::<Value>::new());
    let _ = lab.exec("hv", "ip addr add 10.5.0.9/32 dev lo").success();
    assert_eq!(broken(&lab), ["address"]);
    assert_eq!(doctor(&lab, &[]).code, 1, "nothing guards it");
    assert_eq!(doctor(&lab, &["--for", "1s"]).code, 2, "only with --watch");
}

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
        let arguments = ["doctor", "--watch", "--json", "--for", "10m", "--instance", &instance];
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
        for line in &seen {
            assert_ne!(line["dst_port"], 7000, "{line}");
            assert!(line["dst_port"] != 7002 || line["who"] == "netguard", "{line}");
        }
        assert!(lab.packets("slot1", "egress", "cross-slot") > 0);
        assert!(watch.end().is_empty());
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
    assert_eq!((ended.code, ended.stdout.as_str()), (0, ""), "{ended:?}");
}
