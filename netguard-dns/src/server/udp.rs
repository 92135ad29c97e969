//! Queries in datagrams: one thread per processor, each with sockets of its own.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    os::fd::AsFd as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use nix::sys::{
    epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
    eventfd::{EfdFlags, EventFd},
};
use socket2::Socket;

use super::{
    Shared,
    batch::{BATCH, Batch},
};
use crate::{
    Moment, Transport,
    resolver::{Begun, Client, Desk, Job, SlotState},
};

/// One address of one slot, as one thread has it.
pub struct Listener {
    pub queries: Socket,
    pub replies: Arc<Socket>,
    /// Replies cannot be sent as segments.
    pub whole: AtomicBool,
    pub slot: Arc<SlotState>,
}

/// One thread and what it listens on.
pub struct Worker {
    epoll: Epoll,
    wake: EventFd,
    stopping: AtomicBool,
    listeners: Mutex<HashMap<u64, Arc<Listener>>>,
    next_token: AtomicU64,
}

/// The token of [`Worker::wake`].
const WAKE: u64 = 0;

impl Worker {
    pub fn start(number: usize, shared: &Arc<Shared>) -> io::Result<(Arc<Self>, JoinHandle<()>)> {
        let worker = Arc::new(Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            wake: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
            stopping: AtomicBool::new(false),
            listeners: Mutex::default(),
            next_token: AtomicU64::new(WAKE + 1),
        });
        worker.epoll.add(&worker.wake, EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
        let (own, shared) = (Arc::clone(&worker), Arc::clone(shared));
        let thread = std::thread::Builder::new().name(format!("dns-{number}"));
        let thread = thread.spawn(move || own.run(&shared))?;
        Ok((worker, thread))
    }

    pub fn add(&self, listener: Listener) -> io::Result<u64> {
        let token = self.next_token.fetch_add(1, Ordering::Relaxed);
        let listener = Arc::new(listener);
        self.lock().insert(token, Arc::clone(&listener));
        let event = EpollEvent::new(EpollFlags::EPOLLIN, token);
        if let Err(error) = self.epoll.add(&listener.queries, event) {
            self.lock().remove(&token);
            return Err(error.into());
        }
        Ok(token)
    }

    pub fn remove(&self, token: u64) {
        if let Some(listener) = self.lock().remove(&token) {
            let _ = self.epoll.delete(&listener.queries); // closing it does the same
        }
    }

    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        let _ = self.wake.write(1); // a full counter wakes too
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Listener>>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, shared: &Arc<Shared>) {
        /// After an error of epoll itself, so that one that lasts costs no processor.
        const AFTER_ERROR: Duration = Duration::from_millis(20);
        let mut desk = Desk::new(shared.resolver.journal());
        let mut batch = Batch::new();
        let mut events = [EpollEvent::empty(); 64];
        while !self.stopping.load(Ordering::Acquire) {
            let wait = desk.log.flush(Moment::now()).map(|wait| wait + Duration::from_millis(1));
            let wait = wait.and_then(|wait| EpollTimeout::try_from(wait).ok());
            let ready = match self.epoll.wait(&mut events, wait.unwrap_or(EpollTimeout::NONE)) {
                Ok(ready) => ready,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(error) => {
                    log::error!("waiting for queries: {error}");
                    std::thread::sleep(AFTER_ERROR);
                    continue;
                }
            };
            for event in &events[..ready] {
                let listener = self.lock().get(&event.data()).cloned();
                if let Some(listener) = listener {
                    answer(&listener, shared, &mut desk, &mut batch);
                }
            }
        }
        desk.log.flush_now();
    }
}

/// Answers what waits on a socket, but not so much that other slots wait.
fn answer(listener: &Arc<Listener>, shared: &Arc<Shared>, desk: &mut Desk, batch: &mut Batch) {
    const BATCHES_AT_ONCE: usize = 4;
    /// Behind so many there are more by now: to ask for them costs less than to wait for the word that they are there.
    const MANY: usize = BATCH / 4;
    let resolver = &shared.resolver;
    let rules = resolver.rules();
    for _ in 0..BATCHES_AT_ONCE {
        let Ok(count) = batch.receive(listener.queries.as_fd()) else {
            return; // nothing there
        };
        let came = Moment::now();
        for index in 0..count {
            let mut out = batch.take();
            let Some((bytes, address)) = batch.query(index) else {
                batch.put(index, out, false);
                continue;
            };
            let client = Client { address, transport: Transport::Udp, came };
            let begun = resolver.begin(desk, &rules, &listener.slot, client, bytes, &mut out);
            batch.put(index, out, matches!(begun, Begun::Replied));
            if let (Begun::Waits(job), Some(to)) = (begun, batch.sender(index)) {
                let answered = finish(Arc::clone(shared), Arc::clone(listener), *job, to);
                drop(shared.runtime.spawn(answered));
            }
        }
        batch.send(listener.replies.as_fd(), &listener.whole);
        if count < MANY {
            return;
        }
    }
}

async fn finish(shared: Arc<Shared>, listener: Arc<Listener>, job: Job, to: SocketAddr) {
    let mut out = Vec::new();
    shared.resolver.finish(job, &shared.log, &mut out).await;
    if !out.is_empty() {
        let _ = listener.replies.send_to(&out, &to.into()); // lost, as on any network
    }
}
