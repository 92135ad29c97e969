//! Where slots ask: UDP on threads of their own, TCP in the runtime, both on the slot's gateway addresses and bound to
//! its bridge, so that a query on them can only have come from that slot.

mod batch;
mod sockets;
mod tcp;
mod udp;

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
};

use netguard_common::SlotId;
use tokio::{net::TcpListener, runtime::Handle, task::AbortHandle};

use crate::{Moment, QueryLog, Resolver};
use sockets::AddressSockets;
pub use sockets::{Endpoint, Sockets};
use udp::{Listener, Worker};

/// The threads that answer queries; slots are added and removed while they run.
pub struct Server {
    shared: Arc<Shared>,
    workers: Vec<Arc<Worker>>,
    threads: Vec<JoinHandle<()>>,
    /// Slots are dealt out among the threads.
    next: AtomicUsize,
    /// One reference here, and one with each slot that listens.
    listening: Arc<()>,
}

/// What every listener needs.
struct Shared {
    resolver: Arc<Resolver>,
    runtime: Handle,
    /// Of queries that waited for upstreams and of those over TCP, which are fewer.
    log: Mutex<Box<dyn QueryLog>>,
}

/// The listeners of one slot; they stop when this is dropped.
pub struct SlotServer {
    udp: Vec<(Arc<Worker>, u64)>,
    tcp: Vec<AbortHandle>,
    _listening: Arc<()>,
}

impl Server {
    /// Starts so many threads. Upstreams are asked in `runtime`.
    ///
    /// # Errors
    ///
    /// A thread or what it waits on cannot be made.
    pub fn start(resolver: &Arc<Resolver>, threads: usize, runtime: Handle) -> io::Result<Self> {
        let log = Mutex::new(resolver.journal().query_log());
        let shared = Arc::new(Shared { resolver: Arc::clone(resolver), runtime, log });
        let workers = (0..threads.max(1)).map(|number| Worker::start(number, &shared));
        let (workers, threads) = workers.collect::<io::Result<Vec<_>>>()?.into_iter().unzip();
        Ok(Self { shared, workers, threads, next: AtomicUsize::new(0), listening: Arc::default() })
    }

    /// Has the log of the queries that waited tell what is due. The threads see to their own.
    pub fn flush_log(&self, now: Moment) {
        let mut log = self.shared.log.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = log.flush(now); // the caller comes again
    }

    /// Binds every socket of the endpoint and serves them.
    ///
    /// # Errors
    ///
    /// A socket cannot be bound: the address and port are named in the error.
    pub fn listen(&self, endpoint: &Endpoint) -> io::Result<SlotServer> {
        let listening = Arc::strong_count(&self.listening) - 1;
        let threads = threads_of_slot(listening, self.workers.len());
        let fresh = endpoint.addresses.iter().map(|it| Sockets::fresh(it.is_ipv6(), threads));
        let sockets = Sockets::bind(endpoint, fresh.collect::<io::Result<_>>()?)?;
        self.serve(endpoint.slot, sockets)
    }

    /// Serves what has been bound for a slot.
    ///
    /// # Errors
    ///
    /// The system does not tell of a socket's queries.
    pub fn serve(&self, slot: SlotId, sockets: Sockets) -> io::Result<SlotServer> {
        let slot = self.shared.resolver.slot(slot);
        let listening = Arc::clone(&self.listening);
        let mut server = SlotServer { udp: Vec::new(), tcp: Vec::new(), _listening: listening };
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let connections = tcp::places();
        for AddressSockets { tcp, replies, queries } in sockets.0 {
            let replies = Arc::new(replies);
            for (number, queries) in (first..).zip(queries) {
                let worker = &self.workers[number % self.workers.len()];
                let (slot, replies) = (Arc::clone(&slot), Arc::clone(&replies));
                let listener = Listener { queries, replies, whole: AtomicBool::new(false), slot };
                server.udp.push((Arc::clone(worker), worker.add(listener)?));
            }
            let _entered = self.shared.runtime.enter();
            let socket = TcpListener::from_std(tcp.into())?;
            let (shared, slot) = (Arc::clone(&self.shared), Arc::clone(&slot));
            let task = tcp::serve(socket, slot, shared, Arc::clone(&connections));
            server.tcp.push(self.shared.runtime.spawn(task).abort_handle());
        }
        Ok(server)
    }
}

/// How many of so many threads listen for a slot, if so many slots are listened for already: with few slots a busy one
/// can have all threads; with many, every thread has its slots.
#[must_use]
pub const fn threads_of_slot(listening: usize, threads: usize) -> usize {
    const SPREAD: usize = 64;
    if listening < SPREAD { threads } else { 1 }
}

impl Drop for Server {
    fn drop(&mut self) {
        for worker in &self.workers {
            worker.stop();
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join(); // one that has panicked is over too
        }
    }
}

impl Drop for SlotServer {
    fn drop(&mut self) {
        for (worker, token) in &self.udp {
            worker.remove(*token);
        }
        for task in &self.tcp {
            task.abort();
        }
    }
}
