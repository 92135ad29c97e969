//! The maps of the programs: declarations only. Meanings and layouts: `netguard_common::maps`,
//! whose constants name these statics.
//!
//! Sizes here are upper bounds of what one host needs; none of the big ones is allocated ahead.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf},
    macros::btf_map,
};
use netguard_common::{
    MAX_SLOT_ID, SlotId,
    maps::{
        Counter, CounterKey, DNS_FLOWS_MAX, DnsFlow, DnsFlowKey, FLOWS_MAX, Flow, FlowKey,
        PlaceEntry, PortEntry, SlotEntry,
    },
    record::DropRecord,
};

/// Allocate entries when they come, not at load: most hosts use a small part.
const ON_DEMAND: usize = BPF_F_NO_PREALLOC as usize;

const SLOTS_MAX: usize = MAX_SLOT_ID as usize;

#[btf_map]
pub static PORTS: HashMap<u32, PortEntry, { SLOTS_MAX * 4 }, ON_DEMAND> = HashMap::new();

#[btf_map]
pub static SLOTS: HashMap<SlotId, SlotEntry, SLOTS_MAX, ON_DEMAND> = HashMap::new();

#[btf_map]
pub static PLACES: LpmTrie<[u8; 16], PlaceEntry, { SLOTS_MAX * 8 }> = LpmTrie::new();

#[btf_map]
pub static COUNTERS: PerCpuHashMap<CounterKey, Counter, { SLOTS_MAX * 64 }, ON_DEMAND> =
    PerCpuHashMap::new();

#[btf_map]
pub static FLOWS: LruHashMap<FlowKey, Flow, { FLOWS_MAX as usize }> = LruHashMap::new();

#[btf_map]
pub static DNS_FLOWS: HashMap<DnsFlowKey, DnsFlow, { DNS_FLOWS_MAX as usize }, ON_DEMAND> =
    HashMap::new();

#[btf_map]
pub static DROPS: RingBuf<DropRecord, { 1 << 20 }> = RingBuf::new();

#[btf_map]
pub static RECORDS_LOST: PerCpuArray<u64, 1> = PerCpuArray::new();
