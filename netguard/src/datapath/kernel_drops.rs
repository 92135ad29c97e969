//! The kernel's own drops of packets of an instance's slots: an object of its own at the tracepoint kfree_skb, which looks
//! into the instance's pinned policy maps and changes nothing. It goes with the process that has loaded it.

use std::os::fd::{AsRawFd, RawFd};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, Map, MapData, PerCpuArray, RingBuf},
    programs::RawTracePoint,
};
use netguard_common::{
    SlotId,
    kernel_drop::{
        KERNEL_DROPS, KFREE_SKB, KernelDrop, SKB_LAYOUT, SKB_LAYOUT_WORDS, SkbLayout, TOLD, Told,
    },
    maps as layout,
};

use super::{Error, PinDirectory, namespace};

static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/netguard-kernel-drops"));
const TRACEPOINT: &str = "kfree_skb";
const LOST: &str = "LOST";

/// Records as they come, as long as this lives.
pub struct KernelDrops {
    /// Holds the program at its tracepoint.
    _ebpf: Ebpf,
    ring: RingBuf<MapData>,
    told: PerCpuArray<MapData, Told>,
    lost: PerCpuArray<MapData, u64>,
}

impl KernelDrops {
    /// Begins to look, in the network namespace of this thread.
    ///
    /// # Errors
    ///
    /// The instance has no policy in the kernel, or the kernel lends no program a look at its memory (lockdown).
    pub fn attach(pins: &PinDirectory, mut skb: SkbLayout) -> Result<Self, Error> {
        let own = || Some(namespace::own().ok()?.strip_prefix("net:[")?.strip_suffix(']')?.parse());
        skb.namespace = own().and_then(Result::ok).unwrap_or_default();
        let mut loader = EbpfLoader::new();
        for name in [layout::ACTIVE, layout::PORTS, layout::PLACES] {
            let pin = pins.map(name);
            // The loader would make what is not there.
            std::fs::metadata(&pin).map_err(|error| Error::pin("open", &pin, error))?;
            loader.map_pin_path(name, pin);
        }
        let mut ebpf = loader.load(OBJECT).map_err(Error::load)?;
        let mut words: Array<_, [u32; SKB_LAYOUT_WORDS]> = take(&mut ebpf, SKB_LAYOUT)?;
        words.set(0, skb.words(), 0).map_err(|source| Error::map(SKB_LAYOUT, source))?;
        let (ring, told) = (take(&mut ebpf, KERNEL_DROPS)?, take(&mut ebpf, TOLD)?);
        let lost = take(&mut ebpf, LOST)?;
        let program = ebpf.program_mut(KFREE_SKB).ok_or(Error::Object(KFREE_SKB))?;
        let program: &mut RawTracePoint =
            program.try_into().map_err(|source| Error::program(KFREE_SKB, source))?;
        program.load().map_err(|source| Error::program(KFREE_SKB, source))?;
        program.attach(TRACEPOINT).map_err(|source| Error::program(KFREE_SKB, source))?;
        Ok(Self { _ebpf: ebpf, ring, told, lost })
    }

    /// The next record that is ready, without waiting.
    pub fn next_ready(&mut self) -> Option<KernelDrop> {
        while let Some(item) = self.ring.next() {
            if let Some(record) = KernelDrop::from_bytes(&item) {
                return Some(record);
            }
        }
        None
    }

    /// How many packets of a slot were only counted, because it had too many within a second.
    ///
    /// # Errors
    ///
    /// The map cannot be read.
    pub fn only_counted(&self, slot: SlotId) -> Result<u64, Error> {
        let told = self.told.get(&u32::from(slot), 0);
        let told = told.map_err(|source| Error::map(TOLD, source))?;
        Ok(told.iter().map(|[_, _, counted]| counted).sum())
    }

    /// How many records found no room.
    ///
    /// # Errors
    ///
    /// The map cannot be read.
    pub fn lost(&self) -> Result<u64, Error> {
        let lost = self.lost.get(&0, 0).map_err(|source| Error::map(LOST, source))?;
        Ok(lost.iter().sum())
    }
}

impl AsRawFd for KernelDrops {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

fn take<T: TryFrom<Map, Error = aya::maps::MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<T, Error> {
    let map = ebpf.take_map(name).ok_or(Error::Object(name))?;
    T::try_from(map).map_err(|source| Error::map(name, source))
}
