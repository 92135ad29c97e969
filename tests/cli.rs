//! The command line as an operator meets it: messages, exit codes, shipped files.

use std::{fs, path::PathBuf, process::Command};

use netguard_tests::{
    binary::{self, Ended, netguard},
    can_use_kernel,
};

fn shipped(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../dist").join(file)
}

/// `netguard check` of a text.
fn check(text: &str) -> Ended {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("netguard.toml");
    fs::write(&file, text).expect("a file");
    let mut ended = Ended::of(&mut netguard(&["check", &file.to_string_lossy()]));
    ended.stderr = ended.stderr.replace(&*directory.path().to_string_lossy(), "DIR");
    ended
}

const GOOD: &str = r#"[dns]
upstreams = ["1.1.1.1"]

[[slot]]
name = "slot1"
id = 1
bridge = "br-slot1"
port = "vm-slot1"
subnet = "10.1.0.0/24"

[[slot]]
name = "slot2"
id = 2
bridge = "br-slot2"
port = "vm-slot2"
subnet = "10.2.0.0/24"
"#;

#[test]
fn a_good_file_is_good() {
    let ended = check(GOOD);
    assert!(ended.success().contains("good: 2 slots, 1 upstreams, "), "{ended:?}");
}

#[test]
fn every_mistake_is_named_with_its_line_and_the_way_out() {
    for (from, to, place, words) in [
        ("port = \"vm-slot1\"", "prot = \"vm-slot1\"", "8:1", "unknown field `prot`"),
        ("name = \"slot2\"", "name = \"slot1\"", "12:8", "is already slot \"slot1\"'s (line 5)"),
        ("id = 2", "id = 1", "13:6", "slot \"slot2\": id 1 is already slot \"slot1\"'s (line 6)"),
        ("id = 2", "id = 5000", "13:6", "slot \"slot2\": id 5000 must be 1 to 4096"),
        ("id = 2", "id = \"two\"", "13:6", "invalid type: string"),
        ("vm-slot2", "vm-slot1", "15:8", "vm-slot1 is already slot \"slot1\"'s (line 8)"),
        ("vm-slot2", "br-slot1", "15:8", "br-slot1 is already slot \"slot1\"'s (line 7)"),
        ("vm-slot2", "a-name-that-is-too-long", "15:8", "is no interface name"),
        (
            "10.2.0.0/24",
            "10.1.0.0/24",
            "16:10",
            "slot \"slot2\": subnet 10.1.0.0/24 is already slot \"slot1\"'s (line 9)",
        ),
        ("10.2.0.0/24", "10.0.0.0/8", "16:10", "overlaps 10.1.0.0/24 of slot \"slot1\" (line 9)"),
        ("10.2.0.0/24", "10.2.0.1/24", "16:10", "has host bits set; the prefix is 10.2.0.0/24"),
        ("10.2.0.0/24", "10.2.0.0/31", "16:10", "must be /1 to /30"),
        ("10.2.0.0/24", "fd00::/64", "16:10", "must be an IPv4 prefix"),
        ("10.2.0.0/24", "10.2.0.0", "16:10", "invalid IP"),
        ("subnet = \"10.2.0.0/24\"", "", "12:8", "slot \"slot2\" has no addresses: add subnet"),
        ("10.2.0.0/24\"", "10.2.0.0/24\"\ngateway = \"10.3.0.1\"", "17:11", "is no host of"),
        ("10.2.0.0/24\"", "10.2.0.0/24\"\ngateway6 = \"::1\"", "17:12", "needs subnet6 too"),
        ("[\"1.1.1.1\"]", "[]", "2:13", "upstreams is empty: name at least one resolver"),
        ("1.1.1.1", "dns.example", "2:14", "upstream \"dns.example\" is no address; write"),
        (
            "1.1.1.1\"]",
            "1.1.1.1\"]\nnames = [\"*.x.com\"]",
            "3:10",
            "\"*.x.com\" is no domain name",
        ),
        (
            "1.1.1.1\"]",
            "1.1.1.1\"]\ncategories = [\"cdn\"]",
            "3:15",
            "no category \"cdn\"; there are",
        ),
        ("1.1.1.1\"]", "1.1.1.1\"]\nallowlist = \"no.toml\"", "3:13", "cannot be read"),
        ("1.1.1.1\"]", "1.1.1.1\"]\nport = 0", "3:8", "port 0 is no port"),
        ("[dns]", "[host]\nmanagement = [\"10.9.9.9/8\"]\n[dns]", "2:15", "has host bits set"),
        (
            "[dns]",
            "[host]\nmanagement = [\"10.1.0.2/32\"]\n[dns]",
            "2:15",
            "overlaps 10.1.0.0/24 of slot \"slot1\"",
        ),
        ("1.1.1.1", "10.2.0.1", "2:14", "is a slot's gateway: netguard would ask itself"),
        ("1.1.1.1", "224.0.0.1", "2:14", "is no address; write"),
        ("\"1.1.1.1\"]", "\"1.1.1.1\", \"1.1.1.1:53\"]", "2:25", "is there twice"),
        ("10.2.0.0/24", "224.0.0.0/24", "16:10", "is no network of hosts"),
        ("10.2.0.0/24", "127.0.0.0/8", "16:10", "is no network of hosts"),
        ("id = 2", "id = 2\ncount = 0", "14:9", "count 0 must be 1 to 4095"),
        ("id = 2", "id = 2\ncount = 3", "12:8", "needs {n}: write \"slot{n}\""),
        ("id = 2", "", "12:8", "slot \"slot2\" has no id: add id = 1"),
        ("id = 2", "id = 2\nruntime = \"pods\"", "14:11", "no [[runtime]] is named \"pods\""),
        ("id = 2", "id = 2\nmac = \"01:00:00:00:00:01\"", "14:7", "is no address of one machine"),
        ("id = 2", "id = 2\nmode = \"shut\"", "14:8", "unknown variant `shut`"),
        ("id = 2", "id = 2\negress = \"listed\"", "14:10", "without a list; add allow"),
        (
            "id = 2",
            "id = 2\negress = \"none\"\nallow = [\"1.0.0.0/8\"]",
            "15:10",
            "write egress = \"listed\"",
        ),
        ("id = 2", "id = 2\nallow = [\"1.0.0.0/8 sctp/1\"]", "14:10", "\"sctp/1\" is no service"),
        ("id = 2", "id = 2\ndeny = [\"web\"]", "14:9", "\"web\" is no prefix; write"),
        ("id = 2", "id = 2\ndeny = [\"1.2.3.4/8\"]", "14:9", "the prefix is 1.0.0.0/8"),
        ("id = 2", "id = 2\nhost_services = [\"ssh\"]", "14:17", "must be \"all\" or a list"),
        ("[dns]", "[host]\nprotect = true\n[dns]", "2:11", "add uplinks"),
        ("[dns]", "[host]\nmasquerade = true\n[dns]", "2:14", "add uplinks"),
        (
            "[dns]",
            "[host]\nuplinks = [\"e\"]\nprotect = \"maybe\"\n[dns]",
            "3:11",
            "must be true, false",
        ),
        ("[dns]", "[host]\nuplinks = [\"vm-slot1\"]\n[dns]", "2:12", "is slot \"slot1\"'s"),
        ("[dns]", "[limits]\nflows = 0\n[dns]", "2:9", "flows 0 must be 1 to"),
        (
            "[dns]",
            "[gate]\naddresses = [\"10.1.0.1\"]\nports = [\"tcp/443\"]\n[dns]",
            "2:14",
            "is the gateway of slot \"slot1\"",
        ),
        (
            "[dns]",
            "[gate]\naddresses = [\"10.9.0.1\"]\nports = []\n[dns]",
            "3:9",
            "the gate has no ports",
        ),
        ("vm-slot2\"", "vm-slot2\"\nshared = 1", "16:10", "invalid type: integer"),
        ("[dns]", "[dns", "1:5", ""),
        ("[dns]", "[dsn]", "1:2", "unknown field `dsn`"),
        ("name = \"slot2\"", "name = \"a b\"", "12:8", "slot name \"a b\" must be 1 to 31 letters"),
    ] {
        assert!(GOOD.contains(from), "{from} is not in the good file");
        // The last place where it stands: the second slot's.
        let at = GOOD.rfind(from).expect("found above");
        let at = if place.starts_with("8:") { GOOD.find(from).expect("found above") } else { at };
        let text = format!("{}{to}{}", &GOOD[..at], &GOOD[at + from.len()..]);
        let ended = check(&text);
        let place = format!("DIR/netguard.toml:{place}: ");
        assert_eq!(ended.code, 2, "{from} -> {to}: {ended:?}");
        assert!(ended.stderr.contains(&place), "{from} -> {to}: no {place} in {}", ended.stderr);
        assert!(ended.stderr.contains(words), "{from} -> {to}: no {words} in {}", ended.stderr);
    }
}

#[test]
fn all_mistakes_are_told_at_once_in_the_order_of_the_file() {
    let text = GOOD.replace("id = 2", "id = 0").replace("10.1.0.0/24", "10.1.0.7/24");
    let ended = check(&text);
    let lines: Vec<_> = ended.stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{ended:?}");
    assert!(lines[0].contains(":9:10: slot \"slot1\": subnet 10.1.0.7/24 has host bits set"));
    assert!(lines[1].contains(":13:6: slot \"slot2\": id 0 must be 1 to 4096"));
}

#[test]
fn a_file_that_was_cut_short_takes_no_guard_away() {
    let ended = check(GOOD.split("[[slot]]").next().expect("the part before the slots"));
    assert_eq!(ended.code, 2, "{ended:?}");
    assert!(ended.stderr.contains("no slot is named: add [[slot]]"), "{ended:?}");
}

#[test]
fn a_file_that_is_not_there_is_a_configuration_error() {
    let ended = Ended::of(&mut netguard(&["check", "/nowhere/netguard.toml"]));
    assert_eq!(ended.code, 2);
    assert!(ended.stderr.contains("/nowhere/netguard.toml: cannot be read"), "{ended:?}");
}

#[test]
fn what_is_no_file_is_refused_without_reading_it() {
    for path in ["/dev/zero", "/tmp"] {
        let ended = Ended::of(&mut netguard(&["check", path]));
        assert_eq!(ended.code, 2);
        assert!(ended.stderr.contains("it is no file"), "{ended:?}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure_and_a_full_disk_is_one() {
    let run = |redirect: &str| {
        let (program, file) = (binary::path(), shipped("netguard.toml"));
        let script = format!("{} check {} {redirect}", program.display(), file.display());
        Ended::of(Command::new("bash").args(["-c", &script]))
    };
    let gone = run("| true; exit ${PIPESTATUS[0]}");
    assert_eq!((gone.code, gone.stderr.as_str()), (0, ""), "{gone:?}");
    let full = run(">/dev/full");
    assert_eq!(full.code, 1, "{full:?}");
    assert!(full.stderr.contains("No space left"), "{full:?}");
}

#[test]
fn bad_usage_is_2_and_help_is_0() {
    assert_eq!(Ended::of(&mut netguard(&["run", "--nonsense"])).code, 2);
    assert_eq!(Ended::of(&mut netguard(&[])).code, 2);
    let help = Ended::of(&mut netguard(&["--help"]));
    assert!(help.success().contains("Exit codes: 0 done, 1 failed, 2 bad usage"), "{help:?}");
}

#[test]
fn names_that_would_lead_elsewhere_are_refused() {
    for arguments in [
        ["unload", "--instance", "../../x", ""],
        ["status", "--instance", "a/b", "--json"],
        ["lab", "--name", "../x", "down"],
        ["lab", "--name", "a-b", "down"],
    ] {
        let arguments: Vec<_> = arguments.into_iter().filter(|it| !it.is_empty()).collect();
        let ended = Ended::of(&mut netguard(&arguments));
        assert_eq!(ended.code, 2, "{ended:?}");
        assert!(ended.stderr.contains("name"), "{ended:?}");
    }
}

#[test]
fn without_capabilities_the_kernel_is_left_alone_and_the_message_says_what_is_needed() {
    if !can_use_kernel() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("netguard.toml");
    let one_slot = GOOD.rsplit_once("[[slot]]").expect("two slots").0;
    fs::write(&file, one_slot).expect("a file");
    let host =
        "ip link add br-slot1 type bridge && ip addr add 10.1.0.1/24 dev br-slot1 && exec \"$@\"";
    for arguments in [vec!["run", "--config"], vec!["lab", "up"]] {
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", host, "sh"]);
        command.args(["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"]);
        command.arg(binary::path()).args(&arguments);
        if arguments[0] == "run" {
            command.arg(&file).args(["--instance", &format!("test-{}-caps", std::process::id())]);
        } else {
            command.args(["--name", &format!("t{}caps", std::process::id())]);
        }
        let ended = Ended::of(&mut command);
        assert_eq!(ended.code, 4, "{arguments:?}: {ended:?}");
        assert!(ended.stderr.contains("not permitted to"), "{ended:?}");
    }
}

#[test]
fn the_example_hosts_are_good_and_their_matrix_says_who_meets() {
    for (example, slots) in [("microvms", 5), ("mixed", 4), ("lockdown", 2)] {
        let file = shipped(&format!("examples/{example}.toml"));
        let ended = Ended::of(&mut netguard(&["check", &file.to_string_lossy()]));
        assert!(ended.success().contains(&format!("good: {slots} slots")), "{ended:?}");
    }
    let file = shipped("examples/mixed.toml");
    let matrix = Ended::of(&mut netguard(&["policy", "--matrix", &file.to_string_lossy()]));
    let rows: Vec<Vec<_>> =
        matrix.success().lines().map(|line| line.split("  ").map(str::trim).collect()).collect();
    let cell = |from: &str, column: usize| {
        let row = rows.iter().find(|row| row[0] == from).expect("a row");
        row.iter().filter(|cell| !cell.is_empty()).nth(column).copied()
    };
    assert_eq!(cell("podman", 1), Some("isolated"));
    assert_eq!(cell("podman", 2), Some("dropped 540001"));
    assert_eq!(cell("k3s", 2), Some("open"));
    let listing = Ended::of(&mut netguard(&["policy", "--json", &file.to_string_lossy()]));
    let listing: serde_json::Value = serde_json::from_str(listing.success()).expect("JSON");
    assert_eq!(listing["slots"][2]["bridge"], "br-vms");
}

#[test]
fn the_shipped_example_is_good() {
    let path = shipped("netguard.toml");
    let ended = Ended::of(&mut netguard(&["check", &path.to_string_lossy()]));
    assert!(ended.success().contains("good: 5 slots, 2 upstreams"), "{ended:?}");
}

#[test]
fn the_shipped_unit_is_good() {
    let unit = fs::read_to_string(shipped("netguard.service")).expect("the unit");
    assert!(unit.contains("Type=notify"));
    // systemd checks that the program exists: give it the one that was built.
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("netguard.service");
    let built = binary::path();
    fs::write(&file, unit.replace("/usr/bin/netguard", &built.to_string_lossy())).expect("a file");
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--recursive-errors=no"]).arg(&file);
    let ended = Ended::of(&mut verify);
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""), "{ended:?}");
}

#[test]
fn the_default_allowlist_has_its_categories_and_names() {
    let text = fs::read_to_string(shipped("allowlist.toml")).expect("the allowlist");
    let categories = netguard::config::default_categories();
    for category in [
        "package-registries",
        "code-hosting",
        "container-registries",
        "cdns",
        "linux-repositories",
        "ai-services",
        "nixos",
        "cloud-providers",
        "vpn",
    ] {
        assert!(categories.iter().any(|it| it == category), "{category} in {categories:?}");
        assert!(text.contains(&format!("[{category}]")));
    }
    let ended = check(GOOD);
    let names = ended.stdout.split("upstreams, ").nth(1).and_then(|rest| rest.split(' ').next());
    let names: usize = names.and_then(|names| names.parse().ok()).expect("a number of names");
    assert!(names >= 177, "{names}");
}

#[test]
fn a_kernel_is_checked_alone_or_with_a_file_by_whoever_may_load_programs() {
    if !can_use_kernel() {
        return;
    }
    let file = shipped("netguard.toml").to_string_lossy().into_owned();
    let both = Ended::of(&mut netguard(&["check", "--kernel", &file]));
    for words in ["good: 5 slots", "good: takes every program", "ng_xdp ", "ng_port_ingress "] {
        assert!(both.success().contains(words), "{words}: {both:?}");
    }
    let mut weak = Command::new("setpriv");
    weak.args(["--bounding-set=-all", "--inh-caps=-all", "--"]);
    let ended = Ended::of(weak.arg(binary::path()).args(["check", "--kernel"]));
    assert_eq!(ended.code, 4, "{ended:?}");
    assert!(ended.stderr.contains("not permitted to"), "{ended:?}");
}
