//! The worker: one loop over what the monitor tells, drop records and what is due once in a while, beside the threads that
//! answer guests. It holds no privilege; all that it has of the kernel are five maps.

mod denials;
mod drops;
mod policy;

use std::{
    collections::BTreeMap,
    ffi::CStr,
    io::{self, stdin},
    net::TcpListener,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::UnixListener,
    },
    sync::Arc,
    time::Duration,
};

use netguard_dns::{Moment, Pins, Resolver, Server, SlotServer, Sockets};
use nix::sys::{
    prctl::set_name,
    signal::{SigHandler, Signal, signal},
    socket::{AddressFamily, SockFlag, SockType, socket},
};
use serde_json::json;
use tokio::{
    io::unix::AsyncFd,
    runtime::Handle,
    sync::{mpsc, oneshot},
    time::{Interval, MissedTickBehavior},
};

use self::{
    denials::Denials,
    policy::{deny, with_slots},
};
use super::{
    asked::{Asked, Orders, Wanted},
    channel::{
        Answer, Channel, Fault, HostView, PolicyText, Received, Refusal, ToMonitor, ToWorker, Told,
    },
    floods::Floods,
    meeting::{SignsOfLife, come_to},
    overlay::Overlay,
    raise_file_limit, resolver, workers,
};
use crate::{
    config::Config,
    control,
    datapath::{DropCounters, DropStream, Opened, Shared},
    instance::Instance,
    journal::{Format, Journal, Journald, Writer},
    policy::Policy,
    sandbox::{self, Confinement},
    suggest::Learnt,
};

/// What process listings call it, who cannot see more than 15 letters.
const NAME: &CStr = c"netguard-worker";
/// How often floods are reported and pins that are over removed.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// What the loop waits for.
enum Event {
    /// The monitor speaks.
    Told(ToWorker, Vec<OwnedFd>),
    /// Somebody at the control socket wants something of the monitor.
    Asked(Asked),
    /// The ring buffer has drop records.
    Drops,
    /// What nobody waits for.
    Housekeeping,
    /// The monitor is gone.
    Gone,
}

/// Is the worker: what `netguard run` starts beside itself, with the monitor at the other end of standard input; or what a service
/// manager starts, which comes to the door of an instance's monitor.
///
/// # Errors
///
/// It cannot start, which the monitor has been told; or the monitor does not speak to it.
pub fn run(instance: Option<&Instance>) -> io::Result<()> {
    set_name(NAME)?;
    raise_file_limit();
    let (socket, signs) = match instance {
        None => {
            // A terminal's Ctrl-C and a service manager's SIGTERM are for the monitor: this process ends when that one has.
            for ignored in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
                // SAFETY: ignoring a signal runs no code of ours.
                unsafe { signal(ignored, SigHandler::SigIgn) }?;
            }
            (stdin().as_fd().try_clone_to_owned()?, SignsOfLife::to_nobody())
        }
        Some(instance) => {
            let signs = SignsOfLife::to_service_manager()?;
            (come_to(&instance.worker_door(), &signs)?, signs)
        }
    };
    let threads = resolver::threads();
    let journald = Journald::behind_stdout();
    let user = workers::user()?;
    let confined = sandbox::confine(&Confinement {
        uid: user.uid.as_raw(),
        gid: user.gid.as_raw(),
        readable: Vec::new(),
        tcp_bind: Some(Vec::new()),
        tcp_connect: None,
    });
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(threads).enable_all().build()?;
    // A task like any other: where a thread of the runtime has its timer, no other thread need be woken for it.
    let served = runtime.spawn(async move {
        let channel = Arc::new(Channel::of(socket)?);
        let Some((told, descriptors)) = first_word(&channel, &signs).await? else { return Ok(()) };
        let ToWorker::Begin { json, policy, overlay, host, events } = told else {
            return Err(io::Error::other("the monitor does not begin"));
        };
        let worker = confined.map_err(|error| io::Error::other(anyhow::Error::from(error)));
        let worker = worker.and_then(|_| {
            let format = if json { Format::Json } else { Format::Text };
            let (journal, writer) = Journal::start(format, journald)?;
            remember(&journal, events);
            let journal = (journal, writer);
            Worker::make(Arc::clone(&channel), signs, journal, &policy, overlay, host, descriptors)
        });
        let mut worker = match worker {
            Ok(worker) => worker,
            Err(error) => {
                let reason = format!("{:#}", anyhow::Error::from(error));
                return channel.send(&ToMonitor::Refused { reason }, &[] as &[OwnedFd]).await;
            }
        };
        worker.done(Vec::new(), 0).await?;
        let ended = worker.serve().await;
        worker.finish();
        ended
    });
    runtime.block_on(served)?
}

/// What the monitor says first, which may have other things to do before.
async fn first_word(
    channel: &Channel,
    signs: &SignsOfLife,
) -> io::Result<Option<Received<ToWorker>>> {
    let mut every_second = every_second();
    loop {
        tokio::select! {
            received = channel.receive() => return received,
            _ = every_second.tick() => signs.give(),
        }
    }
}

fn every_second() -> Interval {
    let mut every_second = tokio::time::interval(HOUSEKEEPING);
    every_second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    every_second
}

struct Worker {
    channel: Arc<Channel>,
    signs: SignsOfLife,
    /// Of the file, without what lies over it.
    config: Config,
    overlay: Overlay,
    /// With the slots that were made at run time, but without what else was ordered.
    whole: Arc<Config>,
    /// With all of it.
    policy: Policy,
    drops: AsyncFd<DropStream>,
    /// True if records were left in the ring buffer, of which no readiness will tell.
    more_drops: bool,
    denials: Denials,
    counters: DropCounters,
    floods: Floods,
    learnt: Arc<Learnt>,
    resolver: Arc<Resolver>,
    pins: Arc<Pins>,
    feeds: control::Feeds,
    control: control::Server,
    orders: mpsc::Receiver<Asked>,
    /// Orders that the monitor has not answered yet.
    waiting: BTreeMap<u64, oneshot::Sender<Answer>>,
    next_order: u64,
    server: Server,
    /// By the monitor's numbers.
    listening: BTreeMap<u64, SlotServer>,
    every_second: Interval,
    journal: Journal,
    writer: Writer,
    host: HostView,
}

impl Worker {
    /// Comes up, but serves nobody yet.
    fn make(
        channel: Arc<Channel>,
        signs: SignsOfLife,
        (journal, writer): (Journal, Writer),
        policy: &PolicyText,
        overlay: Overlay,
        host: HostView,
        descriptors: Vec<OwnedFd>,
    ) -> io::Result<Self> {
        let Ok([pins, drops, denials, asked, counters, control]) =
            <[OwnedFd; 6]>::try_from(descriptors)
        else {
            return Err(io::Error::other("the monitor has given other descriptors than it should"));
        };
        let config = Config::unpack(&policy.path, policy.packed.as_bytes())?;
        let whole = Arc::new(with_slots(&config, &overlay)?);
        let policy = overlay.apply(&whole.policy);
        let shared = Shared { pins, drops, denials, asked, counters };
        let opened = shared.open(host.processors).map_err(io::Error::other)?;
        let Opened { pins, drops, denials, asked, counters } = opened;
        // SAFETY: a `DropStream` owns its map's descriptor and never changes or closes it.
        let drops = unsafe { AsyncFd::register(drops) }.map_err(io::Error::from)?;
        let pins = Arc::new(resolver::pins(&policy, pins)?);
        deny(&pins, &overlay.denied(&policy))?;
        let feeds = control::Feeds { events: journal.events().clone(), ..Default::default() };
        let resolver = Arc::new(resolver::of(&policy, &pins, asked, &journal, &feeds));
        let server = Server::start(&resolver, resolver::threads(), Handle::current())?;
        let denials = Denials::start(denials, &resolver)?;
        let (give, orders) = Orders::channel();
        let learnt = Arc::new(Learnt::default());
        let daemon = control::Daemon::new(
            Arc::clone(&pins),
            control::Names::of(Arc::clone(&whole)),
            Arc::clone(&resolver),
            Arc::clone(&learnt),
            give,
            feeds.clone(),
            journal.clone(),
        );
        let control = control::serve(UnixListener::from(control), daemon)?;
        Ok(Self {
            channel,
            signs,
            config,
            overlay,
            whole,
            policy,
            drops,
            more_drops: false,
            denials,
            counters,
            floods: Floods::default(),
            learnt,
            resolver,
            pins,
            feeds,
            control,
            orders,
            waiting: BTreeMap::new(),
            next_order: 0,
            server,
            listening: BTreeMap::new(),
            every_second: every_second(),
            journal,
            writer,
            host,
        })
    }

    async fn serve(&mut self) -> io::Result<()> {
        loop {
            match self.next_event().await? {
                Event::Gone => return Ok(()),
                Event::Told(told, descriptors) => self.obey(told, descriptors).await?,
                Event::Asked((Wanted::Pins(slot, pins), answer)) => {
                    let taken = resolver::carry(&self.pins, &self.policy, &slot, &pins);
                    // Whoever asked may have hung up.
                    let _ = answer.send(Ok(json!({ "taken": taken, "of": pins.len() })));
                }
                Event::Asked((Wanted::Because(packet), answer)) => {
                    let gone = || Refusal::new(Fault::Absent, "the slot is gone already");
                    let _ = answer.send(self.reader().weigh(&packet).ok_or_else(gone));
                }
                Event::Asked((Wanted::Order(order), answer)) => {
                    let id = self.next_order;
                    self.next_order += 1;
                    self.waiting.insert(id, answer);
                    self.say(&ToMonitor::Ask { id, order }).await?;
                }
                Event::Drops => self.log_drops(),
                Event::Housekeeping => {
                    self.resolver.report_over_rate();
                    self.server.flush_log(Moment::now());
                    self.pins.expire(Moment::now());
                    self.log_rests();
                    self.signs.give();
                    self.say_alive().await?;
                }
            }
        }
    }

    async fn next_event(&mut self) -> io::Result<Event> {
        tokio::select! {
            biased;
            received = self.channel.receive() => match received {
                Ok(Some((told, with))) => Ok(Event::Told(told, with)),
                Ok(None) => Ok(Event::Gone),
                // It has ended before it had heard all that was said.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(Event::Gone),
                Err(error) => Err(error),
            },
            Some(asked) = self.orders.recv() => Ok(Event::Asked(asked)),
            _ = self.every_second.tick() => Ok(Event::Housekeeping),
            ready = self.drops.readable() => {
                ready?.clear_ready();
                Ok(Event::Drops)
            }
            () = std::future::ready(()), if self.more_drops => Ok(Event::Drops),
        }
    }

    async fn obey(&mut self, told: ToWorker, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        match told {
            ToWorker::Begin { .. } => Err(io::Error::other("the monitor begins twice")),
            ToWorker::Host(host) => {
                self.host = host;
                Ok(())
            }
            ToWorker::Events(events) => {
                remember(&self.journal, events);
                Ok(())
            }
            ToWorker::Make { v6, threads } => self.hand_over(Sockets::fresh(v6, threads)).await,
            ToWorker::MakeStream { v6 } => {
                let family = if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
                let made = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None);
                self.hand_over(made.map(|made| vec![made]).map_err(io::Error::from)).await
            }
            ToWorker::Metrics => {
                let listener = descriptors.into_iter().next().map(TcpListener::from);
                self.control.serve_metrics(listener)
            }
            ToWorker::Listen { id, slot, addresses } => {
                let sockets = Sockets::of_descriptors(descriptors, addresses)?;
                self.listening.insert(id, self.server.serve(slot, sockets)?);
                Ok(())
            }
            ToWorker::Unlisten { id } => {
                self.listening.remove(&id);
                Ok(())
            }
            ToWorker::Policy { policy, overlay } => {
                self.config = Config::unpack(&policy.path, policy.packed.as_bytes())?;
                self.change(overlay, true).await
            }
            ToWorker::Overlay(overlay) => self.change(overlay, false).await,
            ToWorker::Locked(locked) => {
                self.overlay.locked = locked;
                self.policy = self.overlay.apply(&self.whole.policy);
                Ok(())
            }
            ToWorker::Answer { id, answer } => {
                if let Some(waiting) = self.waiting.remove(&id) {
                    let _ = waiting.send(answer); // whoever asked may have hung up
                }
                Ok(())
            }
        }
    }

    /// Gives the monitor sockets, which has none of its own making.
    async fn hand_over(&self, sockets: io::Result<Vec<OwnedFd>>) -> io::Result<()> {
        match sockets {
            Ok(sockets) => {
                self.channel.send(&ToMonitor::Made, &sockets).await?;
                drop(sockets);
                self.done(Vec::new(), 0).await
            }
            Err(error) => {
                let reason = format!("no socket can be made: {error}");
                self.say(&ToMonitor::Refused { reason }).await
            }
        }
    }

    async fn say(&self, message: &ToMonitor) -> io::Result<()> {
        self.channel.send(message, &[] as &[OwnedFd]).await
    }

    /// A monitor that does not listen is not waited for.
    async fn say_alive(&self) -> io::Result<()> {
        tokio::select! {
            biased;
            said = self.say(&ToMonitor::Alive) => said,
            () = std::future::ready(()) => Ok(()),
        }
    }

    async fn done(&self, failed: Vec<String>, unpinned: usize) -> io::Result<()> {
        self.say(&ToMonitor::Done { failed, unpinned }).await
    }

    /// Lets the log have its last lines.
    fn finish(self) {
        let Self { journal, writer, resolver, control, server, listening, denials, .. } = self;
        drop((control, listening, server, denials, resolver, journal));
        writer.finish();
    }
}

/// Remembers what the monitor tells, which has logged it.
fn remember(journal: &Journal, events: Vec<Told>) {
    for event in events.into_iter().filter_map(Told::event) {
        journal.events().add(&Arc::new(event));
    }
}
