//! Where guests ask: the sockets on the gateways of every slot's bridge. The monitor binds and keeps them, so what a guest asks
//! while one worker has died waits for the next.

use std::{
    collections::BTreeMap,
    io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use netguard_common::SlotId;
use netguard_dns::{Endpoint, Sockets, threads_of_slot};

use super::{channel::ToWorker, resolver};
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

/// What a worker must be told.
#[derive(Default)]
pub(super) struct Steps {
    /// Messages with their descriptors.
    pub(super) messages: Vec<(ToWorker, Vec<OwnedFd>)>,
    /// What could not be listened on.
    pub(super) failed: Vec<String>,
}

impl Listening {
    pub(super) fn new() -> Self {
        Self { born: Instant::now(), endpoints: BTreeMap::new(), next_id: 0 }
    }

    /// Listens on the bridges that exist; a bridge that was made anew gets new sockets, because the old ones are bound to a
    /// device that is gone.
    pub(super) fn follow(&mut self, policy: &Policy, facts: &Facts) -> Steps {
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
        let mut steps = Steps::default();
        self.endpoints.retain(|key, listens| {
            let stays = wanted.get(key) == Some(&listens.endpoint);
            if !stays {
                steps.messages.push((ToWorker::Unlisten { id: listens.id }, Vec::new()));
            }
            stays
        });
        for (key, endpoint) in wanted {
            if self.endpoints.contains_key(&key) {
                continue;
            }
            let id = self.next_id;
            self.next_id += 1;
            let listens = self.bind(&endpoint).and_then(|sockets| {
                let listens = Listens { id, endpoint, sockets };
                Ok((listens.message()?, listens))
            });
            match listens {
                Ok((message, listens)) => {
                    steps.messages.push(message);
                    self.endpoints.insert(key, listens);
                }
                Err(error) => steps.failed.push(error.to_string()),
            }
        }
        steps
    }

    fn bind(&self, endpoint: &Endpoint) -> io::Result<Sockets> {
        let threads = threads_of_slot(self.endpoints.len(), resolver::threads());
        loop {
            match Sockets::bind(endpoint, threads) {
                Err(error)
                    if error.kind() == io::ErrorKind::AddrInUse && self.born.elapsed() < REBIND =>
                {
                    std::thread::sleep(Duration::from_millis(5));
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
