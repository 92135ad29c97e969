//! What may enter a slot: what it asked for, what keeps its link working, and what the host, the
//! management network or the gate opens.

use aya_ebpf::programs::TcContext;
use netguard_common::{
    Address, Direction, DropReason, SlotId,
    maps::{Place, SlotEntry, slot_flags},
};

use crate::{
    dns,
    egress::allow_again,
    flows::{self, Found},
    fragments,
    icmp::{self, Kind},
    identity,
    packet::Packet,
    policy, provenance,
    reach::{self, Attempt},
    report::Verdict,
    scratch::{self, Scratch},
};

const WAY: Direction = Direction::Ingress;

/// The verdict, and the packet restored if it is a reply of the resolver.
#[inline(always)]
pub fn decide_and_carry_out(ctx: &TcContext) -> (SlotId, Verdict) {
    policy::in_slot(ctx, |slot_id, slot| {
        let scratch = scratch::memory()?;
        let is_ip = scratch.parse(ctx)?;
        let sender = provenance::sender(ctx, scratch, is_ip, slot);
        let sender = sender.ok_or(DropReason::UnguardedPort)?;
        if slot.flags & slot_flags::LOCKDOWN != 0 {
            return Err(DropReason::Lockdown);
        }
        reach::check_sender(&scratch.packet, is_ip, sender, slot_id, slot)?;
        if is_ip {
            judge(ctx, scratch, slot_id, slot)?;
        }
        Ok(Verdict::Pass)
    })
}

#[inline(always)]
fn judge(
    ctx: &TcContext,
    scratch: &mut Scratch,
    own: SlotId,
    slot: &SlotEntry,
) -> Result<(), DropReason> {
    if dns::is_reply(&scratch.packet, slot) {
        return dns::restore(ctx, own, scratch);
    }
    let packet = &scratch.packet;
    icmp::check_type(packet, WAY)?;
    let to_all = packet.dst.is_multicast() || identity::is_broadcast(packet.dst, slot);
    let to_guest = identity::is_guest(packet.dst, slot) || packet.dst.is_v6_link_local();
    if !to_all && !to_guest {
        return Err(DropReason::UnknownAddress);
    }
    if icmp::is_link_upkeep_of_host(packet) && is_from_link(packet, own, slot) {
        return if packet.is_fragment() { Err(DropReason::Fragment) } else { Ok(()) };
    }
    if packet.is_later_fragment() {
        return fragments::follow(ctx, scratch, own, WAY).map(|_| ());
    }
    match flows::find(scratch, own, slot, WAY) {
        Found::Follows => {
            allow_again(scratch, own, slot)?;
            flows::advance(ctx, scratch, slot.generation, WAY);
        }
        Found::Contradicts => return Err(DropReason::TcpState),
        Found::Nothing => {
            let is_error = icmp::kind(&scratch.packet) == Kind::Error;
            if !is_error || !icmp::quotes_tracked_flow(ctx, scratch, own, slot, WAY) {
                open(ctx, scratch, own, slot, to_all)?;
            }
        }
    }
    if scratch.packet.more_fragments {
        fragments::begin(ctx, scratch, own, WAY);
    }
    Ok(())
}

#[inline(always)]
fn open(
    ctx: &TcContext,
    scratch: &mut Scratch,
    own: SlotId,
    slot: &SlotEntry,
    to_all: bool,
) -> Result<(), DropReason> {
    scratch.attempt = Attempt::of_packet(&scratch.packet, WAY);
    reach::ask(&mut scratch.attempt, own, slot)?;
    // Only hosts on this side of an uplink may open anything, so a source that may cannot come by one.
    // SAFETY: the verifier allows reads of this context field.
    if policy::is_uplink(slot, unsafe { (*ctx.skb.skb).ingress_ifindex }) {
        return Err(DropReason::SpoofedSource);
    }
    if to_all {
        return Ok(()); // nobody answers all as one
    }
    flows::check_opening(&scratch.packet)?;
    if flows::open(ctx, scratch, slot, WAY as u32) == 0 {
        Err(DropReason::FlowsFull)
    } else {
        Ok(())
    }
}

/// True for a source that is on the slot's own link.
#[inline(always)]
fn is_from_link(packet: &Packet, own: SlotId, slot: &SlotEntry) -> bool {
    packet.src.is_v6_link_local()
        || packet.src == Address::UNSPECIFIED
        || policy::place_of(slot, packet.src).is_some_and(|entry| {
            match Place::from_raw(entry.place) {
                Some(Place::Slot | Place::Gateway | Place::Gate) => entry.slot_id == own,
                Some(Place::Host) => true,
                _ => false, // from beyond the link
            }
        })
}
