//! The shipped systemd units: good, early enough, and with no more of the host than they need.

use std::{fs, path::PathBuf, process::Command};

use netguard_tests::binary::{self, Ended};

const UNITS: [&str; 4] = [
    "netguard.service",
    "netguard-guard.service",
    "netguard-worker.service",
    "netguard-pins.service",
];

fn shipped(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../dist").join(file)
}

/// The shipped units where systemd looks for them, with the program that was built in the place of the installed one, which must
/// exist.
fn units() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    for unit in UNITS {
        let text = fs::read_to_string(shipped(unit)).expect("the unit");
        let built = binary::path();
        let text = text.replace("/usr/bin/netguard", &built.to_string_lossy());
        fs::write(directory.path().join(unit), text).expect("a file");
    }
    directory
}

/// `systemd-analyze` of the shipped units.
fn analyze(arguments: &[&str]) -> Ended {
    let directory = units();
    let path = format!("{}:", directory.path().display());
    let mut command = Command::new("systemd-analyze");
    command.current_dir(directory.path()).env("SYSTEMD_UNIT_PATH", path);
    Ended::of(command.args(arguments).args(UNITS))
}

#[test]
fn the_shipped_units_are_good() {
    let ended = analyze(&["verify", "--man=no", "--recursive-errors=no"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""), "{ended:?}");
    let unit = fs::read_to_string(shipped("netguard.service")).expect("the unit");
    for line in [
        "Type=notify",
        "WatchdogSec=30s",
        "ExecReload=/usr/bin/netguard reload --instance host",
        "KillMode=mixed",
        "RuntimeDirectoryPreserve=yes",
    ] {
        assert!(unit.lines().any(|it| it == line), "{line}");
    }
}

/// The words of all lines of a unit that set this key.
fn listed(unit: &str, key: &str) -> Vec<String> {
    let text = fs::read_to_string(shipped(unit)).expect("the unit");
    let values = text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    values.flat_map(str::split_whitespace).map(str::to_owned).collect()
}

#[test]
fn slots_are_closed_before_any_network_is_up_and_guarded_before_any_workload_starts() {
    for unit in ["netguard.service", "netguard-guard.service"] {
        let (before, after) = (listed(unit, "Before"), listed(unit, "After"));
        assert!(before.contains(&"network-pre.target".to_owned()), "{unit}");
        assert!(listed(unit, "Wants").contains(&"network-pre.target".to_owned()), "{unit}");
        // Whatever brings a network up may run before basic.target: waiting for that would be a circle.
        assert_eq!(listed(unit, "DefaultDependencies"), ["no"], "{unit}");
        assert!(after.iter().all(|it| !before.contains(it)), "{unit}");
        assert!(after.iter().all(|it| !it.starts_with("network")), "{unit}");
    }
    let before = listed("netguard.service", "Before");
    for who in ["libvirtd", "docker", "containerd", "podman", "k3s", "lxc", "lxc-net"] {
        assert!(before.contains(&format!("{who}.service")), "{who}");
    }
    assert!(listed("netguard.service", "After").contains(&"netguard-guard.service".to_owned()));
}

#[test]
fn the_worker_comes_and_goes_with_the_monitor() {
    let unit = "netguard-worker.service";
    assert!(listed("netguard.service", "Wants").contains(&unit.to_owned()));
    assert_eq!(listed(unit, "PartOf"), ["netguard.service"]);
    // Who stops first is the monitor, so that the worker writes its last lines.
    assert!(listed(unit, "Before").contains(&"netguard.service".to_owned()));
    assert_eq!(listed(unit, "Restart"), ["always"]);
    assert_eq!(listed(unit, "User"), ["netguard"]);
    assert!(listed("netguard.service", "ExecStart").contains(&"--await-worker".to_owned()));
}

/// What `systemd-analyze security` holds against all units, each of them for a reason that ARCHITECTURE.md gives.
const NEEDED: [&str; 2] = ["DeviceAllow=", "SystemCallFilter=~@privileged"];
/// And against those that load programs.
const NEEDED_FOR_PROGRAMS: [&str; 6] = [
    "AmbientCapabilities=",
    "CapabilityBoundingSet=~CAP_BPF",
    "CapabilityBoundingSet=~CAP_NET_ADMIN",
    "PrivateNetwork=",
    "PrivateUsers=",
    "RestrictAddressFamilies=~AF_NETLINK",
];
/// And against the one that binds port 53.
const NEEDED_BY_MONITOR: [&str; 1] =
    ["CapabilityBoundingSet=~CAP_NET_(BIND_SERVICE|BROADCAST|RAW)"];
/// And against the one that answers guests.
const NEEDED_BY_WORKER: [&str; 3] =
    ["IPAddressDeny=", "PrivateNetwork=", "RestrictAddressFamilies=~AF_(INET|INET6)"];
/// And against the one that gives a directory of root's away, and ends.
const NEEDED_FOR_THEIR_PLACE: [&str; 4] = [
    "CapabilityBoundingSet=~CAP_(CHOWN|FSETID|SETFCAP)",
    "CapabilityBoundingSet=~CAP_(DAC_*|FOWNER|IPC_OWNER)",
    "PrivateUsers=",
    "User=/DynamicUser=",
];
/// And too little to count in tenths, or nothing, by the version of systemd.
const SMALL: [&str; 2] = ["ProcSubset=", "RestrictAddressFamilies=~AF_UNIX"];

#[test]
fn the_shipped_units_take_no_more_of_the_host_than_they_need() {
    let monitor = [&NEEDED_FOR_PROGRAMS[..], &NEEDED_BY_MONITOR].concat();
    for (unit, most, needed) in [
        ("netguard.service", "15", &monitor[..]),
        ("netguard-guard.service", "15", &NEEDED_FOR_PROGRAMS),
        ("netguard-worker.service", "15", &NEEDED_BY_WORKER),
        ("netguard-pins.service", "15", &NEEDED_FOR_THEIR_PLACE),
    ] {
        let mut command = Command::new("systemd-analyze");
        command.args(["security", "--offline=true", "--json=short", "--threshold", most]);
        let ended = Ended::of(command.arg(shipped(unit)));
        let found: serde_json::Value = serde_json::from_str(ended.success()).expect("JSON");
        let found = found.as_array().expect("rows").iter();
        let against = found.filter(|row| {
            let exposure = row["exposure"].as_str().unwrap_or_default();
            exposure.parse::<f64>().is_ok_and(|exposure| exposure > 0.0)
        });
        for row in against {
            let name = row["name"].as_str().expect("a name");
            let known = [needed, &NEEDED, &SMALL].concat();
            assert!(known.contains(&name), "{unit}: {row}");
        }
        // systemd counts neither in units that start so early.
        assert_eq!(listed(unit, "ProtectSystem"), ["strict"], "{unit}");
        assert_eq!(listed(unit, "ProtectHome"), ["yes"], "{unit}");
        let rights = listed(unit, "CapabilityBoundingSet");
        let is_root = listed(unit, "User").is_empty();
        assert_eq!(is_root, unit == "netguard-pins.service");
        assert!(is_root || rights == listed(unit, "AmbientCapabilities"), "{unit}: {rights:?}");
        assert!(!rights.contains(&"CAP_SYS_ADMIN".to_owned()), "{rights:?}");
    }
}
