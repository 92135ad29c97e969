//! Who vouches for a frame on its way through a bridge: the skb's mark between two of our programs, which
//! names the slot that sent it, or the host.
//!
//! A guest cannot set the mark: it is zero on everything that arrives from a TAP and cleared on
//! everything that crosses into another network namespace. Each path sets it where it enters a bridge
//! and clears it where it leaves, so the host's own rules on marks see it only where br_netfilter hands
//! them bridged frames (`bridge-nf-call-iptables`), which the daemon warns of.

use aya_ebpf::programs::TcContext;
use netguard_common::{DropReason, NO_SLOT, SlotId, maps::SlotEntry, vouched_by, voucher};

use crate::{icmp, policy, report::Verdict, scratch, scratch::Scratch};

/// Vouches for a frame that a slot's port, or the bridge for the host ([`NO_SLOT`]), lets go on.
#[inline(always)]
pub fn vouch(ctx: &TcContext, sender: SlotId) {
    ctx.set_mark(vouched_by(sender));
}

/// Takes the mark away again.
#[inline(always)]
pub fn clear(ctx: &TcContext) {
    ctx.set_mark(0);
}

/// Who let the frame onto this bridge: a slot, or [`NO_SLOT`] for the host and the bridge itself. `None`
/// if nobody vouches for it.
#[inline(always)]
pub fn sender(ctx: &TcContext, scratch: &Scratch, is_ip: bool, slot: &SlotEntry) -> Option<SlotId> {
    // SAFETY: the verifier allows reads of this context field.
    let mark = unsafe { (*ctx.skb.skb).mark };
    let is_bridges_own = || {
        // The questions about group membership pass no program of the bridge on their way out.
        is_ip
            && icmp::is_membership_query(&scratch.packet)
            && slot.bridge_mac == scratch.packet.eth_src
    };
    voucher(mark).or_else(|| is_bridges_own().then_some(NO_SLOT))
}

/// The bridge's question: has a port's program let this frame through?
#[inline(always)]
pub fn check(ctx: &TcContext) -> (SlotId, Verdict) {
    policy::in_slot(ctx, |_, slot| {
        // SAFETY: the verifier allows reads of this context field.
        if voucher(unsafe { (*ctx.skb.skb).mark }).is_some() {
            return Ok(Verdict::Continue);
        }
        let scratch = scratch::memory()?;
        let is_ip = scratch.parse(ctx).unwrap_or(false);
        let sender = sender(ctx, scratch, is_ip, slot);
        sender.map(|_| Verdict::Continue).ok_or(DropReason::UnguardedPort)
    })
}
