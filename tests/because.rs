//! Why a packet was dropped: the line of the configuration that decided, the name that its destination was known by, and the
//! same in a capture file. Real packets in a lab, one for each kind of decision.

use std::net::IpAddr;

use hickory_proto::{op::ResponseCode, rr::RecordType};
use netguard_tests::{
    binary::{Ended, netguard},
    can_use_kernel,
    client::{Asker, connect_once},
    lab::Lab,
    lines::{default_of, line_of},
};
use pcap_file::pcapng::{
    Block, PcapNgReader,
    blocks::{enhanced_packet::EnhancedPacketOption, opt_common::CommonOption},
};
use serde_json::Value;

const CONFIG: &str = r#"
[host]
uplinks = ["eth0"]
management = [
    "192.0.2.128/25",
    "100.64.0.0/10",
]
[dns]
upstreams = ["1.1.1.1"]
categories = []
names = ["github.com", "gitlab.com"]
[[runtime]]
name = "vm"
isolate = true
[[runtime]]
name = "pods"

[[slot]]
name = "slot1"
id = 1
subnet = "10.1.0.0/24"
runtime = "vm"
egress = "listed"
allow = ["203.0.113.0/24 tcp/80"]
deny = [
    "198.51.100.0/24",
    "203.0.113.66 tcp/80",
]
host_services = ["tcp/22"]
metadata = false

[[slot]]
name = "slot2"
id = 2
subnet = "10.2.0.0/24"
runtime = "vm"
egress = "pinned"

[[slot]]
name = "slot3"
id = 3
subnet = "10.3.0.0/24"
runtime = "pods"
limits.icmp_max_bytes = 100

[[slot]]
name = "slot4"
id = 4
subnet = "10.4.0.0/24"
runtime = "pods"
mode = "lockdown"
"#;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The place of the only line that has this in it.
fn at(what: &str) -> String {
    line_of(CONFIG, "netguard.toml", what)
}

/// A connection that comes to nothing.
fn knock(lab: &Lab, slot: &str, address: &str, port: u16) {
    let connected = lab.within(slot, || connect_once(ip(address), port));
    assert!(connected.is_err(), "{slot} reached {address}:{port}");
}

/// The log's record of a drop to there, by what decided.
fn record(lab: &Lab, slot: &str, reason: &str, dst: &str, because: &str) -> Value {
    let is_it = |event: &Value| {
        event["slot"] == slot
            && event["reason"] == reason
            && (dst.is_empty() || event["dst"] == dst)
            && event["because"].as_str().is_some_and(|it| it.contains(because))
    };
    lab.event(&format!("drop of {slot} to {dst} as {reason}, by {because}"), is_it)
}

fn is_told(lab: &Lab, slot: u8, name: &str, address: &str) {
    let gateway = IpAddr::from([10, slot, 0, 1]);
    let answer = lab.within(&format!("slot{slot}"), || Asker::of(gateway).ask(name, RecordType::A));
    assert_eq!(answer, Some((ResponseCode::NoError, vec![ip(address)])), "{name}");
}

#[test]
fn every_drop_names_the_line_that_decided() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::with(CONFIG, "veth");
    for (slot, dst, port, reason, line, because) in [
        ("slot1", "10.2.0.2", 80, "cross-slot", at("isolate = true"), "isolate = false would let"),
        ("slot1", "10.2.0.1", 80, "cross-slot", "built in".to_owned(), "one slot to another"),
        ("slot1", "10.3.0.2", 80, "cross-runtime", default_of("gate"), "no [gate]"),
        (
            "slot1",
            "203.0.113.66",
            80,
            "egress-denied",
            at("\"203.0.113.66 tcp/80\""),
            "deny = [\"203.0.113.66 tcp/80\"]",
        ),
        (
            "slot1",
            "203.0.113.10",
            8080,
            "egress-denied",
            at("egress = \"listed\""),
            "egress = \"listed\"; allow = [\"203.0.113.10 tcp/8080\"] would let it pass",
        ),
        (
            "slot2",
            "203.0.113.12",
            80,
            "not-pinned",
            at("egress = \"pinned\""),
            "egress = \"pinned\"; allow = [\"203.0.113.12 tcp/80\"] would let it pass",
        ),
        ("slot1", "10.1.0.1", 80, "host", at("host_services = "), "host_services = [\"tcp/22\"]"),
        ("slot2", "192.0.2.2", 80, "host", default_of("host_services"), "host_services = \"all\""),
        ("slot1", "169.254.169.254", 80, "metadata", at("metadata = false"), "metadata = true"),
        ("slot3", "169.254.169.254", 80, "metadata", default_of("metadata"), "metadata = true"),
        (
            "slot3",
            "192.168.7.7",
            80,
            "private-destination",
            default_of("allow"),
            "allow = [\"192.168.7.7 tcp/80\"] would let it pass",
        ),
        ("slot3", "100.64.0.2", 80, "management", at("100.64.0.0/10"), "100.64.0.0/10"),
        ("slot3", "1.1.1.1", 853, "dns-over-tls", "built in".to_owned(), "DNS over TLS"),
    ] {
        knock(&lab, slot, dst, port);
        let record = record(&lab, slot, reason, dst, because);
        assert_eq!((&record["line"], &record["version"]), (&line.into(), &1.into()), "{record}");
        assert_eq!(record["name"], Value::Null, "nobody has asked");
    }
    // Not even ARP.
    knock(&lab, "slot4", "203.0.113.10", 80);
    let locked = record(&lab, "slot4", "lockdown", "", "mode = \"lockdown\"");
    assert_eq!(locked["line"], at("mode = \"lockdown\"").as_str());

    assert_ne!(lab.exec("slot3", "ping -c 1 -W 0.2 -s 200 203.0.113.10").code, 0);
    let long = record(&lab, "slot3", "icmp-size", "203.0.113.10", "limits.icmp_max_bytes = 100");
    assert_eq!(long["line"], at("icmp_max_bytes").as_str());

    let _ = lab.exec("slot3", "ip addr add 10.77.0.2/32 dev eth0").success();
    assert_ne!(lab.exec("slot3", "ping -c 1 -W 0.2 -I 10.77.0.2 203.0.113.10").code, 0);
    let spoofed = record(&lab, "slot3", "spoofed-source", "203.0.113.10", "10.3.0.0/24");
    assert_eq!(spoofed["line"], at("subnet = \"10.3.0.0/24\"").as_str());

    // Into a slot, from whom no network lets in.
    assert_ne!(lab.exec("net", "ping -c 1 -W 0.2 10.3.0.2").code, 0);
    let unsolicited = lab.event("drop into slot3", |event| event["reason"] == "unsolicited");
    assert_eq!(unsolicited["line"], default_of("management").as_str(), "{unsolicited}");
}

#[test]
fn an_order_is_told_apart_from_the_file() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::with(CONFIG, "veth");
    let _ = lab.run(&["deny", "slot1", "203.0.112.0/22"]).success();
    knock(&lab, "slot1", "203.0.113.10", 80);
    let denied = record(&lab, "slot1", "egress-denied", "203.0.113.10", "");
    assert_eq!(denied["because"], "deny 203.0.112.0/22", "{denied}");
    assert_eq!(denied["line"], "ordered at run time");

    is_told(&lab, 2, "github.com.", "203.0.113.10");
    assert!(lab.within("slot2", || connect_once(ip("203.0.113.10"), 80)).is_ok());
    let _ = lab.run(&["deny", "slot2", "github.com"]).success();
    knock(&lab, "slot2", "203.0.113.10", 81);
    let unpinned = record(&lab, "slot2", "not-pinned", "203.0.113.10", "deny of github.com");
    assert_eq!(unpinned["line"], "ordered at run time");
    assert_eq!(unpinned["name"], "github.com");

    let _ = lab.run(&["lock", "slot3"]).success();
    knock(&lab, "slot3", "203.0.113.10", 80);
    let locked = record(&lab, "slot3", "lockdown", "", "");
    assert_eq!(
        (&locked["line"], &locked["because"]),
        (&"ordered at run time".into(), &"lock".into())
    );
    // What the file says is the file's, whatever else was ordered.
    let _ = lab.run(&["lock", "slot4"]).success();
    knock(&lab, "slot4", "203.0.113.10", 80);
    let locked = record(&lab, "slot4", "lockdown", "", "");
    assert_eq!(locked["line"], at("mode = \"lockdown\"").as_str());

    let entry = tempfile::NamedTempFile::new().expect("a file");
    let keys =
        "name = \"more\"\nsubnet = \"10.8.0.0/24\"\nmanage_links = true\negress = \"none\"\n";
    std::fs::write(entry.path(), keys).expect("an entry");
    let file = entry.path().to_str().expect("a path");
    let _ = lab.run(&["slot", "add", file]).success();
    // The others' lines are where they were.
    knock(&lab, "slot2", "203.0.113.12", 80);
    let other = record(&lab, "slot2", "not-pinned", "203.0.113.12", "");
    assert_eq!(other["line"], at("egress = \"pinned\"").as_str());
}

#[test]
fn a_destination_has_the_name_that_the_slot_was_told() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::with(CONFIG, "veth");
    is_told(&lab, 3, "gitlab.com.", "203.0.113.12");
    // Of a slot that is not pinned, and told to no other.
    knock(&lab, "slot3", "203.0.113.12", 853);
    knock(&lab, "slot2", "203.0.113.12", 853);
    let told = record(&lab, "slot3", "dns-over-tls", "203.0.113.12", "");
    assert_eq!(told["name"], "gitlab.com");
    assert_eq!(record(&lab, "slot2", "dns-over-tls", "203.0.113.12", "")["name"], Value::Null);

    let to = |to: &str| {
        let ended = lab.run(&["drops", "--to", to, "-o", "json"]);
        ended.success().lines().count()
    };
    let all = to("0.0.0.0/0");
    assert_eq!((to("gitlab.com"), to("203.0.113.12"), to("203.0.112.0/23")), (1, 2, 2));
    assert_eq!((to("lab.com"), to("198.51.100.0/24")), (0, 0));
    let bad = lab.run(&["drops", "--to", "203.0.113"]);
    assert!(bad.code == 2 && bad.stderr.contains("no address like"), "{bad:?}");
    // An hour ago there was no lab.
    let since = lab.run(&["drops", "--since", "1h", "--to", "0.0.0.0/0", "-o", "json"]);
    assert_eq!(since.success().lines().count(), all);
    let since = lab.run(&["drops", "--since", "0s"]);
    assert_eq!(since.success(), "");

    let line = lab.run(&["drops", "--to", "gitlab.com"]);
    assert!(
        line.success()
            .contains(" syn (gitlab.com, 74 bytes) at vm-slot3 ng_port_egress by built in: "),
        "{line:?}"
    );
    let line = lab.run(&["drops", "--to", "gitlab.com", "-o", "compact"]);
    let end = format!(
        "203.0.113.12:853 syn gitlab.com built in [{}]\n",
        told["id"].as_str().expect("an id")
    );
    assert!(
        line.success().ends_with(&end) && line.stdout.contains(" slot3 > dns-over-tls tcp "),
        "{line:?}"
    );
}

#[test]
fn colours_are_for_terminals() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::with(CONFIG, "veth");
    knock(&lab, "slot3", "169.254.169.254", 80);
    let _ = record(&lab, "slot3", "metadata", "169.254.169.254", "");
    let drops = ["drops", "--reason", "metadata"];
    let plain = lab.run(&drops);
    assert!(plain.success().contains(" metadata "), "{plain:?}");
    assert!(!plain.stdout.contains('\u{1b}'), "{plain:?}");
    let path = netguard_tests::binary::path();
    let words = format!("{} {} --instance {}", path.display(), drops.join(" "), lab.instance());
    let terminal = |no_color: &str| {
        let mut command = std::process::Command::new("script");
        command.args(["-qec", &words, "/dev/null"]).env("TERM", "xterm").env_remove("NO_COLOR");
        if !no_color.is_empty() {
            command.env("NO_COLOR", no_color);
        }
        Ended::of(&mut command)
    };
    let painted = terminal("");
    assert!(painted.success().contains("\u{1b}[31mmetadata"), "{painted:?}");
    let plain = terminal("1");
    assert!(
        plain.success().contains(" metadata ") && !plain.stdout.contains('\u{1b}'),
        "{plain:?}"
    );
}

#[test]
fn a_capture_file_has_the_packets_and_why() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::with(CONFIG, "veth");
    let long = "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x' * 500, ('10.2.0.2', 9))";
    let _ = lab.python("slot1", long, &[]).success();
    let dropped = record(&lab, "slot1", "cross-slot", "10.2.0.2", "");
    knock(&lab, "slot3", "1.1.1.1", 853);
    let _ = record(&lab, "slot3", "dns-over-tls", "1.1.1.1", "");

    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("drops.pcapng");
    let name = file.to_str().expect("a path");
    let made = lab.run(&["drops", "--pcap", name, "--slot", "slot1", "--reason", "cross-slot"]);
    assert_eq!(made.success(), "");
    let bytes = std::fs::read(&file).expect("the file");
    let packets = read(&bytes);
    let [(comment, packet)] = &packets[..] else { panic!("one packet: {packets:?}") };
    let line = at("isolate = true");
    let id = dropped["id"].as_str().expect("an id");
    assert_eq!(comment, &format!("slot1 egress cross-slot 540017 {line} [{id}]"));
    assert_eq!((packet.original_len, packet.data.len()), (14 + 20 + 8 + 500, 128));
    assert!(packet.data.ends_with(&[b'x'; 80]));
    assert_eq!(packet.timestamp.as_millis(), millis(&dropped["time"]));

    // The same on standard output.
    let instance = lab.instance();
    let mut command = netguard(&["drops", "--pcap", "-", "--last", "500", "--instance", &instance]);
    let output = command.output().expect("it starts");
    assert!(output.status.success());
    let comments: Vec<_> = read(&output.stdout).into_iter().map(|(comment, _)| comment).collect();
    for part in [format!("cross-slot 540017 {line}"), "dns-over-tls 540015 built in".to_owned()] {
        assert!(comments.iter().any(|comment| comment.contains(&part)), "{part}: {comments:?}");
    }
    let other = directory.path().join("other.pcapng");
    let other = other.to_str().expect("a path");
    assert_eq!(lab.run(&["drops", "--pcap", other, "--slot", "slot9"]).code, 2);
    assert!(!std::path::Path::new(other).exists(), "who is refused finds no file");
    let nowhere = lab.run(&["drops", "--pcap", "/nowhere/a.pcapng"]);
    assert!(
        nowhere.code == 1 && nowhere.stderr.contains("cannot write /nowhere/a.pcapng"),
        "{nowhere:?}"
    );
    let both = lab.run(&["drops", "--pcap", "-", "-o", "json"]);
    assert_eq!(both.code, 2, "{both:?}");
}

type Packet = pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock<'static>;

/// The packets of a capture file with their comments.
fn read(bytes: &[u8]) -> Vec<(String, Packet)> {
    let mut reader = PcapNgReader::new(bytes).expect("a capture file");
    let mut packets = Vec::new();
    while let Some(block) = reader.next_block() {
        if let Block::EnhancedPacket(packet) = block.expect("a block").0 {
            let comment = packet.options.iter().find_map(|option| match option {
                EnhancedPacketOption::Common(CommonOption::Comment(text)) => Some(text.to_string()),
                _ => None, // how many were lost
            });
            packets.push((comment.expect("a comment"), packet.into_owned()));
        }
    }
    packets
}

/// A record's time in milliseconds since 1970.
fn millis(time: &Value) -> u128 {
    let time = humantime::parse_rfc3339(time.as_str().expect("a text")).expect("a time");
    time.duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_millis()
}
