//! netguard's side of the comparison: its resolver alone, in a process of its own like the peers. The slot is pinned,
//! and its pins go into the kernel's map.

use std::{
    env,
    fs::File,
    io,
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use anyhow::{Context as _, Result};
use netguard::{
    feed::Feed,
    journal::{Format, Journal, Queries},
};
use netguard_dns::{
    Allowlist, Cache, DEFAULT_NAME_MAX, DEFAULT_TYPES, Endpoint, Entry, NameSet, Pins, QueryLimits,
    QueryLog, QueryRecord, Resolver, Rules, Server, SlotRules,
    forward::{Forwarder, Settings, Transport, Upstream},
};
use nix::unistd::dup2_stdout;

use super::{names::policy, upstream::UPSTREAM};

/// The first argument of the process; then come the address and the log's path.
pub const SERVE: &str = "serve-netguard";
/// In place of the log's path: queries are not logged.
const NO_LOG: &str = "-";
const SLOT: u16 = 1;

/// A command that starts it: this program once more.
pub fn command(address: SocketAddr, log: Option<&Path>) -> io::Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    command.arg(SERVE).arg(address.to_string());
    command.arg(log.unwrap_or(Path::new(NO_LOG)));
    command.stdin(Stdio::null());
    Ok(command)
}

/// Serves until it is killed: one slot, whose bridge is `lo`, on one thread, with the journal's thread for the log.
pub fn serve(address: &str, log: &str) -> Result<()> {
    let address: SocketAddr = address.parse().context("no address")?;
    let names: NameSet = policy()
        .iter()
        .map(|name| name.parse::<Entry>())
        .collect::<Result<Vec<_>, _>>()?
        .into_iter()
        .collect();
    let limits =
        QueryLimits { queries_per_second: 0, names_per_minute: 0, answer_bytes_per_minute: 0 };
    let slot = SlotRules {
        name: "slot1".into(),
        runtime: "vm".into(),
        allowlist: Allowlist::of([Arc::new(names)]),
        pinned: true,
        audit: false,
        limits,
    };
    let rules = Rules {
        slots: [(SLOT, slot)].into_iter().collect(),
        private_names: Arc::default(),
        types: DEFAULT_TYPES.to_vec(),
        svcb: false,
        name_max: DEFAULT_NAME_MAX,
    };
    let journal: Arc<dyn netguard_dns::Journal> = if log == NO_LOG {
        Arc::new(NoLog)
    } else {
        dup2_stdout(File::create(log).with_context(|| format!("cannot create {log}"))?)?;
        Arc::new(Queries::new(Journal::start(Format::Text, None)?.0, Feed::default()))
    };
    let settings = Settings {
        upstreams: vec![Upstream { address: UPSTREAM.parse()?, transport: Transport::Plain }],
        max_ttl: Duration::from_secs(300),
        is_public: Arc::new(netguard::policy::is_public),
        roots: None,
    };
    let cache = Arc::new(Cache::new(32 << 20));
    let forwarder =
        Arc::new(Forwarder::new(settings, Arc::clone(&cache), |message| eprintln!("{message}")));
    let pins = Arc::new(Pins::new(Box::new(kernel_map()?), [SLOT], 4096));
    let resolver = Arc::new(Resolver::new(
        rules,
        cache,
        forwarder,
        pins,
        Arc::new(AtomicU64::default()),
        journal,
    ));
    let endpoint = Endpoint {
        slot: SLOT,
        bridge: "lo".to_owned(),
        addresses: vec![address.ip()],
        port: address.port(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let server = Server::start(&resolver, 1, runtime.handle().clone())?;
    let _listening = server.listen(&endpoint)?;
    runtime.block_on(std::future::pending())
}

/// The map that the programs read, in the kernel. Nothing is attached.
fn kernel_map() -> Result<netguard::datapath::PinWriter> {
    use netguard::{
        datapath::{Datapath, PinDirectory, ensure_bpffs, processors},
        policy::Plan,
    };
    let instance = format!("bench{}", std::process::id()).parse()?;
    ensure_bpffs(&instance)?;
    let pins = PinDirectory::of(&instance);
    let plan = Plan { flow_entries: 64, slot_entries: 2, name_entries: 1, ..Plan::default() };
    let shared = Datapath::load(pins.clone(), &plan)?.shared()?;
    let writer = shared.open(processors())?.pins;
    pins.remove()?;
    Ok(writer)
}

/// For runs without a log.
struct NoLog;

impl netguard_dns::Journal for NoLog {
    fn query_log(&self) -> Box<dyn QueryLog> {
        Box::new(Self)
    }

    fn over_limit(&self, _: &str, message: String) {
        eprintln!("{message}");
    }
}

impl QueryLog for NoLog {
    fn write(&mut self, _: &QueryRecord<'_>) {}

    fn flush(&mut self, _: netguard_dns::Moment) -> Option<Duration> {
        None
    }

    fn flush_now(&mut self) {}
}
