//! What may leave a slot. [`stages`] is the whole decision, stage by stage; the first stage that
//! speaks wins, and `ARCHITECTURE.md` lists the same numbers.

use aya_ebpf::programs::TcContext;
use netguard_common::{
    Direction, DropReason, SlotId,
    maps::{LinkKind, Place, SlotEntry, slot_flags},
};

use crate::{
    denial, dns,
    fast_path::{self, Role},
    flows::{self, Found},
    fragments,
    frame::Frame,
    icmp::{self, Kind},
    identity, limits, names,
    packet::{Packet, TCP, UDP},
    policy,
    reach::{self, Attempt, Leave},
    report::Verdict,
    routing,
    scratch::{self, Scratch},
};

const WAY: Direction = Direction::Egress;
const DNS: u16 = 53_u16.to_be();
const ENCRYPTED_DNS: u16 = 853_u16.to_be();

/// How a packet may leave.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Permit {
    /// It keeps the link working, or reports an error: nothing to remember.
    Pass = 0,
    /// It belongs to a tracked flow.
    Follow = 1,
    /// It opens a flow.
    Open = 2,
    /// It opens a flow, if the host's routing does not take it for the host itself.
    Route = 3,
    /// It continues a packet in fragments, if the first one passed.
    Continue = 4,
    /// It is a query for the slot's resolver.
    Redirect = 5,
    /// It is an ICMP error about a tracked flow.
    Report = 6,
}

/// The verdict that neither changes state nor rewrites nor asks the host's routing: the drop stage.
#[inline(always)]
pub fn decide<F: Frame>(frame: &F) -> (SlotId, Verdict) {
    policy::at_port(frame, |port, slot| {
        let slot_id = port.slot_id;
        let scratch = scratch::memory()?;
        match stages(frame, scratch, slot_id, slot) {
            Ok(Permit::Redirect)
                if port.link != LinkKind::Veth as u8
                    && dns::is_denied(frame, scratch, slot)
                    && limits::query(frame, scratch, slot_id, slot)
                    && limits::packet(frame, scratch, slot_id, slot).is_ok()
                    && names::record(scratch, slot_id) =>
            {
                Ok(Verdict::Answer)
            }
            // XDP answers nothing but queries; TC decides the same, and counts. What no answer is left for is dropped here.
            Err(reason)
                if denial::is_wanted(&scratch.packet, slot, reason)
                    && limits::has_answer(scratch, slot_id) =>
            {
                Ok(Verdict::Continue)
            }
            decided => decided.map(|_| Verdict::Continue),
        }
    })
}

/// The whole verdict: what it remembers is remembered, and a DNS query is rewritten.
#[inline(always)]
pub fn decide_and_carry_out(ctx: &TcContext) -> (SlotId, Verdict) {
    policy::in_slot(ctx, |slot_id, slot| {
        let scratch = scratch::memory()?;
        let decided = stages(ctx, scratch, slot_id, slot);
        match decided.and_then(|permit| carry_out(ctx, scratch, permit, slot_id, slot)) {
            Err(reason)
                if denial::is_wanted(&scratch.packet, slot, reason)
                    && limits::answer(ctx, scratch, slot_id) =>
            {
                denial::prepare(scratch, slot);
                Ok(Verdict::Deny(reason))
            }
            decided => decided,
        }
    })
}

#[inline(always)]
fn carry_out(
    ctx: &TcContext,
    scratch: &mut Scratch,
    permit: Permit,
    slot_id: SlotId,
    slot: &SlotEntry,
) -> Result<Verdict, DropReason> {
    // Stage 10, limits.
    limits::packet(ctx, scratch, slot_id, slot)?;
    let mut would_drop = None;
    let role = match permit {
        Permit::Pass => Role::None,
        Permit::Report => Role::Reports,
        Permit::Follow => {
            flows::advance(ctx, scratch, slot.generation, WAY);
            Role::Follows
        }
        Permit::Continue => {
            let translated = fragments::follow(ctx, scratch, slot_id, WAY)?;
            scratch.set_flow_index(translated.wrapping_sub(1));
            Role::Continues
        }
        Permit::Open | Permit::Route => {
            // The end of stage 7: no list knows every address that the host takes for its own.
            if matches!(permit, Permit::Route)
                && slot.flags & slot_flags::HOST == 0
                && routing::is_local(ctx, slot.bridge_ifindex, scratch)
            {
                return Err(DropReason::Host);
            }
            limits::flow(ctx, scratch, slot_id, slot)?;
            if flows::open(ctx, scratch, slot, WAY as u32) == 0 {
                return Err(DropReason::FlowsFull);
            }
            would_drop = DropReason::from_raw(scratch.attempt.would_drop);
            Role::Opens
        }
        Permit::Redirect
            // Without queries left, or without room for the record, the resolver sees to it.
            if dns::is_denied(ctx, scratch, slot)
                && limits::query(ctx, scratch, slot_id, slot)
                && (ctx.is_dry_run() || names::record(scratch, slot_id)) =>
        {
            return Ok(Verdict::Answer);
        }
        Permit::Redirect => {
            dns::redirect(ctx, slot_id, slot, scratch)?;
            return Ok(Verdict::Redirect);
        }
    };
    fast_path::note(scratch, role, slot_id, slot);
    if scratch.packet.more_fragments && !scratch.packet.is_later_fragment() {
        fragments::begin(ctx, scratch, slot_id, WAY);
    }
    Ok(would_drop.map_or(Verdict::Pass, Verdict::Audit))
}

/// The whole decision; what speaks first wins.
#[inline(always)]
fn stages<F: Frame>(
    frame: &F,
    scratch: &mut Scratch,
    own: SlotId,
    slot: &SlotEntry,
) -> Result<Permit, DropReason> {
    // Stage 1, frame, and stage 4, header sanity.
    let is_ip = scratch.parse(frame)?;
    // Stages 2, 3, 5 and 6.
    if let Some(permit) = by_headers(&scratch.packet, is_ip, own, slot)? {
        return Ok(permit);
    }
    // Stage 8, state.
    match flows::find(scratch, own, slot, WAY) {
        Found::Follows => return allow_again(scratch, own, slot).map(|()| Permit::Follow),
        Found::Contradicts => return Err(DropReason::TcpState),
        Found::Nothing => {}
    }
    if icmp::kind(&scratch.packet) == Kind::Error
        && icmp::quotes_tracked_flow(frame, scratch, own, slot, WAY)
    {
        return Ok(Permit::Report);
    }
    // Stages 7 and 9, the place and the rule for that place.
    scratch.attempt = Attempt::of_packet(&scratch.packet, WAY);
    let leave = reach::ask(&mut scratch.attempt, own, slot)?;
    flows::check_opening(&scratch.packet)?;
    Ok(match leave {
        Leave::Straight => Permit::Open,
        Leave::ByRouting | Leave::ByPin | Leave::ByAudit(_) => Permit::Route,
    })
}

/// What the headers alone decide, stages 2 to 6: a function of its own in BPF too, because a program has 512
/// bytes of stack in all. Those return one register.
#[inline(always)]
fn by_headers(
    packet: &Packet,
    is_ip: bool,
    own: SlotId,
    slot: &SlotEntry,
) -> Result<Option<Permit>, DropReason> {
    const PERMITS: [Permit; 3] = [Permit::Pass, Permit::Continue, Permit::Redirect];
    let code = by_headers_apart(packet, is_ip.into(), own.into(), slot);
    if code == UNDECIDED {
        return Ok(None);
    }
    for permit in PERMITS {
        if code == permit as u32 {
            return Ok(Some(permit));
        }
    }
    Err(DropReason::from_raw((code >> DROP_SHIFT) as u8).unwrap_or(DropReason::Internal))
}

/// Beside the numbers of permits, and of reasons higher up, in what [`by_headers_apart`] returns.
const UNDECIDED: u32 = 255;
const DROP_SHIFT: u32 = 8;

#[inline(never)]
fn by_headers_apart(packet: &Packet, is_ip: u32, own: u32, slot: &SlotEntry) -> u32 {
    match read_headers(packet, is_ip == 1, own as SlotId, slot) {
        Ok(Some(permit)) => permit as u32,
        Ok(None) => UNDECIDED,
        Err(reason) => (reason as u32) << DROP_SHIFT,
    }
}

#[inline(always)]
fn read_headers(
    packet: &Packet,
    is_ip: bool,
    own: SlotId,
    slot: &SlotEntry,
) -> Result<Option<Permit>, DropReason> {
    // Stage 2, lockdown.
    if slot.flags & slot_flags::LOCKDOWN != 0 {
        return Err(DropReason::Lockdown);
    }
    // Stage 3, identity.
    identity::check_mac(packet, slot)?;
    if !is_ip {
        return identity::check_arp(packet, slot).map(|()| Some(Permit::Pass));
    }
    identity::check_source(packet, slot)?;
    icmp::check_type(packet, WAY)?;
    // The rest of stage 4: what has no ports follows what had them.
    if packet.is_later_fragment() {
        return Ok(Some(Permit::Continue));
    }
    // Stage 5, DNS to any address whatsoever, and stage 6, encrypted DNS.
    if matches!(packet.protocol, TCP | UDP) {
        match packet.dst_port_be {
            DNS if packet.more_fragments => return Err(DropReason::Fragment),
            DNS => return Ok(Some(Permit::Redirect)),
            ENCRYPTED_DNS if packet.protocol == TCP => return Err(DropReason::DnsOverTls),
            ENCRYPTED_DNS => return Err(DropReason::DnsOverQuic),
            _ => {} // every other port has a place
        }
    }
    if is_upkeep(packet, own, slot) {
        let whole = !packet.more_fragments;
        return if whole { Ok(Some(Permit::Pass)) } else { Err(DropReason::Fragment) };
    }
    icmp::check_size(packet, slot).map(|()| None)
}

/// What keeps the link working passes if it stays on the link.
#[inline(always)]
fn is_upkeep(packet: &Packet, own: SlotId, slot: &SlotEntry) -> bool {
    if identity::asks_for_address(packet, slot) {
        return true;
    }
    icmp::is_link_upkeep(packet)
        && policy::place_of(slot, packet.dst).is_some_and(|entry| {
            match Place::from_raw(entry.place) {
                Some(Place::Slot | Place::Gateway | Place::Gate) => entry.slot_id == own,
                Some(Place::LinkLocal | Place::Multicast) => true,
                _ => false, // it would leave the link
            }
        })
}

/// A flow that was allowed under another policy must be allowed by this one. One that a pin allowed is not asked for
/// a pin again, as long as pins open anything for the slot.
#[inline(always)]
pub fn allow_again(scratch: &mut Scratch, own: SlotId, slot: &SlotEntry) -> Result<(), DropReason> {
    let Some(entry) = flows::at(scratch.flow_index()) else { return Err(DropReason::Internal) };
    // SAFETY: see `Entry`, and `flows::find`.
    let flow = unsafe { &*entry.flow };
    if flow.generation == slot.generation {
        return Ok(());
    }
    let standing = entry.standing();
    scratch.attempt = Attempt::of_flow(&flow.key, standing);
    match reach::ask(&mut scratch.attempt, own, slot) {
        Err(DropReason::NotPinned) if standing.pinned == 1 => Ok(()),
        asked => asked.map(|_| ()),
    }
}
