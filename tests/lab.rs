//! The whole of netguard on real interfaces: real clients in the guests of a lab, over veth and TAP
//! ports, with the daemon's log, the counters and the internet's own log as witnesses.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use netguard_tests::{
    can_use_kernel,
    lab::{Lab, on_both_port_kinds},
};
use serde_json::Value;

const SLOTS: std::ops::RangeInclusive<u8> = 1..=5;

fn guest(slot: u8) -> IpAddr {
    Ipv4Addr::new(10, slot, 0, 2).into()
}

/// The short answer of `dig`, or its failure.
fn dig(lab: &Lab, slot: &str, query: &str) -> String {
    let ended = lab.exec(slot, &format!("dig +time=5 +tries=1 {query}"));
    assert_eq!(ended.code, 0, "dig {query}: {ended:#?}");
    ended.stdout
}

#[test]
fn every_ordered_pair_of_slots_is_isolated_and_every_attempt_counted_and_logged_once() {
    on_both_port_kinds(|lab| {
        let mut logged = 0;
        for from in SLOTS {
            let slot = format!("slot{from}");
            for to in SLOTS.filter(|to| *to != from) {
                let address = guest(to);
                let before = lab.packets(&slot, "egress", "cross-slot");
                // One packet each, told apart by its port or size.
                let ping = lab.exec(&slot, &format!("ping -c 1 -W 0.05 -s {} {address}", 60 + to));
                assert_ne!(ping.code, 0, "{slot} reached {address} by ping");
                let (udp_port, tcp_port) = (4000 + u16::from(to), 5000 + u16::from(to));
                let target = [address.to_string(), udp_port.to_string(), tcp_port.to_string()];
                let _ = lab.python(&slot, UDP, &[&target[0], &target[1]]).success();
                let tcp = lab.python(&slot, TCP, &[&target[0], &target[2]]);
                assert_eq!(tcp.success(), "no answer\n", "{slot} reached {address}");
                let after = lab.packets(&slot, "egress", "cross-slot");
                assert_eq!(after - before, 3, "{slot} to {address}: ping, UDP and TCP, once each");

                let fits = |event: &Value, protocol: &str, port: Option<u16>| {
                    event["event"] == "drop"
                        && event["slot"] == slot.as_str()
                        && event["direction"] == "egress"
                        && event["reason"] == "cross-slot"
                        && event["code"] == 540_017
                        && event["protocol"] == protocol
                        && event["src"] == guest(from).to_string()
                        && event["dst"] == address.to_string()
                        && event["dst_port"] == Value::from(port)
                };
                for (protocol, port) in
                    [("icmp", None), ("udp", Some(udp_port)), ("tcp", Some(tcp_port))]
                {
                    let what = format!("{protocol} drop from {slot} to {address}");
                    let _ = lab.event(&what, |event| fits(event, protocol, port));
                    let all = lab.events();
                    let count = all.iter().filter(|event| fits(event, protocol, port)).count();
                    assert_eq!(count, 1, "{what} is logged once");
                    logged += 1;
                }
            }
        }
        assert_eq!(logged, 60);
        for slot in SLOTS {
            let entered = lab.packets(&format!("slot{slot}"), "ingress", "cross-slot");
            assert_eq!(entered, 0, "nothing got as far as the other slot's port");
        }
    });
}

/// One datagram.
const UDP: &str = "
import socket, sys
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', (sys.argv[1], int(sys.argv[2])))
";

/// One SYN: the attempt is given up before TCP sends its second.
const TCP: &str = "
import socket, sys
attempt = socket.socket()
attempt.settimeout(0.05)
print('connected' if attempt.connect_ex((sys.argv[1], int(sys.argv[2]))) == 0 else 'no answer')
";

/// One frame, in hexadecimal.
const FRAME: &str = "
import socket, sys
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind(('eth0', 0))
wire.send(bytes.fromhex(sys.argv[1]))
";

#[test]
fn every_way_to_ask_gets_the_resolvers_answer_from_the_address_that_was_asked() {
    on_both_port_kinds(|lab| {
        for (query, answer, server) in [
            ("github.com @8.8.8.8", "203.0.113.10", "8.8.8.8#53"),
            ("github.com @10.1.0.1", "203.0.113.10", "10.1.0.1#53"),
            ("+tcp github.com @8.8.8.8", "203.0.113.10", "8.8.8.8#53"),
            ("+tcp github.com @10.1.0.1", "203.0.113.10", "10.1.0.1#53"),
            ("AAAA github.com @1.1.1.1", "2001:db8:113::10", "1.1.1.1#53"),
            ("github.com @2001:4860:4860::8888", "203.0.113.10", "2001:4860:4860::8888#53"),
            ("AAAA github.com @fd00:10:1::1", "2001:db8:113::10", "fd00:10:1::1#53"),
            (
                "+tcp AAAA github.com @2606:4700:4700::1111",
                "2001:db8:113::10",
                "2606:4700:4700::1111#53",
            ),
            // A resolver that does not exist anywhere.
            ("github.com @198.51.100.199", "203.0.113.10", "198.51.100.199#53"),
            // A name below an allowed one; an answer that does not fit into UDP.
            ("api.github.com @8.8.8.8", "203.0.113.11", "8.8.8.8#53"),
            ("long.github.com @8.8.8.8", "198.51.100.119", "8.8.8.8#53"),
        ] {
            let out = dig(lab, "slot1", query);
            assert!(out.contains(&format!("\t{answer}\n")), "dig {query}: {out}");
            assert!(out.contains("status: NOERROR"), "dig {query}: {out}");
            assert!(out.contains(&format!("SERVER: {server}")), "dig {query}: {out}");
        }
        // The guests' queries went to netguard's own upstreams, whatever they asked.
        let servers: BTreeSet<_> = lab
            .internet()
            .iter()
            .filter(|entry| entry["event"] == "query")
            .map(|entry| entry["server"].to_string())
            .collect();
        let upstreams = ["1.1.1.1", "8.8.8.8"].map(|address| format!("\"{address}\""));
        assert!(servers.is_subset(&upstreams.into()), "{servers:?}");
        let event = lab.event("dns event", |event| {
            event["event"] == "dns" && event["name"] == "api.github.com"
        });
        assert_eq!(event["slot"], "slot1");
        assert_eq!(event["decision"], "allow");
        assert_eq!(event["rule"], "github.com");
        assert_eq!(event["client"], "10.1.0.2");
        let upstream = event["upstream"].as_str();
        assert!(matches!(upstream, Some("1.1.1.1:53" | "8.8.8.8:53")), "{upstream:?}");
    });
}

#[test]
fn a_name_off_the_allowlist_is_nxdomain_at_once_and_never_reaches_the_upstream() {
    on_both_port_kinds(|lab| {
        for query in [
            "evil.example @8.8.8.8",
            "+tcp evil.example @8.8.8.8",
            "secret-data.exfil.evil.example @10.1.0.1",
            "AAAA evilgithub.com @2001:4860:4860::8888",
            "TXT evil.example @1.1.1.1",
        ] {
            let out = dig(lab, "slot1", query);
            assert!(out.contains("status: NXDOMAIN"), "dig {query}: {out}");
            assert!(out.contains("EDE: 15 (Blocked)"), "dig {query}: {out}");
            assert!(out.contains("netguard.invalid."), "a SOA to remember it by: {out}");
        }
        // An allowed query behind them: when its record is there, theirs would be too.
        dig(lab, "slot1", "gitlab.com @8.8.8.8");
        let entries = lab.internet();
        assert!(entries.iter().any(|entry| entry["name"] == "gitlab.com"), "{entries:?}");
        for entry in &entries {
            let name = entry["name"].as_str().unwrap_or_default();
            assert!(!name.contains("evil"), "it reached the upstream: {entry}");
        }
        let denied = lab.event("denial", |event| {
            event["event"] == "dns" && event["name"] == "secret-data.exfil.evil.example"
        });
        assert_eq!(denied["decision"], "deny");
        assert_eq!(denied["rcode"], "NXDOMAIN");
        // The bound, on the daemon's own clock and for the best of five: a busy machine
        // may delay one, not every one.
        let events = lab.events();
        let latencies = events.iter().filter(|event| event["decision"] == "deny");
        let fastest =
            latencies.filter_map(|event| event["latency_ms"].as_f64()).fold(1e9, f64::min);
        assert!(fastest < 5.0, "the fastest denial took {fastest} ms");
    });
}

#[test]
fn encrypted_dns_is_dropped_and_logged() {
    on_both_port_kinds(|lab| {
        let tls = lab.exec("slot2", "kdig +tls +timeout=1 +retry=0 @1.1.1.1 github.com");
        assert_ne!(tls.code, 0, "{tls:?}");
        let tls6 =
            lab.exec("slot2", "kdig +tls +timeout=1 +retry=0 @2606:4700:4700::1111 github.com");
        assert_ne!(tls6.code, 0, "{tls6:?}");
        // It tries until what it tries is in the log.
        let _openssl = lab.start("slot3", "exec openssl s_client -connect 8.8.8.8:853");
        let _ = lab.python("slot4", UDP, &["8.8.8.8", "853"]).success();
        for (slot, dst, protocol, reason) in [
            ("slot2", "1.1.1.1", "tcp", "dns-over-tls"),
            ("slot2", "2606:4700:4700::1111", "tcp", "dns-over-tls"),
            ("slot3", "8.8.8.8", "tcp", "dns-over-tls"),
            ("slot4", "8.8.8.8", "udp", "dns-over-quic"),
        ] {
            let event = lab.event(reason, |event| {
                event["event"] == "drop"
                    && event["slot"] == slot
                    && event["dst"] == dst
                    && event["reason"] == reason
            });
            assert_eq!(event["dst_port"], 853);
            assert_eq!(event["protocol"], protocol);
            assert!(event["src_port"].as_u64().is_some_and(|port| port > 0), "{event}");
        }
        let arrived = lab.internet();
        assert!(!arrived.iter().any(|entry| entry["event"] == "encrypted-dns"), "{arrived:?}");
    });
}

#[test]
fn what_is_allowed_works_and_what_is_not_does_not_arrive() {
    on_both_port_kinds(|lab| {
        let page = lab.exec("slot1", "curl -sS --max-time 5 http://github.com/");
        assert_eq!(page.success(), "this is github.com, in the lab's internet\n");
        let page = lab.exec("slot1", "curl -sS -6 --max-time 5 http://github.com/");
        assert_eq!(page.success(), "this is github.com, in the lab's internet\n");
        let unknown = lab.exec("slot1", "curl -sS --max-time 5 http://evil.example/");
        assert!(unknown.stderr.contains("Could not resolve host"), "{unknown:?}");
        for address in ["203.0.113.10", "2001:db8:113::10", "10.1.0.1", "fd00:10:1::1"] {
            let _ = lab.exec("slot1", &format!("ping -c 1 -W 5 {address}")).success();
        }
        // From outside: the host and the management network may open connections.
        for host in ["hv", "mgmt"] {
            let _ = lab.exec(host, "ping -c 1 -W 5 10.1.0.2").success();
        }
        let mut server = lab.start("slot1", "exec nc -l -k -p 8022");
        lab.listening("slot1", 8022);
        for host in ["hv", "mgmt"] {
            let _ = lab.exec(host, "nc -z -w 5 10.1.0.2 8022").success();
        }
        assert!(server.child().try_wait().expect("the server").is_none(), "the server runs");

        for (target, reason) in [
            ("http://169.254.169.254/latest/meta-data/", "metadata"),
            ("http://10.5.0.1:22/", "host"),
            ("http://192.0.2.2:22/", "host"),
            ("http://100.64.0.2/", "management"),
            ("http://192.168.7.7/", "private-destination"),
        ] {
            let ended = lab.exec("slot5", &format!("curl -s --max-time 0.3 {target}"));
            assert_ne!(ended.code, 0, "{target}: {ended:?}");
            let _ = lab.event(reason, |event| {
                event["event"] == "drop" && event["slot"] == "slot5" && event["reason"] == reason
            });
        }
        let arrived = lab.internet();
        assert!(!arrived.iter().any(|entry| entry["server"] == "169.254.169.254"), "{arrived:?}");
    });
}

#[test]
fn bulk_traffic_with_offloads_crosses_unharmed() {
    on_both_port_kinds(|lab| {
        // Bigger than one GSO super-frame, both ways, checked to the byte.
        let directory = tempfile::tempdir().expect("a directory");
        let sent = directory.path().join("sent");
        let received = directory.path().join("received");
        let bytes: Vec<u8> =
            (0..4_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        fs::write(&sent, &bytes).expect("a file");
        assert!(dig(lab, "slot1", "github.com").contains("203.0.113.10"), "its address is pinned");
        for (server, client, address) in
            [("net", "slot1", "203.0.113.10"), ("slot1", "hv", "10.1.0.2")]
        {
            let script = format!("exec nc -l -N -p 9000 >{}", received.display());
            let mut listener = lab.start(server, &script);
            lab.listening(server, 9000);
            let script = format!("exec nc -N -w 20 {address} 9000 <{}", sent.display());
            let _ = lab.shell(client, &script).success();
            let _ = listener.child().wait();
            assert!(fs::read(&received).expect("what arrived") == bytes, "{client} to {server}");
        }
    });
}

#[test]
fn the_kernel_shows_what_is_loaded_with_readable_names() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::up("veth");
    let programs = lab.exec("hv", "bpftool prog show").stdout;
    for program in ["ng_xdp", "ng_port_egress", "ng_port_ingress", "ng_br_egress", "ng_br_ingress"]
    {
        assert!(programs.contains(&format!("name {program} ")), "{programs}");
    }
    // Every link or filter holds the pinned program of its name (bpftool 7.1 cannot name tcx links).
    let status = lab.status();
    let mut checked = 0;
    for program in status["programs"].as_array().expect("programs") {
        for interface in program["interfaces"].as_array().expect("interfaces") {
            let (interface, name) =
                (interface.as_str().unwrap(), program["name"].as_str().unwrap());
            let pin = format!("/sys/fs/bpf/netguard/{}/links/{interface}:{name}", lab.instance());
            let (shown, holds) = if Path::new(&pin).exists() {
                let link = format!("bpftool link show pinned {pin}");
                (lab.exec("hv", &link), format!("prog {} ", program["id"]))
            } else {
                let sides = ["ingress", "egress"];
                let show = sides.map(|side| format!("tc filter show dev {interface} {side}"));
                (lab.shell("hv", &show.join(";")), format!("id {} name {name} ", program["id"]))
            };
            assert!(shown.success().contains(&holds), "{holds} in {shown:?}");
            checked += 1;
        }
    }
    assert_eq!(checked, 5 * 4 + 2, "two programs on each port, two on each bridge and uplink");
    let _ = lab.exec("slot1", "ping -c 1 -W 0.05 10.2.0.2");
    let dump = |map: &str| {
        let pin = lab.map(map);
        lab.exec("hv", &format!("bpftool map dump pinned {pin}")).success().to_owned()
    };
    for (map, fields) in [
        ("COUNTERS", ["\"slot_id\": 1", "\"outcome\": 17", "\"packets\": 1"]),
        ("PORTS", ["\"slot_id\": 5", "\"kind\": 1", "\"name\""]),
        ("SLOTS", ["\"gateway4\"", "\"bridge_mac\"", "\"resolver_port_be\""]),
        ("PLACES", ["\"prefix_len\"", "\"place\": 2", "\"slot_id\": 3"]),
    ] {
        let text = dump(map);
        for field in fields {
            assert!(text.contains(field), "{field} in {map}:\n{text}");
        }
    }
}

#[test]
fn a_frame_that_no_client_sends_is_dropped_too() {
    on_both_port_kinds(|lab| {
        // A query in two tags of id 0, broadcast: what slipped past every redirect elsewhere.
        let ethernet = "ffffffffffff 026e67000102";
        let tags = "88a8 0000 8100 0000 0800";
        let ip = "45000024 00004000 40110000 0a010002 08080808";
        let udp = "9c400035 00100000 0000000000000000";
        let frame = format!("{ethernet} {tags} {ip} {udp}");
        let _ = lab.python("slot1", FRAME, &[&frame]).success();
        let event = lab.event("tag drop", |event| event["reason"] == "vlan-tag");
        assert_eq!(event["slot"], "slot1");
        assert_eq!(lab.packets("slot1", "egress", "vlan-tag"), 1);
        assert_eq!(lab.packets("slot1", "egress", "redirect"), 0);
    });
}

#[test]
fn a_second_lab_up_replaces_the_first_and_a_crash_is_no_obstacle() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::up("veth");
    let first = lab.daemon_pid().expect("a daemon");
    let _ = lab.call(&["up", "--log", "json"]).success();
    let second = lab.daemon_pid().expect("a daemon");
    assert_ne!(first, second);
    // The worst end: the daemon and the internet are killed where they stand.
    let _ = lab.exec("hv", &format!("kill -9 {second}")).success();
    let _ = lab.call(&["up", "--ports", "tap", "--log", "json"]).success();
    let out = dig(&lab, "slot3", "github.com @8.8.8.8");
    assert!(out.contains("203.0.113.10"), "{out}");
    let (name, instance) = (lab.name().to_owned(), lab.instance());
    drop(lab);
    for left in [format!("/run/netguard/{instance}"), format!("/sys/fs/bpf/netguard/{instance}")] {
        assert!(!Path::new(&left).exists(), "{left} is left");
    }
    assert_eq!(namespaces(&name), Vec::<String>::new());
}

fn namespaces(lab: &str) -> Vec<String> {
    let all = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let names = all.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|namespace| namespace.starts_with(&format!("{lab}-"))).collect()
}

#[test]
fn a_lab_goes_whole_whatever_has_become_of_its_configuration() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::with("[dns]\nupstreams = [\"1.1.1.1\"]\n[[slot]]\ncount = 2\n", "veth");
    assert_eq!(namespaces(lab.name()).len(), 5, "hv, net, mgmt and two guests");
    lab.reconfigure("[[slot]]\nname = 7\n");
    let down = format!("lab {:?} is gone\n", lab.name());
    assert_eq!(lab.call(&["down"]).success(), down);
    assert_eq!(namespaces(lab.name()), Vec::<String>::new());
}
