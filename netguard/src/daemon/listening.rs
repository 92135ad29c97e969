//! Where guests ask: the sockets on the gateways of every slot's bridge. The worker makes them, so that the monitor need not be
//! allowed any of the Internet's; the monitor binds and keeps them, so that what a guest asks while one worker has died waits for the
//! next. So it does with the port where metrics are served.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    os::fd::{AsRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use netguard_common::SlotId;
use netguard_dns::{Endpoint, Sockets, threads_of_slot};
use nix::{
    errno::Errno,
    sys::socket::{
        Backlog, SockType, SockaddrStorage, bind, getsockopt, listen, setsockopt, sockopt,
    },
};

use super::{channel::ToWorker, child::Worker, resolver};
use crate::policy::{Facts, Policy};

/// How long the sockets of a daemon that has just died may stay bound.
const REBIND: Duration = Duration::from_secs(2);

/// How many who want metrics may wait for the worker.
const METRICS_BACKLOG: i32 = 16;

/// The sockets of all slots.
pub(super) struct Listening {
    born: Instant,
    /// By bridge and slot.
    endpoints: BTreeMap<(u32, SlotId), Listens>,
    next_id: u64,
    /// Where metrics are served.
    metrics: Option<(SocketAddr, OwnedFd)>,
}

struct Listens {
    id: u64,
    endpoint: Endpoint,
    sockets: Sockets,
}

impl Listening {
    pub(super) fn new() -> Self {
        Self { born: Instant::now(), endpoints: BTreeMap::new(), next_id: 0, metrics: None }
    }

    /// Listens on the bridges that exist, and has the worker serve that; a bridge that was made anew gets new sockets, because the
    /// old ones are bound to a device that is gone. Returns what could not be listened on. A worker that dies meanwhile is no
    /// failure: the next one is told [`Self::whole`], and this comes again.
    pub(super) async fn follow(
        &mut self,
        policy: &Policy,
        facts: &Facts,
        worker: &mut Worker,
    ) -> Vec<String> {
        let wanted: BTreeMap<_, _> = policy
            .slots
            .iter()
            .filter_map(|slot| {
                let bridge = facts.interface(&slot.bridge)?.index;
                let endpoint = Endpoint {
                    slot: slot.id,
                    bridge: slot.bridge.clone(),
                    addresses: slot.subnets.iter().map(|subnet| subnet.gateway).collect(),
                    port: policy.dns.port,
                };
                Some(((bridge, slot.id), endpoint))
            })
            .collect();
        let is_over = |key: &_, listens: &mut Listens| wanted.get(key) != Some(&listens.endpoint);
        for (_, Listens { id, .. }) in self.endpoints.extract_if(.., is_over) {
            let _ = worker.tell(&ToWorker::Unlisten { id }, &[]).await; // it is gone, and that with it
        }
        let mut failed = Vec::new();
        for (key, endpoint) in wanted {
            if self.endpoints.contains_key(&key) {
                continue;
            }
            match self.listen(endpoint, worker).await {
                Ok(listens) => drop(self.endpoints.insert(key, listens)),
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
                Err(error) => failed.push(error.to_string()),
            }
        }
        failed
    }

    /// Has the worker serve metrics where the policy wants them. One that dies meanwhile is no failure either.
    pub(super) async fn follow_metrics(
        &mut self,
        wanted: Option<SocketAddr>,
        worker: &mut Worker,
    ) -> io::Result<()> {
        if self.metrics.as_ref().map(|(at, _)| *at) == wanted {
            return Ok(());
        }
        if self.metrics.take().is_some() {
            worker.tell(&ToWorker::Metrics, &[]).await?;
        }
        let Some(at) = wanted else { return Ok(()) };
        let socket = self.bind_metrics(at, worker).await.map_err(|error| {
            let message =
                format!("cannot serve metrics on {at}: {error}; who listens there? (ss -ltnp)");
            io::Error::new(error.kind(), message)
        })?;
        worker.tell(&ToWorker::Metrics, &[socket.try_clone()?]).await?;
        self.metrics = Some((at, socket));
        Ok(())
    }

    async fn bind_metrics(&self, at: SocketAddr, worker: &mut Worker) -> io::Result<OwnedFd> {
        let socket = worker.stream_socket(at.is_ipv6()).await?;
        if getsockopt(&socket, sockopt::SockType)? != SockType::Stream {
            return Err(io::Error::other("the socket is not what it should be"));
        }
        // A restart must not wait for connections of the last daemon to time out.
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
        while let Err(error) = bind(socket.as_raw_fd(), &SockaddrStorage::from(at)) {
            if error != Errno::EADDRINUSE || self.born.elapsed() >= REBIND {
                return Err(error.into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        listen(&socket, Backlog::new(METRICS_BACKLOG)?)?;
        Ok(socket)
    }

    async fn listen(&mut self, endpoint: Endpoint, worker: &mut Worker) -> io::Result<Listens> {
        let sockets = self.bind(&endpoint, worker).await?;
        let listens = Listens { id: self.next_id, endpoint, sockets };
        self.next_id += 1;
        let (message, descriptors) = listens.message()?;
        worker.tell(&message, &descriptors).await?;
        Ok(listens)
    }

    async fn bind(&self, endpoint: &Endpoint, worker: &mut Worker) -> io::Result<Sockets> {
        let threads = threads_of_slot(self.endpoints.len(), resolver::threads());
        loop {
            let mut fresh = Vec::new();
            for address in &endpoint.addresses {
                fresh.push(worker.sockets(address.is_ipv6(), threads).await?);
            }
            match Sockets::bind(endpoint, fresh) {
                Err(error)
                    if error.kind() == io::ErrorKind::AddrInUse && self.born.elapsed() < REBIND =>
                {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                bound => return bound,
            }
        }
    }

    /// All of it, for a worker that has just come up.
    pub(super) fn whole(&self) -> io::Result<Vec<(ToWorker, Vec<OwnedFd>)>> {
        let mut whole =
            self.endpoints.values().map(Listens::message).collect::<io::Result<Vec<_>>>()?;
        if let Some((_, socket)) = &self.metrics {
            whole.push((ToWorker::Metrics, vec![socket.try_clone()?]));
        }
        Ok(whole)
    }
}

impl Listens {
    fn message(&self) -> io::Result<(ToWorker, Vec<OwnedFd>)> {
        let Endpoint { slot, addresses, .. } = &self.endpoint;
        let message = ToWorker::Listen { id: self.id, slot: *slot, addresses: addresses.len() };
        Ok((message, self.sockets.descriptors()?))
    }
}
