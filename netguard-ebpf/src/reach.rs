//! Stages 7 and 9: who may open a connection to whom. Asked once for each flow, and again when the policy
//! changes.

use netguard_common::{
    Address, Direction, DropReason, NO_SLOT, SlotId,
    flow::{FlowKey, Standing},
    maps::{Place, PlaceEntry, SlotEntry, slot_flags},
};

use crate::{
    icmp::{self, Kind},
    packet::{ICMP, ICMPV6, Packet},
    pins, policy,
};

/// A flow that somebody wants to open.
#[derive(Clone, Copy)]
pub struct Attempt {
    /// The guest's address.
    pub guest: Address,
    /// The other side's.
    pub peer: Address,
    /// The port that is opened, in network order: the one of whoever did not begin.
    pub port_be: u16,
    /// The IP protocol number.
    pub protocol: u8,
    /// True for an echo request, which may go where no other ICMP may.
    pub is_echo: bool,
    /// Who begins: a [`Direction`] as a number.
    pub opened: u8,
    /// 1 if nothing but a pin allows it, which is known when the policy has been asked. A number in memory and no
    /// way of its own through the programs: the verifier would walk each.
    pub pinned: u8,
    /// The reason why it would be dropped, were the slot not audited; 0 if it would not.
    pub would_drop: u8,
}

impl Attempt {
    /// What a packet that follows no flow wants.
    #[inline(always)]
    pub fn of_packet(packet: &Packet, way: Direction) -> Self {
        let (guest, peer) = match way {
            Direction::Egress => (packet.src, packet.dst),
            Direction::Ingress => (packet.dst, packet.src),
        };
        let (port_be, protocol) = (packet.dst_port_be, packet.protocol);
        let is_echo = icmp::kind(packet) == Kind::Request;
        Self {
            guest,
            peer,
            port_be,
            protocol,
            is_echo,
            opened: way as u8,
            pinned: 0,
            would_drop: 0,
        }
    }

    /// What the first packet of a flow wanted.
    #[inline(always)]
    pub fn of_flow(key: &FlowKey, standing: Standing) -> Self {
        let port_be = if standing.is_slots() { key.peer_port_be } else { key.guest_port_be };
        let (guest, peer, protocol) = (key.guest, key.peer, key.protocol);
        let is_echo = matches!(protocol, ICMP | ICMPV6); // all that is tracked of ICMP
        Self {
            guest,
            peer,
            port_be,
            protocol,
            is_echo,
            opened: standing.opened,
            pinned: 0,
            would_drop: 0,
        }
    }
}

/// How a flow may be opened.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// As it is.
    Straight,
    /// If the host's routing does not take it for the host itself.
    ByRouting,
    /// The same, and nothing but a pin allows it.
    ByPin,
    /// The same, and nothing allows it, but the slot is audited.
    ByAudit(DropReason),
}

/// The numbers that [`may_open`] returns besides drop reasons, which lie between.
const STRAIGHT: u32 = 0;
const BY_ROUTING: u32 = 256;
const BY_PIN: u32 = 257;
/// With the reason below it.
const BY_AUDIT: u32 = 512;

/// Asks the policy. A function of its own in BPF too: those return one register.
#[inline(always)]
pub fn ask(attempt: &mut Attempt, slot_id: SlotId, slot: &SlotEntry) -> Result<Leave, DropReason> {
    match may_open(attempt, slot_id.into(), slot) {
        STRAIGHT => Ok(Leave::Straight),
        BY_ROUTING => Ok(Leave::ByRouting),
        BY_PIN => {
            attempt.pinned = 1;
            Ok(Leave::ByRouting)
        }
        reason if reason & BY_AUDIT != 0 => {
            attempt.would_drop = reason as u8;
            Ok(Leave::ByRouting)
        }
        reason => Err(DropReason::from_raw(reason as u8).unwrap_or(DropReason::Internal)),
    }
}

#[inline(never)]
fn may_open(attempt: &Attempt, slot_id: u32, slot: &SlotEntry) -> u32 {
    let asked = if attempt.opened == Direction::Egress as u8 {
        outwards(attempt, slot_id as SlotId, slot)
    } else {
        inwards(attempt, slot_id as SlotId, slot).map(|()| Leave::Straight)
    };
    match asked {
        Ok(Leave::Straight) => STRAIGHT,
        Ok(Leave::ByRouting) => BY_ROUTING,
        Ok(Leave::ByPin) => BY_PIN,
        Ok(Leave::ByAudit(reason)) => BY_AUDIT | reason as u32,
        Err(reason) => reason as u32,
    }
}

/// From the slot to what lies at the peer's address.
#[inline(always)]
fn outwards(attempt: &Attempt, own: SlotId, slot: &SlotEntry) -> Result<Leave, DropReason> {
    let entry = policy::place_of(slot, attempt.peer).ok_or(DropReason::UnknownAddress)?;
    let place = Place::from_raw(entry.place).ok_or(DropReason::UnknownAddress)?;
    let all_of_host = slot.flags & slot_flags::HOST != 0;
    match place {
        Place::Gateway if entry.slot_id == own => {
            let listed = attempt.is_echo || is_listed(slot, slot.host_services, attempt);
            if listed || all_of_host { Ok(Leave::Straight) } else { Err(DropReason::Host) }
        }
        Place::Gateway => Err(crossing(slot, entry)),
        Place::Host if all_of_host => Ok(Leave::Straight),
        Place::Host => Err(DropReason::Host),
        Place::Gate if entry.slot_id != own => {
            match (is_listed(slot, entry.services, attempt), entry.slot_id) {
                (true, NO_SLOT) => Ok(Leave::Straight),
                (true, _) => Ok(Leave::ByRouting),
                (false, NO_SLOT) if all_of_host => Ok(Leave::Straight),
                (false, NO_SLOT) => Err(DropReason::Host),
                (false, _) => to_slot(attempt, slot, entry),
            }
        }
        Place::Slot | Place::Gate if entry.slot_id == own => within(slot),
        Place::Slot | Place::Gate => to_slot(attempt, slot, entry),
        Place::Management => Err(DropReason::Management),
        Place::Metadata if slot.flags & slot_flags::METADATA != 0 => Ok(Leave::ByRouting),
        Place::Metadata => Err(DropReason::Metadata),
        Place::Internet => to_internet(attempt, own, slot),
        Place::Resolver if attempt.is_echo => to_internet(attempt, own, slot),
        Place::Resolver => by_rule(attempt, own, slot, entry, DropReason::DnsOverHttps),
        Place::Private => by_rule(attempt, own, slot, entry, DropReason::PrivateDestination),
        Place::LinkLocal => by_rule(attempt, own, slot, entry, DropReason::LinkLocal),
        Place::Multicast => by_rule(attempt, own, slot, entry, DropReason::Multicast),
    }
}

/// From the peer into the slot. The host, the management network and the gate may; everybody else is
/// answered only.
#[inline(always)]
fn inwards(attempt: &Attempt, own: SlotId, slot: &SlotEntry) -> Result<(), DropReason> {
    let entry = policy::place_of(slot, attempt.peer).ok_or(DropReason::UnknownAddress)?;
    match Place::from_raw(entry.place).ok_or(DropReason::UnknownAddress)? {
        Place::Gateway if entry.slot_id != own => Err(crossing(slot, entry)),
        Place::Slot | Place::Gate if entry.slot_id == own => within(slot).map(|_| ()),
        Place::Gateway | Place::Host | Place::Management | Place::Gate => Ok(()),
        Place::Slot => {
            let to_gate = policy::place_of(slot, attempt.guest).is_some_and(|it| {
                it.place == Place::Gate as u8 && is_listed(slot, it.services, attempt)
            });
            if to_gate || shares_runtime(slot, entry) { Ok(()) } else { Err(crossing(slot, entry)) }
        }
        // The host's own: what another slot sends does not get here.
        Place::LinkLocal if !attempt.peer.is_v4() => Ok(()),
        Place::LinkLocal
        | Place::Internet
        | Place::Resolver
        | Place::Private
        | Place::Metadata
        | Place::Multicast => Err(DropReason::Unsolicited),
    }
}

#[inline(always)]
fn to_slot(attempt: &Attempt, slot: &SlotEntry, entry: &PlaceEntry) -> Result<Leave, DropReason> {
    let from_gate =
        || policy::place_of(slot, attempt.guest).is_some_and(|it| it.place == Place::Gate as u8);
    if shares_runtime(slot, entry) || from_gate() {
        Ok(Leave::ByRouting)
    } else {
        Err(crossing(slot, entry))
    }
}

#[inline(always)]
fn to_internet(attempt: &Attempt, own: SlotId, slot: &SlotEntry) -> Result<Leave, DropReason> {
    match rule(attempt, own, slot) {
        Some((true, _)) => Ok(Leave::ByRouting),
        Some((false, _)) => Err(DropReason::EgressDenied),
        None if slot.flags & slot_flags::OPEN != 0 => Ok(Leave::ByRouting),
        None if slot.flags & slot_flags::PINNED == 0 => audited(slot, DropReason::EgressDenied),
        None if pins::is_pinned(attempt, own) => Ok(Leave::ByPin),
        None => audited(slot, DropReason::NotPinned),
    }
}

/// What no rule opens that could. What a rule denies is denied, and so is what no rule of a slot could open: an audited
/// slot is no hole for its neighbours, the host or its metadata.
#[inline(always)]
fn audited(slot: &SlotEntry, reason: DropReason) -> Result<Leave, DropReason> {
    if slot.flags & slot_flags::AUDIT == 0 { Err(reason) } else { Ok(Leave::ByAudit(reason)) }
}

/// What is closed unless a rule opens it, and that rule speaks of this place alone.
#[inline(always)]
fn by_rule(
    attempt: &Attempt,
    own: SlotId,
    slot: &SlotEntry,
    entry: &PlaceEntry,
    reason: DropReason,
) -> Result<Leave, DropReason> {
    match rule(attempt, own, slot) {
        Some((true, length)) if length >= entry.prefix_length => Ok(Leave::ByRouting),
        Some((false, _)) => Err(reason),
        _ if matches!(reason, DropReason::PrivateDestination) => audited(slot, reason),
        _ => Err(reason),
    }
}

/// What the slot's rules say, and how long the prefix is that says it.
#[inline(always)]
fn rule(attempt: &Attempt, own: SlotId, slot: &SlotEntry) -> Option<(bool, u8)> {
    if slot.flags & slot_flags::RULES == 0 {
        return None;
    }
    let entry = policy::rule(slot, own, attempt.peer, attempt.protocol, attempt.port_be)?;
    Some((entry.allowed == 1, entry.prefix_length))
}

#[inline(always)]
fn is_listed(slot: &SlotEntry, set: u32, attempt: &Attempt) -> bool {
    policy::is_service(slot, set, attempt.protocol, attempt.port_be)
}

/// Between workloads of one slot.
#[inline(always)]
fn within(slot: &SlotEntry) -> Result<Leave, DropReason> {
    if slot.flags & slot_flags::ISOLATE == 0 {
        Ok(Leave::ByRouting)
    } else {
        Err(DropReason::Isolated)
    }
}

/// True if the other slot is of the same runtime, and that one lets its own talk to each other.
#[inline(always)]
fn shares_runtime(slot: &SlotEntry, other: &PlaceEntry) -> bool {
    slot.runtime == other.runtime && slot.flags & slot_flags::ISOLATE == 0
}

/// Why two slots do not meet.
#[inline(always)]
fn crossing(slot: &SlotEntry, other: &PlaceEntry) -> DropReason {
    if slot.runtime == other.runtime { DropReason::CrossSlot } else { DropReason::CrossRuntime }
}

/// Whether a frame from another slot's port may cross the bridge that both are on: decided before its
/// headers are believed.
#[inline(always)]
pub fn check_sender(
    packet: &Packet,
    is_ip: bool,
    sender: SlotId,
    own: SlotId,
    slot: &SlotEntry,
) -> Result<(), DropReason> {
    if sender == NO_SLOT {
        return Ok(());
    }
    if sender == own {
        return within(slot).map(|_| ());
    }
    let other = policy::slot(slot, sender).ok_or(DropReason::CrossRuntime)?;
    let isolates = slot.flags & slot_flags::ISOLATE != 0;
    let same_runtime = slot.runtime == other.runtime;
    let gate_at =
        |address| policy::place_of(slot, address).filter(|it| it.place == Place::Gate as u8);
    let by_gate = is_ip
        && (gate_at(packet.dst).is_some()
            || gate_at(packet.src).is_some_and(|gate| gate.slot_id == sender));
    if by_gate || (same_runtime && !isolates) {
        return Ok(());
    }
    Err(if same_runtime { DropReason::CrossSlot } else { DropReason::CrossRuntime })
}
