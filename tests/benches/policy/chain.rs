//! What one slot takes without netguard: a chain of iptables for each virtual machine, made by single calls as scripts do it, and by
//! one `iptables-restore`. xtask has unpacked iptables into `target/iptables`; nothing of it is installed.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use netguard_tests::{hosts::shell, lab::Lab};

/// What the slot's packets go by.
pub const LINKS: &str = "ip link add br-bench type bridge && ip addr add 192.168.77.1/24 dev br-bench && \
                         ip link set br-bench up && ip tuntap add dev vm-bench mode tap vnet_hdr && \
                         ip link set vm-bench master br-bench up";
const NO_LINKS: &str = "ip link del vm-bench && ip link del br-bench";

/// Closed networks and known DNS-over-HTTPS resolvers, as netguard closes them without being told.
const CLOSED: [&str; 8] = [
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/4",
    "240.0.0.0/4",
];
const RESOLVERS: [&str; 4] = ["1.1.1.1", "8.8.8.8", "9.9.9.9", "208.67.222.222"];

/// The calls that make one virtual machine's chain: table, and arguments. IPv4 only, of which netguard does both.
pub fn calls() -> impl Iterator<Item = (&'static str, String)> {
    calls_for("br-bench", "192.168.77")
}

fn calls_for(bridge: &str, net: &str) -> impl Iterator<Item = (&'static str, String)> + use<> {
    let chain = format!("ng-{bridge}");
    let established = "-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT";
    let own: Vec<_> = [
        established.to_owned(),
        "-m conntrack --ctstate INVALID -j DROP".to_owned(),
        format!("! -s {net}.0/24 -j DROP"),
        "-p tcp --dport 853 -j DROP".to_owned(),
        "-p udp --dport 853 -j DROP".to_owned(),
    ]
    .into_iter()
    .chain(RESOLVERS.map(|it| format!("-p tcp -d {it} --dport 443 -j DROP")))
    .chain(CLOSED.map(|it| format!("-d {it} -j DROP")))
    .chain(["-o eth0 -j ACCEPT".to_owned(), "-j DROP".to_owned()])
    .map(|rule| format!("-A {chain} {rule}"))
    .collect();
    let around = [
        format!("-A FORWARD -i {bridge} -j {chain}"),
        format!("-A FORWARD -o {bridge} {established}"),
        format!("-A FORWARD -o {bridge} -j DROP"),
        format!("-A INPUT -i {bridge} -p udp --dport 53 -j ACCEPT"),
        format!("-A INPUT -i {bridge} -p tcp --dport 53 -j ACCEPT"),
        format!("-A INPUT -i {bridge} -j DROP"),
    ];
    let nat = [
        format!("-A PREROUTING -i {bridge} -p udp --dport 53 -j DNAT --to-destination {net}.1"),
        format!("-A PREROUTING -i {bridge} -p tcp --dport 53 -j DNAT --to-destination {net}.1"),
        format!("-A POSTROUTING -s {net}.0/24 -o eth0 -j MASQUERADE"),
    ];
    let filter = [format!("-N {chain}")].into_iter().chain(own).chain(around);
    filter.map(|call| ("filter", call)).chain(nat.map(|call| ("nat", call)))
}

/// Five virtual machines' rules in a lab, and the scripts that make the sixth's.
pub struct Chain {
    directory: tempfile::TempDir,
}

impl Chain {
    /// Writes the scripts, and gives the lab's five slots their chains.
    pub fn prepare(lab: &Lab) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let chain = Self { directory };
        let five: Vec<_> = (1..=5)
            .flat_map(|id| calls_for(&format!("br-slot{id}"), &format!("10.{id}.0")))
            .collect();
        chain.write("base", &restore(&five));
        chain.write("one", &restore(&calls().collect::<Vec<_>>()));
        let calls: Vec<_> = calls()
            .map(|(table, call)| format!("{} -t {table} {call}\n", program("iptables")))
            .collect();
        chain.write("calls", &format!("set -e\n{}", calls.concat()));
        chain.write("links-and-calls", &format!("set -e\n{LINKS}\n{}", calls.concat()));
        let _ = lab.shell("hv", LINKS).success();
        let _ = lab.shell("hv", NO_LINKS).success();
        chain
    }

    /// Milliseconds for links and chain.
    pub fn links_and_calls(&self, lab: &Lab) -> f64 {
        let took = self.time(lab, &format!("sh {}", self.file("links-and-calls")));
        let _ = lab.shell("hv", NO_LINKS).success();
        took
    }

    /// Milliseconds for the chain by single calls.
    pub fn calls(&self, lab: &Lab) -> f64 {
        self.time(lab, &format!("sh {}", self.file("calls")))
    }

    /// Milliseconds for the chain by one `iptables-restore`.
    pub fn restored(&self, lab: &Lab) -> f64 {
        self.time(lab, &format!("{} --noflush {}", program("iptables-restore"), self.file("one")))
    }

    fn time(&self, lab: &Lab, script: &str) -> f64 {
        let base = format!("{} {}", program("iptables-restore"), self.file("base"));
        let _ = lab.shell("hv", &with_libraries(&base)).success();
        // From the lab's namespace, so that entering it takes no part of the time.
        lab.within("hv", || {
            let began = Instant::now();
            let ended = shell(&with_libraries(script));
            let took = began.elapsed();
            let _ = ended.success();
            took.as_secs_f64() * 1e3
        })
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.file(name), text).expect("a script");
    }

    fn file(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }
}

/// What `iptables-restore` reads.
fn restore(calls: &[(&str, String)]) -> String {
    let of = |wanted: &str| {
        let calls = calls.iter().filter(|(table, _)| *table == wanted);
        calls.map(|(_, call)| format!("{call}\n")).collect::<String>()
    };
    format!("*filter\n{}COMMIT\n*nat\n{}COMMIT\n", of("filter"), of("nat"))
}

fn packages() -> PathBuf {
    let packages = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/iptables/packages");
    packages.canonicalize().expect("iptables is unpacked: run cargo xtask bench policy")
}

/// The variant that works by nf_tables, which is what Debian's alternatives choose.
fn program(name: &str) -> String {
    format!("{}/usr/sbin/xtables-nft-multi {name}", packages().display())
}

fn with_libraries(script: &str) -> String {
    let libraries = packages().join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH));
    let libraries = libraries.display();
    format!("export LD_LIBRARY_PATH={libraries} XTABLES_LIBDIR={libraries}/xtables\n{script}")
}
