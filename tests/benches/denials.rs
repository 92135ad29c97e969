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

use std::{env, fs, net::SocketAddr, process::Stdio, time::Duration};

use anyhow::{Context as _, Result, ensure};
use netguard::datapath::{PinDirectory, View, measure_programs};
use netguard_common::Hook;
use netguard_tests::{
    lab::{Background, Lab},
    spread::Spread,
};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use peers::{PEERS, Setup};

use guest::{Counted, Guest};

/// Where servers run, with all of their threads.
const SERVER_CORE: usize = 0;
/// Where the guest runs, and what the kernel does with its frames at once.
const GUEST_CORE: usize = 1;
/// What is promised of netguard with its log, over Unbound without: of CPU per query at most, of the rate at least.
const TARGETS: (f64, f64) = (0.25, 2.0);

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

/// One server behind one TAP.
struct Host {
    name: &'static str,
    guest: Guest,
    processes: Vec<u32>,
    samples: Vec<Counted>,
    lab: Lab,
    _server: Option<Background>,
}

fn main() -> Result<()> {
    let quick = env::var_os("NETGUARD_BENCH_QUICK").is_some_and(|quick| quick == "1");
    let (rounds, duration) = if quick { (3, 300) } else { (9, 1000) };
    let duration = Duration::from_millis(duration);
    let folder = tempfile::tempdir()?;
    let mut hosts =
        [guarded("netguard", true)?, guarded("netguard, key off", false)?, unbound(folder.path())?];
    println!(
        "denied queries through a TAP, median (lowest to highest) of {rounds} rounds of {:.1} s, servers by turns",
        duration.as_secs_f64()
    );
    for round in 0..=rounds {
        for host in &mut hosts {
            let counted = host.guest.ask(&host.processes, duration)?;
            ensure!(counted.right > 0, "{} answers nothing", host.name);
            if round > 0 {
                host.samples.push(counted); // the first one shows that it is up
            }
        }
    }
    println!(
        "\n{:<18} {:<24} {:<22} {:<22} lost",
        "", "kQPS", "µs of CPU per query", "of that the server's"
    );
    for host in &hosts {
        let lost: u64 = host.samples.iter().map(|sample| sample.lost).sum();
        println!(
            "{:<18} {:<24.1} {:<22.2} {:<22.2} {lost}",
            host.name,
            host.spread(Counted::kqps),
            host.spread(Counted::cpu_us),
            host.spread(Counted::server_us)
        );
    }
    let [own, _, peer] = &hosts;
    let ratio = |of: fn(&Counted) -> f64| own.spread(of).median / peer.spread(of).median;
    println!(
        "\nnetguard with log / Unbound without: {:.2}x of its CPU per query (target {}x at most), {:.2}x of its rate (target {}x)",
        ratio(Counted::cpu_us),
        TARGETS.0,
        ratio(Counted::kqps),
        TARGETS.1
    );
    let asked: u64 = own.samples.iter().map(|sample| sample.right).sum();
    let counted = |what: &str| own.lab.packets("slot1", "egress", what);
    println!(
        "{asked} queries answered in these rounds; in all, {} by the programs, {} by the resolver, {} log lines",
        counted("answer"),
        counted("redirect"),
        own.log_lines()?
    );
    let [own, ..] = &mut hosts;
    println!("ng_xdp takes {:.0} ns of that, measured apart", own.program_ns(duration)?);
    map::table()
}

impl Host {
    fn spread(&self, of: fn(&Counted) -> f64) -> Spread {
        Spread::of(self.samples.iter().map(of).collect())
    }

    /// How long the XDP program runs for a query, with what the measurement itself takes.
    fn program_ns(&mut self, duration: Duration) -> Result<f64> {
        let runs = |lab: &Lab| -> Result<(u64, Duration)> {
            let pins = PinDirectory::of(&lab.instance().parse()?);
            let view = View::open(&pins)?;
            let program = view.programs.into_iter().find(|it| it.name == Hook::Xdp.program());
            program.map(|it| (it.runs, it.run_time)).context("it is pinned")
        };
        let _measuring = measure_programs().context("only root may measure programs")?;
        let before = runs(&self.lab)?;
        let _ = self.guest.ask(&self.processes, duration)?;
        let after = runs(&self.lab)?;
        Ok((after.1 - before.1).as_nanos() as f64 / (after.0 - before.0) as f64)
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
    let guest = guest_of(&lab)?;
    let processes = vec![monitor, worker];
    Ok(Host { name, guest, processes, samples: Vec::new(), lab, _server: None })
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
    let guest = guest_of(&lab)?;
    // It is up when it answers.
    Ok(Host {
        name: "unbound, no log",
        guest,
        processes: vec![process],
        samples: Vec::new(),
        lab,
        _server: Some(server),
    })
}

fn guest_of(lab: &Lab) -> Result<Guest> {
    let bridge = lab.mac("hv", "br-slot1");
    let _ = lab.exec(
        "hv",
        "ip neigh replace 10.1.0.2 lladdr 02:00:00:00:01:02 dev br-slot1 nud permanent",
    );
    let tap = lab.within("hv", || netguard::links::open_tap("vm-slot1"))?;
    let mut core = CpuSet::new();
    core.set(GUEST_CORE)?;
    sched_setaffinity(Pid::from_raw(0), &core).context("the guest needs a core of its own")?;
    Guest::new(tap, bridge)
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
