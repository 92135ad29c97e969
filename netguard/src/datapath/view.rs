//! What the kernel holds, read back from the pins: works with or without a running daemon.

use std::{collections::BTreeMap, os::fd::OwnedFd, time::Duration};

use aya::{
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuHashMap},
    programs::ProgramInfo,
    sys::{Stats, enable_stats},
};
use netguard_common::{
    Direction, Hook, SlotId,
    maps::{
        self as layout, Counter, CounterKey, DropCounter, OUTCOME_ANSWER, OUTCOME_PASS,
        OUTCOME_REDIRECT, Passed, PortEntry, PortKey, SIDES, Side, SlotEntry, passed_index,
    },
    pin::{PinEntry, PinKey},
};

use super::{Error, device, flow_table, maps::Wire, pin_map, pins::PinDirectory};

/// A snapshot of one instance.
pub struct View {
    /// The slots by number.
    pub slots: BTreeMap<SlotId, SlotEntry>,
    /// The guarded interfaces by number.
    pub ports: BTreeMap<u32, PortEntry>,
    /// What became of packets, summed over CPUs.
    pub counters: Vec<CounterRow>,
    /// The pinned programs.
    pub programs: Vec<ProgramRow>,
    /// What holds programs on interfaces: pinned links and filters.
    pub links: Vec<LinkRow>,
    /// Drops whose record found the ring buffer full.
    pub records_lost: u64,
    /// How many flows each slot has, where it has some; none if the table is too large to count.
    pub flows: Option<BTreeMap<SlotId, u64>>,
}

/// What holds one program on an interface: a pinned link or a filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkRow {
    /// The interface that the pin is named after, or that the filter is on.
    pub interface: String,
    /// The program.
    pub program: String,
    /// The number of the interface that it is on; 0 if that is gone.
    pub ifindex: u32,
}

/// One counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CounterRow {
    /// The slot, or [`netguard_common::NO_SLOT`].
    pub slot_id: SlotId,
    /// Which way.
    pub direction: Direction,
    /// What became of the packets.
    pub outcome: layout::Outcome,
    /// How many.
    pub counter: Counter,
}

/// One program as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramRow {
    /// Its name.
    pub name: String,
    /// The kernel's number for it.
    pub id: u32,
    /// The kernel's fingerprint of its instructions.
    pub tag: String,
    /// How many instructions the verifier walked.
    pub verified_instructions: Option<u32>,
    /// How often it ran while the kernel measured.
    pub runs: u64,
    /// For how long, all runs together.
    pub run_time: Duration,
}

impl ProgramRow {
    pub(super) fn new(hook: Hook, info: &ProgramInfo) -> Self {
        Self {
            name: hook.program().to_owned(),
            id: info.id(),
            tag: format!("{:016x}", info.tag().to_be()),
            verified_instructions: info.verified_instruction_count(),
            runs: info.run_count(),
            run_time: info.run_time(),
        }
    }
}

/// Has the kernel measure how often and how long programs run, all that there are, as long as what is returned lives. None
/// if this process may not (CAP_SYS_ADMIN).
#[must_use]
pub fn measure_programs() -> Option<OwnedFd> {
    enable_stats(Stats::RunTime).ok()
}

impl View {
    /// Reads an instance's pins.
    ///
    /// # Errors
    ///
    /// The instance has no pins, or this process may not read them.
    pub fn open(pins: &PinDirectory) -> Result<Self, Error> {
        let (slots, ports) = of_active(pins, |side| Ok((slots(pins, side)?, ports(pins, side)?)))?;
        let counters = counters(pins, slots.keys().copied())?;
        Ok(Self {
            slots,
            ports,
            counters,
            programs: programs(pins),
            links: held(pins)?,
            records_lost: records_lost(pins)?,
            flows: flow_table::living(pins)?,
        })
    }
}

/// The addresses that are pinned for an instance's slots.
pub struct PinnedAddresses {
    /// The slots by number.
    pub slots: BTreeMap<SlotId, SlotEntry>,
    /// By slot and address; also what is over and not yet removed.
    pub entries: Vec<(PinKey, PinEntry)>,
}

impl PinnedAddresses {
    /// Reads an instance's pins.
    ///
    /// # Errors
    ///
    /// The instance has no pins, or this process may not read them.
    pub fn open(pins: &PinDirectory) -> Result<Self, Error> {
        let map = open(pins, layout::PINS)?;
        let slots = slots_in_force(pins)?;
        Ok(Self { slots, entries: pin_map::entries(&map)? })
    }
}

/// Opens a pinned map.
pub(super) fn open<T>(pins: &PinDirectory, name: &'static str) -> Result<T, Error>
where
    T: TryFrom<Map, Error = MapError>,
{
    MapData::from_pin(pins.map(name))
        .and_then(Map::from_map_data)
        .and_then(T::try_from)
        .map_err(|source| Error::map(name, source))
}

fn entries<K, V>(pins: &PinDirectory, name: &'static str) -> Result<BTreeMap<K, V>, Error>
where
    K: layout::Layout + Ord,
    V: layout::Layout,
{
    let map: HashMap<MapData, Wire<K>, Wire<V>> = open(pins, name)?;
    map.iter()
        .map(|entry| entry.map(|(key, value)| (key.0, value.0)))
        .collect::<Result<_, _>>()
        .map_err(|source| Error::map(name, source))
}

/// What became of the packets of some slots, and of those without one.
///
/// # Errors
///
/// The instance has no pins, or this process may not read them.
pub fn counters(
    pins: &PinDirectory,
    slots: impl Iterator<Item = SlotId>,
) -> Result<Vec<CounterRow>, Error> {
    let mut rows = passed(pins, slots)?;
    rows.extend(dropped(pins)?);
    rows.sort_by_key(|row| (row.slot_id, row.direction, row.outcome));
    Ok(rows)
}

/// How often the policy is read again if another one has come into force meanwhile.
const LOOKS: u32 = 3;

/// Reads something of the side that counts. The daemon may write to the one that counted a moment ago, so what was read
/// of that is read again.
fn of_active<T>(pins: &PinDirectory, read: impl Fn(Side) -> Result<T, Error>) -> Result<T, Error> {
    let map: Array<MapData, Wire<Side>> = open(pins, layout::ACTIVE)?;
    let active = || {
        let side = map.get(&0, 0).map_err(|source| Error::map(layout::ACTIVE, source))?;
        Ok(side.0)
    };
    let mut side = active()?;
    let mut found = read(side)?;
    for _ in 1..LOOKS {
        let now = active()?;
        if now == side {
            break;
        }
        side = now;
        found = read(side)?;
    }
    Ok(found)
}

fn ports(pins: &PinDirectory, side: Side) -> Result<BTreeMap<u32, PortEntry>, Error> {
    let entries = entries::<PortKey, PortEntry>(pins, layout::PORTS)?.into_iter();
    let of_side = entries.filter(|(key, _)| key.side == side);
    Ok(of_side.map(|(key, entry)| (key.ifindex, entry)).collect())
}

/// The slots of the policy in force.
pub(super) fn slots_in_force(pins: &PinDirectory) -> Result<BTreeMap<SlotId, SlotEntry>, Error> {
    of_active(pins, |side| slots(pins, side))
}

fn slots(pins: &PinDirectory, side: Side) -> Result<BTreeMap<SlotId, SlotEntry>, Error> {
    let map: Array<MapData, Wire<SlotEntry>> = open(pins, layout::SLOTS)?;
    let mut slots = BTreeMap::new();
    let ids = map.len() / SIDES.len() as u32;
    for id in (0..=SlotId::MAX).take_while(|id| u32::from(*id) < ids) {
        let entry = map.get(&layout::slot_index(side, id), 0);
        let Wire(entry) = entry.map_err(|source| Error::map(layout::SLOTS, source))?;
        if entry.flags & layout::slot_flags::PRESENT != 0 {
            slots.insert(id, entry);
        }
    }
    Ok(slots)
}

fn sum(per_cpu: impl Iterator<Item = Counter>) -> Counter {
    per_cpu.fold(Counter::default(), |sum, one| Counter {
        packets: sum.packets + one.packets,
        bytes: sum.bytes + one.bytes,
    })
}

/// What passed, of the slots that there are.
fn passed(
    pins: &PinDirectory,
    slots: impl Iterator<Item = SlotId>,
) -> Result<Vec<CounterRow>, Error> {
    let map: PerCpuArray<MapData, Wire<Passed>> = open(pins, layout::PASSED)?;
    let ways = [
        (Direction::Egress, OUTCOME_PASS),
        (Direction::Ingress, OUTCOME_PASS),
        (Direction::Egress, OUTCOME_REDIRECT),
        (Direction::Egress, OUTCOME_ANSWER),
    ];
    let mut rows = Vec::new();
    for slot_id in slots {
        let values = map.get(&u32::from(slot_id), 0);
        let values = values.map_err(|source| Error::map(layout::PASSED, source))?;
        for (direction, outcome) in ways {
            let Some(index) = passed_index(direction, outcome) else { continue };
            let counter = sum(values.iter().map(|Wire(passed)| passed[index]));
            if counter.packets > 0 {
                rows.push(CounterRow { slot_id, direction, outcome, counter });
            }
        }
    }
    Ok(rows)
}

fn dropped(pins: &PinDirectory) -> Result<Vec<CounterRow>, Error> {
    let map: PerCpuHashMap<MapData, Wire<CounterKey>, Wire<DropCounter>> =
        open(pins, layout::COUNTERS)?;
    let mut rows = Vec::new();
    for entry in map.iter() {
        let (Wire(key), per_cpu) = entry.map_err(|source| Error::map(layout::COUNTERS, source))?;
        let Some(direction) = Direction::from_raw(key.direction) else {
            continue; // written by another version: not ours to name
        };
        let counter = sum(per_cpu.iter().map(|Wire(one)| one.counter));
        rows.push(CounterRow { slot_id: key.slot_id, direction, outcome: key.outcome, counter });
    }
    Ok(rows)
}

fn records_lost(pins: &PinDirectory) -> Result<u64, Error> {
    let map: PerCpuArray<MapData, Wire<u64>> = open(pins, layout::RECORDS_LOST)?;
    let per_cpu = map.get(&0, 0).map_err(|source| Error::map(layout::RECORDS_LOST, source))?;
    Ok(per_cpu.iter().map(|Wire(lost)| lost).sum())
}

/// What holds an instance's programs on interfaces; nothing where it has no pins.
///
/// # Errors
///
/// This process may not read them.
pub fn held(pins: &PinDirectory) -> Result<Vec<LinkRow>, Error> {
    let row = |interface, hook: Hook, ifindex| LinkRow {
        interface,
        program: hook.program().to_owned(),
        ifindex,
    };
    let pinned = pins.pinned_links().into_iter().filter_map(|(interface, hook)| {
        let ifindex = device::ifindex_of(&pins.link(&interface, hook)).ok()??;
        Some(row(interface, hook, ifindex))
    });
    let filters = pins.filters()?;
    let filters = filters.into_iter().map(|it| row(it.interface, it.hook, it.ifindex));
    let mut rows: Vec<_> = pinned.chain(filters).collect();
    rows.sort_by(|one, other| {
        (&one.interface, &one.program).cmp(&(&other.interface, &other.program))
    });
    Ok(rows)
}

fn programs(pins: &PinDirectory) -> Vec<ProgramRow> {
    Hook::ALL
        .iter()
        .filter_map(|hook| {
            let info = ProgramInfo::from_pin(pins.program(*hook)).ok()?;
            Some(ProgramRow::new(*hook, &info))
        })
        .collect()
}
