//! Who vouches for a frame on its way through a bridge: the skb's mark between two of our programs.
//!
//! A guest cannot set the mark: it is zero on everything that arrives from a TAP and cleared on
//! everything that crosses into another network namespace. Each path sets it where it enters a bridge
//! and clears it where it leaves, so the host's own rules on marks see it only where br_netfilter hands
//! them bridged frames (`bridge-nf-call-iptables`), which the daemon warns of.

use aya_ebpf::programs::TcContext;
use netguard_common::{DropReason, SlotId};

use crate::{
    packet::{ICMPV6, IGMP, MLD_QUERY, Parsed},
    policy,
    report::Verdict,
    scratch,
};

/// What the mark says.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Provenance {
    /// No program has seen the frame.
    Unknown = 0,
    /// The program of a port, or of the bridge for the host's own packets, has let it go on.
    Guarded = u32::from_be_bytes(*b"ngrd"),
}

/// Stamps the frame.
#[inline(always)]
pub fn set(ctx: &TcContext, provenance: Provenance) {
    ctx.set_mark(provenance as u32);
}

/// True if a program of ours has let the frame onto this bridge, or if the bridge itself made it.
#[inline(always)]
pub fn is_vouched_for(ctx: &TcContext, slot_id: SlotId) -> bool {
    // SAFETY: the verifier allows reads of this context field.
    let mark = unsafe { (*ctx.skb.skb).mark };
    mark == Provenance::Guarded as u32 || is_bridges_own(ctx, slot_id)
}

/// The bridge's question: has a port's program let this frame through?
#[inline(always)]
pub fn check(ctx: &TcContext) -> (SlotId, Verdict) {
    policy::in_slot(ctx, |slot_id| {
        if is_vouched_for(ctx, slot_id) {
            Ok(Verdict::Continue)
        } else {
            Err(DropReason::UnguardedPort)
        }
    })
}

/// True for the questions about group membership that a bridge which snoops asks by itself: they
/// pass no program of the bridge on their way out, and the bridge hears them too.
#[inline(always)]
fn is_bridges_own(ctx: &TcContext, slot_id: SlotId) -> bool {
    const IGMP_QUERY: u8 = 0x11; // RFC 3376 section 4
    let Ok(Parsed::Ip(packet)) = scratch::parse(ctx) else {
        return false;
    };
    let is_query =
        matches!((packet.protocol, packet.icmp_type), (ICMPV6, MLD_QUERY) | (IGMP, IGMP_QUERY));
    is_query
        && packet.dst.is_multicast()
        && policy::slot(slot_id).is_some_and(|slot| slot.bridge_mac == packet.eth_src)
}
