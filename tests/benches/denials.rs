//! What a denied query costs through a TAP: netguard with its log, whose programs answer, against Unbound without one, by turns.
//! `cargo xtask bench denials`; NETGUARD_BENCH_QUICK=1 for a short look.

#[path = "denials/guest.rs"]
mod guest;
#[path = "denials/map.rs"]
mod map;
#[path = "dns/names.rs"]
#[expect(dead_code, reason = "of the queries this makes its own")]
mod names;
#[path = "dns/peers.rs"]
#[expect(dead_code, reason = "one of the peers is enough here")]
mod peers;
#[path = "dns/words.rs"]
mod words;
/// Where Unbound would ask, if it had to.
mod upstream {
    pub const UPSTREAM: &str = "127.0.0.1:5399";
}
/// What [`names`] has of the load generator that it was written for.
mod load {
    pub const SOCKETS: usize = 8;
    pub const IN_FLIGHT: usize = 128;
}

use std::{fs, net::SocketAddr, process::Stdio, time::Duration};

use anyhow::{Context as _, Result, ensure};
use netguard::datapath::PinDirectory;
use netguard_tests::{
    costs::of_programs,
    lab::{Background, Lab},
    raw::End,
    report::{Bound, Report, Row, is_quick, machine},
    spread::Spread,
};
use nix::{
    net::if_::if_nametoindex,
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use peers::{PEERS, Setup};

use guest::{Answer, Counted, Guest};

/// Where servers run, with all of their threads.
const SERVER_CORE: usize = 0;
/// Where the guest runs, and what the kernel does with its frames at once.
const GUEST_CORE: usize = 1;
/// What is promised of netguard with its log, over Unbound without: of CPU per query at most, of the rate at least.
const CPU_MAX: f64 = 0.25;
const RATE_MIN: f64 = 2.0;

const CONFIG: &str = r#"
[host]
uplinks = ["eth0"]
[datapath]
dns_denials = DENIALS
[dns]
upstreams = ["1.1.1.1"]
categories = []
names = NAMES
[[slot]]
name = "slot1"
id = 1
subnet = "10.1.0.0/24"
limits.queries_per_second = 0
"#;

/// What answers behind one TAP.
struct Host {
    name: &'static str,
    guest: Guest,
    processes: Vec<u32>,
    /// With a core for the guest and one for the server.
    samples: Vec<Counted>,
    /// With one core for all.
    on_one: Vec<Counted>,
    lab: Lab,
    _server: Option<Background>,
    _mirror: Option<End>,
}

fn main() -> Result<()> {
    let (rounds, duration) = if is_quick() { (3, 300) } else { (9, 1000) };
    let duration = Duration::from_millis(duration);
    println!(
        "{}; queries of one guest with 128 in flight, answered with NXDOMAIN; median (lowest to highest) of {rounds} rounds of {:.1} s",
        machine(),
        duration.as_secs_f64()
    );
    let folder = tempfile::tempdir()?;
    let mut hosts = [
        guarded("netguard", true)?,
        guarded("netguard, dns_denials = false", false)?,
        unbound(folder.path())?,
        mirror()?,
    ];
    for round in 0..=rounds {
        for host in &mut hosts {
            let apart = host.ask(GUEST_CORE, duration)?;
            let on_one = host.ask(SERVER_CORE, duration)?;
            if round > 0 {
                host.samples.push(apart); // the first one shows that it is up
                host.on_one.push(on_one);
            }
        }
    }
    let [own, slow, peer, mirror] = &hosts;
    let mut report = Report::new("denials");
    let beyond = |host: &Host| {
        let pairs = host.samples.iter().zip(&mirror.samples);
        Spread::of(pairs.map(|(sample, mirror)| sample.cpu_us() - mirror.cpu_us()).collect())
    };
    let compare = |what: &str, unit, own: Spread, other: Spread| {
        Row::new(what, unit, own).beside(peer.name, other)
    };
    let both = |what: &str, unit, of: fn(&Counted) -> f64| {
        compare(what, unit, own.spread(of), peer.spread(of))
    };
    let row = compare("a denied query, beyond its way in and out", "µs", beyond(own), beyond(peer));
    report.add(row.bound(Bound::AtMost(CPU_MAX)));
    report.add(both("the same with its way in and out", "µs", Counted::cpu_us));
    report.add(Row::new("the way in and out alone", "µs", mirror.spread(Counted::cpu_us)));
    report.add(both("what the server's processes have of it", "µs", Counted::server_us));
    let on_one = |host: &Host| Spread::of(host.on_one.iter().map(Counted::kqps).collect());
    let row = compare("denied queries, one core for all", "k/s", on_one(own), on_one(peer));
    report.add(row.bound(Bound::AtLeast(RATE_MIN)));
    report.add(both("denied queries, a core for the guest", "k/s", Counted::kqps));
    report.add(Row::new("the way in and out alone", "k/s", mirror.spread(Counted::kqps)));
    report.add(Row::new(slow.name, "µs", slow.spread(Counted::cpu_us)));
    let asked: u64 = own.samples.iter().chain(&own.on_one).map(|sample| sample.right).sum();
    let [own, ..] = &mut hosts;
    let counted = |what: &str| own.lab.packets("slot1", "egress", what);
    let said = format!(
        "{asked} queries answered in these rounds; in all, {} by the programs, {} by the resolver, {} log lines",
        counted("answer"),
        counted("redirect"),
        own.log_lines()?
    );
    let pins = PinDirectory::of(&own.lab.instance().parse()?);
    let (asked, costs) = of_programs(&pins, || own.ask(GUEST_CORE, duration));
    asked?;
    costs.iter().for_each(|cost| report.add(cost.row("a denied query")));
    report.finish();
    println!("{said}");
    map::table()
}

impl Host {
    fn new(name: &'static str, answer: Answer, processes: Vec<u32>, lab: Lab) -> Result<Self> {
        let bridge = lab.mac("hv", "br-slot1");
        let _ = lab.exec(
            "hv",
            "ip neigh replace 10.1.0.2 lladdr 02:00:00:00:01:02 dev br-slot1 nud permanent",
        );
        let tap = lab.within("hv", || netguard::links::open_tap("vm-slot1"))?;
        let guest = Guest::new(tap, bridge, answer)?;
        let (samples, on_one) = (Vec::new(), Vec::new());
        Ok(Self { name, guest, processes, samples, on_one, lab, _server: None, _mirror: None })
    }

    fn spread(&self, of: fn(&Counted) -> f64) -> Spread {
        Spread::of(self.samples.iter().map(of).collect())
    }

    fn ask(&mut self, core: usize, duration: Duration) -> Result<Counted> {
        let mut cores = CpuSet::new();
        cores.set(core)?;
        sched_setaffinity(Pid::from_raw(0), &cores).context("the guest needs a core")?;
        let counted = self.guest.ask(&self.processes, duration)?;
        ensure!(counted.right > 0, "{} answers nothing", self.name);
        ensure!(counted.lost == 0, "{} has not answered {} queries", self.name, counted.lost);
        Ok(counted)
    }

    fn log_lines(&self) -> Result<usize> {
        let log = format!("/run/netguard/{}/daemon.log", self.lab.instance());
        let text = fs::read(&log).with_context(|| format!("no log {log}"))?;
        Ok(text.windows(12).filter(|it| it == b" dns   slot1").count())
    }
}

fn guarded(name: &'static str, denials: bool) -> Result<Host> {
    let lab = Lab::with_text_log(&config(denials), "qemu");
    let (monitor, worker) = lab.processes();
    for process in [monitor, worker] {
        pin_all(process)?;
    }
    Host::new(name, Answer::Denial, vec![monitor, worker], lab)
}

/// One on which each frame is sent back at once: what remains is the guest, and the TAP.
fn mirror() -> Result<Host> {
    let lab = Lab::unguarded_with(&config(true), "qemu");
    let port = lab.within("hv", || End::mirror(if_nametoindex("vm-slot1")?))?;
    let host = Host::new("mirror", Answer::Same, Vec::new(), lab)?;
    Ok(Host { _mirror: Some(port), ..host })
}

fn unbound(folder: &std::path::Path) -> Result<Host> {
    let file = folder.join("netguard.toml");
    fs::write(&file, config(true))?;
    let lab = Lab::unguarded_with(&config(true), "qemu");
    let policy = names::policy();
    let address: SocketAddr = "10.1.0.1:53".parse()?;
    let peer = PEERS.iter().find(|peer| peer.name == "unbound").context("no such peer")?;
    let mut command = peer.command(&Setup { address, policy: &policy, log: None }, folder)?;
    let conf = folder.join("unbound-53.conf");
    let text = fs::read_to_string(&conf)?.replace("127.0.0.0/8 allow", "0.0.0.0/0 allow");
    fs::write(&conf, text)?;
    command.stdout(Stdio::null());
    let mut server: Background = lab.within("hv", || command.spawn())?.into();
    let process = server.child().id();
    pin_all(process)?;
    let host = Host::new("Unbound, no log", Answer::Denial, vec![process], lab)?;
    Ok(Host { _server: Some(server), ..host })
}

fn config(denials: bool) -> String {
    let names = format!("{:?}", names::policy());
    CONFIG.replace("DENIALS", &denials.to_string()).replace("NAMES", &names)
}

/// Puts every thread of a process on the servers' core.
fn pin_all(process: u32) -> Result<()> {
    let mut core = CpuSet::new();
    core.set(SERVER_CORE)?;
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        let thread: i32 = task?.file_name().to_string_lossy().parse()?;
        sched_setaffinity(Pid::from_raw(thread), &core)?;
    }
    Ok(())
}
