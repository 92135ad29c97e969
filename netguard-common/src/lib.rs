//! What the kernel programs and user space share: the names and layouts of the maps, where a flow stands in its own,
//! the records of drops and of denied queries, the registry of codes, and who vouches for a frame.
//!
//! Everything here is a fixed `repr(C)` layout or a number with a name. No logic but encoding and places, no
//! dependency, no allocation: `netguard-ebpf` and `netguard` must read and find the same bytes the same way.

#![no_std]

pub mod address;
pub mod dns_denial;
pub mod flow;
pub mod kernel_drop;
pub mod maps;
pub mod names;
pub mod pin;
pub mod reason;
pub mod record;
pub mod translation;

pub use address::Address;
pub use reason::{DropReason, EventKind};

/// Which way a packet goes, always seen from the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Direction {
    /// The packet leaves the slot.
    Egress = 0,
    /// The packet enters the slot.
    Ingress = 1,
}

impl Direction {
    /// Reads the number that a map or record holds.
    #[must_use]
    pub const fn from_raw(raw: u8) -> Option<Self> {
        match raw {
            0 => Some(Self::Egress),
            1 => Some(Self::Ingress),
            _ => None,
        }
    }

    /// The word that logs and tables print.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Egress => "egress",
            Self::Ingress => "ingress",
        }
    }
}

/// The hook at which a verdict was reached. One program sits at each; `name` is its program's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Hook {
    /// XDP on a port: the drop stage.
    Xdp = 0,
    /// TC ingress of a port, where packets leave the slot: the verdict stage.
    PortEgress = 1,
    /// TC egress of a port, where packets enter the slot.
    PortIngress = 2,
    /// TC ingress of a bridge, behind its ports: catches ports without a program.
    BridgeEgress = 3,
    /// TC egress of a bridge, where the host's packets set out for a slot.
    BridgeIngress = 4,
    /// TC ingress of an uplink, where answers to what left by the fast path come back.
    UplinkIngress = 5,
    /// TC egress of an uplink: what else leaves there, so that the fast path keeps out of its way.
    UplinkEgress = 6,
}

impl Hook {
    /// Every hook, in the order in which a packet meets them.
    pub const ALL: [Self; 7] = [
        Self::Xdp,
        Self::PortEgress,
        Self::BridgeEgress,
        Self::UplinkEgress,
        Self::UplinkIngress,
        Self::BridgeIngress,
        Self::PortIngress,
    ];

    /// Reads the number that a record holds.
    #[must_use]
    pub const fn from_raw(raw: u8) -> Option<Self> {
        match raw {
            0 => Some(Self::Xdp),
            1 => Some(Self::PortEgress),
            2 => Some(Self::PortIngress),
            3 => Some(Self::BridgeEgress),
            4 => Some(Self::BridgeIngress),
            5 => Some(Self::UplinkIngress),
            6 => Some(Self::UplinkEgress),
            _ => None,
        }
    }

    /// The name of the program at this hook, as `bpftool prog` prints it (at most 15 bytes).
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::Xdp => "ng_xdp",
            Self::PortEgress => "ng_port_egress",
            Self::PortIngress => "ng_port_ingress",
            Self::BridgeEgress => "ng_br_egress",
            Self::BridgeIngress => "ng_br_ingress",
            Self::UplinkIngress => "ng_up_ingress",
            Self::UplinkEgress => "ng_up_egress",
        }
    }
}

/// The number of a slot, 1 to 4096; 0 stands for "no slot" in counters and records.
pub type SlotId = u16;

/// The slot number of packets that no slot can be named for.
pub const NO_SLOT: SlotId = 0;

/// The largest slot number.
pub const MAX_SLOT_ID: SlotId = 4096;

/// The upper half of the mark of a frame that a program of ours has let onto a bridge.
const VOUCHED: u32 = 0x6e67_0000;

/// The mark of an answer to what was denied, on its way back by the port that it came by.
pub const DENIAL: u32 = 0x6e64_0000;

/// The upper half of the mark of a packet that takes the fast path, from its slot's port to the uplink.
const FAST: u32 = 0x6e66_0000;

/// The mark of a packet of that slot on the fast path.
#[must_use]
#[inline(always)]
pub const fn fast_path_of(slot_id: SlotId) -> u32 {
    FAST | slot_id as u32
}

/// True for such a mark.
#[must_use]
#[inline(always)]
pub const fn is_on_fast_path(mark: u32) -> bool {
    mark & 0xffff_0000 == FAST
}

/// Where a packet comes from that somebody only asks about: `__sk_buff.ingress_ifindex` of a dry run. The number of no interface.
pub const DRY_RUN_INTERFACE: u32 = u32::MAX;

/// The upper half of the mark that answers a dry run.
const ANSWERED: u32 = 0x4e47_0000;

/// The mark that tells whoever asks what would become of the packet.
#[must_use]
#[inline(always)]
pub const fn answer_of(outcome: maps::Outcome) -> u32 {
    ANSWERED | outcome as u32
}

/// What a dry run's mark answers; `None` if it is no answer.
#[must_use]
pub const fn answered(mark: u32) -> Option<maps::Outcome> {
    let outcome = mark & 0xff;
    if mark == ANSWERED | outcome { Some(outcome as maps::Outcome) } else { None }
}

/// The mark that says whose port a frame came through; [`NO_SLOT`] stands for the host itself.
#[must_use]
#[inline(always)]
pub const fn vouched_by(sender: SlotId) -> u32 {
    VOUCHED | sender as u32
}

/// Who vouches for a frame with that mark; `None` if nobody does.
#[must_use]
#[inline(always)]
pub const fn voucher(mark: u32) -> Option<SlotId> {
    let sender = mark & 0xffff;
    if mark == VOUCHED | sender && sender <= MAX_SLOT_ID as u32 {
        Some(sender as SlotId)
    } else {
        None
    }
}
