//! The daemon: one loop over one closed set of events.
//!
//! Starting order: everything that can be refused is tried before the first program is attached, so
//! that a failed start changes nothing. Stopping changes nothing either: programs and maps stay
//! pinned and enforce until `netguard unload`.

mod host;
mod resolver;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
    time::Duration,
};

use netguard_common::SlotId;
use netguard_dns::{Endpoint, Moment, Pins, Resolver, Server, SlotServer};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    io::unix::AsyncFd,
    runtime::Handle,
    signal::unix::{Signal, SignalKind, signal},
    time::{Interval, MissedTickBehavior},
};

use crate::{
    config::{Config, Problems},
    control,
    datapath::{self, Changes, Datapath, DropStream, Failed, PinDirectory, Tc},
    drops::{Clock, Drop},
    firewall,
    instance::{Instance, Lock, LockError},
    journal::{self, Event as Entry, Journal, Writer},
    links::{self, Watcher},
    policy::{Facts, Plan, Policy, Slot},
};

/// How many drop records are read before other events have their turn.
const DROPS_AT_ONCE: usize = 256;
/// How often floods are reported and pins that are over removed.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// When what failed is tried again, if the host does not change before.
const RETRY: Duration = Duration::from_secs(5);

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
    /// The host's firewall did not take netguard's table.
    #[error(transparent)]
    Firewall(#[from] firewall::Error),
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
    /// Interfaces or addresses came, went or changed, or it is time to try again what failed.
    HostChanged,
    /// What nobody waits for.
    Housekeeping,
    /// Somebody asks netguard to stop.
    Stop(&'static str),
}

/// Runs the daemon until it is asked to stop. TC programs are kept on interfaces as the kernel does it best, or as `tc`
/// says.
///
/// # Errors
///
/// The start is refused, with nothing changed; or the kernel stops answering.
pub async fn run(
    config: &Config,
    instance: &Instance,
    format: journal::Format,
    tc: Option<Tc>,
) -> Result<(), Error> {
    let mut daemon = Daemon::start(config, instance, format, tc).await?;
    // Without a service manager there is nobody to tell.
    let _ = sd_notify::notify(&[
        sd_notify::NotifyState::Ready,
        sd_notify::NotifyState::Status(&format!("guarding {} slots", config.policy.slots.len())),
    ]);
    let ended = daemon.serve_until_stopped().await;
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    daemon.finish();
    ended
}

struct Daemon {
    policy: Policy,
    datapath: Datapath,
    watcher: Watcher,
    drops: AsyncFd<DropStream>,
    /// True if records were left in the ring buffer, of which no readiness will tell.
    more_drops: bool,
    signals: [Signal; 3],
    resolver: Arc<Resolver>,
    pins: Arc<Pins>,
    /// Taken away before the lock is: the next daemon puts its own there.
    control: control::Server,
    server: Server,
    /// By bridge and slot.
    listening: BTreeMap<(u32, SlotId), SlotServer>,
    /// For what is due once in a while.
    every_second: Interval,
    journal: Journal,
    writer: Writer,
    /// What is not as the policy wants it; told when it changes.
    failures: BTreeSet<String>,
    retry: Interval,
    interface_names: BTreeMap<u32, String>,
    _lock: Lock,
}

impl Daemon {
    async fn start(
        config: &Config,
        instance: &Instance,
        format: journal::Format,
        tc: Option<Tc>,
    ) -> Result<Self, Error> {
        datapath::check_kernel()?;
        raise_file_limit();
        let lock = instance.lock()?;
        let watcher = Watcher::open()?;
        let made = host::make_links(&config.policy, instance).await?;
        let started = Self::start_on(config, instance, format, lock, watcher, &made, tc).await;
        if started.is_err() {
            // The first error is the one to tell.
            let _ = links::take_back(&made).await;
        }
        started
    }

    /// The start on a host whose links are there.
    async fn start_on(
        config: &Config,
        instance: &Instance,
        format: journal::Format,
        lock: Lock,
        watcher: Watcher,
        made: &links::Made,
        tc: Option<Tc>,
    ) -> Result<Self, Error> {
        let facts = watcher.facts().await?;
        host::check(config, &facts)?;
        datapath::ensure_bpffs()?;
        let plan = Plan::compile(&config.policy, &facts);
        let mut datapath = Datapath::load(PinDirectory::of(instance), &plan)?;
        if let Some(tc) = tc {
            datapath.hold_by(tc);
        }
        // SAFETY: a `DropStream` owns its map's descriptor and never changes or closes it.
        let drops =
            unsafe { AsyncFd::register(datapath.take_drops()?) }.map_err(io::Error::from)?;
        let policy = config.policy.clone();
        let (journal, writer) = Journal::start(format)?;
        let pins = Arc::new(resolver::pins(&policy, datapath.take_pins()?)?);
        let resolver = Arc::new(resolver::of(&policy, &pins, &journal));
        let server = Server::start(&resolver, resolver::threads(), Handle::current())?;
        let signals = [
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
            signal(SignalKind::hangup())?,
        ];
        let mut retry = tokio::time::interval(RETRY);
        // It is polled only while something fails: the ticks of the time before are not owed.
        retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let slots = policy.slots.iter().map(|slot| (slot.id, slot.name.clone()));
        let control = control::serve(&instance.control_socket(), Arc::clone(&pins), slots)?;
        let mut every_second = tokio::time::interval(HOUSEKEEPING);
        every_second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut daemon = Self {
            policy,
            datapath,
            watcher,
            drops,
            more_drops: false,
            signals,
            resolver,
            pins,
            control,
            server,
            listening: BTreeMap::new(),
            every_second,
            journal,
            writer,
            failures: BTreeSet::new(),
            retry,
            interface_names: BTreeMap::new(),
            _lock: lock,
        };
        if !made.created.is_empty() {
            daemon.journal.note(format!("made {}", made.created.join(" ")));
        }
        let enforced = match daemon.enforce(&facts).await {
            Ok(()) => host::apply_firewall(&config.policy, instance).map_err(Error::from),
            Err(error) => Err(error),
        };
        if let Err(error) = enforced {
            daemon.datapath.roll_back();
            return Err(error);
        }
        match host::remove_stale_links(&config.policy, instance).await {
            Ok(removed) if removed.is_empty() => {}
            Ok(removed) => daemon.journal.note(format!("removed {}", removed.join(" "))),
            // What is left over opens nothing, and the next start tries again.
            Err(error) => daemon.journal.note(format!("{:#}", anyhow::Error::from(error))),
        }
        Ok(daemon)
    }

    /// The first time: listens, fills the maps and attaches. Nothing may fail but a port.
    async fn enforce(&mut self, facts: &Facts) -> Result<(), Error> {
        if let Some(failed) = self.serve(facts).into_iter().next() {
            return Err(failed.into());
        }
        let changes = self.datapath.apply(Plan::compile(&self.policy, facts))?;
        if let Some(failed) = changes.failed.iter().find(|failed| failed.is_bridge) {
            let (bridge, reason) = (failed.interface.clone(), failed.reason.clone());
            return Err(Error::Unguarded { bridge, reason });
        }
        let failed = self.isolate(facts).await;
        self.report(facts, &changes, failed);
        let slots = &self.policy.slots;
        let is_there = |slot: &Slot, port: &str| {
            let bridge = facts.interface(&slot.bridge).map(|bridge| bridge.index);
            facts.interface(port).is_some_and(|port| port.controller == bridge)
        };
        let ports = slots.iter().filter_map(|slot| Some((slot, slot.port()?)));
        let absent: Vec<_> =
            ports.filter(|(slot, port)| !is_there(slot, port)).map(|(_, port)| port).collect();
        let waiting = match absent.as_slice() {
            [] => String::new(),
            ports => format!("; waiting for {}", ports.join(" ")),
        };
        let (slots, names) = (slots.len(), self.policy.dns.names_max());
        self.journal.note(format!("guarding {slots} slots, {names} names allowed{waiting}"));
        for warning in host::warnings(&self.policy) {
            self.journal.note(warning);
        }
        Ok(())
    }

    async fn serve_until_stopped(&mut self) -> Result<(), Error> {
        loop {
            match self.next_event().await? {
                Event::Stop(signal) => {
                    self.journal.note(format!("{signal}: stopping"));
                    return Ok(());
                }
                Event::Drops => self.log_drops(),
                Event::HostChanged => self.follow_host().await?,
                Event::Housekeeping => {
                    self.resolver.report_over_rate();
                    self.pins.expire(Moment::now());
                }
            }
        }
    }

    async fn next_event(&mut self) -> Result<Event, Error> {
        let [terminate, interrupt, hangup] = &mut self.signals;
        let failing = !self.failures.is_empty();
        tokio::select! {
            biased;
            _ = terminate.recv() => Ok(Event::Stop("SIGTERM")),
            _ = interrupt.recv() => Ok(Event::Stop("interrupted")),
            _ = hangup.recv() => Ok(Event::Stop("SIGHUP")),
            changed = self.watcher.changed() => match changed {
                Some(()) => Ok(Event::HostChanged),
                None => Err(io::Error::other("the rtnetlink subscription broke").into()),
            },
            _ = self.retry.tick(), if failing => Ok(Event::HostChanged),
            _ = self.every_second.tick() => Ok(Event::Housekeeping),
            ready = self.drops.readable() => {
                ready?.clear_ready();
                Ok(Event::Drops)
            }
            () = std::future::ready(()), if self.more_drops => Ok(Event::Drops),
        }
    }

    /// Brings maps, programs and listeners to what the host has now.
    async fn follow_host(&mut self) -> Result<(), Error> {
        let facts = self.watcher.facts().await?;
        let changes = self.datapath.apply(Plan::compile(&self.policy, &facts))?;
        let mut failed: Vec<_> = self.serve(&facts).iter().map(ToString::to_string).collect();
        failed.extend(self.isolate(&facts).await);
        self.report(&facts, &changes, failed);
        Ok(())
    }

    /// Has the bridges keep apart the ports that the policy keeps apart: the frames that one guest sends to
    /// all of them are then not even copied. Returns what could not be done.
    async fn isolate(&self, facts: &Facts) -> Vec<String> {
        let mut failed = Vec::new();
        for index in self.datapath.isolated() {
            let is_isolated = facts.interfaces.iter().any(|it| it.index == *index && it.isolated);
            if !is_isolated && let Err(error) = links::isolate(*index, true).await {
                failed.push(format!("{:#}", anyhow::Error::from(error)));
            }
        }
        failed
    }

    /// Logs the records that are ready, but not so many that a flood keeps other events waiting.
    fn log_drops(&mut self) {
        let clock = Clock::read();
        self.more_drops = true;
        for _ in 0..DROPS_AT_ONCE {
            let Some(record) = self.drops.get_mut().next_ready() else {
                self.more_drops = false;
                return;
            };
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
                self.journal.write(Entry::Drop(drop));
            }
        }
    }

    /// Listens on the bridges that exist; a bridge that was made anew gets new sockets, because
    /// the old ones are bound to a device that is gone. Returns what could not be listened on.
    fn serve(&mut self, facts: &Facts) -> Vec<io::Error> {
        let bridges: BTreeMap<_, _> = self
            .policy
            .slots
            .iter()
            .filter_map(|slot| Some(((facts.interface(&slot.bridge)?.index, slot.id), slot)))
            .collect();
        self.listening.retain(|key, _| bridges.contains_key(key));
        let mut failed = Vec::new();
        for (key, slot) in bridges {
            if self.listening.contains_key(&key) {
                continue;
            }
            let endpoint = Endpoint {
                slot: slot.id,
                bridge: slot.bridge.clone(),
                addresses: slot.subnets.iter().map(|subnet| subnet.gateway).collect(),
                port: self.policy.dns.port,
            };
            match self.server.listen(&endpoint) {
                Ok(server) => drop(self.listening.insert(key, server)),
                Err(error) => failed.push(error),
            }
        }
        failed
    }

    /// Tells what changed, and what fails that did not fail before.
    fn report(&mut self, facts: &Facts, changes: &Changes, failed: Vec<String>) {
        let names = facts.interfaces.iter();
        self.interface_names = names.map(|it| (it.index, it.name.clone())).collect();
        for (what, interfaces) in [("guarding", &changes.guarded), ("gone:", &changes.gone)] {
            if !interfaces.is_empty() {
                self.journal.note(format!("{what} {}", interfaces.join(" ")));
            }
        }
        let unguarded = changes.failed.iter().map(|Failed { interface, is_bridge, reason }| {
            let meanwhile = if *is_bridge { "" } else { "; its bridge drops what it sends" };
            format!("cannot guard {interface}: {reason}{meanwhile}")
        });
        let failures: BTreeSet<_> = unguarded.chain(failed).collect();
        for failure in failures.difference(&self.failures) {
            self.journal.note(failure.clone());
        }
        self.failures = failures;
    }

    /// Lets the log have its last lines.
    fn finish(self) {
        let Self { journal, writer, resolver, control, server, listening, _lock, .. } = self;
        drop((control, listening, server, resolver, journal));
        writer.finish();
    }
}

/// Every query that waits for an upstream has a socket: as many as the system lets us have.
fn raise_file_limit() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // At worst the limit stays, and a flood of queries is refused sooner.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
