//! The daemon: one loop over one closed set of events.
//!
//! Starting order: everything that can be refused is tried before the first program is attached, so
//! that a failed start changes nothing. Stopping changes nothing either: programs and maps stay
//! pinned and enforce until `netguard unload`.

use std::{
    collections::BTreeMap,
    io::{self, BufWriter},
    sync::Arc,
};

use tokio::{
    io::unix::AsyncFd,
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};

use crate::{
    config::{Config, Problems},
    datapath::{self, Changes, Datapath, Diagnostics, DropStream, Failed, PinDirectory},
    dns::{Endpoint, QueryRecord, Resolver, SlotServer},
    drops::{Clock, Drop},
    instance::{Instance, Lock, LockError},
    journal::{self, Event as Entry, Journal},
    links::{self, Watcher},
    policy::{Facts, Plan, Policy},
};

/// Queries that may wait for the log before the resolver waits for it.
const QUERY_LOG_LENGTH: usize = 4096;

/// Why a daemon could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration does not fit the host.
    #[error(transparent)]
    Config(#[from] Problems),
    /// The kernel refused something.
    #[error(transparent)]
    Datapath(#[from] datapath::Error),
    /// The kernel did not tell about interfaces.
    #[error(transparent)]
    Links(#[from] links::Error),
    /// A bridge could not be guarded, so nothing behind it would be closed.
    #[error("cannot guard {bridge}: {reason}")]
    Unguarded {
        /// The bridge.
        bridge: String,
        /// The kernel's answer.
        reason: String,
    },
    /// The instance cannot be taken.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A socket, a signal handler or the log failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What the loop waits for.
enum Event {
    /// The ring buffer has drop records.
    Drops,
    /// The programs report about themselves.
    Diagnostics,
    /// The resolver answered a query.
    Query(QueryRecord),
    /// Interfaces or addresses came, went or changed.
    HostChanged,
    /// Somebody asks netguard to stop.
    Stop(&'static str),
}

/// Runs the daemon until it is asked to stop.
///
/// # Errors
///
/// The start is refused, with nothing changed; or the kernel stops answering.
pub async fn run(
    config: &Config,
    instance: &Instance,
    format: journal::Format,
) -> Result<(), Error> {
    let mut daemon = Daemon::start(config, instance, format).await?;
    // Without a service manager there is nobody to tell.
    let _ = sd_notify::notify(&[
        sd_notify::NotifyState::Ready,
        sd_notify::NotifyState::Status(&format!("guarding {} slots", config.policy.slots.len())),
    ]);
    loop {
        let event = daemon.next_event().await?;
        if let Event::Stop(signal) = event {
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
            daemon.note(format!("{signal}: stopping"))?;
            return Ok(());
        }
        daemon.handle(event).await?;
    }
}

struct Daemon {
    policy: Policy,
    datapath: Datapath,
    watcher: Watcher,
    drops: AsyncFd<DropStream>,
    diagnostics: AsyncFd<Diagnostics>,
    queries: mpsc::Receiver<QueryRecord>,
    signals: [Signal; 2],
    resolver: Arc<Resolver>,
    servers: BTreeMap<u32, SlotServer>,
    journal: Journal<BufWriter<io::Stdout>>,
    interface_names: BTreeMap<u32, String>,
    _lock: Lock,
}

impl Daemon {
    async fn start(
        config: &Config,
        instance: &Instance,
        format: journal::Format,
    ) -> Result<Self, Error> {
        datapath::check_kernel()?;
        let lock = instance.lock()?;
        let watcher = Watcher::open()?;
        let facts = watcher.facts().await?;
        check_host(config, &facts)?;
        datapath::ensure_bpffs()?;
        let mut datapath = Datapath::load(PinDirectory::of(instance))?;
        // SAFETY: a `DropStream` owns its map's descriptor and never changes or closes it.
        let drops =
            unsafe { AsyncFd::register(datapath.take_drops()?) }.map_err(io::Error::from)?;
        // SAFETY: `Diagnostics` owns its map's descriptor and never changes or closes it.
        let diagnostics =
            unsafe { AsyncFd::register(datapath.take_diagnostics()?) }.map_err(io::Error::from)?;
        let policy = config.policy.clone();
        let (log, queries) = mpsc::channel(QUERY_LOG_LENGTH);
        let dns = &policy.dns;
        let resolver = Arc::new(Resolver::new(dns.allowlist.clone(), dns.upstreams.clone(), log));
        let signals = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
        let mut daemon = Self {
            policy,
            datapath,
            watcher,
            drops,
            diagnostics,
            queries,
            signals,
            resolver,
            servers: BTreeMap::new(),
            journal: Journal::new(format, BufWriter::new(io::stdout())),
            interface_names: BTreeMap::new(),
            _lock: lock,
        };
        if let Err(error) = daemon.enforce(&facts) {
            daemon.datapath.roll_back();
            return Err(error);
        }
        Ok(daemon)
    }

    /// The first time: listens, fills the maps and attaches.
    fn enforce(&mut self, facts: &Facts) -> Result<(), Error> {
        self.serve(facts)?;
        let changes = self.datapath.apply(Plan::compile(&self.policy, facts))?;
        if let Some(failed) = changes.failed.iter().find(|failed| failed.is_bridge) {
            let (bridge, reason) = (failed.interface.clone(), failed.reason.clone());
            return Err(Error::Unguarded { bridge, reason });
        }
        self.report(facts, &changes)?;
        let slots = &self.policy.slots;
        let absent = slots.iter().filter(|slot| facts.interface(&slot.port).is_none());
        let absent: Vec<_> = absent.map(|slot| slot.port.as_str()).collect();
        let waiting = match absent.as_slice() {
            [] => String::new(),
            ports => format!("; waiting for {}", ports.join(" ")),
        };
        let (slots, names) = (slots.len(), self.policy.dns.allowlist.len());
        self.note(format!("guarding {slots} slots, {names} names allowed{waiting}"))?;
        Ok(())
    }

    async fn next_event(&mut self) -> Result<Event, Error> {
        let [terminate, interrupt] = &mut self.signals;
        tokio::select! {
            biased;
            _ = terminate.recv() => Ok(Event::Stop("SIGTERM")),
            _ = interrupt.recv() => Ok(Event::Stop("interrupted")),
            changed = self.watcher.changed() => match changed {
                Some(()) => Ok(Event::HostChanged),
                None => Err(io::Error::other("the rtnetlink subscription broke").into()),
            },
            Some(query) = self.queries.recv() => Ok(Event::Query(query)),
            ready = self.drops.readable() => {
                ready?.clear_ready();
                Ok(Event::Drops)
            }
            ready = self.diagnostics.readable() => {
                ready?.clear_ready();
                Ok(Event::Diagnostics)
            }
        }
    }

    async fn handle(&mut self, event: Event) -> Result<(), Error> {
        match event {
            Event::Drops => self.log_drops()?,
            Event::Diagnostics => self.diagnostics.get_mut().flush(),
            Event::Query(query) => {
                self.journal.write(&Entry::Query(query))?;
                while let Ok(query) = self.queries.try_recv() {
                    self.journal.write(&Entry::Query(query))?;
                }
                self.journal.flush()?;
            }
            Event::HostChanged => {
                let facts = self.watcher.facts().await?;
                let changes = self.datapath.apply(Plan::compile(&self.policy, &facts))?;
                self.report(&facts, &changes)?;
                if let Err(error) = self.serve(&facts) {
                    self.note(error.to_string())?;
                }
            }
            Event::Stop(_) => {} // the caller's
        }
        Ok(())
    }

    fn log_drops(&mut self) -> io::Result<()> {
        let clock = Clock::read();
        while let Some(record) = self.drops.get_mut().next_ready() {
            let drop = Drop::read(
                &record,
                &clock,
                |id| {
                    let slot = self.policy.slots.iter().find(|slot| slot.id == id);
                    slot.map(|slot| slot.name.clone())
                },
                |index| self.interface_names.get(&index).cloned(),
            );
            if let Some(drop) = drop {
                self.journal.write(&Entry::Drop(drop))?;
            }
        }
        self.journal.flush()
    }

    /// Listens on the bridges that exist; a bridge that was made anew gets new sockets, because
    /// the old ones are bound to a device that is gone.
    fn serve(&mut self, facts: &Facts) -> io::Result<()> {
        let bridges: BTreeMap<_, _> = self
            .policy
            .slots
            .iter()
            .filter_map(|slot| Some((facts.interface(&slot.bridge)?.index, slot)))
            .collect();
        self.servers.retain(|index, _| bridges.contains_key(index));
        for (index, slot) in bridges {
            if self.servers.contains_key(&index) {
                continue;
            }
            let endpoint = Endpoint {
                slot: slot.name.as_str().into(),
                bridge: slot.bridge.clone(),
                addresses: slot.subnets.iter().map(|subnet| subnet.gateway).collect(),
                port: self.policy.dns.port,
            };
            let server = SlotServer::start(&endpoint, &self.resolver)?;
            self.servers.insert(index, server);
        }
        Ok(())
    }

    fn report(&mut self, facts: &Facts, changes: &Changes) -> io::Result<()> {
        let names = facts.interfaces.iter();
        self.interface_names
            .extend(names.map(|interface| (interface.index, interface.name.clone())));
        for (what, interfaces) in [("guarding", &changes.guarded), ("gone:", &changes.gone)] {
            if !interfaces.is_empty() {
                let message = format!("{what} {}", interfaces.join(" "));
                self.journal.write(&Entry::notice(message))?;
            }
        }
        for Failed { interface, is_bridge, reason } in &changes.failed {
            let meanwhile = if *is_bridge { "" } else { "; its bridge drops what it sends" };
            let message = format!("cannot guard {interface}: {reason}{meanwhile}");
            self.journal.write(&Entry::notice(message))?;
        }
        self.journal.flush()
    }

    fn note(&mut self, message: String) -> io::Result<()> {
        self.journal.write(&Entry::notice(message))?;
        self.journal.flush()
    }
}

/// What the file says of bridges must be true of the host.
fn check_host(config: &Config, facts: &Facts) -> Result<(), Problems> {
    let mut problems = Vec::new();
    for (index, slot) in config.policy.slots.iter().enumerate() {
        let (name, bridge) = (&slot.name, &slot.bridge);
        let problem = match facts.interface(bridge) {
            None => format!(
                "slot {name:?}: bridge {bridge} does not exist; make it first: ip link add \
                 {bridge} type bridge"
            ),
            Some(interface) if !interface.is_bridge => {
                format!("slot {name:?}: {bridge} is no bridge; name the bridge that the port is on")
            }
            Some(_) => {
                let missing =
                    slot.subnets.iter().find(|subnet| !facts.addresses.contains(&subnet.gateway));
                let Some(missing) = missing else { continue };
                format!(
                    "slot {name:?}: the host lacks the gateway address {gateway}; add it: ip addr \
                     add {gateway}/{length} dev {bridge}",
                    gateway = missing.gateway,
                    length = missing.prefix.prefix_len(),
                )
            }
        };
        problems.push(config.bridge_problem(index, problem));
    }
    Problems::unless_empty(problems)
}
