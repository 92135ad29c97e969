//! Where guests ask: the sockets on the gateways of every slot's bridge. The worker makes them, so that the monitor need not be
//! allowed any of the Internet's; the monitor binds and keeps them, so that what a guest asks while one worker has died waits for the
//! next.

use std::{
    collections::BTreeMap,
    io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use netguard_common::SlotId;
use netguard_dns::{Endpoint, Sockets, threads_of_slot};

use super::{channel::ToWorker, child::Worker, resolver};
use crate::policy::{Facts, Policy};

/// How long the sockets of a daemon that has just died may stay bound.
const REBIND: Duration = Duration::from_secs(2);

/// The sockets of all slots.
pub(super) struct Listening {
    born: Instant,
    /// By bridge and slot.
    endpoints: BTreeMap<(u32, SlotId), Listens>,
    next_id: u64,
}

struct Listens {
    id: u64,
    endpoint: Endpoint,
    sockets: Sockets,
}

impl Listening {
    pub(super) fn new() -> Self {
        Self { born: Instant::now(), endpoints: BTreeMap::new(), next_id: 0 }
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
        self.endpoints.values().map(Listens::message).collect()
    }
}

impl Listens {
    fn message(&self) -> io::Result<(ToWorker, Vec<OwnedFd>)> {
        let Endpoint { slot, addresses, .. } = &self.endpoint;
        let message = ToWorker::Listen { id: self.id, slot: *slot, addresses: addresses.len() };
        Ok((message, self.sockets.descriptors()?))
    }
}
