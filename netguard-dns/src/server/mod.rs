//! Where slots ask: UDP on threads of their own, TCP in the runtime, both on the slot's gateway addresses and bound to
//! its bridge, so that a query on them can only have come from that slot.

mod batch;
mod tcp;
mod udp;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread::JoinHandle,
};

use netguard_common::SlotId;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{net::TcpListener, runtime::Handle, task::AbortHandle};

use crate::{QueryLog, Resolver};
use udp::{Listener, Worker};

/// Where a slot's resolver listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The slot.
    pub slot: SlotId,
    /// The slot's bridge.
    pub bridge: String,
    /// The slot's gateways.
    pub addresses: Vec<IpAddr>,
    /// On each of them.
    pub port: u16,
}

/// The threads that answer queries; slots are added and removed while they run.
pub struct Server {
    shared: Arc<Shared>,
    workers: Vec<Arc<Worker>>,
    threads: Vec<JoinHandle<()>>,
    /// Slots are dealt out among the threads.
    next: AtomicUsize,
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
        Ok(Self { shared, workers, threads, next: AtomicUsize::new(0) })
    }

    /// Binds every socket of the endpoint and serves them.
    ///
    /// # Errors
    ///
    /// A socket cannot be bound: the address and port are named in the error.
    pub fn listen(&self, endpoint: &Endpoint) -> io::Result<SlotServer> {
        /// With few slots a busy one can have all threads; with many, every thread has its slots.
        const SPREAD: usize = 64;
        let slot = self.shared.resolver.slot(endpoint.slot);
        let mut server = SlotServer { udp: Vec::new(), tcp: Vec::new() };
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let threads = if first < SPREAD { self.workers.len() } else { 1 };
        let connections = tcp::places();
        for address in &endpoint.addresses {
            let at = SocketAddr::new(*address, endpoint.port);
            let named = |error: io::Error| {
                let message = format!(
                    "cannot listen for DNS on {at} ({}): {error}; is another resolver running \
                     there? (ss -lunp)",
                    endpoint.bridge
                );
                io::Error::new(error.kind(), message)
            };
            // Sockets that share a port do not notice whom they share it with: this one does.
            drop(bind(at, Type::DGRAM, &endpoint.bridge, false).map_err(named)?);
            for number in first..first + threads {
                let socket = bind(at, Type::DGRAM, &endpoint.bridge, true).map_err(named)?;
                let worker = &self.workers[number % self.workers.len()];
                let listener = Listener { socket, slot: Arc::clone(&slot) };
                let token = worker.add(listener).map_err(named)?;
                server.udp.push((Arc::clone(worker), token));
            }
            let socket = bind(at, Type::STREAM, &endpoint.bridge, false).map_err(named)?;
            socket.listen(128).map_err(named)?;
            let _entered = self.shared.runtime.enter();
            let socket = TcpListener::from_std(socket.into()).map_err(named)?;
            let (shared, slot) = (Arc::clone(&self.shared), Arc::clone(&slot));
            let task = tcp::serve(socket, slot, shared, Arc::clone(&connections));
            server.tcp.push(self.shared.runtime.spawn(task).abort_handle());
        }
        Ok(server)
    }
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

/// `shared` with the sockets of other threads.
fn bind(at: SocketAddr, kind: Type, bridge: &str, shared: bool) -> io::Result<Socket> {
    /// As much as a busy slot sends while its thread is busy with another.
    const RECEIVE_BUFFER: usize = 1 << 20;
    let protocol = if kind == Type::DGRAM { Protocol::UDP } else { Protocol::TCP };
    let socket = Socket::new(Domain::for_address(at), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?; // a restart must not wait for TIME_WAIT
    } else {
        socket.set_reuse_port(shared)?;
        let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER); // less is slower, not wrong
    }
    socket.bind_device(Some(bridge.as_bytes()))?;
    // The address may still be on its way (duplicate address detection).
    match at {
        SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
        SocketAddr::V6(_) => {
            socket.set_freebind_v6(true)?;
            socket.set_only_v6(true)?;
        }
    }
    socket.bind(&at.into())?;
    Ok(socket)
}
