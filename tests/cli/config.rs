//! Configurations as `netguard check` takes them: every mistake is named with its place and the way out.

use super::*;

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
        (
            "id = 2",
            "id = \"two\"",
            "13:6",
            "must be a whole number, at most 65535, not string \"two\"",
        ),
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
        ("[dns]", "[metrics]\nlisten = \"0.0.0.0:9540\"\n[dns]", "2:10", "on a loopback address"),
        ("[dns]", "[metrics]\nlisten = \"127.0.0.1\"\n[dns]", "2:10", "like \"127.0.0.1:9540\""),
        ("[dns]", "[metrics]\nlisten = \"[::1]:0\"\n[dns]", "2:10", "not on \"[::1]:0\""),
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
        ("vm-slot2\"", "vm-slot2\"\nshared = 1", "16:10", "must be true or false, not integer `1`"),
        (
            "name = \"slot2\"\nid = 2\nbridge = \"br-slot2\"\nport = \"vm-slot2\"\nsubnet = \"10.2.0.0/24\"",
            "id = 2\ncount = 300",
            "13:9",
            "slot 256 of the template would have the subnet 10.256.0.0/24; write subnet = ",
        ),
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

/// What the second slot says besides, the text at which the problem is told, and words of it.
#[test]
fn every_key_of_a_slot_says_what_it_wants_instead() {
    for (more, at, words) in [
        ("allow = ['203.0.113.0/24 tpc/443']", "'203", "\"tpc/443\" is no service; write"),
        ("allow = ['203.0.113.0/24 tcp/0']", "'203", "\"tcp/0\" is no service; write"),
        ("allow = ['203.0.113.0/24 tcp/9-1']", "'203", "\"tcp/9-1\" is no service; write"),
        ("allow = ['203.0.113.0/24 icmp/8']", "'203", "\"icmp/8\" is no service; write"),
        ("allow = ['203.0.113.0/33']", "'203", "\"203.0.113.0/33\" is no prefix; write"),
        ("allow = ['github.com']", "'git", "\"github.com\" is no prefix; write"),
        ("deny = ['203.0.113.9/24']", "'203", "has host bits set; the prefix is 203.0.113.0/24"),
        ("deny = 'reject'", "'reject", "must be a list, like [\"...\"], not string \"reject\""),
        ("denial = 'rejct'", "'rejct", "unknown variant `rejct`, expected `drop` or `reject`"),
        ("egress = 'none'\nallow = ['::/0']", "'::", "allows nothing; write egress = \"listed\""),
        ("egress = 'listed'", "'listed", "\"listed\" without a list; add allow = ["),
        ("egress = 'closed'", "'closed", "unknown variant `closed`, expected one of `open`"),
        (
            "mode = 'off'",
            "'off",
            "unknown variant `off`, expected one of `guarded`, `audit`, `lock",
        ),
        ("denial = 'tell'", "'tell", "unknown variant `tell`, expected `drop` or `reject`"),
        ("runtime = 'podman'", "'podman", "no [[runtime]] is named \"podman\"; there are"),
        ("host_services = ['tcp']\nhost_services = []", "host_services = []", "duplicate key"),
        (
            "host_services = 'some'",
            "'some",
            "host_services \"some\" must be \"all\" or a list like",
        ),
        ("host_services = ['http']", "['http", "host_services \"http\" must be \"all\" or a list"),
        ("host_services = [80]", "[80", "host_services 80 must be \"all\" or a list like"),
        ("mac = '01:00:5e:00:00:01'", "'01", "is no address of one machine; write \"02:00"),
        ("mac = '02:00:00:00:01'", "'02", "is no address of one machine; write \"02:00"),
        ("mac = '00:00:00:00:00:00'", "'00", "is no address of one machine; write \"02:00"),
        ("limits = { packets = 5 }", "packets", "unknown field `packets`, expected one of"),
        (
            "limits = { icmp_max_bytes = 70000 }",
            "70000",
            "must be a whole number, at most 65535, not integer `70000`",
        ),
        ("metadata = 'yes'", "'yes", "must be true or false"),
    ] {
        let text = format!("{GOOD}{more}\n");
        refused_at(&text, text.rfind(at).expect("the place is in the text"), &[words]);
    }
}

/// The text is refused with one problem at that byte, in these words.
fn refused_at(text: &str, at: usize, words: &[&str]) {
    let before = &text[..at];
    let line = before.matches('\n').count() + 1;
    let column = at - before.rfind('\n').map_or(0, |newline| newline + 1) + 1;
    let place = format!("DIR/netguard.toml:{line}:{column}: ");
    let ended = check(text);
    assert_eq!(ended.code, 2, "{text}: {ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{words:?}: {}", ended.stderr);
    assert!(ended.stderr.contains(&place), "{words:?}: no {place} in {}", ended.stderr);
    for words in words {
        assert!(ended.stderr.contains(words), "no {words:?} in {}", ended.stderr);
    }
}

#[test]
fn every_key_beyond_the_slots_says_what_it_wants_instead() {
    let gate = "[gate]\naddresses = ['10.99.0.1']\nports = ['tcp/443']\n";
    let no_ports = gate.replace("['tcp/443']", "[]");
    let no_addresses = gate.replace("['10.99.0.1']", "[]");
    let at = |address: &str| gate.replace("'10.99.0.1'", address);
    let uplinks = "[host]\nuplinks = ['eth0']\n";
    for (top, place, words) in [
        (gate.replace("tcp/443", "https"), "'https", "the gate's ports: \"https\" is no service"),
        (no_ports, "[]", "the gate has no ports: ports = [\"tcp/443\"]"),
        (no_addresses, "[]", "the gate has no address: addresses = [\"10.99.0.1\"]"),
        (at("'10.1.0.1'"), "'10", "the gate 10.1.0.1 is the gateway of slot \"slot1\"; give the"),
        (at("'127.0.0.1'"), "'127", "the gate 127.0.0.1 is no address that slots could reach"),
        (at("'224.0.0.1'"), "'224", "the gate 224.0.0.1 is no address that slots could reach"),
        (at("'10.99.0.1', '10.98.0.1'"), "'10.98", "two addresses of one family; leave out 10.98"),
        ("[host]\nprotect = true\n".into(), "true", "protect needs to know against whom: add upl"),
        (
            "[datapath]\nfast_path = true\n".into(),
            "true",
            "the fast path needs to know where to: add",
        ),
        (
            "[host]\nuplinks = [\"eth0\"]\nmasquerade = false\n[datapath]\nfast_path = true\n"
                .into(),
            "true",
            "leave out masquerade = false",
        ),
        ("[host]\nmasquerade = true\n".into(), "true", "masquerade needs to know where to: add"),
        (format!("{uplinks}protect = 'maybe'\n"), "'maybe", "must be true, false or \"dry-run\""),
        (
            format!("{uplinks}protect = true\nallow_in = ['ssh']\n"),
            "'ssh",
            "allow_in: \"ssh\" is no service; write",
        ),
        (uplinks.replace("eth0", "vm-slot1"), "'vm-slot1", "uplink vm-slot1 is slot \"slot1\"'s"),
        (uplinks.replace("eth0", "br-slot2"), "'br-slot2", "uplink br-slot2 is slot \"slot2\"'s"),
        (uplinks.replace("eth0", "e/0"), "'e/0", "uplink \"e/0\" is no interface name"),
        ("[limits]\nflows = 0\n".into(), "0\n", "flows 0 must be 1 to "),
        ("[limits]\nflows = 99999999\n".into(), "99999999", "flows 99999999 must be 1 to "),
        (
            "[[runtime]]\nname = 'k3s'\n[[runtime]]\nname = 'k3s' # 2\n".into(),
            "'k3s' # 2",
            "runtime \"k3s\" is there twice",
        ),
        ("[[runtime]]\nname = ''\n".into(), "''", "a runtime needs a name: name = \"podman\""),
    ] {
        let text = format!("{top}{GOOD}");
        refused_at(&text, text.find(place).expect("the place is in the text"), &[words]);
    }
}

#[test]
fn templates_and_shared_bridges_say_what_they_lack() {
    let top = "[dns]\nupstreams = ['1.1.1.1']\n";
    let slot = "[[slot]]\nsubnet = '10.1.0.0/24'\n";
    let shared = "[[slot]]\nname = 'a'\nid = 1\nbridge = 'br0'\nshared = true\n\
                  subnet = '10.1.0.0/24'\n";
    let second = shared.replace("'a'", "'b'").replace("id = 1", "id = 2").replace("10.1", "10.2");
    for (slots, place, words) in [
        (format!("{slot}id = 1\n"), "[[slot]]", "this slot has no name: add name = \"slot1\""),
        (format!("{slot}name = 'a'\n"), "'a'", "slot \"a\" has no id: add id = 1, a number of"),
        ("[[slot]]\ncount = 0\n".into(), "0", "count 0 must be 1 to 4096: slot numbers from 1 on"),
        ("[[slot]]\ncount = 4097\n".into(), "4097", "count 4097 must be 1 to 4096"),
        ("[[slot]]\nid = 4096\ncount = 2\n".into(), "2", "count 2 must be 1 to 1: slot numbers"),
        ("[[slot]]\ncount = 2\nname = 'vm'\n".into(), "'vm'", "and needs {n}: write \"slot{n}\""),
        (
            format!("{shared}{second}"),
            "'br0'\nshared = true\nsubnet = '10.2",
            "slot \"b\": shared bridge br0 is already slot \"a\"'s (line 6)",
        ),
        (
            format!("{shared}{}", second.replace("shared = true\n", "")),
            "'br0'\nsubnet = '10.2",
            "slot \"b\": shared bridge br0 is already slot \"a\"'s (line 6)",
        ),
    ] {
        let text = format!("{top}{slots}");
        let from = top.len();
        let at = text[from..].find(place).expect("the place is in the text") + from;
        refused_at(&text, at, &[words]);
    }
    let two = GOOD.replace("br-slot2", "br-slot1");
    assert!(check(&two).success().contains("good: 2 slots"), "two slots on one bridge");
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
