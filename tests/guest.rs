//! Debian's cloud kernel in a real virtual machine: its verifier meets the programs, and its network
//! card hangs on a guarded port.

use std::{fs, process::Command, time::Instant};

use netguard_common::Hook;
use netguard_tests::{
    binary::{self, Ended, netguard},
    can_use_kernel,
    guest::{Machine, on_this_host},
    lab::Lab,
};
use serde_json::Value;

#[test]
fn debians_kernel_accepts_every_program() {
    let Some(machine) = Machine::find() else { return };
    if !can_use_kernel() {
        return;
    }
    let here = Ended::of(&mut netguard(&["check", "--kernel"]));
    let here = verified(here.success().lines());

    let started = Instant::now();
    let console = machine
        .guest(include_str!("guest/check-kernel.sh"))
        .with_program(&binary::path())
        .boot(on_this_host, &[]);
    let seconds = started.elapsed().as_secs_f64();
    let accepted = console.after("GUEST code") == Some("0");
    assert!(accepted, "Debian's kernel refuses them:\n{}", console.tail());
    let there = verified(console.lines());

    eprintln!("instructions that the verifier walked (the guest took {seconds:.1} s)");
    for ((program, here), (same, there)) in here.iter().zip(&there) {
        assert_eq!(program, same);
        eprintln!("{program:<16} {here:>24} {there:>24}");
    }
    assert_eq!((here.len(), there.len()), (1 + Hook::ALL.len(), 1 + Hook::ALL.len()));
}

/// The table of `netguard check --kernel`: programs and their instructions, headed by the kernel.
fn verified<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<(String, String)> {
    let rows = lines.filter_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        match words.as_slice() {
            ["kernel", release, "good:", ..] => {
                Some(("kernel".to_owned(), release.trim_end_matches(':').to_owned()))
            }
            [program, _, verified] if program.starts_with("ng_") => {
                Some(((*program).to_owned(), (*verified).to_owned()))
            }
            _ => None, // the table's head, what the kernel said before
        }
    });
    rows.collect()
}

/// The checks of `guest/network.sh`.
const CHECKS: [&str; 16] = [
    "checksum-offload",
    "segmentation-offload",
    "segmentation-offload-6",
    "gateway-ping",
    "gateway-ping-6",
    "name-allowed",
    "name-allowed-6",
    "name-denied",
    "web",
    "web-6",
    "upload",
    "download",
    "neighbour-ping",
    "neighbour-tcp",
    "metadata",
    "dns-over-tls",
];

/// The guest's network card: the TAP of slot 1, with the offloads that QEMU has by default.
const NETWORK_CARD: [&str; 4] = [
    "-netdev",
    "tap,id=net,ifname=vm-slot1,script=no,downscript=no,vhost=off",
    "-device",
    "virtio-net-pci,netdev=net,mac=02:6e:67:00:01:02,romfile=",
];

#[test]
fn a_real_guest_on_a_guarded_port_reaches_what_it_may_and_nothing_else() {
    let Some(machine) = Machine::find() else { return };
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::up("qemu");
    let directory = tempfile::tempdir().expect("a directory");
    let [uploaded, offered] = ["uploaded", "offered"].map(|name| directory.path().join(name));
    let bytes: Vec<u8> =
        (0..4_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::write(&offered, &bytes).expect("a file");
    let _servers = [
        (9000, format!("exec nc -l -p 9000 >{}", uploaded.display())),
        (9001, format!("exec python3 -m http.server -d {} 9001", directory.path().display())),
    ]
    .map(|(port, script)| {
        let server = lab.start("net", &script);
        lab.listening("net", port);
        server
    });

    let started = Instant::now();
    let console = machine
        .guest(include_str!("guest/network.sh"))
        .with_network_drivers()
        .boot(|words| lab.command("hv", words), &NETWORK_CARD);
    eprintln!("the guest took {:.1} s", started.elapsed().as_secs_f64());

    // What the guest saw.
    for name in CHECKS {
        let seen = console.after(&format!("CHECK {name} ")).unwrap_or("nothing");
        assert!(seen.starts_with("ok "), "{name}: {seen}\n{}", console.tail());
    }
    assert_eq!(console.lines().filter(|line| line.starts_with("CHECK ")).count(), CHECKS.len());
    for (name, file) in [("upload", &uploaded), ("download", &offered)] {
        let sum = Ended::of(Command::new("md5sum").arg(file));
        let sum = sum.success().split(' ').next().expect("a sum").to_owned();
        let seen = console.after(&format!("CHECK {name} ok ")).expect("checked above");
        assert!(seen.starts_with(&sum), "{name}: {sum} on this side, {seen} in the guest");
    }

    // What the kernel and the daemon saw.
    for (reason, protocol, dst, dst_port) in [
        ("cross-slot", "icmp", "10.2.0.2", None),
        ("cross-slot", "tcp", "10.2.0.2", Some(22)),
        ("metadata", "tcp", "169.254.169.254", Some(80)),
        ("dns-over-tls", "tcp", "1.1.1.1", Some(853)),
    ] {
        let _ = lab.event(&format!("{reason} drop of {protocol}"), |event| {
            event["event"] == "drop"
                && event["slot"] == "slot1"
                && event["interface"] == "vm-slot1"
                && event["reason"] == reason
                && event["protocol"] == protocol
                && event["src"] == "10.1.0.2"
                && event["dst"] == dst
                && event["dst_port"] == Value::from(dst_port)
        });
        assert!(lab.packets("slot1", "egress", reason) > 0, "{reason} is counted");
    }
    // Super-frames crossed the programs whole: far fewer packets than the upload has segments.
    let passed = lab.packets("slot1", "egress", "pass");
    let segments = fs::metadata(&uploaded).expect("what was uploaded").len() / 1500;
    eprintln!("{passed} packets for {segments} segments and the rest");
    assert!(passed < segments, "{passed} packets for {segments} segments");

    // What the internet saw.
    let arrived = lab.internet();
    for entry in &arrived {
        assert_ne!(entry["event"], "encrypted-dns", "{entry}");
        assert_ne!(entry["server"], "169.254.169.254", "{entry}");
        assert_ne!(entry["name"], "evil.example", "{entry}");
    }
    let web = arrived.iter().filter(|entry| entry["event"] == "web");
    assert!(web.into_iter().any(|entry| entry["client"] == "192.0.2.2"), "{arrived:?}");
}
