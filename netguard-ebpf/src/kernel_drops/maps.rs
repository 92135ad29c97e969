//! The maps of this object. The first three are the instance's own, whose sizes count: the loader hands them in.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{Array, HashMap, LpmTrie, PerCpuArray, RingBuf},
    macros::btf_map,
};
use netguard_common::{
    MAX_SLOT_ID,
    kernel_drop::{KernelDrop, SkbLayout, Told},
    maps::{PlaceEntry, PlaceKey, PortEntry, PortKey, Side},
};

#[btf_map]
pub static ACTIVE: Array<Side, 1> = Array::new();

#[btf_map]
pub static PORTS: HashMap<PortKey, PortEntry, 1, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

#[btf_map]
pub static PLACES: LpmTrie<PlaceKey, PlaceEntry, 1> = LpmTrie::new();

#[btf_map]
pub static SKB_LAYOUT: Array<SkbLayout, 1> = Array::new();

#[btf_map]
pub static TOLD: PerCpuArray<Told, { MAX_SLOT_ID as usize + 1 }> = PerCpuArray::new();

#[btf_map]
pub static KERNEL_DROPS: RingBuf<KernelDrop, { 1 << 18 }> = RingBuf::new();

#[btf_map]
pub static LOST: PerCpuArray<u64, 1> = PerCpuArray::new();
