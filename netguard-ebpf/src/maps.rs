//! The maps of the programs: declarations only. Meanings and layouts: `netguard_common`, whose constants
//! name these statics.
//!
//! Sizes here are upper bounds of what one host needs; the loader sets those of `FLOWS`, what stands beside it, `SLOTS` and `NAMES`.
//! What is allocated ahead are the arrays, about 50 MB with the default number of flows, and 16 MiB for the buckets of `PINS`.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf},
    macros::btf_map,
};
use netguard_common::{
    MAX_SLOT_ID,
    dns_denial::{DENIALS_BYTES, DnsDenial},
    flow::{Bucket, FRAGMENTS_PER_SLOT, Fragment, WAYS, flow_entries},
    maps::{
        CounterKey, DNS_FLOWS_MAX, DnsFlow, DnsFlowKey, DropCounter, PINS_MAX, Passed, PlaceEntry,
        PlaceKey, PortEntry, PortKey, RuleKey, SIDES, ServiceEntry, ServiceKey, Side, SlotEntry,
        Spent, UPLINKS_MAX, UplinkEntry,
    },
    names::NameKey,
    pin::{PinEntry, PinKey},
    record::{DropRecord, RING_BYTES},
    translation::{ELSEWHERE_MAX, Outside, PORT_WORDS, nat_entries},
};

/// Allocate entries when they come, not at load: most hosts use a small part.
const ON_DEMAND: usize = BPF_F_NO_PREALLOC as usize;

/// The daemon reads and writes entries as the programs do, word by word: when it carries them to another table, or counts with them.
const SHARED: usize = BPF_F_MMAPABLE as usize;

const SLOTS_MAX: usize = MAX_SLOT_ID as usize;
const FLOWS_DEFAULT: u32 = 100_000;
/// A power of two.
pub const UPLINK_FRAGMENTS_MAX: usize = 1024;
const NAMES_DEFAULT: usize = 1 << 12;

/// Policy maps have room for two policies.
const BOTH: usize = SIDES.len();

#[btf_map]
pub static ACTIVE: Array<Side, 1> = Array::new();

#[btf_map]
pub static PORTS: HashMap<PortKey, PortEntry, { SLOTS_MAX * 4 * BOTH }, ON_DEMAND> = HashMap::new();

#[btf_map]
pub static UPLINKS: HashMap<PortKey, UplinkEntry, { UPLINKS_MAX * BOTH }, ON_DEMAND> =
    HashMap::new();

#[btf_map]
pub static SLOTS: Array<SlotEntry, { (SLOTS_MAX + 1) * BOTH }> = Array::new();

#[btf_map]
pub static PLACES: LpmTrie<PlaceKey, PlaceEntry, { SLOTS_MAX * 8 * BOTH }> = LpmTrie::new();

#[btf_map]
pub static RULES: LpmTrie<RuleKey, u32, { (1 << 20) * BOTH }> = LpmTrie::new();

#[btf_map]
pub static SERVICES: LpmTrie<ServiceKey, ServiceEntry, { (1 << 20) * BOTH }> = LpmTrie::new();

#[btf_map]
pub static NAMES: HashMap<NameKey, u32, NAMES_DEFAULT, ON_DEMAND> = HashMap::new();

#[btf_map]
pub static PASSED: PerCpuArray<Passed, { SLOTS_MAX + 1 }> = PerCpuArray::new();

#[btf_map]
pub static COUNTERS: PerCpuHashMap<CounterKey, DropCounter, { SLOTS_MAX * 64 }, ON_DEMAND> =
    PerCpuHashMap::new();

#[btf_map]
pub static FLOWS: Array<Bucket, { (flow_entries(FLOWS_DEFAULT) / WAYS) as usize }, SHARED> =
    Array::new();

#[btf_map]
pub static NAT: Array<u64, { nat_entries(flow_entries(FLOWS_DEFAULT)) as usize }, SHARED> =
    Array::new();

#[btf_map]
pub static ELSEWHERE: LruHashMap<Outside, u32, { ELSEWHERE_MAX as usize }> = LruHashMap::new();

#[btf_map]
pub static ELSEWHERE_PORTS: Array<u64, { PORT_WORDS as usize }> = Array::new();

/// Packets in fragments that have come by an uplink, of all slots.
#[btf_map]
pub static UPLINK_FRAGMENTS: Array<Fragment, UPLINK_FRAGMENTS_MAX> = Array::new();

#[btf_map]
pub static FRAGMENTS: Array<Fragment, { (SLOTS_MAX + 1) * 2 * FRAGMENTS_PER_SLOT as usize }> =
    Array::new();

#[btf_map]
pub static SPENT: Array<Spent, { SLOTS_MAX + 1 }> = Array::new();

#[btf_map]
pub static ASKED: Array<u64, { SLOTS_MAX + 1 }, SHARED> = Array::new();

#[btf_map]
pub static DNS_FLOWS: HashMap<DnsFlowKey, DnsFlow, { DNS_FLOWS_MAX as usize }, ON_DEMAND> =
    HashMap::new();

#[btf_map]
pub static PINS: HashMap<PinKey, PinEntry, { PINS_MAX as usize }, ON_DEMAND> = HashMap::new();

#[btf_map]
pub static DROPS: RingBuf<DropRecord, RING_BYTES> = RingBuf::new();

#[btf_map]
pub static DENIALS: RingBuf<DnsDenial, DENIALS_BYTES> = RingBuf::new();

#[btf_map]
pub static RECORDS_LOST: PerCpuArray<u64, 1> = PerCpuArray::new();
