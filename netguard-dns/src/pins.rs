//! Pins: which address a DNS answer gave which slot, by which name and for how long. What is here is in the kernel's
//! map too, and there before the answer goes out; nothing but that map lets a packet through.
//!
//! Each slot has a table, a lock and a share of its own, so no slot waits for another or takes its room.

mod denials;
mod ports;
mod shares;
mod shown;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, hash_map},
    io,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, Guard};
use foldhash::quality::RandomState;
use netguard_common::{
    Address, SlotId,
    maps::read_name,
    pin::{PinEntry, PinKey},
};

pub use ports::{BadPorts, Ports};
pub use shown::Pin;

use self::{
    denials::{Denials, is_at_or_below},
    shares::{Share, entry, lanes},
};
use crate::{DomainName, Moment};

/// How long a pin outlives the answer that gave it: an address is often used a moment after its time is over.
pub const GRACE: Duration = Duration::from_secs(60);

/// The kernel's map of pins.
pub trait PinMap: Send + Sync {
    /// Writes an entry, whatever was there.
    ///
    /// # Errors
    ///
    /// The kernel has no room or no memory for it.
    fn put(&self, key: &PinKey, entry: &PinEntry) -> io::Result<()>;

    /// Removes an entry; one that is not there is fine.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    fn remove(&self, key: &PinKey) -> io::Result<()>;
}

/// Why an answer's addresses are not pinned.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// The slot holds as many pins as it may, or an address has more ranges of ports than the kernel keeps for it.
    #[error("the slot has no room for more pins; it has some again when the oldest are over")]
    Full,
    /// An operator has denied the name.
    #[error("the name is denied for the slot; `netguard allow` takes that back")]
    Denied,
    /// The slot is none of those that the table was made for.
    #[error("no slot has the number {0}")]
    NoSlot(SlotId),
    /// The kernel's map did not take it.
    #[error("cannot write the kernel's map of pins")]
    Kernel(#[source] io::Error),
}

/// The pins of all slots.
pub struct Pins {
    map: Box<dyn PinMap>,
    slots: ArcSwap<Slots>,
    per_slot: AtomicUsize,
}

type Slots = HashMap<SlotId, Arc<Slot>, RandomState>;

/// What belongs to one slot.
#[derive(Default)]
struct Slot {
    /// True if there may be denials: nearly always there are none, and then nobody need ask for the lock.
    has_denials: AtomicBool,
    table: Mutex<Table>,
}

impl Slot {
    /// A thread that panicked has left the table as whole as the kernel's map: each entry is changed last.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct Table {
    addresses: HashMap<Address, Pinned, RandomState>,
    /// How many shares all addresses have together.
    shares: usize,
    denials: Denials,
}

impl Table {
    /// True if the address is pinned by that name for as long already: nearly always so for an answer from the cache.
    fn has(&self, address: IpAddr, name: &str, ports: &Ports, ends: Moment) -> bool {
        let pinned = self.addresses.get(&address.into());
        let is_as_good =
            |share: &Share| *share.name == *name && share.ports == *ports && ends <= share.ends;
        pinned.is_some_and(|pinned| pinned.shares.iter().any(is_as_good))
    }
}

/// An address, and who gave it.
struct Pinned {
    since: Moment,
    /// At least one.
    shares: Vec<Share>,
}

impl Pins {
    /// An empty table of those slots, each with room for so many pairs of an address and a name.
    #[must_use]
    pub fn new(
        map: Box<dyn PinMap>,
        slots: impl IntoIterator<Item = SlotId>,
        per_slot: usize,
    ) -> Self {
        let slots = slots.into_iter().map(|slot| (slot, Arc::default())).collect();
        let slots = ArcSwap::from_pointee(slots);
        Self { map, slots, per_slot: AtomicUsize::new(per_slot) }
    }

    /// From now on there are these slots, each with so much room. Slots that stay keep what they have; the pins of the
    /// others go, and so do those of names that are not allowed. Returns how many went. Nobody may pin by older rules
    /// meanwhile: see [`crate::Resolver::replace_rules`].
    ///
    /// # Errors
    ///
    /// The kernel did not remove them all. What stays of a name is removed when its time is over.
    pub fn replace_slots(
        &self,
        slots: impl IntoIterator<Item = SlotId>,
        per_slot: usize,
        is_allowed: impl Fn(SlotId, &str) -> bool,
        now: Moment,
    ) -> io::Result<usize> {
        let old = self.slots.load_full();
        let known = |slot| old.get(&slot).map(Arc::clone).unwrap_or_default();
        let new: Slots = slots.into_iter().map(|slot| (slot, known(slot))).collect();
        let new = Arc::new(new);
        self.per_slot.store(per_slot, Ordering::Relaxed);
        self.slots.store(Arc::clone(&new));
        let mut gone = 0;
        let mut failed = None;
        for (id, slot) in &*old {
            let stays = new.contains_key(id);
            let is_kept = |share: &Share| stays && is_allowed(*id, &share.name);
            match self.keep_only(*id, &mut slot.table(), is_kept, now) {
                Ok(count) => gone += count,
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(gone), Err)
    }

    fn slots(&self) -> Guard<Arc<Slots>> {
        self.slots.load()
    }

    /// Pins the addresses of an answer to `name` (lower case, without its final dot) that is good until `until`. They
    /// are in the kernel when this returns `Ok`, and stay for [`GRACE`] longer. What is pinned for as long already
    /// costs no system call.
    ///
    /// # Errors
    ///
    /// Not all of them are pinned: the answer must not go out.
    pub fn pin(
        &self,
        slot: SlotId,
        name: &str,
        addresses: &[IpAddr],
        ports: &Ports,
        until: Moment,
        now: Moment,
    ) -> Result<(), PinError> {
        self.hold(slot, name, addresses, ports, until.max(now).after(GRACE), now)
    }

    /// The same until that very moment: what another table has pinned already.
    ///
    /// # Errors
    ///
    /// Not all of them are pinned.
    pub fn hold(
        &self,
        slot: SlotId,
        name: &str,
        addresses: &[IpAddr],
        ports: &Ports,
        ends: Moment,
        now: Moment,
    ) -> Result<(), PinError> {
        let slots = self.slots();
        let mut table = slots.get(&slot).ok_or(PinError::NoSlot(slot))?.table();
        if table.denials.cover(name, now) {
            return Err(PinError::Denied);
        }
        for address in addresses {
            if table.has(*address, name, ports, ends) {
                continue;
            }
            let share = Share { name: name.into(), ports: ports.clone(), ends };
            self.pin_one(&mut table, PinKey::new(slot, (*address).into()), share, now)?;
        }
        Ok(())
    }

    fn pin_one(
        &self,
        table: &mut Table,
        key: PinKey,
        share: Share,
        now: Moment,
    ) -> Result<(), PinError> {
        let pinned = table.addresses.get(&key.address);
        let known = pinned.and_then(|it| it.shares.iter().position(|it| it.is_alike(&share)));
        let most = self.per_slot.load(Ordering::Relaxed);
        if known.is_none() && table.shares >= most {
            self.expire_table(key.slot_id, table, now);
            if table.shares >= most {
                return Err(PinError::Full);
            }
            // What is over may have been all that the address had.
            return self.insert(table, key, share, None, now);
        }
        self.insert(table, key, share, known, now)
    }

    /// First the kernel, then the table: what the kernel refuses is not here either.
    fn insert(
        &self,
        table: &mut Table,
        key: PinKey,
        share: Share,
        known: Option<usize>,
        now: Moment,
    ) -> Result<(), PinError> {
        let pinned = table.addresses.entry(key.address);
        let (since, shares) = match &pinned {
            hash_map::Entry::Occupied(pinned) => {
                (pinned.get().since, pinned.get().shares.as_slice())
            }
            hash_map::Entry::Vacant(_) => (now, &[][..]),
        };
        if known.and_then(|index| shares.get(index)).is_some_and(|old| old.ends >= share.ends) {
            return Ok(());
        }
        let before = lanes(shares.iter(), now);
        let after = lanes(shares.iter().chain([&share]), now).ok_or(PinError::Full)?;
        if before != Some(after) {
            let entry = entry(key, after, since, &share.name);
            self.map.put(&key, &entry).map_err(PinError::Kernel)?;
        }
        let shares = &mut pinned.or_insert_with(|| Pinned { since, shares: Vec::new() }).shares;
        match known.and_then(|index| shares.get_mut(index)) {
            Some(old) => old.ends = share.ends,
            None => {
                shares.push(share);
                table.shares += 1;
            }
        }
        Ok(())
    }

    /// From now until `until` (or for good) the name and all below it are not pinned for the slot. Returns how many
    /// pins that took away.
    ///
    /// # Errors
    ///
    /// The slot is unknown, or the kernel did not remove them all: the denial stands, and those that stayed are
    /// removed when their time is over.
    pub fn deny(
        &self,
        slot: SlotId,
        name: &DomainName,
        until: Option<Moment>,
        now: Moment,
    ) -> io::Result<usize> {
        let slots = self.slots();
        let (id, slot) = (slot, slots.get(&slot).ok_or_else(|| no_slot(slot))?);
        let mut table = slot.table();
        table.denials.add(name.clone(), until);
        slot.has_denials.store(true, Ordering::Release);
        self.keep_only(id, &mut table, |share| !is_at_or_below(&share.name, name), now)
    }

    fn keep_only(
        &self,
        slot: SlotId,
        table: &mut Table,
        is_kept: impl Fn(&Share) -> bool,
        now: Moment,
    ) -> io::Result<usize> {
        let mut gone = 0;
        let mut failed = None;
        table.addresses.retain(|address, pinned| {
            if pinned.shares.iter().all(&is_kept) {
                return true;
            }
            let is_live = |share: &&Share| is_kept(share) && now < share.ends;
            let mut kept: Vec<_> = pinned.shares.iter().filter(is_live).cloned().collect();
            match self.rewrite(PinKey::new(slot, *address), pinned.since, &mut kept, now) {
                Ok(()) => {
                    gone += pinned.shares.len() - kept.len();
                    pinned.shares = kept;
                }
                Err(error) => failed = Some(error),
            }
            !pinned.shares.is_empty()
        });
        table.shares -= gone;
        failed.map_or(Ok(gone), Err)
    }

    /// Writes what is left of an address when some of its shares are gone. Fewer shares may need more lanes, because
    /// a wide one has covered narrow ones: those that find no room go too.
    fn rewrite(
        &self,
        key: PinKey,
        since: Moment,
        kept: &mut Vec<Share>,
        now: Moment,
    ) -> io::Result<()> {
        let lanes = loop {
            match lanes(kept.iter(), now) {
                Some(lanes) => break lanes,
                None => drop(kept.pop()),
            }
        };
        match kept.iter().max_by_key(|share| share.ends) {
            Some(last) => self.map.put(&key, &entry(key, lanes, since, &last.name)),
            None => self.map.remove(&key),
        }
    }

    /// Takes a denial back; false if that very name was not denied.
    pub fn allow(&self, slot: SlotId, name: &DomainName) -> bool {
        let slots = self.slots();
        let Some(slot) = slots.get(&slot) else { return false };
        let mut table = slot.table();
        let was_denied = table.denials.remove(name);
        slot.has_denials.store(!table.denials.is_empty(), Ordering::Release);
        was_denied
    }

    /// True if the name, or one above it, is denied for the slot.
    #[must_use]
    pub fn is_denied(&self, slot: SlotId, name: &str, now: Moment) -> bool {
        let slots = self.slots();
        let Some(slot) = slots.get(&slot) else { return false };
        slot.has_denials.load(Ordering::Acquire) && slot.table().denials.cover(name, now)
    }

    /// The name that an address of the slot is pinned by, and for the longest.
    #[must_use]
    pub fn name_of(&self, slot: SlotId, address: IpAddr) -> Option<String> {
        let slots = self.slots();
        let table = slots.get(&slot)?.table();
        let shares = &table.addresses.get(&address.into())?.shares;
        shares.iter().max_by_key(|share| share.ends).map(|share| share.name.to_string())
    }

    /// Removes what is over, here and in the kernel, where it opens nothing any more anyway. Returns how many pins
    /// went; what the kernel does not remove is tried again the next time.
    pub fn expire(&self, now: Moment) -> usize {
        let mut gone = 0;
        for (id, slot) in &**self.slots() {
            let mut table = slot.table();
            gone += self.expire_table(*id, &mut table, now);
            table.denials.expire(now);
            slot.has_denials.store(!table.denials.is_empty(), Ordering::Release);
        }
        gone
    }

    fn expire_table(&self, slot: SlotId, table: &mut Table, now: Moment) -> usize {
        let before = table.shares;
        table.addresses.retain(|address, pinned| {
            let is_live = |share: &Share| now < share.ends;
            let all_over = !pinned.shares.iter().any(is_live);
            if all_over && self.map.remove(&PinKey::new(slot, *address)).is_err() {
                return true;
            }
            let with_dead = pinned.shares.len();
            pinned.shares.retain(is_live);
            table.shares -= with_dead - pinned.shares.len();
            !all_over
        });
        before - table.shares
    }

    /// Takes over what the kernel holds from an earlier daemon: what is over, of a slot that is gone, or of a name that
    /// the policy no longer allows is removed. Returns how many addresses are kept.
    ///
    /// # Errors
    ///
    /// The kernel did not remove one that must not stay; the others are taken over all the same.
    pub fn adopt(
        &self,
        entries: Vec<(PinKey, PinEntry)>,
        is_allowed: impl Fn(SlotId, &str) -> bool,
        now: Moment,
    ) -> io::Result<usize> {
        let mut adopted = 0;
        let mut failed = None;
        let slots = self.slots();
        for (key, entry) in entries {
            let name = read_name(&entry.name);
            let slot = slots.get(&key.slot_id).filter(|_| is_allowed(key.slot_id, name));
            // The kernel does not know which name gave which lane: all are the last one's.
            let shares: Vec<_> = entry
                .lanes
                .iter()
                .filter(|lane| now.ns() < lane.expires_ns)
                .filter_map(|lane| {
                    let ports = Ports::of(vec![lane.first_port..=lane.last_port])?;
                    let ends = Moment::from_ns(lane.expires_ns);
                    Some(Share { name: name.into(), ports, ends })
                })
                .collect();
            match slot {
                Some(slot) if !shares.is_empty() => {
                    let mut table = slot.table();
                    let since = Moment::from_ns(entry.since_ns);
                    table.shares += shares.len();
                    let old = table.addresses.insert(key.address, Pinned { since, shares });
                    table.shares -= old.map_or(0, |old| old.shares.len());
                    adopted += 1;
                }
                _ => {
                    if let Err(error) = self.map.remove(&key) {
                        failed = Some(error);
                    }
                }
            }
        }
        failed.map_or(Ok(adopted), Err)
    }
}

fn no_slot(slot: SlotId) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, PinError::NoSlot(slot))
}
