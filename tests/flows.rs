//! The flow table of README: who reaches whom, one cell a test, with real clients on the hosts of a lab. Labs are
//! those of `dist/examples` where one of them has the cell.

use std::fs;

use netguard_tests::{
    can_use_kernel,
    lab::{Background, Lab},
    until,
};

const WEB: &str = "203.0.113.10";

/// A lab of one slot with these lines in its entry, and these in `[host]`.
fn one_slot(host: &str, slot: &str) -> Lab {
    Lab::with(
        &format!(
            "[host]\nmanagement = [\"100.64.0.0/10\"]\n{host}\n[dns]\nupstreams = [\"1.1.1.1\"]\n\
             [[slot]]\nname = \"a\"\nid = 1\nsubnet = \"10.1.0.0/24\"\n{slot}\n"
        ),
        "veth",
    )
}

/// Something that accepts TCP connections until it is dropped.
fn serve(lab: &Lab, host: &str, port: u16) -> Background {
    let server = lab.start(host, &format!("exec nc -l -k -p {port}"));
    lab.listening(host, port);
    server
}

fn connects(lab: &Lab, host: &str, address: &str, port: u16) -> bool {
    lab.exec(host, &format!("nc -z -w 5 {address} {port}")).code == 0
}

fn pings(lab: &Lab, host: &str, address: &str) -> bool {
    lab.exec(host, &format!("ping -c 1 -W 5 {address}")).code == 0
}

/// A command on a host fails, and exactly for that reason.
fn is_dropped(lab: &Lab, (host, slot): (&str, &str), reason: &str, command: &str) {
    let before = lab.packets(slot, "egress", reason);
    let ended = lab.exec(host, command);
    assert_ne!(ended.code, 0, "{command}: {ended:?}");
    let after = lab.packets(slot, "egress", reason);
    assert!(after > before, "{command} was not dropped as {reason}: {:?}", lab.counters(slot));
}

#[test]
fn slots_on_one_bridge_are_isolated() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::of("mixed", "veth");
    is_dropped(&lab, ("vm1", "vm1"), "cross-slot", "ping -c 1 -W 0.2 10.5.2.2");
    // On the link itself: the question for the neighbour's MAC gets no answer.
    let _ = lab.exec("vm1", "ip route add 10.5.2.2/32 dev eth0").success();
    assert_ne!(lab.exec("vm1", "ping -c 1 -W 0.2 10.5.2.2").code, 0);
    let neighbours = lab.exec("vm1", "ip neigh show 10.5.2.2").stdout;
    assert!(!neighbours.contains("lladdr"), "{neighbours}");
    for port in ["vm-vm1", "vm-vm2"] {
        let shown = lab.exec("hv", &format!("bridge -d link show dev {port}"));
        assert!(shown.success().contains("isolated on"), "{shown:?}");
    }
}

#[test]
fn slot_to_internet_open() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::open("veth");
    for url in ["http://203.0.113.66/", "http://[2001:db8:113::66]/"] {
        let page = lab.exec("slot1", &format!("curl -sSg --max-time 5 {url}"));
        assert_eq!(page.success(), "this is evil.example, in the lab's internet\n");
    }
}

#[test]
fn slot_to_internet_pinned() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::up("veth");
    // Whoever knows an address without having been told it, or guesses one, gets nowhere; of an open internet
    // it would be a page, see `slot_to_internet_open`.
    for url in ["http://203.0.113.66/", "http://[2001:db8:113::66]/", "http://203.0.113.10/"] {
        let fetch = format!("curl -sSg --max-time 0.5 {url}");
        is_dropped(&lab, ("slot1", "slot1"), "not-pinned", &fetch);
    }
    is_dropped(&lab, ("slot1", "slot1"), "not-pinned", "ping -c 1 -W 0.2 203.0.113.10");
    for family in ["-4", "-6"] {
        let page = lab.exec("slot1", &format!("curl -sS {family} --max-time 5 http://github.com/"));
        assert_eq!(page.success(), "this is github.com, in the lab's internet\n");
    }
    assert!(pings(&lab, "slot1", WEB), "an address with all that is there");
    // What one slot was told opens nothing to another.
    is_dropped(&lab, ("slot2", "slot2"), "not-pinned", "nc -z -w 1 203.0.113.10 80");
    let event = lab.event("drop", |event| event["reason"] == "not-pinned");
    assert_eq!((&event["code"], &event["dst"]), (&540_047.into(), &"203.0.113.66".into()));
    assert!(lab.internet().iter().all(|entry| entry["server"] != "203.0.113.66"));
}

#[test]
fn slot_to_internet_pinned_by_port() {
    if !can_use_kernel() {
        return;
    }
    let names = "[slot.dns]\nnames = [\"github.com:80\"]\ncategories = []";
    let lab = one_slot("uplinks = [\"eth0\"]", &format!("egress = \"pinned\"\n{names}"));
    let _server = serve(&lab, "net", 443);
    let answer = lab.exec("a", "dig +short +time=5 +tries=1 github.com @8.8.8.8");
    assert_eq!(answer.success(), "203.0.113.10\n");
    assert!(connects(&lab, "a", WEB, 80));
    is_dropped(&lab, ("a", "a"), "not-pinned", "nc -z -w 1 203.0.113.10 443");
    is_dropped(&lab, ("a", "a"), "not-pinned", "ping -c 1 -W 0.2 203.0.113.10");
}

#[test]
fn slot_to_internet_listed() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::of("mixed", "veth");
    assert!(connects(&lab, "podman-a", WEB, 80));
    let from = ("podman-a", "podman");
    is_dropped(&lab, from, "egress-denied", "nc -z -w 1 203.0.113.10 8080");
    is_dropped(&lab, from, "egress-denied", "nc -z -w 1 198.51.100.9 80");
    is_dropped(&lab, from, "egress-denied", "ping -c 1 -W 0.2 203.0.113.10");
}

#[test]
fn slot_to_internet_denied() {
    if !can_use_kernel() {
        return;
    }
    let mixed = concat!(env!("CARGO_MANIFEST_DIR"), "/../dist/examples/mixed.toml");
    let mixed = fs::read_to_string(mixed).expect("the example");
    let (pinned, denied) = ("egress = \"pinned\"\ndeny", "deny");
    assert!(mixed.contains(pinned), "vm1 has denials");
    let lab = Lab::with(&mixed.replace(pinned, denied), "veth");
    assert!(connects(&lab, "vm1", WEB, 80));
    is_dropped(&lab, ("vm1", "vm1"), "egress-denied", "nc -z -w 1 203.0.113.66 80");
    // 198.51.100.0/24 is closed over UDP alone.
    let before = lab.packets("vm1", "egress", "egress-denied");
    let _ = lab.shell("vm1", "echo x | nc -u -q 0 -w 1 198.51.100.9 4000");
    assert_eq!(lab.packets("vm1", "egress", "egress-denied"), before + 1);
    let passed = lab.packets("vm1", "egress", "pass");
    let _ = lab.exec("vm1", "ping -c 1 -W 0.2 198.51.100.9");
    assert!(lab.packets("vm1", "egress", "pass") > passed);
}

#[test]
fn slot_to_internet_none() {
    if !can_use_kernel() {
        return;
    }
    let lab = one_slot("uplinks = [\"eth0\"]", "egress = \"none\"");
    is_dropped(&lab, ("a", "a"), "egress-denied", "ping -c 1 -W 0.2 203.0.113.10");
    is_dropped(&lab, ("a", "a"), "egress-denied", "nc -z -w 1 203.0.113.10 80");
    let answer = lab.exec("a", "dig +short +time=5 +tries=1 github.com @8.8.8.8");
    assert_eq!(answer.success(), "203.0.113.10\n", "DNS is the resolver's, not the internet's");
}

#[test]
fn slot_to_internet_is_masqueraded_on_the_uplink() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::up("veth");
    for (family, host) in [("-4", "192.0.2.2"), ("-6", "2001:db8:ffff::2")] {
        let fetch = format!("curl -sS {family} --max-time 5 http://api.github.com/");
        let _ = lab.exec("slot2", &fetch).success();
        until("the internet has seen the host's address", || {
            lab.internet().iter().any(|entry| entry["client"] == host)
        });
    }
    assert!(!lab.internet().iter().any(|entry| entry["client"] == "10.2.0.2"));
}

#[test]
fn internet_to_slot_replies_only() {
    if !can_use_kernel() {
        return;
    }
    // Without masquerade, so that the internet can try the slot's own address.
    let lab = one_slot("", "");
    let _server = serve(&lab, "a", 8022);
    assert!(pings(&lab, "a", WEB), "its replies enter");
    assert!(connects(&lab, "a", WEB, 80), "its replies enter");
    let unasked = || lab.packets("a", "ingress", "unsolicited");
    for command in ["ping -c 1 -W 0.2 10.1.0.2", "nc -z -w 1 10.1.0.2 8022"] {
        let before = unasked();
        assert_ne!(lab.exec("net", command).code, 0, "{command}");
        assert!(unasked() > before, "{command}: {:?}", lab.counters("a"));
    }
    // The very peer that the slot talks to, from another port than it talks to.
    let asks = "
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(('', 5000))
s.sendto(b'?', ('203.0.113.10', 7000))
";
    let _ = lab.python("a", asks, &[]).success();
    let answers = "
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(('203.0.113.10', int(sys.argv[1])))
s.sendto(b'!', ('10.1.0.2', 5000))
";
    let before = unasked();
    let _ = lab.python("net", answers, &["7000"]).success();
    assert_eq!(unasked(), before, "the reply is no intruder");
    let _ = lab.python("net", answers, &["7001"]).success();
    until("the other port is dropped", || unasked() == before + 1);
}

#[test]
fn slot_to_metadata_dropped() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::of("mixed", "veth");
    is_dropped(&lab, ("vm1", "vm1"), "metadata", "nc -z -w 1 169.254.169.254 80");
    assert!(!lab.internet().iter().any(|entry| entry["server"] == "169.254.169.254"));
}

#[test]
fn slot_to_metadata_allowed_with_the_hosts_address() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::of("mixed", "veth");
    let page = lab.exec("vm2", "curl -sS --max-time 5 http://169.254.169.254/latest/");
    assert_eq!(page.success(), "this is 169.254.169.254, in the lab's internet\n");
    let seen = lab.internet();
    let asked = seen.iter().find(|entry| entry["server"] == "169.254.169.254");
    assert_eq!(asked.expect("it arrived")["client"], "192.0.2.2");
}

#[test]
fn slot_to_private_only_if_listed() {
    if !can_use_kernel() {
        return;
    }
    let lab =
        one_slot("uplinks = [\"eth0\"]", "allow = [\"192.168.77.0/24 tcp/80\", \"0.0.0.0/0\"]");
    let _ = lab.exec("net", "ip addr add 192.168.77.1/32 dev lo").success();
    let _ = lab.exec("net", "ip addr add 192.168.78.1/32 dev lo").success();
    assert!(connects(&lab, "a", "192.168.77.1", 80));
    let from = ("a", "a");
    is_dropped(&lab, from, "private-destination", "nc -z -w 1 192.168.77.1 81");
    is_dropped(&lab, from, "private-destination", "ping -c 1 -W 0.2 192.168.77.1");
    // What is allowed everywhere is not allowed in private.
    is_dropped(&lab, from, "private-destination", "nc -z -w 1 192.168.78.1 80");
}

#[test]
fn slot_to_host_dns_and_ping_of_its_own_gateway_only() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::up("veth");
    let _server = serve(&lab, "hv", 4317);
    assert!(pings(&lab, "slot1", "10.1.0.1"));
    let answer = lab.exec("slot1", "dig +short +time=5 +tries=1 github.com @10.1.0.1");
    assert_eq!(answer.success(), "203.0.113.10\n");
    for command in [
        "nc -z -w 1 10.1.0.1 4317",
        "nc -z -w 1 192.0.2.2 4317",
        "nc -z -w 1 fd00:10:1::1 4317",
        "nc -z -w 1 2001:db8:ffff::2 4317",
        "ping -c 1 -W 0.2 192.0.2.2",
        "ping -c 1 -W 0.2 100.64.0.1",
    ] {
        is_dropped(&lab, ("slot1", "slot1"), "host", command);
    }
}

#[test]
fn slot_to_host_services() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::of("mixed", "veth");
    let (_listed, _other) = (serve(&lab, "hv", 6443), serve(&lab, "hv", 6444));
    assert!(connects(&lab, "k3s-a", "10.42.0.1", 6443));
    is_dropped(&lab, ("k3s-a", "k3s"), "host", "nc -z -w 1 10.42.0.1 6444");
    is_dropped(&lab, ("k3s-a", "k3s"), "host", "nc -z -w 1 192.0.2.2 6443");
    is_dropped(&lab, ("vm1", "vm1"), "host", "nc -z -w 1 10.5.1.1 6443");
}

#[test]
fn slot_to_host_services_all() {
    if !can_use_kernel() {
        return;
    }
    let lab = one_slot("", "host_services = \"all\"");
    let _server = serve(&lab, "hv", 4317);
    for address in ["10.1.0.1", "192.0.2.2", "100.64.0.1"] {
        assert!(connects(&lab, "a", address, 4317), "{address}");
    }
}

#[test]
fn management_to_slot_and_replies_only_back() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::up("veth");
    let (_slot, _mgmt) = (serve(&lab, "slot1", 8022), serve(&lab, "mgmt", 8022));
    assert!(connects(&lab, "mgmt", "10.1.0.2", 8022));
    assert!(pings(&lab, "mgmt", "10.1.0.2"));
    is_dropped(&lab, ("slot1", "slot1"), "management", "nc -z -w 1 100.64.0.2 8022");
    is_dropped(&lab, ("slot1", "slot1"), "management", "ping -c 1 -W 0.2 100.64.0.2");
}

#[test]
fn uplink_to_host_protected() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::of("mixed", "veth");
    let (_ssh, _other) = (serve(&lab, "hv", 22), serve(&lab, "hv", 8080));
    let _ssh6 = lab.start("hv", "exec nc -6 -l -k -p 22");
    until("ssh listens over IPv6", || !lab.exec("hv", "ss -6Hltn sport = 22").success().is_empty());
    for address in ["192.0.2.2", "2001:db8:ffff::2"] {
        assert!(connects(&lab, "net", address, 22), "{address}");
        let before = lab.host_packets("host-closed");
        assert_ne!(lab.exec("net", &format!("nc -z -w 1 {address} 8080")).code, 0);
        assert!(lab.host_packets("host-closed") > before, "{address}");
    }
    assert!(connects(&lab, "hv", WEB, 80), "what the host opens is answered");
    assert!(pings(&lab, "hv", WEB), "what the host opens is answered");
}

#[test]
fn uplink_to_host_dry_run_only_counts() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::up("veth");
    let _server = serve(&lab, "hv", 8080);
    assert!(connects(&lab, "net", "192.0.2.2", 8080));
    assert!(lab.host_packets("host-closed-dry-run") > 0);
}

#[test]
fn runtime_to_runtime_only_through_the_gate() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::of("mixed", "veth");
    let _servers = [("hv", 443), ("hv", 8443), ("podman-a", 8080), ("vm1", 8080)]
        .map(|(host, port)| serve(&lab, host, port));
    // Both ways, and each pair.
    for (from, slot, to) in [
        ("vm1", "vm1", "10.88.0.2"),
        ("vm1", "vm1", "10.42.0.2"),
        ("podman-a", "podman", "10.5.1.2"),
        ("podman-a", "podman", "10.42.0.2"),
        ("k3s-a", "k3s", "10.88.0.2"),
        ("k3s-a", "k3s", "10.5.1.2"),
    ] {
        is_dropped(&lab, (from, slot), "cross-runtime", &format!("nc -z -w 1 {to} 8080"));
    }
    let event = lab.event("crossing", |event| event["reason"] == "cross-runtime");
    assert_eq!(event["code"], 540_001);
    for (from, slot) in [("vm1", "vm1"), ("podman-b", "podman"), ("k3s-b", "k3s")] {
        assert!(connects(&lab, from, "10.99.0.1", 443), "{from} to the gate");
        is_dropped(&lab, (from, slot), "host", "nc -z -w 1 10.99.0.1 8443");
    }
    // The gate itself, here on the host, reaches what it is a gate to.
    for address in ["10.88.0.2", "10.5.1.2"] {
        assert!(connects(&lab, "hv", address, 8080), "the gate to {address}");
    }
}

#[test]
fn runtime_to_runtime_through_a_gate_in_a_slot() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::with(
        "[dns]\nupstreams = [\"1.1.1.1\"]\n\
         [gate]\naddresses = [\"10.3.0.2\"]\nports = [\"tcp/443\"]\n\
         [[runtime]]\nname = \"front\"\n[[runtime]]\nname = \"back\"\n[[runtime]]\nname = \"door\"\n\
         [[slot]]\nname = \"a\"\nid = 1\nruntime = \"front\"\nsubnet = \"10.1.0.0/24\"\n\
         [[slot]]\nname = \"b\"\nid = 2\nruntime = \"back\"\nsubnet = \"10.2.0.0/24\"\n\
         [[slot]]\nname = \"g\"\nid = 3\nruntime = \"door\"\nsubnet = \"10.3.0.0/24\"\n",
        "veth",
    );
    let _servers = [("g", 443), ("g", 80), ("b", 8080)].map(|(host, port)| serve(&lab, host, port));
    assert!(connects(&lab, "a", "10.3.0.2", 443), "to the gate");
    assert!(connects(&lab, "g", "10.2.0.2", 8080), "from the gate");
    is_dropped(&lab, ("a", "a"), "cross-runtime", "nc -z -w 1 10.3.0.2 80");
    is_dropped(&lab, ("a", "a"), "cross-runtime", "nc -z -w 1 10.2.0.2 8080");
}

#[test]
fn same_runtime_isolated() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::of("mixed", "veth");
    // The bridge keeps even the question for the neighbour's MAC from it.
    assert_ne!(lab.exec("podman-a", "ping -c 1 -W 0.2 10.88.0.3").code, 0);
    let neighbours = lab.exec("podman-a", "ip neigh show 10.88.0.3").stdout;
    assert!(!neighbours.contains("lladdr"), "{neighbours}");
    // Who knows the MAC gets no further.
    let mac = "ip neigh replace 10.88.0.3 lladdr 02:6e:67:00:01:03 dev eth0";
    let _ = lab.exec("podman-a", mac).success();
    is_dropped(&lab, ("podman-a", "podman"), "isolated", "ping -c 1 -W 0.2 10.88.0.3");
    is_dropped(&lab, ("podman-a", "podman"), "isolated", "nc -z -w 1 10.88.0.3 80");
}

#[test]
fn same_runtime_not_isolated() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::of("mixed", "veth");
    assert!(pings(&lab, "k3s-a", "10.42.0.3"));
    let _server = serve(&lab, "k3s-a", 8080);
    assert!(connects(&lab, "k3s-b", "10.42.0.2", 8080));
}

#[test]
fn lockdown_has_no_network() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::of("lockdown", "veth");
    // Not even ARP: the guest learns no MAC, and every attempt is counted.
    is_dropped(&lab, ("cell1", "cell1"), "lockdown", "ping -c 1 -W 0.2 10.1.0.1");
    let neighbours = lab.exec("cell1", "ip neigh show 10.1.0.1").stdout;
    assert!(!neighbours.contains("lladdr"), "{neighbours}");
    let mac = "ip neigh replace 10.1.0.1 lladdr 02:6e:67:00:01:01 dev eth0";
    let _ = lab.exec("cell1", mac).success();
    let query = "dig +time=1 +tries=1 github.com @8.8.8.8";
    is_dropped(&lab, ("cell1", "cell1"), "lockdown", query);
    assert_ne!(lab.exec("hv", "ping -c 1 -W 0.2 10.1.0.2").code, 0);
    assert_eq!(lab.packets("cell1", "egress", "pass"), 0);
    assert_eq!(lab.packets("cell1", "egress", "redirect"), 0);
    assert_eq!(lab.packets("cell1", "ingress", "pass"), 0);
}

#[test]
fn limits_are_the_slots_own() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::with(
        "[dns]\nupstreams = [\"1.1.1.1\"]\n\
         [[slot]]\nname = \"a\"\nid = 1\nsubnet = \"10.1.0.0/24\"\n\
         limits = { flows_per_second = 5, icmp_per_second = 5 }\n\
         [[slot]]\nname = \"b\"\nid = 2\nsubnet = \"10.2.0.0/24\"\n",
        "veth",
    );
    let opens = "
import socket
for port in range(100):
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('203.0.113.10', 9000 + port))
";
    for (slot, dropped) in [("a", true), ("b", false)] {
        let _ = lab.python(slot, opens, &[]).success();
        let over = lab.packets(slot, "egress", "flow-rate");
        assert_eq!(over > 50, dropped, "{slot}: {over} of 100 flows were too many");
        let _ = lab.exec(slot, "ping -c 30 -i 0.002 -W 1 203.0.113.10");
        let over = lab.packets(slot, "egress", "icmp-rate");
        assert_eq!(over > 10, dropped, "{slot}: {over} of 30 pings were too many");
    }
}

#[test]
fn one_number_more_is_one_slot_more() {
    if !can_use_kernel() {
        return;
    }
    let five = netguard::lab::CONFIG;
    assert!(five.contains("count = 5 "));
    let lab = Lab::with(&five.replace("count = 5 ", "count = 6 "), "veth");
    let answer = lab.exec("slot6", "dig +short +time=5 +tries=1 github.com @8.8.8.8");
    assert_eq!(answer.success(), "203.0.113.10\n");
    assert!(connects(&lab, "slot6", WEB, 80));
    is_dropped(&lab, ("slot6", "slot6"), "cross-slot", "ping -c 1 -W 0.2 10.1.0.2");
    is_dropped(&lab, ("slot1", "slot1"), "cross-slot", "ping -c 1 -W 0.2 10.6.0.2");
}
