//! The links that netguard makes itself, each test in a network namespace of its own. `ip` and
//! `bridge` are the witnesses.

use std::{fs, path::Path, process::Stdio};

use netguard::links::{
    Changed, Error, Host, Made, Wanted, Watcher, isolate, make, remove_owned, remove_stale,
};
use netguard_tests::{
    binary::{Ended, netguard},
    can_use_kernel,
    hosts::{enter_new_namespace, ip, shell},
    lab::Background,
    until,
};
use serde_json::Value;

const OWNER: &str = "test";
const ALIAS: &str = "netguard test";

/// One bridge with two isolated TAPs.
fn wanted() -> Wanted {
    Wanted {
        bridge: "br-one".to_owned(),
        mac: [0x02, 0x6e, 0x67, 0, 1, 1],
        addresses: ["10.1.0.1/24", "fd00:10:1::1/64"].map(|it| it.parse().unwrap()).to_vec(),
        ports: vec!["vm-one".to_owned(), "vm-two".to_owned()],
        isolated: true,
    }
}

/// One thread: all of it must be in the test's namespace.
fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(work)
}

fn make_on_host(wanted: &[Wanted]) -> Result<Made, Error> {
    make(wanted, OWNER, &Host::read().expect("the host"))
}

fn json(command: &str) -> Value {
    serde_json::from_str(shell(command).success()).expect("JSON")
}

fn link(name: &str) -> Value {
    json(&format!("ip -d -j link show dev {name}"))[0].clone()
}

fn names() -> Vec<String> {
    let links = json("ip -j link show");
    let names = links.as_array().expect("links").iter();
    names.map(|link| link["ifname"].as_str().expect("a name").to_owned()).collect()
}

fn is_up(link: &Value) -> bool {
    link["flags"].as_array().expect("flags").contains(&"UP".into())
}

/// The addresses of an interface that it was given, as `10.1.0.1/24`.
fn addresses(name: &str) -> Vec<String> {
    let shown = json(&format!("ip -j addr show dev {name} scope global"));
    let infos = shown[0]["addr_info"].as_array().expect("addresses").iter();
    // What is of another scope is there too, as an empty object.
    let given = infos.filter_map(|it| Some((it["local"].as_str()?, &it["prefixlen"])));
    given.map(|(address, length)| format!("{address}/{length}")).collect()
}

/// What `bridge` says of the flag.
fn is_isolated(port: &str) -> bool {
    let shown = json(&format!("bridge -d -j link show dev {port}"));
    let flag = shown[0]["isolated"].as_bool();
    flag.unwrap_or_else(|| panic!("{port} is no port of a bridge: {shown}"))
}

fn index(name: &str) -> u32 {
    nix::net::if_::if_nametoindex(name).expect("the interface")
}

#[test]
fn what_is_missing_is_made_once_and_says_whose_it_is() {
    if !can_use_kernel() {
        return;
    }
    enter_new_namespace();
    let made = make_on_host(&[wanted()]).expect("made");
    assert_eq!(made.created, ["br-one", "vm-one", "vm-two"]);
    assert_eq!(made.completed, [""; 0]);

    let bridge = link("br-one");
    assert_eq!(bridge["linkinfo"]["info_kind"], "bridge");
    assert_eq!(bridge["ifalias"], ALIAS);
    assert_eq!(bridge["address"], "02:6e:67:00:01:01");
    assert!(is_up(&bridge), "{bridge}");
    assert_eq!(addresses("br-one"), ["10.1.0.1/24", "fd00:10:1::1/64"]);
    let tentative = shell("ip -6 addr show dev br-one tentative scope global");
    assert_eq!(tentative.success(), "", "a guest could make the kernel give the address up");
    assert!(shell("ip route show").success().contains("10.1.0.0/24 dev br-one"));
    for port in ["vm-one", "vm-two"] {
        let shown = link(port);
        assert_eq!(shown["ifalias"], ALIAS);
        assert_eq!(shown["master"], "br-one");
        let tun = &shown["linkinfo"]["info_data"];
        assert_eq!(tun["type"], "tap", "{shown}");
        assert_eq!(tun["pi"], false, "{shown}");
        assert_eq!(tun["vnet_hdr"], true, "{shown}");
        assert_eq!(tun["multi_queue"], false, "{shown}");
        assert_eq!(tun["persist"], true, "{shown}");
        assert!(is_up(&shown), "{shown}");
        assert!(is_isolated(port));
        let ipv6 = format!("cat /proc/sys/net/ipv6/conf/{port}/disable_ipv6");
        assert_eq!(shell(&ipv6).success(), "1\n");
        assert_eq!(shell(&format!("ip -6 addr show dev {port}")).success(), "");
    }
    let before = names();
    assert_eq!(make_on_host(&[wanted()]).expect("nothing to do"), Made::default());
    assert_eq!(names(), before);
}

#[test]
fn what_is_ours_and_has_changed_is_completed() {
    if !can_use_kernel() {
        return;
    }
    enter_new_namespace();
    let _ = make_on_host(&[wanted()]).expect("made");
    ip("addr del 10.1.0.1/24 dev br-one
        link set vm-one nomaster
        link set vm-two down
        link set vm-two type bridge_slave isolated off
    ");
    let made = make_on_host(&[wanted()]).expect("completed");
    let completed = ["br-one", "vm-one", "vm-two"].map(str::to_owned).to_vec();
    assert_eq!(made, Made { created: Vec::new(), completed });
    assert!(addresses("br-one").contains(&"10.1.0.1/24".to_owned()));
    assert!(is_isolated("vm-one") && is_isolated("vm-two") && is_up(&link("vm-two")));
}

#[test]
fn what_somebody_else_made_is_adopted_and_stays_theirs() {
    if !can_use_kernel() {
        return;
    }
    enter_new_namespace();
    ip("link add br-one address 02:00:00:00:00:99 type bridge
        addr add 10.1.0.1/16 dev br-one
        link add vm-one type veth peer name far-one
        link add vm-two type veth peer name far-two
        link set vm-two master br-one
    ");
    let made = make_on_host(&[wanted()]).expect("adopted");
    let completed = ["br-one", "vm-one"].map(str::to_owned).to_vec();
    assert_eq!(made, Made { created: Vec::new(), completed });
    let bridge = link("br-one");
    assert_eq!(bridge["address"], "02:00:00:00:00:99");
    assert!(!is_up(&bridge), "it was not asked to be up");
    assert_eq!(addresses("br-one"), ["10.1.0.1/16", "fd00:10:1::1/64"]);
    assert!(is_isolated("vm-one"), "it is new on the bridge");
    assert!(!is_isolated("vm-two"), "it was there before");
    for name in ["br-one", "vm-one", "vm-two"] {
        assert_eq!(link(name)["ifalias"], Value::Null, "{name}");
    }
    assert_eq!(make_on_host(&[wanted()]).expect("nothing to do"), Made::default());
    let before = names();
    assert_eq!(remove_owned(OWNER).expect("nothing is ours"), [""; 0]);
    assert_eq!(names(), before);
}

#[test]
fn a_refusal_leaves_everything_as_it_was() {
    if !can_use_kernel() {
        return;
    }
    enter_new_namespace();
    ip("tuntap add dev vm-two mode tun
        link add br-old type bridge
        link add br-other type bridge
    ");
    let (before, bare) = (names(), addresses("br-old"));
    let refused = |wanted: &[Wanted], words: &str| {
        let error = make_on_host(wanted).expect_err("refused");
        assert!(error.to_string().contains(words), "{words:?} in {error:#?}");
        assert_eq!((names(), addresses("br-old")), (before.clone(), bare.clone()), "{words}");
    };
    // Known before the first change.
    refused(&[wanted()], "vm-two exists and is no TAP or veth; remove it (ip link del vm-two)");
    let on = |bridge: &str, ports: &[&str]| Wanted {
        bridge: bridge.to_owned(),
        ports: ports.iter().map(|&port| port.to_owned()).collect(),
        ..wanted()
    };
    refused(&[on("br-one", &[]), on("vm-two", &[])], "vm-two exists and is no bridge");
    refused(&[on("br-one", &["vm%d"])], "\"vm%d\" is no interface name");
    // Known to the kernel only, after others were made and one that exists got its address.
    let twice = [on("br-old", &["vm-one"]), on("br-one", &["vm-one"])];
    refused(&twice, "cannot make the TAP vm-one");
    refused(&[on("br-old", &["vm-one"]), on("vm-one", &[])], "cannot make the bridge vm-one");

    ip("link add vm-one type veth peer name far-one\nlink set vm-one master br-other");
    let error = make_on_host(&[on("br-old", &["vm-one"])]).expect_err("refused");
    assert!(error.to_string().contains("free it (ip link set vm-one nomaster)"), "{error}");
    assert_eq!(link("vm-one")["master"], "br-other");
}

#[test]
fn only_what_is_ours_is_removed() {
    if !can_use_kernel() {
        return;
    }
    enter_new_namespace();
    let other = Wanted {
        bridge: "br-other".to_owned(),
        addresses: vec!["10.2.0.1/24".parse().unwrap()],
        ports: vec!["vm-other".to_owned()],
        ..wanted()
    };
    ip("link add foreign type bridge\nlink set foreign alias 'netguard test2'");
    let _ = make_on_host(&[wanted()]).expect("made");
    let _ = make(&[other], "other", &Host::read().expect("the host")).expect("made");
    // A foreign port on a bridge of ours goes back to being on none.
    ip("link add far type veth peer name near\nlink set near master br-one");

    let fewer = Wanted { ports: vec!["vm-one".to_owned()], ..wanted() };
    let remove = |wanted| remove_stale(OWNER, &[wanted], &Host::read().expect("the host"));
    assert_eq!(remove(wanted()).expect("nothing"), [""; 0]);
    assert_eq!(remove(fewer).expect("one"), ["vm-two"]);
    assert_eq!(remove_owned(OWNER).expect("the rest"), ["vm-one", "br-one"]);
    let left = names();
    for name in ["foreign", "br-other", "vm-other", "near"] {
        assert!(left.contains(&name.to_owned()), "{name} in {left:?}");
    }
    assert_eq!(left.len(), 6, "and lo and far: {left:?}");
    assert_eq!(remove_owned(OWNER).expect("nothing"), [""; 0]);
}

#[test]
fn many_links_go_by_groups_and_nobody_elses_with_them() {
    if !can_use_kernel() {
        return;
    }
    enter_new_namespace();
    let many: Vec<_> = (0..25)
        .map(|number| Wanted {
            bridge: format!("br-{number}"),
            ports: vec![format!("vm-{number}")],
            addresses: Vec::new(),
            ..wanted()
        })
        .collect();
    let _ = make_on_host(&many).expect("made");
    // Somebody moves a link of ours to a group of his own.
    ip("link add foreign type bridge\nlink set foreign group 77\nlink set br-3 group 77");
    assert_eq!(
        remove_stale(OWNER, &many[..1], &Host::read().expect("the host")).expect("most").len(),
        48
    );
    let left = names();
    assert_eq!(left.len(), 4, "lo, foreign, br-0, vm-0: {left:?}");
    for (name, group) in [("foreign", "77"), ("br-0", "default"), ("vm-0", "default")] {
        assert_eq!(link(name)["group"], group, "{name}");
    }
    assert_eq!(remove_owned(OWNER).expect("the rest"), ["vm-0", "br-0"]);
}

#[test]
fn the_flag_isolated_is_set_read_back_and_reported() {
    if !can_use_kernel() {
        return;
    }
    enter_new_namespace();
    let _ = make_on_host(&[Wanted { isolated: false, ..wanted() }]).expect("made");
    let facts = || {
        let facts = Host::read().expect("the host").facts();
        ["br-one", "vm-one", "vm-two"].map(|name| facts.interface(name).expect("it").isolated)
    };
    assert_eq!(facts(), [false, false, false]);
    for isolated in [true, false, true] {
        isolate(index("vm-one"), isolated).expect("taken");
        assert_eq!(is_isolated("vm-one"), isolated);
        assert!(!is_isolated("vm-two"));
        assert_eq!(facts(), [false, isolated, false]);
    }
    ip("link set vm-two nomaster");
    let error = isolate(index("vm-two"), true).expect_err("on no bridge");
    assert_eq!(error.to_string(), "cannot isolate vm-two");
    let error = isolate(4_000_000, true).expect_err("no such interface");
    assert_eq!(error.to_string(), "cannot isolate interface 4000000");
}

#[test]
fn what_changes_is_news_and_what_does_not_is_none() {
    if !can_use_kernel() {
        return;
    }
    enter_new_namespace();
    let _ = make_on_host(&[wanted()]).expect("made");
    run(async {
        let mut watcher = Watcher::open().expect("a watcher");
        let same = |watcher: &Watcher| {
            assert_eq!(**watcher.facts(), Host::read().expect("the host").facts());
        };
        same(&watcher);
        isolate(index("vm-one"), false).expect("taken");
        watcher.changed().await.expect("news");
        assert!(!watcher.facts().interface("vm-one").expect("the port").isolated);
        for change in [
            "addr add 10.1.9.9/24 dev br-one",
            "addr del 10.1.9.9/24 dev br-one",
            "link set vm-one nomaster",
            "link set vm-one master br-one",
            "link set vm-two type bridge_slave isolated off",
            "link set vm-two down\nlink set vm-two name other",
            "link add new type veth peer name far",
            "link del other",
            "link set br-one address 02:00:00:00:00:77",
            "link del br-one",
        ] {
            ip(change);
            let changed = watcher.changed().await.expect("news");
            assert_eq!(changed, Changed { host: true, ..Changed::default() }, "{change}");
            same(&watcher);
        }
        // What makes no difference is none: the next news is of the filter.
        let script = "ip link set new mtu 1400 && tc qdisc add dev new clsact &&
            tc filter add dev new ingress pref 1 bpf da bytecode '1,6 0 0 0'";
        let _ = shell(script).success();
        let changed = watcher.changed().await.expect("news");
        assert_eq!(changed, Changed { host: false, filters: [index("new")].into() });
    });
}

#[test]
fn news_for_which_there_was_no_room_is_asked_for() {
    if !can_use_kernel() {
        return;
    }
    enter_new_namespace();
    run(async {
        let mut watcher = Watcher::open().expect("a watcher");
        ip("link add br-one type bridge");
        // Each is more than a thousand bytes of news.
        let often = "link set br-one alias a\nlink set br-one alias b\n".repeat(20_000);
        ip(&format!("{often}link del br-one"));
        assert!(watcher.changed().await.expect("news").host);
        assert_eq!(**watcher.facts(), Host::read().expect("the host").facts());
    });
}

const CONFIG: &str = r#"
[host]
uplinks = ["uplink0"]

[dns]
upstreams = ["1.1.1.1"]

[[slot]]
count = 2
manage_links = true

[[slot]]
name = "own"
id = 9
subnet = "10.9.0.0/24"
"#;

/// Takes the pins of a failed test away too.
struct Loaded(String);

impl Drop for Loaded {
    fn drop(&mut self) {
        let _ = Ended::of(&mut netguard(&["unload", "--instance", &self.0]));
    }
}

#[test]
fn a_daemon_makes_what_it_manages_and_unload_takes_it_away() {
    if !can_use_kernel() {
        return;
    }
    enter_new_namespace();
    let loaded = Loaded(format!("test-{}-made", std::process::id()));
    let instance = loaded.0.as_str();
    let directory = tempfile::tempdir().expect("a directory");
    let (file, log) = (directory.path().join("netguard.toml"), directory.path().join("log"));
    fs::write(&file, CONFIG).expect("a file");
    let file = file.to_string_lossy();
    let run = ["run", "--instance", instance, "--config", &file];
    let pins = format!("/sys/fs/bpf/netguard/{instance}");
    ip("link set lo up
        link add uplink0 type bridge
        link add br-foreign type bridge
        link set br-foreign alias 'netguard another'
    ");
    let _ = shell("nft add table inet foreign && nft add table inet netguard-another").success();
    let tables = || shell("nft list tables").success().to_owned();
    let (before, tables_before) = (names(), tables());

    // The third slot's bridge is not there, and nobody manages it.
    let refused = Ended::of(&mut netguard(&run));
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.stderr.contains("bridge br-own does not exist"), "{refused:?}");
    assert!(refused.stderr.contains("manage_links = true"), "{refused:?}");
    assert_eq!((names(), tables()), (before.clone(), tables_before.clone()));
    assert!(!Path::new(&pins).exists(), "{pins} is left");

    ip("link add br-own type bridge\naddr add 10.9.0.1/24 dev br-own\nlink set br-own up");
    let before = names();
    let output = fs::File::create(&log).expect("a log");
    let read = || fs::read_to_string(&log).unwrap_or_default();
    let child = netguard(&run)
        .stdin(Stdio::null())
        .stdout(output.try_clone().expect("the log"))
        .stderr(output)
        .spawn()
        .expect("netguard starts");
    let mut daemon = Background::from(child);
    until("the daemon guards", || {
        assert!(daemon.child().try_wait().expect("the daemon").is_none(), "{}", read());
        read().contains("guarding 3 slots")
    });
    for number in [1, 2] {
        let (bridge, port) = (format!("br-slot{number}"), format!("vm-slot{number}"));
        for name in [&bridge, &port] {
            let shown = shell(&format!("ip -d link show dev {name}"));
            assert!(shown.success().contains(&format!("alias netguard {instance}")), "{shown:?}");
        }
        assert_eq!(addresses(&bridge), [format!("10.{number}.0.1/24")]);
        assert_eq!(link(&port)["master"], bridge.as_str());
        assert!(is_isolated(&port) && is_up(&link(&port)));
    }
    assert_eq!(link("br-own")["ifalias"], Value::Null);
    assert!(tables().contains(&format!("netguard-{instance}\n")), "{}", tables());

    let pid = daemon.child().id().to_string();
    let _ = shell(&format!("kill -TERM {pid}")).success();
    assert_eq!(daemon.child().wait().expect("the daemon ends").code(), Some(0), "{}", read());
    assert_eq!(addresses("br-slot1"), ["10.1.0.1/24"], "a stopped daemon leaves all in place");
    assert!(Path::new(&pins).exists());

    let unload = Ended::of(&mut netguard(&["unload", "--instance", instance]));
    assert!(unload.success().contains("nothing is enforced"), "{unload:?}");
    for name in ["br-slot1", "vm-slot1", "br-slot2", "vm-slot2"] {
        assert!(unload.stdout.contains(name), "{name} in {unload:?}");
    }
    assert_eq!((names(), tables()), (before, tables_before));
    assert!(!Path::new(&pins).exists(), "{pins} is left");
}
