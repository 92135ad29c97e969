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
mod mapped;
mod maps;
mod names;
mod namespace;
mod others;
mod pin_map;
mod pins;
mod probe;
mod shared;
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
    maps::{Map, MapError},
};
use netguard_common::{
    Hook,
    flow::WAYS,
    maps::{self as layout, PortEntry, PortKind},
    translation::nat_entries,
};

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
pub use shared::{AskedMeters, DenialStream, DropStream, Opened, Shared};
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

/// The table of flows, and what leads to them.
const OF_FLOWS: [&str; 2] = [layout::FLOWS, layout::NAT];

/// The loaded programs of one instance, and the plans that its maps hold.
pub struct Datapath {
    ebpf: Ebpf,
    pins: PinDirectory,
    tc: Tc,
    sides: Sides,
    /// How many entries the buckets of `FLOWS`, `SLOTS` and `NAMES` have.
    sizes: (u32, u32, u32),
    /// The kernel's numbers of the programs.
    ids: BTreeMap<Hook, u32>,
    /// The table whose flows are not in `FLOWS` yet.
    left: Option<Left>,
    /// True when this load's policy maps and programs are pinned.
    is_pinned: bool,
    guards: BTreeMap<u32, Guard>,
    /// When the watch looks again.
    look_again: Instant,
    /// How often it has looked.
    looks: u32,
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
    /// What it is: a bridge, behind which nothing would be closed, a port, which stays closed, or an uplink, which then has no
    /// fast path.
    pub kind: PortKind,
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
        loader.map_max_entries(layout::FLOWS, plan.flow_entries / WAYS);
        loader.map_max_entries(layout::NAT, nat_entries(plan.flow_entries));
        loader.map_max_entries(layout::SLOTS, plan.slot_entries);
        loader.map_max_entries(layout::NAMES, plan.name_entries);
        // A table in the place of another is pinned when the flows of that one are in it.
        let is_adopted = |name: &&str| left.is_none() || !OF_FLOWS.contains(name);
        for name in layout::STATE_MAPS.into_iter().filter(is_adopted) {
            loader.map_pin_path(name, pins.map(name));
        }
        let mut ebpf = verify::load(&mut loader)?;
        let sides = Sides::new(PolicyMaps::take(&mut ebpf)?)?;
        let sizes = (plan.flow_entries, plan.slot_entries, plan.name_entries);
        let tc = Tc::of_kernel();
        Ok(Self {
            ids: watch::program_ids(&ebpf)?,
            ebpf,
            pins,
            tc,
            sides,
            sizes,
            left,
            is_pinned: false,
            guards: BTreeMap::new(),
            look_again: Instant::now(),
            looks: 0,
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
        let mut plan = plan.into();
        let old = Arc::clone(self.sides.plan());
        let first = !self.is_pinned;
        let mut changes = Changes::default();
        if !first {
            // Nothing leaves by the fast path before answers find the way back.
            let fast = self.unguarded(&plan, |port| port.kind == PortKind::FastUplink as u8);
            let refused = self.guard(Waits::Nobody, &fast, None, &mut changes);
            plan = without_fast(plan, &refused);
        }
        let is_changing = self.left.is_some();
        let now =
            if is_changing { Arc::new(Plan::clone(&plan).changing()) } else { Arc::clone(&plan) };
        if !self.sides.relock(&now)? {
            self.prepare(&now)?;
            self.sides.swap(&now)?;
        }
        let carrier = self.carry(&plan)?;
        for index in self.guards.keys().copied().collect::<Vec<_>>() {
            let still = plan.ports.get(&index) == old.ports.get(&index);
            if !still && let Some(guard) = self.guards.remove(&index) {
                guard.forget(&self.pins);
                changes.gone.push(guard.interface);
            }
        }
        let wanted = self.unguarded(&plan, |port| port.kind != PortKind::Uplink as u8);
        let can_wait = first && wanted.len() <= LINKED_AT_START;
        let who = if can_wait { Waits::Nobody } else { Waits::Somebody };
        let refused = self.guard(who, &wanted, carrier, &mut changes);
        let usable = without_fast(Arc::clone(&plan), &refused);
        // Does nothing where that counts already.
        self.sides.swap(&usable)?;
        if first && !changes.failed.iter().any(|failed| failed.kind == PortKind::Bridge) {
            self.remove_strangers(&plan);
        }
        if first {
            self.pins.pin_policy(&mut self.ebpf, self.sides.maps())?;
            self.is_pinned = true;
        }
        Ok(changes)
    }

    /// The interfaces of that kind that have no programs yet.
    fn unguarded(
        &self,
        plan: &Plan,
        is_wanted: impl Fn(&PortEntry) -> bool,
    ) -> Vec<(u32, PortEntry)> {
        let ports = plan.ports.iter().filter(|(index, _)| !self.guards.contains_key(index));
        ports.filter(|(_, port)| is_wanted(port)).map(|(index, port)| (*index, *port)).collect()
    }

    /// Attaches the programs of some interfaces. Returns those that could not be guarded, by number.
    fn guard(
        &mut self,
        who: Waits,
        wanted: &[(u32, PortEntry)],
        carrier: Option<Carrier>,
        changes: &mut Changes,
    ) -> Vec<u32> {
        let mut attach = || attach::guard(&mut self.ebpf, &self.pins, self.tc, who, wanted);
        let (guards, refused) = match carrier {
            Some(carrier) => carrier.accompany(attach),
            None => attach(),
        };
        changes.guarded.extend(guards.values().map(|guard| guard.interface.clone()));
        self.guards.extend(guards);
        for (index, port) in wanted {
            let Some(reason) = refused.get(index) else { continue };
            changes.failed.push(Failed {
                interface: layout::read_name(&port.name).to_owned(),
                kind: PortKind::from_raw(port.kind).unwrap_or(PortKind::Port),
                reason: reason.to_string(),
            });
        }
        refused.into_keys().collect()
    }

    /// Carries the flows of an earlier table to this load's, which takes its place from here on.
    fn carry(&mut self, plan: &Plan) -> Result<Option<Carrier>, Error> {
        let Some(left) = self.left.take() else { return Ok(None) };
        let map = |name| match self.ebpf.map(name) {
            Some(Map::Array(map)) => Ok(map),
            _ => Err(Error::Object(name)),
        };
        let tables = [map(layout::FLOWS)?, map(layout::NAT)?];
        let carrier = left.carry_to(tables, plan)?;
        for (name, map) in OF_FLOWS.into_iter().zip(tables) {
            self.pins.pin_map(name, map)?;
        }
        Ok(Some(carrier))
    }

    /// True if the maps are as large as the plan wants them. Not larger either: the size of `FLOWS` and the number of
    /// slots say what each slot's share is. Only of names there may be room for more.
    #[must_use]
    pub fn holds(&self, plan: &Plan) -> bool {
        let (flows, slots, names) = self.sizes;
        (flows, slots) == (plan.flow_entries, plan.slot_entries) && names >= plan.name_entries
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
            denials: self.descriptor(layout::DENIALS)?,
            asked: self.descriptor(layout::ASKED)?,
            counters: drop_counters::open_to_read(&self.pins)?,
        })
    }

    fn descriptor(&self, name: &'static str) -> Result<OwnedFd, Error> {
        let Some(Map::HashMap(map) | Map::RingBuf(map) | Map::Array(map)) = self.ebpf.map(name)
        else {
            return Err(Error::Object(name));
        };
        let copied = map.fd().as_fd().try_clone_to_owned();
        copied.map_err(|source| Error::map(name, MapError::IoError(source)))
    }
}

/// A plan without a fast path by interfaces that could not be guarded: what leaves there would have no answer.
fn without_fast(plan: Arc<Plan>, refused: &[u32]) -> Arc<Plan> {
    if !refused.iter().any(|index| plan.uplinks.contains_key(index)) {
        return plan;
    }
    Arc::new(Plan::clone(&plan).without_fast(refused.iter().copied()))
}
