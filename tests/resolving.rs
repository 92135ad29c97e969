//! Real clients that resolve through netguard: what people's programs and C libraries make of its replies.

#[path = "resolving/knot.rs"]
mod knot;

use std::{fs, process::Command};

use netguard_tests::{binary::Ended, can_use_kernel, lab::Lab, servers::Servers};

const CONFIG: &str = r#"
[host]
uplinks = ["eth0"]
[dns]
upstreams = ["1.1.1.1", "8.8.8.8"]
names = ["lab.example"]
[[slot]]
name = "slot1"
id = 1
subnet = "10.1.0.0/24"
subnet6 = "fd00:10:1::/64"
"#;

#[test]
fn dig_and_kdig_show_answers_and_denials() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::with(CONFIG, "veth");
    let show = |command: &str| lab.exec("slot1", command).success().to_owned();
    for transport in ["", "+tcp "] {
        let dig = show(&format!("dig +time=5 +tries=1 {transport}+dnssec GitHub.com"));
        assert!(dig.contains("GitHub.com.\t\t") && dig.contains("\tA\t203.0.113.10"), "{dig}");
        assert!(dig.contains("udp: 1232") && !dig.contains("WARNING"), "{dig}");
        let dig = show(&format!("dig +time=5 +tries=1 {transport}evil.example"));
        assert!(dig.contains("NXDOMAIN") && dig.contains("EDE: 15 (Blocked)"), "{dig}");
        let kdig = show(&format!("kdig +timeout=5 +retry=0 {transport}+edns MX mail.lab.example"));
        assert!(kdig.contains("MX\t10 www.lab.example."), "{kdig}");
        let kdig = show(&format!("kdig +timeout=5 +retry=0 {transport}+edns evil.example"));
        assert!(kdig.contains("NXDOMAIN") && kdig.contains("EDE: 15 (Blocked)"), "{kdig}");
    }
    // Several names in one call, on one connection.
    let kdig = show("kdig +short +timeout=5 +tcp +keepopen github.com gitlab.com www.lab.example");
    assert_eq!(kdig, "203.0.113.10\n203.0.113.12\n203.0.113.15\n");
    // Cut over UDP, so asked again over TCP; a cookie of dig's own does not come back.
    let long = show("dig +time=5 +tries=1 +cookie long.github.com");
    assert!(long.contains("Truncated, retrying in TCP mode"), "{long}");
    assert!(long.contains("ANSWER: 120,") && !long.contains("COOKIE: "), "{long}");
    let bind = show("dig +time=5 +tries=1 version.bind TXT CH");
    assert!(bind.contains("REFUSED") && !bind.contains(";; Question section mismatch"), "{bind}");
}

#[test]
fn the_c_libraries_find_what_is_allowed_and_nothing_else() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::with(CONFIG, "veth");
    let directory = tempfile::tempdir().expect("a directory");
    let program = directory.path().join("lookup").display().to_string();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/resolving/lookup.c");
    let compiler =
        Command::new("musl-gcc").args(["-static", "-O1", "-o", &program, source]).output();
    let compiled = compiler.expect("musl-gcc is installed: run `cargo xtask setup`");
    assert!(compiled.status.success(), "{compiled:?}");
    for name in
        ["github.com", "WWW.lab.example", "evil.example", "metadata.github.com", "localhost"]
    {
        let glibc = lab.exec("slot1", &format!("getent ahosts {name}"));
        let musl = lab.exec("slot1", &format!("{program} {name}"));
        let (v4, v6) = match name {
            "github.com" => ("203.0.113.10", "2001:db8:113::10"),
            "WWW.lab.example" => ("203.0.113.15", "2001:db8:113::15"),
            "localhost" => ("127.0.0.1", "::1"),
            _ => {
                assert_eq!((glibc.code, glibc.stdout.as_str()), (2, ""), "{name}");
                // Names that are nothing, and one that has nothing.
                let says = if name == "evil.example" {
                    "Name does not resolve\n"
                } else {
                    "Name has no usable address\n"
                };
                assert!(
                    musl.code == 1
                        && (musl.stdout == says || musl.stdout == "Name does not resolve\n"),
                    "{musl:?}"
                );
                continue;
            }
        };
        assert!(glibc.success().contains("STREAM"), "{glibc:?}");
        if name != "localhost" {
            // /etc/hosts may know only one of localhost's.
            assert!(glibc.stdout.contains(v4) && glibc.stdout.contains(v6), "{glibc:?}");
        }
        assert!(musl.success().contains(v4), "{musl:?}");
        assert!(name == "localhost" || musl.stdout.contains(v6), "{musl:?}");
    }
    // An answer that does not fit into UDP.
    let long = lab.exec("slot1", "getent ahostsv4 long.github.com");
    assert_eq!(long.success().matches("STREAM").count(), 120);
    // musl asks over TCP from 1.2.4 on only: before, it takes what fits.
    let long = lab.exec("slot1", &format!("{program} long.github.com"));
    assert!(long.success().lines().count() >= 25, "{long:?}");
}

#[test]
fn curl_and_apt_get_find_their_servers() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::with(CONFIG, "veth");
    for family in ["-4", "-6"] {
        let page =
            lab.exec("slot1", &format!("curl -sS {family} --max-time 5 http://www.lab.example/"));
        assert_eq!(page.success(), "this is www.lab.example, in the lab's internet\n");
    }
    let denied = lab.exec("slot1", "curl -sS --max-time 5 http://evil.example/");
    assert_eq!(denied.code, 6, "could not resolve: {denied:?}");

    let directory = tempfile::tempdir().expect("a directory");
    let at = directory.path().display();
    fs::write(directory.path().join("list"), "deb [trusted=yes] http://deb.debian.org/lab ./\n")
        .expect("the sources");
    // Nothing of the machine's own apt.
    let config = format!(
        "Dir::Etc::Parts \"/dev/null\"; Dir::Etc::Main \"/dev/null\"; Dir::Etc::SourceList \"{at}/list\";
         Dir::Etc::SourceParts \"/dev/null\"; Dir::State \"{at}/state\"; Dir::Cache \"{at}/cache\";
         Dir::State::status \"/dev/null\"; APT::Sandbox::User \"root\"; Acquire::Languages \"none\";
         Acquire::Retries \"0\"; Acquire::http::Proxy \"DIRECT\";"
    );
    fs::write(directory.path().join("apt.conf"), config).expect("the configuration");
    let script = format!(
        "export APT_CONFIG={at}/apt.conf && mkdir -p {at}/state/lists/partial {at}/cache/archives/partial &&
         apt-get update && apt-cache show netguard-lab"
    );
    let apt = lab.shell("slot1", &script);
    assert!(apt.success().contains("Package: netguard-lab"), "{apt:?}");
    let asked = lab.internet();
    assert!(
        asked.iter().any(|it| it["name"] == "_http._tcp.deb.debian.org"),
        "as apt asks: {asked:?}"
    );
}

#[test]
fn dnspythons_resolver_raises_what_fits() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::with(CONFIG, "veth");
    let script = "
import dns.resolver
resolver = dns.resolver.Resolver()
resolver.use_edns(0, 0, 1232)
for name, kind in [('www.lab.example', 'AAAA'), ('alias.lab.example', 'A'), ('long.github.com', 'A'),
                   ('evil.example', 'A'), ('mail.lab.example', 'A'), ('broken.lab.example', 'A')]:
    try:
        answer = resolver.resolve(name, kind)
        print(answer.canonical_name, len(answer.rrset), answer.rrset.ttl <= 300)
    except Exception as error:
        print(type(error).__name__)
";
    let ended = Ended::of(&mut lab.command("slot1", &["/usr/bin/python3", "-c", script]));
    assert_eq!(
        ended.success(),
        "www.lab.example. 1 True\ncdn.unlisted.example. 1 True\nlong.github.com. 120 True\n\
         NXDOMAIN\nNoAnswer\nNoNameservers\n"
    );
}

#[test]
fn systemd_resolved_and_resolvectl_work_in_a_guest() {
    let Some(servers) = can_use_kernel().then(Servers::find).flatten() else { return };
    let lab = Lab::with(CONFIG, "veth");
    let directory = tempfile::tempdir().expect("a directory");
    let at = directory.path().display().to_string();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/resolving/resolved.sh");
    let calls = ["usr/bin/dbus-daemon", "lib/systemd/systemd-resolved", "usr/bin/resolvectl"];
    let calls = calls.map(|program| servers.call(program));
    let mut words = vec!["unshare", "--mount", "timeout", "60", "sh", script, &at, "10.1.0.1"];
    words.extend(calls.iter().map(String::as_str));
    let ended = Ended::of(&mut lab.command("slot1", &words));
    let log = || {
        let logs =
            ["resolved.log", "bus.log"].map(|log| fs::read_to_string(directory.path().join(log)));
        logs.map(Result::unwrap_or_default).concat()
    };
    assert_eq!(ended.code, 0, "{ended:?}\n{}", log());
    let of = |name: &str| {
        let sections = ended.stdout.split("= ").filter_map(|it| it.split_once('\n'));
        let section = sections.clone().find(|(title, _)| *title == name);
        section.unwrap_or_else(|| panic!("{name} in {ended:?}")).1.to_owned()
    };
    let found = of("github.com");
    assert!(found.contains("203.0.113.10") && found.contains("2001:db8:113::10"), "{found}");
    assert!(of("www.lab.example").contains("203.0.113.15"), "{ended:?}");
    assert!(of("evil.example").contains("not found"), "{ended:?}");
    assert!(of("metadata.github.com").contains("does not have any RR"), "{ended:?}");
    assert!(of("MX").contains("10 www.lab.example"), "{ended:?}");
    assert_eq!(of("stub").trim(), "120", "{ended:?}");
}
