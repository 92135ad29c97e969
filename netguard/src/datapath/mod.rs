//! The programs and maps in the kernel: load, fill, attach, pin, adopt. The only importer of aya.
//!
//! Order is what keeps the host closed: programs are verified and their fresh policy maps filled
//! before any of them is attached; a program that replaces one of an earlier daemon does so in one
//! step on the pinned link or in the filter, so that no packet meets an empty hook. State maps (counters, flows,
//! records) are adopted from their pins and survive.

mod attach;
mod batch;
mod carry;
mod device;
mod drop_counters;
mod error;
mod filter;
mod flow_table;
mod grace;
mod in_force;
mod kernel;
mod kernel_drops;
mod maps;
mod namespace;
mod others;
mod pin_map;
mod pins;
mod probe;
mod sides;
mod sys;
mod verify;
mod view;
mod watch;

use std::{
    collections::BTreeMap,
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
    time::Instant,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Map, MapData, MapError, RingBuf},
};
use netguard_common::{Hook, maps as layout, record::DropRecord};

pub use attach::Guard;
use attach::Waits;
pub use device::detach_pinned;
pub use drop_counters::{DropCounters, processors};
pub use error::Error;
pub use in_force::{Attached, InForce};
pub use kernel::{Tc, check_kernel, release as kernel_release};
pub use kernel_drops::KernelDrops;
pub use namespace::enter_of_process;
pub use others::{Other, OtherPrograms, others_on, program_name};
pub use pin_map::PinWriter;
pub use pins::{PinDirectory, ensure_bpffs};
pub use probe::{Asked, PinnedProgram, Probed};
pub use verify::verify;
pub use view::{
    CounterRow, LinkRow, PinnedAddresses, ProgramRow, View, counters, held, measure_programs,
};
pub use watch::Finding;

use crate::policy::Plan;
use carry::{Carrier, Left};
use maps::PolicyMaps;
use sides::Sides;

/// So many interfaces get links at a start, which takes the kernel some 20 ms for each. More get filters.
const LINKED_AT_START: usize = 100;

/// The loaded programs of one instance, and the plans that its maps hold.
pub struct Datapath {
    ebpf: Ebpf,
    pins: PinDirectory,
    tc: Tc,
    sides: Sides,
    /// How many entries `FLOWS` and `SLOTS` have.
    sizes: (u32, u32),
    /// The table whose flows are not in `FLOWS` yet.
    left: Option<Left>,
    /// True when this load's policy maps and programs are pinned.
    is_pinned: bool,
    guards: BTreeMap<u32, Guard>,
    /// When the watch looks again.
    look_again: Instant,
}

/// What an [`Datapath::apply`] changed on interfaces, for the log.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Interfaces that are guarded from now on.
    pub guarded: Vec<String>,
    /// Interfaces that are gone.
    pub gone: Vec<String>,
    /// Interfaces that could not be guarded; they are tried again with the next change.
    pub failed: Vec<Failed>,
}

/// An interface that could not be guarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// Its name.
    pub interface: String,
    /// True if it is a slot's bridge, behind which nothing would be closed.
    pub is_bridge: bool,
    /// The kernel's answer.
    pub reason: String,
}

impl Datapath {
    /// Loads and verifies the programs. Nothing is attached and no packet is touched yet.
    ///
    /// The sizes of maps are the plan's. A table of flows that an earlier load left is adopted if it is divided as the
    /// plan wants it; else [`Self::apply`] carries its flows to a new one.
    ///
    /// # Errors
    ///
    /// No permission, no bpffs, or the verifier's refusal.
    pub fn load(pins: PinDirectory, plan: &Plan) -> Result<Self, Error> {
        let loaded = Self::load_into(pins.clone(), plan);
        if loaded.is_err() {
            pins.remove_if_idle();
        }
        loaded
    }

    fn load_into(pins: PinDirectory, plan: &Plan) -> Result<Self, Error> {
        pins.create()?;
        let left = Left::find(&pins, plan)?;
        let mut loader = EbpfLoader::new();
        loader.map_max_entries(layout::FLOWS, plan.flow_entries);
        loader.map_max_entries(layout::SLOTS, plan.slot_entries);
        // A table in the place of another is pinned when the flows of that one are in it.
        let is_adopted = |name: &&str| left.is_none() || *name != layout::FLOWS;
        for name in layout::STATE_MAPS.into_iter().filter(is_adopted) {
            loader.map_pin_path(name, pins.map(name));
        }
        let mut ebpf = verify::load(&mut loader)?;
        let sides = Sides::new(PolicyMaps::take(&mut ebpf)?)?;
        let sizes = (plan.flow_entries, plan.slot_entries);
        let tc = Tc::of_kernel();
        Ok(Self {
            ebpf,
            pins,
            tc,
            sides,
            sizes,
            left,
            is_pinned: false,
            guards: BTreeMap::new(),
            look_again: Instant::now(),
        })
    }

    /// Keeps TC programs on interfaces as if the kernel had no better way than that.
    pub fn hold_by(&mut self, tc: Tc) {
        self.tc = tc;
    }

    /// Writes a plan to the side of the maps that no packet sees, so that [`Self::apply`] has less to do.
    ///
    /// # Errors
    ///
    /// A map refuses an entry, or the plan needs tables of another size than [`Self::load`] has made.
    pub fn prepare(&mut self, plan: &Arc<Plan>) -> Result<(), Error> {
        if !self.holds(plan) {
            return Err(Error::Resized);
        }
        self.sides.prepare(plan)
    }

    /// Gives the side of the maps that no packet sees the plan that is in force, once after an [`Self::apply`] and as soon as
    /// nothing must be waited for, so that the next one has no more to write than a difference. True if that is done.
    ///
    /// # Errors
    ///
    /// A map refuses an entry. Then the next [`Self::apply`] writes that side whole.
    pub fn settle(&mut self) -> Result<bool, Error> {
        self.sides.settle()
    }

    /// Brings maps and interfaces to a plan: entries first, all of them at once for every packet, then programs.
    ///
    /// # Errors
    ///
    /// As for [`Self::prepare`]; then the plan of before is still in force, whole. An interface that cannot be guarded
    /// is no error of the whole: it is in [`Changes::failed`].
    pub fn apply(&mut self, plan: impl Into<Arc<Plan>>) -> Result<Changes, Error> {
        let plan = plan.into();
        let old = Arc::clone(self.sides.plan());
        let first = !self.is_pinned;
        if !self.sides.relock(&plan)? {
            self.prepare(&plan)?;
            self.sides.swap(&plan)?;
        }
        let carrier = self.carry(&plan)?;
        let mut changes = Changes::default();
        for index in self.guards.keys().copied().collect::<Vec<_>>() {
            let still = plan.ports.get(&index) == old.ports.get(&index);
            if !still && let Some(guard) = self.guards.remove(&index) {
                guard.forget(&self.pins);
                changes.gone.push(guard.interface);
            }
        }
        let is_wanted = |index: &u32, port: &layout::PortEntry| {
            port.kind != layout::PortKind::Uplink as u8 && !self.guards.contains_key(index)
        };
        let wanted = plan.ports.iter().filter(|(index, port)| is_wanted(index, port));
        let wanted: Vec<_> = wanted.map(|(index, port)| (*index, *port)).collect();
        let can_wait = first && wanted.len() <= LINKED_AT_START;
        let who = if can_wait { Waits::Nobody } else { Waits::Somebody };
        let mut attach = || attach::guard(&mut self.ebpf, &self.pins, self.tc, who, &wanted);
        let (guards, refused) = match carrier {
            Some(carrier) => carrier.accompany(attach),
            None => attach(),
        };
        changes.guarded = guards.values().map(|guard| guard.interface.clone()).collect();
        self.guards.extend(guards);
        for (index, port) in wanted {
            let Some(reason) = refused.get(&index) else { continue };
            changes.failed.push(Failed {
                interface: layout::read_name(&port.name).to_owned(),
                is_bridge: port.kind == layout::PortKind::Bridge as u8,
                reason: reason.to_string(),
            });
        }
        if first && !changes.failed.iter().any(|failed| failed.is_bridge) {
            self.remove_strangers(&plan);
        }
        if first {
            self.pins.pin_policy(&mut self.ebpf, self.sides.maps())?;
            self.is_pinned = true;
        }
        Ok(changes)
    }

    /// Carries the flows of an earlier table to this load's, which takes its place from here on.
    fn carry(&mut self, plan: &Plan) -> Result<Option<Carrier>, Error> {
        let Some(left) = self.left.take() else { return Ok(None) };
        let Some(Map::Array(map)) = self.ebpf.map(layout::FLOWS) else {
            return Err(Error::Object(layout::FLOWS));
        };
        let carrier = left.carry_to(map, plan)?;
        self.pins.pin_map(layout::FLOWS, map)?;
        Ok(Some(carrier))
    }

    /// True if the maps are as large as the plan wants them. Not larger either: the size of `FLOWS` and the number of
    /// slots say what each slot's share is.
    #[must_use]
    pub fn holds(&self, plan: &Plan) -> bool {
        self.sizes == (plan.flow_entries, plan.slot_entries)
    }

    /// Takes the programs off interfaces that an earlier policy guarded and this one does not name, and off hooks where an
    /// earlier version had them.
    fn remove_strangers(&self, plan: &Plan) {
        let is_wanted = |interface: &str, hook: Hook| {
            let mut ports = plan.ports.values();
            ports.any(|port| {
                layout::read_name(&port.name) == interface
                    && attach::hooks_of(port).any(|it| it == hook)
            })
        };
        // Filters bear the interface's number: of one that was renamed they are strangers too.
        for filter in self.pins.filters().unwrap_or_default() {
            if !plan.ports.contains_key(&filter.ifindex) {
                let _ = filter::detach(self.pins.instance(), filter.ifindex, filter.hook);
            }
        }
        for (interface, hook) in self.pins.pinned_links() {
            if !is_wanted(&interface, hook) {
                // What stays is a program that guards more than was asked for.
                let _ = pins::remove_pin(&self.pins.link(&interface, hook));
            }
        }
    }

    /// The ports, by interface number, that their bridge must keep from each other.
    #[must_use]
    pub fn isolated(&self) -> &[u32] {
        &self.sides.plan().isolated
    }

    /// Undoes a start that failed halfway: detaches what this process attached freshly, and removes
    /// the pins of an instance that guards nothing.
    pub fn roll_back(&mut self) {
        for guard in std::mem::take(&mut self.guards).into_values() {
            guard.roll_back(&self.pins);
        }
        self.pins.remove_if_idle();
    }

    /// The maps that another process writes and reads without any privilege.
    ///
    /// # Errors
    ///
    /// The object lacks one, or there is no descriptor left.
    pub fn shared(&self) -> Result<Shared<OwnedFd>, Error> {
        Ok(Shared {
            pins: self.descriptor(layout::PINS)?,
            drops: self.descriptor(layout::DROPS)?,
            counters: drop_counters::open_to_read(&self.pins)?,
        })
    }

    fn descriptor(&self, name: &'static str) -> Result<OwnedFd, Error> {
        let Some(Map::HashMap(map) | Map::RingBuf(map)) = self.ebpf.map(name) else {
            return Err(Error::Object(name));
        };
        let copied = map.fd().as_fd().try_clone_to_owned();
        copied.map_err(|source| Error::map(name, MapError::IoError(source)))
    }
}

/// What the process that answers guests has of the kernel: the addresses that it pins, and the records of drops. What was
/// counted of drops it may read.
pub struct Shared<T> {
    /// `PINS`, with what an earlier process has left in it.
    pub pins: T,
    /// `DROPS`, which has one reader.
    pub drops: T,
    /// `COUNTERS`, to read.
    pub counters: T,
}

impl Shared<OwnedFd> {
    /// Makes use of descriptors that [`Datapath::shared`] has given to another process, on a host with so many
    /// [`processors`].
    ///
    /// # Errors
    ///
    /// They are not those of such maps.
    pub fn open(self, processors: usize) -> Result<(PinWriter, DropStream, DropCounters), Error> {
        let pins = of_descriptor(layout::PINS, self.pins)?;
        let ring = of_descriptor(layout::DROPS, self.drops)?;
        let counters = DropCounters::new(self.counters, processors);
        Ok((PinWriter::new(pins), DropStream { ring }, counters))
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

impl std::os::fd::AsRawFd for DropStream {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.ring.as_raw_fd()
    }
}
