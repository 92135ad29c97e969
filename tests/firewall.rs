//! netguard's nf_tables table on a host between an outside, a slot, and two container engines that
//! have tables of their own. Everything is in namespaces; the test's thread is the host.

use std::process::Command;

use netguard::firewall::{
    Allow, Error, Masquerade, Protect, Table, apply, begin, counters, exists, remove,
};
use netguard_tests::{
    binary::Ended,
    can_use_kernel,
    clients::{LINK_TRAFFIC, datagram, echo, stream},
    hosts::{Hosts, enter_new_namespace, feed, forward, ip, serve, shell},
    lab::Background,
    until,
};

const NAME: &str = "netguard-test";

/// The rules of Docker (by iptables-nft) and of Podman (netavark), as they are on real hosts.
const ENGINES: &str = r#"
table ip nat {
	chain DOCKER {
		iifname "docker0" counter return
		iifname != "docker0" meta l4proto tcp tcp dport 8080 counter dnat to 172.17.0.2:80
	}
	chain PREROUTING {
		type nat hook prerouting priority dstnat; policy accept;
		fib daddr type local counter jump DOCKER
	}
	chain OUTPUT {
		type nat hook output priority -100; policy accept;
		ip daddr != 127.0.0.0/8 fib daddr type local counter jump DOCKER
	}
	chain POSTROUTING {
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr 172.17.0.0/16 oifname != "docker0" counter masquerade
	}
}
table ip filter {
	chain DOCKER {
		ip daddr 172.17.0.2 iifname != "docker0" oifname "docker0" tcp dport 80 counter accept
	}
	chain DOCKER-USER {
		counter return
	}
	chain FORWARD {
		type filter hook forward priority 0; policy accept;
		counter jump DOCKER-USER
		oifname "docker0" ct state related,established counter accept
		oifname "docker0" counter jump DOCKER
		iifname "docker0" oifname != "docker0" counter accept
	}
}
table inet netavark {
	chain NETAVARK-10-88 {
		ip daddr 10.88.0.0/16 accept
		ip daddr != 224.0.0.0/4 masquerade
	}
	chain POSTROUTING {
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr 10.88.0.0/16 jump NETAVARK-10-88
	}
	chain FORWARD {
		type filter hook forward priority 0; policy accept;
		ct state invalid drop
		ip daddr 10.88.0.0/16 ct state established,related accept
		ip saddr 10.88.0.0/16 accept
	}
}
"#;

/// The host, in the calling thread's new namespace, and what is around it. The outside has routes to
/// the slot, so that it sees the slot's own address if nothing hides it.
fn world() -> Hosts {
    enter_new_namespace();
    let hosts = Hosts::new(&["outside", "slot", "docker", "podman"]);
    // Addresses are usable at once, and a router solicits no routers: the counters stand still.
    let quiet = "cd /proc/sys/net/ipv6/conf
        echo 0 >all/accept_dad; echo 0 >default/accept_dad; echo 1 >all/forwarding";
    for ended in [shell(quiet), hosts.shell("outside", quiet)] {
        let _ = ended.success();
    }
    let mut batch = String::from("link set lo up\n");
    for (device, host, addresses) in [
        ("uplink0", "outside", ["192.0.2.2/24", "2001:db8:ffff::2/64"]),
        ("br-slot1", "slot", ["10.1.0.1/24", "fd00:10:1::1/64"]),
        ("docker0", "docker", ["172.17.0.1/16", "fd00:172::1/64"]),
        ("podman0", "podman", ["10.88.0.1/16", "fd00:10:88::1/64"]),
    ] {
        let [v4, v6] = addresses;
        batch += &format!(
            "link add {device} type veth peer name eth0 netns {}
             addr add {v4} dev {device}\naddr add {v6} dev {device} nodad\nlink set {device} up\n",
            hosts.name(host)
        );
    }
    // To the table a VLAN is an uplink with such a name; not every test kernel has the device type.
    batch += &format!(
        "link add uplink0.100 type veth peer name eth0.100 netns {}
         addr add 198.51.100.2/24 dev uplink0.100\nlink set uplink0.100 up\n",
        hosts.name("outside")
    );
    ip(&batch);
    forward();
    hosts.ip(
        "outside",
        "addr add 192.0.2.1/24 dev eth0
         addr add 2001:db8:ffff::1/64 dev eth0 nodad
         link set eth0 up
         addr add 198.51.100.1/24 dev eth0.100
         link set eth0.100 up
         route add 10.1.0.0/24 via 192.0.2.2
         route add fd00:10:1::/64 via 2001:db8:ffff::2",
    );
    for (host, own, gateways) in [
        ("slot", ["10.1.0.2/24", "fd00:10:1::2/64"], ["10.1.0.1", "fd00:10:1::1"]),
        ("docker", ["172.17.0.2/16", "fd00:172::2/64"], ["172.17.0.1", "fd00:172::1"]),
        ("podman", ["10.88.0.2/16", "fd00:10:88::2/64"], ["10.88.0.1", "fd00:10:88::1"]),
    ] {
        let ([v4, v6], [gateway4, gateway6]) = (own, gateways);
        let batch = format!(
            "addr add {v4} dev eth0\naddr add {v6} dev eth0 nodad\nlink set eth0 up
             route add default via {gateway4}\nroute add default via {gateway6}"
        );
        hosts.ip(host, &batch);
    }
    hosts
}

fn masquerade() -> Table {
    let uplinks = vec!["uplink0".to_owned(), "uplink0.100".to_owned()];
    let sources = ["10.1.0.0/24", "fd00:10:1::/64"].map(|it| it.parse().unwrap()).to_vec();
    let masquerade = Some(Masquerade { uplinks, sources });
    Table { name: NAME.to_owned(), masquerade, protect: None }
}

fn protect(allow_in: &[Allow], dry_run: bool) -> Table {
    let uplinks = vec!["uplink0".to_owned(), "uplink0.100".to_owned()];
    let protect = Some(Protect { uplinks, allow_in: allow_in.to_vec(), dry_run });
    Table { protect, ..masquerade() }
}

/// Which address a server sees, by TCP and UDP.
fn seen(client: impl Fn(&str) -> Ended, address: &str) -> String {
    let by_stream = client(&stream(address, 7, 5)).success().to_owned();
    assert_eq!(client(&datagram(address, 7)).success(), by_stream);
    by_stream
}

fn outside(hosts: &Hosts) -> Background {
    hosts.serve("outside", &echo(&[7]))
}

fn packets(counter: &str) -> u64 {
    let counters = counters(NAME).expect("counters");
    counters.iter().find(|(name, ..)| name == counter).expect("the counter").1
}

fn ruleset(table: &str) -> String {
    // With handles: a table that was made again would have others.
    shell(&format!("nft -a list table {table}")).success().to_owned()
}

#[test]
fn slots_leave_with_the_hosts_address_and_only_on_uplinks() {
    if !can_use_kernel() {
        return;
    }
    let hosts = world();
    let _servers = [outside(&hosts), hosts.serve("docker", &echo(&[7]))];
    let slot = |script: &str| hosts.shell("slot", script);
    let to_outside = || (seen(slot, "192.0.2.1"), seen(slot, "2001:db8:ffff::1"));
    let own = || ("10.1.0.2".to_owned(), "fd00:10:1::2".to_owned());
    let hidden = || ("192.0.2.2".to_owned(), "2001:db8:ffff::2".to_owned());
    assert_eq!(to_outside(), own(), "the control: nothing hides it yet");

    // From nothing, and over itself.
    for _ in 0..2 {
        apply(&masquerade()).expect("in place");
        assert_eq!(to_outside(), hidden());
    }
    assert_eq!(seen(slot, "198.51.100.1"), "198.51.100.2", "on the VLAN too");
    assert_eq!(seen(slot, "172.17.0.2"), "10.1.0.2", "not towards what is no uplink");
    assert!(exists(NAME).expect("a list"));
    assert!(remove(NAME).expect("removed"));
    assert_eq!(to_outside(), own());
    assert!(!exists(NAME).expect("a list"));
    assert!(!remove(NAME).expect("nothing to remove"));
    assert_eq!(shell("nft list ruleset").success(), "", "something is left");
}

#[test]
fn a_subnet_that_comes_or_goes_changes_nothing_else() {
    if !can_use_kernel() {
        return;
    }
    let hosts = world();
    let _servers = [outside(&hosts)];
    let table = |sources: &[&str]| {
        let mut table = Table { protect: protect(&[], false).protect, ..masquerade() };
        let sources = sources.iter().map(|it| it.parse().expect("a prefix")).collect();
        table.masquerade.as_mut().expect("it").sources = sources;
        table
    };
    let change = |new: &Table, old: &Table| match begin(new, Some(old)).expect("nft starts") {
        Some(running) => running.finish().map(|_| "whole").expect("in place"),
        None => "by elements",
    };
    let seen = || seen(|script| hosts.shell("slot", script), "192.0.2.1");
    let (without, with) = (table(&["10.9.0.0/24"]), table(&["10.9.0.0/24", "10.1.0.0/24"]));
    apply(&without).expect("in place");
    assert_eq!(seen(), "10.1.0.2");
    let _ = hosts.shell("outside", "ping -c 1 -W 0.2 192.0.2.2"); // counted, and dropped
    let counted = packets("host-closed");
    assert!(counted > 0);
    assert_eq!(change(&with, &without), "by elements");
    assert_eq!((seen().as_str(), packets("host-closed")), ("192.0.2.2", counted));
    assert_eq!(change(&without, &with), "by elements");
    assert_eq!((seen().as_str(), packets("host-closed")), ("10.1.0.2", counted));
    // Where somebody has flushed the table it is put in place whole.
    let _ = shell("nft flush ruleset").success();
    assert_eq!(change(&with, &without), "whole");
    assert_eq!((seen().as_str(), packets("host-closed")), ("192.0.2.2", 0));
}

#[test]
fn changed_by_elements_a_table_is_as_if_put_in_place_whole() {
    if !can_use_kernel() {
        return;
    }
    enter_new_namespace();
    let table = |sources: &[String]| {
        let mut table = masquerade();
        table.masquerade.as_mut().expect("it").sources =
            sources.iter().map(|it| it.parse().expect("a prefix")).collect();
        table
    };
    let texts = |sources: &[&str]| sources.iter().map(|&it| it.to_owned()).collect::<Vec<_>>();
    let many: Vec<_> = (0..500)
        .flat_map(|n| {
            [format!("10.{}.{}.0/24", 2 * n / 256, 2 * n % 256), format!("fd00:{n:x}::/64")]
        })
        .collect();
    let steps = [
        texts(&["10.1.0.0/24", "fd00:10:1::/64"]),
        // Side by side, where one begins with the first address behind the other.
        texts(&["10.1.0.0/24", "fd00:10:1::/64", "10.1.1.0/24", "fd00:10:1:1::/64"]),
        texts(&["10.1.1.0/24", "10.1.2.0/24", "fd00:10:1:1::/64", "fd00:10:1:2::/63"]),
        // Within what goes.
        texts(&["10.1.2.0/25", "10.1.1.64/26", "fd00:10:1:2:8000::/65"]),
        texts(&["10.0.0.0/8", "fd00::/8"]),
        many,
        texts(&["192.168.77.0/24", "fd00:10:1::/128"]),
    ];
    let listed = || shell(&format!("nft list table inet {NAME}")).success().to_owned();
    apply(&table(&steps[0])).expect("in place");
    for step in steps.windows(2) {
        let [old, new] = step else { unreachable!() };
        let (old, new) = (table(old), table(new));
        assert!(begin(&new, Some(&old)).expect("in place").is_none(), "nft is asked");
        let changed = listed();
        apply(&new).expect("in place");
        assert_eq!(changed, listed());
    }
    // Of two changes one cannot be made, and nft does not take the whole either: nothing has changed.
    apply(&table(&texts(&["192.168.77.0/24"]))).expect("in place");
    let before = listed();
    #[expect(clippy::reversed_empty_ranges, reason = "what nft refuses")]
    let broken = |sources: &[&str]| Table {
        protect: protect(&[Allow::Udp(9..=8)], false).protect,
        ..table(&texts(sources))
    };
    let (absent, new) = (broken(&["10.5.0.0/24"]), broken(&["10.6.0.0/24"]));
    let refused = begin(&new, Some(&absent)).expect("nft starts").expect("nft is asked").finish();
    assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
    assert_eq!(listed(), before);
}

#[test]
fn the_tables_of_docker_and_podman_are_as_they_were_and_work() {
    if !can_use_kernel() {
        return;
    }
    let hosts = world();
    feed(Command::new("nft").args(["-f", "-"]), ENGINES);
    let _servers = [outside(&hosts), hosts.serve("docker", &echo(&[80]))];
    let works = |slot_is_hidden: bool| {
        for engine in ["docker", "podman"] {
            let client = |script: &str| hosts.shell(engine, script);
            assert_eq!(seen(client, "192.0.2.1"), "192.0.2.2", "{engine}");
        }
        // The published port is Docker's to open, though the host's own 8080 is closed.
        let published = hosts.shell("outside", &stream("192.0.2.2", 8080, 5));
        assert_eq!(published.success(), "192.0.2.1");
        let expected = if slot_is_hidden { "192.0.2.2" } else { "10.1.0.2" };
        assert_eq!(seen(|script| hosts.shell("slot", script), "192.0.2.1"), expected);
    };
    let tables = || ["ip nat", "ip filter", "inet netavark"].map(ruleset);
    works(false);
    for table in [Some(masquerade()), Some(protect(&[], false)), None] {
        let before = tables();
        match &table {
            Some(table) => apply(table).expect("in place"),
            None => assert!(remove(NAME).expect("removed")),
        }
        assert_eq!(tables(), before);
        works(table.is_some());
    }
}

#[test]
fn the_host_answers_what_is_allowed_and_what_it_asked_for() {
    if !can_use_kernel() {
        return;
    }
    let hosts = world();
    let _servers =
        [outside(&hosts), serve(&echo(&[22, 8080])), hosts.serve("slot", &echo(&[8080]))];
    let reaches = |address: &str, port, patience| {
        hosts.shell("outside", &stream(address, port, patience)).code == 0
    };
    let ours = ["192.0.2.2", "2001:db8:ffff::2", "198.51.100.2"];
    for address in ours {
        assert!(reaches(address, 8080, 5), "the control: {address} is open");
    }
    apply(&protect(&[Allow::Tcp(22..=22)], false)).expect("in place");
    // Neighbour discovery starts anew, in both directions.
    ip("neigh flush all");
    hosts.ip("outside", "neigh flush all");
    for address in ours {
        assert!(reaches(address, 22, 5), "{address} port 22");
        let before = packets("host-closed");
        assert!(!reaches(address, 8080, 1), "{address} port 8080");
        assert!(packets("host-closed") > before, "a drop is counted");
        let ping = format!("ping -c 1 -W 0.2 {address}");
        assert_ne!(hosts.shell("outside", &ping).code, 0, "ping is not allowed");
    }
    // What the host asks for, by TCP, UDP and ping.
    ip("neigh flush all");
    assert_eq!(seen(shell, "192.0.2.1"), "192.0.2.2");
    assert_eq!(seen(shell, "2001:db8:ffff::1"), "2001:db8:ffff::2");
    for address in ["192.0.2.1", "2001:db8:ffff::1", "198.51.100.1"] {
        assert_eq!(shell(&format!("ping -c 1 -W 5 {address}")).code, 0, "{address}");
    }
    // An error about what the host sent belongs to it: nobody listens there.
    let refused = shell(&stream("192.0.2.1", 9, 5));
    assert_ne!(refused.code, 0);
    // What is for others is none of this table's business.
    for address in ["10.1.0.2", "fd00:10:1::2"] {
        assert!(reaches(address, 8080, 5), "{address} is a slot's");
    }
    // And other interfaces are no uplinks.
    assert_eq!(hosts.shell("docker", &stream("172.17.0.1", 8080, 5)).code, 0);

    apply(&protect(&[Allow::Ping, Allow::Tcp(8000..=8100)], false)).expect("replaced");
    for address in ours {
        assert!(reaches(address, 8080, 5) && !reaches(address, 22, 1), "{address}");
        assert_eq!(hosts.shell("outside", &format!("ping -c 1 -W 5 {address}")).code, 0);
    }
}

#[test]
fn what_keeps_the_link_working_is_let_in() {
    if !can_use_kernel() {
        return;
    }
    let hosts = world();
    let _server = serve(&echo(&[22]));
    apply(&protect(&[Allow::Tcp(22..=22)], false)).expect("in place");
    let multicast = "ip -6 route show table local type multicast dev eth0";
    until("the link is ready", || !hosts.shell("outside", multicast).success().is_empty());
    let shown = || shell("ip -6 -o addr show dev uplink0 scope link -tentative");
    until("the host has its link-local address", || !shown().success().is_empty());
    let shown = shown();
    let own = shown.success().split(' ').find_map(|word| word.strip_suffix("/64"));
    let before = packets("host-closed");
    let sent = hosts.python("outside", LINK_TRAFFIC, &[own.expect("a link-local address")]);
    let _ = sent.success();
    // What comes after them on the wire has arrived, so they have.
    let _ = hosts.shell("outside", &stream("192.0.2.2", 22, 5)).success();
    assert_eq!(packets("host-closed"), before + 5, "each once, as it must not be believed");
}

#[test]
fn a_dry_run_counts_and_lets_pass() {
    if !can_use_kernel() {
        return;
    }
    let hosts = world();
    let _server = serve(&echo(&[8080]));
    apply(&protect(&[], true)).expect("in place");
    let before = packets("host-closed-dry-run");
    let open = hosts.shell("outside", &stream("192.0.2.2", 8080, 5));
    assert_eq!(open.success(), "192.0.2.1");
    assert!(packets("host-closed-dry-run") > before);
}

#[test]
fn a_table_that_is_refused_leaves_the_old_one_in_force() {
    if !can_use_kernel() {
        return;
    }
    enter_new_namespace();
    apply(&protect(&[Allow::Tcp(22..=22)], false)).expect("in place");
    let before = ruleset(&format!("inet {NAME}"));
    #[expect(clippy::reversed_empty_ranges, reason = "what nft refuses")]
    let broken = protect(&[Allow::Udp(9..=8)], false);
    let error = apply(&broken).expect_err("nft refuses it");
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
    let words = error.to_string();
    assert!(words.contains(&format!("cannot replace the table inet {NAME}: nft says")), "{words}");
    assert!(words.contains("Range"), "nft's own words: {words}");
    assert_eq!(ruleset(&format!("inet {NAME}")), before);

    // One that only the kernel refuses, after it has read the removal of the old one.
    let script = masquerade().script().expect("a script");
    let script = script.replace("uplinks ip saddr", "uplinks counter name nobody ip saddr");
    let refused =
        Ended::of(Command::new("sh").args(["-c", "printf %s \"$0\" | nft -f -", &script]));
    assert!(refused.stderr.contains("Could not process rule"), "{refused:?}");
    assert_eq!(ruleset(&format!("inet {NAME}")), before);
}

#[test]
fn only_tables_of_ours_are_touched_and_absence_is_told() {
    if !can_use_kernel() {
        return;
    }
    enter_new_namespace();
    feed(
        Command::new("nft").args(["-f", "-"]),
        "table inet filter {}\ntable ip netguard-test {}\n",
    );
    assert!(matches!(remove("filter"), Err(Error::Table(_))));
    assert!(matches!(counters("filter"), Err(Error::Table(_))));
    assert!(!remove(NAME).expect("the other family's table is not ours"));
    let error = counters(NAME).expect_err("no table").to_string();
    assert!(error.contains("cannot read the table inet netguard-test"), "{error}");
    assert_eq!(shell("nft list tables").success(), "table inet filter\ntable ip netguard-test\n");
}

#[test]
fn without_the_right_to_it_the_error_says_which() {
    if !can_use_kernel() {
        return;
    }
    /// include/uapi/linux/capability.h
    const CAP_NET_ADMIN: libc::c_ulong = 12;
    enter_new_namespace();
    // SAFETY: the call reads two integers; it takes the right from this thread's children only.
    let dropped = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, CAP_NET_ADMIN) };
    assert_eq!(dropped, 0);
    for refused in [apply(&masquerade()), remove(NAME).map(drop), counters(NAME).map(drop)] {
        let error = refused.expect_err("not permitted");
        assert!(matches!(error, Error::Permission(_)), "{error:?}");
        assert!(error.to_string().contains("CAP_NET_ADMIN"), "{error}");
    }
}
