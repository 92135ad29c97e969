//! netguard's resolver against Unbound, dnsdist and dnsmasq: the same policy, one core for the server, the load on
//! another, all in one run and by turns. `cargo xtask bench dns`; NETGUARD_BENCH_QUICK=1 for a short look.

#[path = "dns/allowlist.rs"]
mod allowlist;
#[path = "dns/batch.rs"]
mod batch;
#[path = "dns/load.rs"]
mod load;
#[path = "dns/lookups.rs"]
mod lookups;
#[path = "dns/names.rs"]
mod names;
#[path = "dns/netguard.rs"]
mod netguard;
#[path = "dns/peers.rs"]
mod peers;
#[path = "dns/report.rs"]
mod report;
#[path = "dns/upstream.rs"]
mod upstream;
#[path = "dns/words.rs"]
mod words;

use std::{
    env, fs,
    io::Read as _,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use load::Counted;
use names::Load;
use netguard_tests::{
    hosts::{enter_new_namespace, ip},
    lab::Background,
    report::Report,
    spread::Spread,
};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use peers::{PEERS, Setup};
use report::{FLOOR, NETGUARD, Row};

/// Where the server under test runs, with all of its threads.
const SERVER_CORE: usize = 0;
/// Where the load is made, and the upstream answers: it has nothing to do when all is cached.
const LOAD_CORE: usize = 1;
/// The first server's port; the others follow.
const FIRST_PORT: u16 = 5400;
/// The first argument of the process that shows what the generator can do.
const SERVE_ECHO: &str = "serve-echo";
/// The first argument of the process that shows what every server pays.
const SERVE_FLOOR: &str = "serve-floor";

fn main() -> Result<()> {
    // What cargo adds to the arguments of a benchmark is not for us.
    let arguments: Vec<_> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [netguard::SERVE, address, log] => netguard::serve(address, log),
        [SERVE_ECHO, address, length] => upstream::serve_echo(address, length),
        [SERVE_FLOOR, address] => upstream::serve_floor(address),
        [allowlist::MEASURE, length] => allowlist::measure(length),
        [] => compare(),
        _ => bail!("unexpected arguments {arguments:?}; run `cargo xtask bench dns`"),
    }
}

/// How long is measured.
struct Effort {
    rounds: usize,
    warm_up: Duration,
    duration: Duration,
}

impl Effort {
    fn chosen() -> Self {
        if env::var_os("NETGUARD_BENCH_QUICK").is_some_and(|quick| quick == "1") {
            let (warm_up, duration) = (Duration::from_millis(100), Duration::from_millis(500));
            return Self { rounds: 2, warm_up, duration };
        }
        let (warm_up, duration) = (Duration::from_millis(200), Duration::from_millis(1500));
        Self { rounds: 5, warm_up, duration }
    }
}

/// One server that runs, with or without its log.
struct Server {
    name: &'static str,
    address: SocketAddr,
    log: Option<PathBuf>,
    process: Background,
    /// All that it has answered.
    answered: u64,
}

fn compare() -> Result<()> {
    let effort = Effort::chosen();
    pin(LOAD_CORE).context("the server and the load need a core each")?;
    enter_new_namespace();
    ip("link set lo up");
    upstream::start().with_context(|| format!("cannot listen on {}", upstream::UPSTREAM))?;
    let folder = tempfile::tempdir()?;
    let policy = names::policy();
    let loads = Load::all(&policy);
    head(&effort)?;

    alone(&loads[0], &effort)?;
    let mut servers = start_all(&policy, folder.path())?;
    for server in &servers {
        for load in &loads[..2] {
            // The first of the denied names show that it is up and denies; the allowed ones are cached by that.
            let queries = &load.queries[..policy.len()];
            load::warm(queries, server.address).with_context(|| server.name)?;
        }
    }
    let tables = measure_all(&mut servers, &loads, &effort)?;
    for (load, rows) in loads.iter().zip(&tables) {
        report::table(load.name, load.about, rows);
    }
    report::caution(&tables);
    let mut report = Report::new("dns");
    for (load, rows) in loads.iter().zip(&tables) {
        report::targets(load.name, rows, &mut report);
    }
    report.finish();
    logs(servers)?;
    pin(SERVER_CORE)?;
    allowlist::compare()
}

fn head(effort: &Effort) -> Result<()> {
    let release = Command::new("uname").arg("-r").output().context("uname")?;
    println!("kernel {}", String::from_utf8_lossy(&release.stdout).trim());
    let versions = PEERS.iter().map(peers::Peer::version).collect::<Result<Vec<_>>>()?;
    println!("peers: {}", versions.join(", "));
    println!(
        "median (lowest to highest) of {} rounds of {:.1} s each, servers by turns, one core for the server",
        effort.rounds,
        effort.duration.as_secs_f64()
    );
    Ok(())
}

/// The generator against a server that does nothing: far above the others, or it is what was measured.
fn alone(load: &Load, effort: &Effort) -> Result<()> {
    let address = at(FIRST_PORT - 1);
    // The largest group of one length.
    let groups = load.queries.chunk_by(|a, b| a.wire.len() == b.wire.len());
    let queries = groups.max_by_key(|group| group.len()).context("no queries")?;
    let length = queries[0].wire.len().to_string();
    let mut process =
        start(Command::new(env::current_exe()?).args([SERVE_ECHO, &address.to_string(), &length]))?;
    load::warm(&queries[..1], address).context("the echo")?;
    let (mut rates, mut cpu) = (Vec::new(), Vec::new());
    for _ in 0..effort.rounds {
        let timing = [effort.warm_up, effort.duration];
        let (counted, _) =
            load::measure(queries, load.sockets, address, process.child().id(), timing)?;
        ensure!(counted.wrong + counted.lost == 0, "the echo lost answers: {counted:?}");
        rates.push(counted.kqps());
        cpu.push(counted.own_cpu_us());
    }
    println!(
        "generator alone, against an echo: {:.1} kQPS, {:.2} µs of CPU per query",
        Spread::of(rates),
        Spread::of(cpu)
    );
    Ok(())
}

/// Every server without and with its log. They wait for their turns, which costs the others nothing.
fn start_all(policy: &[String], folder: &Path) -> Result<Vec<Server>> {
    let address = at(FIRST_PORT - 2);
    let mut floor = Command::new(env::current_exe()?);
    let process = start(floor.args([SERVE_FLOOR, &address.to_string()]))?;
    let mut servers = vec![Server { name: FLOOR, address, log: None, process, answered: 0 }];
    for logs in [false, true] {
        for name in [NETGUARD].into_iter().chain(PEERS.iter().map(|peer| peer.name)) {
            let address = at(FIRST_PORT + u16::try_from(servers.len())?);
            let log = logs.then(|| folder.join(format!("{name}.log")));
            let peer = PEERS.iter().find(|peer| peer.name == name);
            let command = match peer {
                None => netguard::command(address, log.as_deref())?,
                Some(peer) => {
                    peer.command(&Setup { address, policy, log: log.as_deref() }, folder)?
                }
            };
            let process = start(&command).with_context(|| format!("cannot start {name}"))?;
            servers.push(Server { name, address, log, process, answered: 0 });
        }
    }
    Ok(servers)
}

/// For each load a table with a row for each server.
fn measure_all(
    servers: &mut [Server],
    loads: &[Load; 4],
    effort: &Effort,
) -> Result<[Vec<Row>; 4]> {
    let row =
        |server: &Server| Row { server: server.name, logs: server.log.is_some(), samples: vec![] };
    let mut tables = [(); 4].map(|()| servers.iter().map(row).collect::<Vec<_>>());
    for round in 0..effort.rounds {
        eprintln!("round {} of {}", round + 1, effort.rounds);
        for (load, rows) in loads.iter().zip(&mut tables) {
            for (server, row) in servers.iter_mut().zip(rows) {
                row.samples.push(measure(server, load, effort)?);
            }
        }
    }
    Ok(tables)
}

fn measure(server: &mut Server, load: &Load, effort: &Effort) -> Result<Counted> {
    let timing = [effort.warm_up, effort.duration];
    let process = server.process.child().id();
    let (counted, answered) =
        load::measure(&load.queries, load.sockets, server.address, process, timing)
            .with_context(|| format!("{} under the load {}", server.name, load.name))?;
    server.answered += answered;
    Ok(counted)
}

/// How much of what was asked stands in the logs: a log that leaves lines out is cheap.
fn logs(servers: Vec<Server>) -> Result<()> {
    println!("\nlog lines per query:");
    for server in servers {
        let Server { name, log: Some(log), process, answered, .. } = server else { continue };
        drop(process);
        let lines = lines(&log)?;
        println!("{name:<9} {:.2}", lines as f64 / answered as f64);
    }
    Ok(())
}

fn lines(file: &Path) -> Result<usize> {
    let mut file = fs::File::open(file).with_context(|| format!("no log {}", file.display()))?;
    let (mut buffer, mut lines) = (vec![0; 1 << 20], 0);
    loop {
        let length = file.read(&mut buffer)?;
        if length == 0 {
            return Ok(lines);
        }
        lines += buffer[..length].iter().filter(|byte| **byte == b'\n').count();
    }
}

/// A process on the server's core: what it starts stays there.
fn start(command: &Command) -> Result<Background> {
    pin(SERVER_CORE)?;
    // Whatever happens to this process, the other does not outlive it.
    let mut bound = Command::new("setpriv");
    bound.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
    // What goes wrong stands in standard error; dnsdist tells on standard output that all is well.
    bound.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let child = bound.stdout(Stdio::null()).spawn();
    pin(LOAD_CORE)?;
    Ok(Background::from(child?))
}

/// Puts the calling thread, and what it starts from now on, on one core.
fn pin(core: usize) -> Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core)?;
    sched_setaffinity(Pid::from_raw(0), &cores).with_context(|| format!("there is no core {core}"))
}

fn at(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}
