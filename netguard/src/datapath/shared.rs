//! What another process, without any privilege, has of the kernel: descriptors of some maps, and what it makes of them.

use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    sync::atomic::AtomicU64,
};

use aya::maps::{Array, IterableMap as _, Map, MapData, MapError, RingBuf};
use netguard_common::{SlotId, dns_denial::DnsDenial, maps as layout, record::DropRecord};
use netguard_dns::Meters;

use super::{DropCounters, Error, PinWriter, mapped::Mapped};

/// What the process that answers guests has of the kernel: the addresses that it pins, and the records of drops. What was
/// counted of drops it may read.
pub struct Shared<T> {
    /// `PINS`, with what an earlier process has left in it.
    pub pins: T,
    /// `DROPS`, which has one reader.
    pub drops: T,
    /// `DENIALS`, which has one reader too.
    pub denials: T,
    /// `ASKED`.
    pub asked: T,
    /// `COUNTERS`, to read.
    pub counters: T,
}

/// What can be made of the descriptors in a [`Shared`].
#[expect(missing_docs, reason = "the types say it")]
pub struct Opened {
    pub pins: PinWriter,
    pub drops: DropStream,
    pub denials: DenialStream,
    pub asked: AskedMeters,
    pub counters: DropCounters,
}

impl Shared<OwnedFd> {
    /// Makes use of descriptors that [`super::Datapath::shared`] has given to another process, on a host with so many
    /// [`super::processors`].
    ///
    /// # Errors
    ///
    /// They are not those of such maps.
    pub fn open(self, processors: usize) -> Result<Opened, Error> {
        let pins = of_descriptor(layout::PINS, self.pins)?;
        let drops = DropStream { ring: of_descriptor(layout::DROPS, self.drops)? };
        let denials = DenialStream { ring: of_descriptor(layout::DENIALS, self.denials)? };
        let asked: Array<MapData, u64> = of_descriptor(layout::ASKED, self.asked)?;
        let asked = AskedMeters(Mapped::of(layout::ASKED, asked.map())?);
        let counters = DropCounters::new(self.counters, processors);
        Ok(Opened { pins: PinWriter::new(pins), drops, denials, asked, counters })
    }
}

fn of_descriptor<T: TryFrom<Map, Error = MapError>>(
    name: &'static str,
    descriptor: OwnedFd,
) -> Result<T, Error> {
    let map = MapData::from_fd(descriptor).and_then(Map::from_map_data).and_then(T::try_from);
    map.map_err(|source| Error::map(name, source))
}

/// Drop records as they come from the ring buffer.
pub struct DropStream {
    ring: RingBuf<MapData>,
}

impl DropStream {
    /// The next record that is ready, without waiting. Records of another layout are passed over.
    pub fn next_ready(&mut self) -> Option<DropRecord> {
        while let Some(item) = self.ring.next() {
            if let Some(record) = DropRecord::from_bytes(&item) {
                return Some(record);
            }
        }
        None
    }
}

/// How much slots have asked, counted together with the programs.
pub struct AskedMeters(Mapped<AtomicU64>);

impl Meters for AskedMeters {
    fn of(&self, slot: SlotId) -> Option<&AtomicU64> {
        self.0.get(usize::from(slot))
    }
}

/// Records of denied queries as they come from their ring buffer.
pub struct DenialStream {
    ring: RingBuf<MapData>,
}

impl DenialStream {
    /// Takes the next record and the name in it, if one is ready, without waiting; false if none is. Records of another layout are
    /// passed over.
    pub fn next_ready(&mut self, take: impl FnOnce(&DnsDenial, &[u8])) -> bool {
        let Some(item) = self.ring.next() else { return false };
        if let Some((denial, name)) = DnsDenial::from_bytes(&item) {
            take(&denial, name);
        }
        true
    }
}

impl AsFd for DenialStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the stream owns the map's descriptor, and does not close it as long as it lives.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }
}

impl AsRawFd for DropStream {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}
