//! What `netguard doctor --watch` hears of the kernel's own drops: the record, and where the kernel keeps what is read
//! for it, which differs from kernel to kernel.

use crate::SlotId;

/// How many bytes of the packet a record carries, from the IP header on.
pub const NETWORK_CAPTURE: usize = 80;

/// How many records a slot gets on one processor within a second; more are counted and not told.
pub const RECORDS_A_SECOND: u64 = 64;

/// The map with the words of a [`SkbLayout`].
pub const SKB_LAYOUT: &str = "SKB_LAYOUT";
/// The ring buffer of [`KernelDrop`]s.
pub const KERNEL_DROPS: &str = "KERNEL_DROPS";
/// [`Told`] by processor, by slot.
pub const TOLD: &str = "TOLD";
/// The program.
pub const KFREE_SKB: &str = "ng_kfree_skb";

/// Offsets in bytes, as the running kernel's BTF has them, and the network namespace that is watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SkbLayout {
    /// `sk_buff.dev`
    pub skb_dev: u32,
    /// `sk_buff.skb_iif`
    pub skb_iif: u32,
    /// `sk_buff.sk`
    pub skb_sk: u32,
    /// `sk_buff.head`
    pub skb_head: u32,
    /// `sk_buff.network_header`
    pub skb_network_header: u32,
    /// `sk_buff.protocol`
    pub skb_protocol: u32,
    /// `sk_buff.len`
    pub skb_len: u32,
    /// `net_device.ifindex`
    pub dev_ifindex: u32,
    /// `net_device.nd_net.net`
    pub dev_net: u32,
    /// `sock.__sk_common.skc_net.net`
    pub sk_net: u32,
    /// `net.ns.inum`
    pub net_inum: u32,
    /// The number of the namespace (`net:[4026531840]`).
    pub namespace: u32,
}

/// How many words a [`SkbLayout`] has.
pub const SKB_LAYOUT_WORDS: usize = 12;
const _: () = assert!(size_of::<SkbLayout>() == SKB_LAYOUT_WORDS * 4);

impl SkbLayout {
    /// In the order of the fields.
    #[must_use]
    pub const fn words(self) -> [u32; SKB_LAYOUT_WORDS] {
        [
            self.skb_dev,
            self.skb_iif,
            self.skb_sk,
            self.skb_head,
            self.skb_network_header,
            self.skb_protocol,
            self.skb_len,
            self.dev_ifindex,
            self.dev_net,
            self.sk_net,
            self.net_inum,
            self.namespace,
        ]
    }
}

/// What one processor has told of a slot: the second, how many records of it, and how many were only counted since the
/// beginning.
pub type Told = [u64; 3];

/// A packet that the kernel dropped.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct KernelDrop {
    /// `CLOCK_MONOTONIC` in nanoseconds.
    pub time_ns: u64,
    /// The address in the kernel's code.
    pub location: u64,
    /// A number of the kernel's `enum skb_drop_reason`.
    pub reason: u32,
    /// The interface that the packet was on; 0 if on none of the namespace.
    pub ifindex: u32,
    /// The packet's length in bytes, as far as the kernel had it in hand.
    pub length: u32,
    /// The slot, or [`crate::NO_SLOT`] on a bridge of several whose addresses the packet does not have.
    pub slot_id: SlotId,
    /// The ether type, in network order.
    pub ether_type_be: u16,
    /// A [`crate::Direction`] as a number; another one if that is not known.
    pub direction: u8,
    /// 1 if `packet` holds the packet's first bytes.
    pub captured: u8,
    /// Zero.
    pub _reserved: [u8; 6],
    /// What stands from the IP header on, and behind a shorter packet what stood in memory there.
    pub packet: [u8; NETWORK_CAPTURE],
}
const _: () = assert!(size_of::<KernelDrop>() == 40 + NETWORK_CAPTURE);

/// [`KernelDrop::direction`] where it is not known.
pub const NO_DIRECTION: u8 = u8::MAX;

impl KernelDrop {
    /// Reads a record from the ring buffer's bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != size_of::<Self>() {
            return None;
        }
        // SAFETY: the length was checked above, the type is plain old data without padding and valid for every bit
        // pattern, and `read_unaligned` demands no alignment.
        Some(unsafe { bytes.as_ptr().cast::<Self>().read_unaligned() })
    }
}
