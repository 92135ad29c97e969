//! The monitor: one loop over one closed set of events. It holds the configuration that is in force, the programs and maps,
//! and the worker, which another one follows when it dies.

mod follow;
mod switch;

use std::{
    collections::BTreeSet,
    io,
    os::{fd::OwnedFd, unix::net::UnixListener},
    sync::Arc,
    time::Duration,
};

use netguard_common::{EventKind, maps::PortKind};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, Interval, MissedTickBehavior, sleep_until},
};

use self::switch::Intent;
pub(super) use self::switch::refuse;
use super::{
    Error, Options,
    account::Account,
    channel::{Channel, HostView, PolicyText, ToMonitor, ToWorker},
    child::{Happened, Worker},
    chronicle::Chronicle,
    host,
    listening::Listening,
    overlay::Overlay,
    raise_file_limit,
    state::StateFile,
    workers::{Newcomer, Workers},
};
use crate::{
    config::Config,
    control,
    datapath::{self, Changes, Datapath, Failed, PinDirectory, Shared},
    doctor,
    instance::{Instance, Lock},
    journal::{Format, Journal, Journald, Writer},
    links::{self, Changed, Watcher},
    policy::{Facts, Plan, Policy},
};

/// When what failed is tried again, if the host does not change before.
const RETRY: Duration = Duration::from_secs(5);
/// How often what nobody waits for is done.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// The worker says that often that it is there; that is when the house is kept, and this much later if it says nothing.
const LATENESS: Duration = HOUSEKEEPING.checked_div(2).expect("half of it");
/// A worker that has said nothing for so many times [`HOUSEKEEPING`] and [`LATENESS`] does not work.
const SILENT_MAX: u32 = 10;

/// What the loop waits for.
enum Event {
    /// Interfaces, addresses or filters came, went or changed, or it is time to try again what failed.
    HostChanged(Changed),
    /// The worker says something, or has ended.
    Worker(Happened),
    /// There is no worker, and here is the next one.
    NewWorker(io::Result<Newcomer>),
    /// Nobody has confirmed the latest reload.
    NotConfirmed,
    /// Somebody asks for the configuration to be read again.
    Reload,
    /// It is time to keep the house, and the worker does not say so.
    Silence,
    /// Somebody asks netguard to stop.
    Stop(&'static str),
}

/// The configuration that comes back if nobody confirms the one in force.
pub(super) struct Fallback {
    pub(super) config: Config,
    pub(super) at: Instant,
}

pub(super) struct Monitor {
    /// Of the file, without what lies over it.
    pub(super) config: Config,
    pub(super) overlay: Overlay,
    /// The file's slots and those that were made at run time, for messages about their lines.
    whole: Config,
    /// All of it together: what is in force.
    pub(super) policy: Policy,
    state: StateFile,
    pub(super) instance: Instance,
    options: Options,
    pub(super) account: Account,
    pub(super) fallback: Option<Fallback>,
    pub(super) datapath: Datapath,
    watcher: Watcher,
    signals: [Signal; 3],
    worker: Option<Worker>,
    workers: Workers,
    listening: Listening,
    /// What the worker knows of the host.
    told: Option<Arc<Facts>>,
    /// How often the house was kept without a word of the worker since it last said something. No time: the monitor itself may
    /// have waited for the kernel.
    silent: u32,
    control: control::Socket,
    pub(super) chronicle: Chronicle,
    writer: Writer,
    /// What is not as the policy wants it; told when it changes.
    pub(super) failures: BTreeSet<String>,
    /// What somebody else has done and cannot be put right, as of the last look.
    pub(super) alarms: BTreeSet<String>,
    retry: Interval,
    /// When the house is kept next.
    next_housekeeping: Instant,
    _lock: Lock,
}

impl Monitor {
    pub(super) async fn start(
        config: Config,
        instance: &Instance,
        options: Options,
    ) -> Result<Self, Error> {
        datapath::check_kernel()?;
        raise_file_limit();
        let lock = instance.lock()?;
        let state = StateFile::of(&instance.state_directory());
        let intent = Intent::of(config, state.read()?)?;
        let mut watcher = Watcher::open()?;
        let made = host::make_links(&intent.policy, instance, watcher.host())?;
        watcher.catch_up()?;
        let started = Self::start_on(intent, state, instance, options, lock, watcher, &made).await;
        if started.is_err() {
            // The first error is the one to tell.
            let _ = links::take_back(&made);
        }
        started
    }

    /// The start on a host whose links are there.
    async fn start_on(
        intent: Intent,
        state: StateFile,
        instance: &Instance,
        options: Options,
        lock: Lock,
        watcher: Watcher,
        made: &links::Made,
    ) -> Result<Self, Error> {
        let facts = Arc::clone(watcher.facts());
        host::check(&intent.whole, &facts)?;
        let plan = Plan::compile(&intent.policy, &facts);
        let mut datapath = Datapath::load(PinDirectory::of(instance), &plan)?;
        if let Some(tc) = options.tc {
            datapath.hold_by(tc);
        }
        let (journal, writer) = Journal::start(options.format, Journald::behind_stdout())?;
        let signals = [
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
            signal(SignalKind::hangup())?,
        ];
        let control = control::Socket::bind(&instance.control_socket())?;
        let workers = if options.outside_worker {
            Workers::to_door(&instance.worker_door())?
        } else {
            Workers::Own
        };
        let Intent { config, overlay, whole, policy } = intent;
        let mut monitor = Self {
            config,
            overlay,
            whole,
            policy,
            state,
            instance: instance.clone(),
            options,
            account: Account::begin(),
            fallback: None,
            datapath,
            watcher,
            signals,
            worker: None,
            workers,
            listening: Listening::new(),
            told: None,
            silent: 0,
            control,
            chronicle: Chronicle::begin(journal),
            writer,
            failures: BTreeSet::new(),
            alarms: BTreeSet::new(),
            retry: patient_interval(RETRY),
            next_housekeeping: Instant::now(),
            _lock: lock,
        };
        monitor.tell_of_links(&made.created);
        let enforced = match monitor.enforce(&facts).await {
            Ok(()) => host::apply_firewall(&monitor.policy, None, instance).map_err(Error::from),
            Err(error) => Err(error),
        };
        if let Err(error) = enforced {
            monitor.datapath.roll_back();
            return Err(error);
        }
        monitor.remove_stale_links();
        Ok(monitor)
    }

    /// The first time: listens, fills the maps and attaches. Nothing may fail but a port.
    async fn enforce(&mut self, facts: &Arc<Facts>) -> Result<(), Error> {
        let no_worker = |error: io::Error| Error::Worker(error.to_string());
        let first = self.workers.first().await.map_err(no_worker)?;
        self.begin_with(first, facts).await.map_err(no_worker)?;
        if let Some(failed) = self.listen(facts).await.into_iter().next() {
            return Err(Error::Worker(failed));
        }
        let changes = self.datapath.apply(Plan::compile(&self.policy, facts))?;
        must_guard_bridges(&changes)?;
        let mut failed = self.isolate(facts);
        // Without them it guards no less.
        failed.extend(self.serve_metrics().await);
        self.report(&changes, failed);
        let policy = &self.policy;
        let waiting = match host::absent(policy, facts).as_slice() {
            [] => String::new(),
            absent => format!("; waiting for {}", absent.join(" ")),
        };
        let text = format!("guarding {}{waiting}", extent(policy));
        self.chronicle.tell(EventKind::Started, text);
        for warning in doctor::surprises(policy) {
            self.chronicle.tell(EventKind::Warning, warning);
        }
        Ok(())
    }

    /// Tells the service manager that all is in force, and how much that is.
    pub(super) fn tell_service_manager(&self) {
        // Without one there is nobody to tell.
        let _ = sd_notify::notify(&[
            sd_notify::NotifyState::Ready,
            sd_notify::NotifyState::Status(&format!("guarding {}", extent(&self.policy))),
        ]);
    }

    pub(super) async fn serve_until_stopped(&mut self) -> Result<(), Error> {
        loop {
            self.hand_events_over().await;
            match self.next_event().await? {
                Event::Stop(signal) => {
                    self.chronicle.tell(EventKind::Stopped, format!("{signal}: stopping"));
                    self.hand_events_over().await;
                    return Ok(());
                }
                Event::HostChanged(changed) => self.follow(changed).await?,
                Event::Worker(Happened::Said(said)) => self.hear(said).await,
                Event::Worker(Happened::Ended(how)) => {
                    let text = format!(
                        "the worker {how}: another one comes; what is in force stays in force"
                    );
                    self.chronicle.tell(EventKind::WorkerEnded, text);
                    self.worker = None;
                }
                Event::NewWorker(newcomer) => self.replace_worker(newcomer).await?,
                Event::NotConfirmed => self.fall_back().await,
                Event::Reload => {
                    // What is refused is told.
                    let _ = self.reload(None).await;
                }
                Event::Silence => {
                    self.silent += 1;
                    self.keep_house().await;
                }
            }
        }
    }

    async fn next_event(&mut self) -> Result<Event, Error> {
        let [terminate, interrupt, hangup] = &mut self.signals;
        let failing = !self.failures.is_empty();
        let fallback = self.fallback.as_ref().map(|fallback| fallback.at);
        let (worker, workers) = (self.worker.as_mut(), &mut self.workers);
        tokio::select! {
            biased;
            _ = terminate.recv() => Ok(Event::Stop("SIGTERM")),
            _ = interrupt.recv() => Ok(Event::Stop("interrupted")),
            _ = hangup.recv() => Ok(if self.options.ends_with_terminal {
                Event::Stop("SIGHUP")
            } else {
                Event::Reload
            }),
            changed = self.watcher.changed() => changed.map(Event::HostChanged).map_err(Error::from),
            _ = self.retry.tick(), if failing => {
                Ok(Event::HostChanged(Changed { host: true, ..Changed::default() }))
            }
            () = sleep_until(fallback.unwrap_or_else(Instant::now)), if fallback.is_some() => {
                Ok(Event::NotConfirmed)
            }
            () = sleep_until(self.next_housekeeping + LATENESS) => Ok(Event::Silence),
            event = async { match worker {
                Some(worker) => Event::Worker(worker.happens().await),
                None => Event::NewWorker(workers.next().await),
            } } => Ok(event),
        }
    }

    async fn hear(&mut self, said: ToMonitor) {
        self.silent = 0;
        match said {
            // What was not in force when it was told is tried again with the host's next change.
            ToMonitor::Done { .. } | ToMonitor::Made | ToMonitor::Refused { .. } => {}
            // No oftener than that, whatever it says.
            ToMonitor::Alive if Instant::now() + LATENESS >= self.next_housekeeping => {
                self.keep_house().await;
            }
            ToMonitor::Alive => {}
            ToMonitor::Ask { id, order } => self.answer(id, order).await,
        }
    }

    /// What is not said arrives nowhere: that the worker is gone is an event of its own.
    pub(super) async fn tell(&mut self, message: &ToWorker) {
        if let Some(worker) = &mut self.worker {
            let _ = worker.tell(message, &[]).await;
        }
    }

    /// Tells the worker what has happened.
    pub(super) async fn hand_events_over(&mut self) {
        let events = self.chronicle.take_untold();
        if !events.is_empty() {
            let events = events.iter().map(|event| (&**event).into()).collect();
            self.tell(&ToWorker::Events(events)).await;
        }
    }

    /// The way to the worker for what takes longer than the loop should wait; none if there is no worker.
    pub(super) fn way_to_worker(&self) -> Option<Arc<Channel>> {
        self.worker.as_ref().map(Worker::channel)
    }

    /// Listens where the host has bridges now, and has the worker serve it. Returns what could not be listened on.
    async fn listen(&mut self, facts: &Arc<Facts>) -> Vec<String> {
        if !self.told.as_ref().is_some_and(|told| Arc::ptr_eq(told, facts)) {
            self.tell(&ToWorker::Host(host_view(facts))).await;
            self.told = Some(Arc::clone(facts));
        }
        match &mut self.worker {
            Some(worker) => self.listening.follow(&self.policy, facts, worker).await,
            None => Vec::new(), // this comes again with the next one
        }
    }

    /// Has metrics served where the policy wants them. Returns why they are not.
    async fn serve_metrics(&mut self) -> Option<String> {
        let worker = self.worker.as_mut()?; // this comes again with the next one
        let served = self.listening.follow_metrics(self.policy.host.metrics, worker).await;
        let failed = served.err().filter(|error| error.kind() != io::ErrorKind::BrokenPipe);
        failed.map(|error| error.to_string())
    }

    /// Also with the texts that only slots made at run time name.
    fn policy_text(&self) -> io::Result<PolicyText> {
        let packed = String::from_utf8(self.whole.pack()?).map_err(io::Error::other)?;
        Ok(PolicyText { path: self.config.path().to_owned(), packed })
    }

    /// Gives a worker that has come all that it needs.
    async fn begin_with(&mut self, newcomer: Newcomer, facts: &Arc<Facts>) -> io::Result<()> {
        let shared = self.datapath.shared().map_err(io::Error::other)?;
        let Shared { pins, drops, denials, asked, counters } = shared;
        let control: OwnedFd = UnixListener::try_clone(self.control.listener())?.into();
        let policy = self.policy_text()?;
        let json = self.options.format == Format::Json;
        let descriptors = [pins, drops, denials, asked, counters, control];
        let (overlay, host) = (self.overlay.clone(), host_view(facts));
        let events = self.chronicle.whole().iter().map(|event| (&**event).into()).collect();
        let begin = ToWorker::Begin { json, policy, overlay, host, events };
        let mut worker = Worker::begin(newcomer, &begin, &descriptors).await?;
        for (message, descriptors) in self.listening.whole()? {
            worker.tell(&message, &descriptors).await?;
        }
        self.worker = Some(worker);
        self.told = Some(Arc::clone(facts));
        self.silent = 0;
        Ok(())
    }

    /// Has a worker in the place of one that has died, and brings it to what the host has now.
    async fn replace_worker(&mut self, newcomer: io::Result<Newcomer>) -> Result<(), Error> {
        let facts = Arc::clone(self.watcher.facts());
        let begun = match newcomer {
            Ok(newcomer) => self.begin_with(newcomer, &facts).await,
            Err(error) => Err(error),
        };
        if let Err(error) = begun {
            let text = format!("no worker comes up: {error}; trying again");
            self.chronicle.tell(EventKind::WorkerAbsent, text);
            tokio::time::sleep(HOUSEKEEPING).await;
            return Ok(());
        }
        self.account.worker_restarts += 1;
        self.chronicle.tell(EventKind::WorkerRestarted, "another worker answers guests");
        self.follow(Changed { host: true, ..Changed::default() }).await
    }

    async fn keep_house(&mut self) {
        self.next_housekeeping = Instant::now() + HOUSEKEEPING;
        if self.worker.is_some() && self.silent > SILENT_MAX {
            self.chronicle.tell(EventKind::WorkerAbsent, "the worker does not answer");
            // Its end is the next event.
            if let Some(worker) = &mut self.worker {
                worker.kill();
            }
        }
        if sd_notify::watchdog_enabled().is_some() {
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
        }
        if let Some(found) = self.datapath.inspect() {
            self.tell_of_others(found, true);
        }
        if let Err(error) = self.datapath.settle() {
            // What is in force is; the next change takes longer.
            let text = format!("{:#}", anyhow::Error::from(error));
            self.chronicle.tell(EventKind::NotInForce, text);
        }
        let mut overlay = self.overlay.clone();
        if overlay.expire()
            && let Err(refusal) = self.change(self.config.clone(), overlay).await
        {
            self.chronicle.tell(EventKind::NotInForce, refusal.message);
        }
    }

    /// Lets the worker and the log have their last lines.
    pub(super) async fn finish(self) {
        let Self { chronicle, writer, worker, control, _lock, .. } = self;
        drop(control);
        if let Some(worker) = worker {
            worker.finish().await;
        }
        drop(chronicle);
        writer.finish();
    }
}

fn must_guard_bridges(changes: &Changes) -> Result<(), Error> {
    match changes.failed.iter().find(|failed| failed.kind == PortKind::Bridge) {
        Some(Failed { interface, reason, .. }) => {
            Err(Error::Unguarded { bridge: interface.clone(), reason: reason.clone() })
        }
        None => Ok(()),
    }
}

fn host_view(facts: &Facts) -> HostView {
    let interfaces = facts.interfaces().iter().map(|it| (it.index, it.name.clone()));
    HostView { interfaces: interfaces.collect(), processors: datapath::processors() }
}

/// How much a policy guards, for people.
pub(super) fn extent(policy: &Policy) -> String {
    format!("{} slots, {} names allowed", policy.slots.len(), policy.dns.names_max())
}

/// One whose ticks of a time in which nobody asked are not owed.
fn patient_interval(period: Duration) -> Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}
