//! The connection table: which packets belong to a connection that was allowed, from its first packet to
//! its last.
//!
//! `FLOWS` is one array in which every slot has a region of its own, so no slot can fill or evict
//! another's. A region is a hash table of buckets of four; a flow stands in one of two of them. Entries
//! are claimed with one compare-and-swap and need nobody to clean up: what has timed out is free.

use aya_ebpf::programs::TcContext;
use netguard_common::{
    Address, Direction, DropReason, SlotId,
    flow::{FIN_OPENER, FIN_OTHER, Flow, FlowKey, FlowState, PLACES, WAYS, is_over, place},
    maps::SlotEntry,
};

use crate::{
    atomic,
    dry_run::is_dry_run,
    icmp::{self, Kind},
    maps::FLOWS,
    nat,
    packet::{ACK, FIN, ICMP, ICMPV6, Packet, RST, SYN, TCP, UDP},
    scratch::{Candidate, Scratch},
    words,
};

const EMPTY: u64 = FlowState::Empty as u64;
const CLAIMED: u64 = FlowState::Claimed as u64;
const SYN_SENT: u64 = FlowState::SynSent as u64;
const SYN_RECEIVED: u64 = FlowState::SynReceived as u64;
const ESTABLISHED: u64 = FlowState::Established as u64;
const CLOSED: u64 = FlowState::Closed as u64;
const ASKED: u64 = FlowState::Asked as u64;
const ANSWERED: u64 = FlowState::Answered as u64;

/// The states in which a flow is of no use yet, or any more, as bits: comparisons with each would double what the verifier of
/// Linux 6.1 walks.
const HOLDS_NOTHING: u64 = 1 << SYN_SENT | 1 << ASKED | 1 << CLOSED;

/// What the table says of a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Found {
    /// No flow: it may open one, if the policy lets it.
    Nothing,
    /// It belongs to the flow at [`Scratch::flow_index`].
    Follows,
    /// The connection is there, but in a state in which nobody sends this.
    Contradicts,
}

/// Looks for the packet's flow.
#[inline(always)]
pub fn find(scratch: &mut Scratch, slot_id: SlotId, slot: &SlotEntry, way: Direction) -> Found {
    const FOLLOWS: u32 = Found::Follows as u32;
    const CONTRADICTS: u32 = Found::Contradicts as u32;
    match find_apart(scratch, slot_id.into(), slot, way as u32) {
        FOLLOWS => Found::Follows,
        CONTRADICTS => Found::Contradicts,
        _ => Found::Nothing, // the only other number
    }
}

/// A function of its own in BPF too, because a program has 512 bytes of stack in all. Those return one
/// register.
#[inline(never)]
fn find_apart(scratch: &mut Scratch, slot_id: u32, slot: &SlotEntry, way: u32) -> u32 {
    let way = if way == Direction::Egress as u32 { Direction::Egress } else { Direction::Ingress };
    look(scratch, slot_id as SlotId, slot, way) as u32
}

#[inline(always)]
fn look(scratch: &mut Scratch, slot_id: SlotId, slot: &SlotEntry, way: Direction) -> Found {
    let packet = &scratch.packet;
    if packet.is_icmp() && !matches!(icmp::kind(packet), Kind::Request | Kind::Reply) {
        return Found::Nothing;
    }
    scratch.flow_key = key_of(packet, slot_id, way);
    if !search(scratch, slot) {
        return Found::Nothing;
    }
    let Some(flow) = at(scratch.flow_index()) else { return Found::Nothing };
    // SAFETY: the entry stays readable for the whole program; if another CPU replaces it meanwhile the
    // packet is judged by one or the other, and `advance` compares again.
    match step(unsafe { &*flow }, &scratch.packet, way) {
        Step::To(..) => Found::Follows,
        Step::Anew => Found::Nothing,
        Step::Never => Found::Contradicts,
    }
}

/// Looks for the flow of the packet in [`Scratch::quoted`], which went that way.
#[inline(always)]
pub fn find_quoted(
    scratch: &mut Scratch,
    slot_id: SlotId,
    slot: &SlotEntry,
    way: Direction,
) -> bool {
    find_quoted_apart(scratch, slot_id.into(), slot, way as u32) == 1
}

#[inline(never)]
fn find_quoted_apart(scratch: &mut Scratch, slot_id: u32, slot: &SlotEntry, way: u32) -> u32 {
    let way = if way == Direction::Egress as u32 { Direction::Egress } else { Direction::Ingress };
    let quoted = &scratch.quoted;
    scratch.flow_key = key(
        (quoted.src, quoted.src_port_be),
        (quoted.dst, quoted.dst_port_be),
        quoted.protocol,
        quoted.is_request,
        slot_id as SlotId,
        way,
    );
    search(scratch, slot).into()
}

/// The flow at an index of the table.
#[inline(always)]
pub fn at(index: u32) -> Option<*mut Flow> {
    FLOWS.get_ptr_mut(index)
}

/// Carries out what [`find`] has found possible: the flow's state after the packet. `generation` is the
/// policy that allows it now.
#[inline(always)]
pub fn advance(ctx: &TcContext, scratch: &Scratch, generation: u32, way: Direction) {
    if is_dry_run(ctx) {
        return;
    }
    let Some(flow) = at(scratch.flow_index()) else { return };
    // SAFETY: the entry stays writable for the whole program. Two CPUs that advance one flow at once are
    // two packets of one connection; each field is an aligned word or byte, and either value will do.
    unsafe {
        if !is_same(&(*flow).key, &scratch.flow_key) {
            return; // replaced since it was found: the next packet of this flow opens it anew
        }
        let Step::To(state, fins) = step(&*flow, &scratch.packet, way) else { return };
        (*flow).seen_ns = scratch.now_ns;
        if (*flow).generation != generation {
            (*flow).generation = generation;
            // Asked again just now; a flow that pins have opened once outlives them.
            (*flow).pinned |= scratch.attempt.pinned;
        }
        if (*flow).fins != fins {
            (*flow).fins = fins;
        }
        if (*flow).state != state {
            (*flow).state = state;
        }
    }
}

/// Opens the packet's flow, whose key [`find`] has left in the scratch memory.
///
/// Free entries are taken first, those of the emptier bucket before the others, then half-open and closed flows that the
/// slot itself began, the oldest first. Who comes from outside takes the place of the oldest flow that the slot began, so that a slot which opens
/// flows without end cannot keep its own operator out.
#[inline(never)]
pub fn open(ctx: &TcContext, scratch: &mut Scratch, slot: &SlotEntry, way: u32) -> u32 {
    let from_outside = way == Direction::Ingress as u32;
    let hash = scratch.flow_key.hash();
    scratch.set_best(Candidate { index: u32::MAX, rank: u64::MAX, state: EMPTY });
    let start = start(scratch, slot, hash);
    let mut probe = 0;
    // Counted at its end, for Linux 6.1: see `dns_flows::acquire`.
    loop {
        let index = place(slot, hash, probe ^ start);
        let Some(flow) = at(index) else { return 0 };
        // SAFETY: as in `advance`.
        let (state, seen_ns, same, is_slots) = unsafe {
            (
                (*flow).state,
                (*flow).seen_ns,
                is_same(&(*flow).key, &scratch.flow_key),
                (*flow).is_slots(),
            )
        };
        let holds_nothing = HOLDS_NOTHING >> (state & 7) & 1 != 0;
        let rank = if state == CLAIMED {
            u64::MAX // another CPU is about to write it
        } else if same {
            0
        } else if is_over(state, seen_ns, scratch.now_ns) {
            1
        } else if is_slots && (from_outside || holds_nothing) {
            seen_ns
        } else {
            u64::MAX
        };
        if rank < scratch.best().rank {
            scratch.set_best(Candidate { index, rank, state });
        }
        probe += 1;
        if probe == PLACES {
            break;
        }
    }
    let best = scratch.best();
    scratch.set_flow_index(best.index);
    let Some(flow) = at(scratch.flow_index()) else { return 0 };
    if is_dry_run(ctx) {
        return 1;
    }
    let state = if scratch.packet.protocol == TCP { SYN_SENT } else { ASKED };
    // SAFETY: the entry stays writable for the whole program. Whoever turns the state into `Claimed` is
    // the only one that writes the other fields; readers that meet it so take it for no flow.
    unsafe {
        let word = &raw mut (*flow).state;
        if !atomic::replace(word, best.state, CLAIMED) {
            return 0;
        }
        words::put_key(&raw mut (*flow).key, &scratch.flow_key);
        (*flow).seen_ns = scratch.now_ns;
        (*flow).generation = slot.generation;
        (*flow).opened = way as u8;
        (*flow).fins = 0;
        (*flow).pinned = scratch.attempt.pinned;
        if let Some(translation) = nat::of_flow(scratch.flow_index()) {
            (*translation).port_be = 0;
        }
        atomic::publish(word, state);
    }
    1
}

/// Where a new flow begins to look for room, so that both buckets fill evenly: at the second one, if the first
/// is half full and the second is not. A function of its own in BPF too: what it finds is one number to the
/// verifier.
#[inline(never)]
fn start(scratch: &Scratch, slot: &SlotEntry, hash: u64) -> u32 {
    const MIDDLE: u32 = WAYS / 2 - 1; // entries are taken in order
    let is_free = |probe| {
        // SAFETY: as in `advance`.
        at(place(slot, hash, probe))
            .is_none_or(|flow| unsafe { is_over((*flow).state, (*flow).seen_ns, scratch.now_ns) })
    };
    if !is_free(MIDDLE) && is_free(WAYS + MIDDLE) { WAYS } else { 0 }
}

/// Finds the entry of [`Scratch::flow_key`] and leaves its index in the scratch memory.
#[inline(always)]
fn search(scratch: &mut Scratch, slot: &SlotEntry) -> bool {
    let hash = scratch.flow_key.hash();
    for probe in 0..PLACES {
        let index = place(slot, hash, probe);
        let Some(flow) = at(index) else { return false };
        // SAFETY: as in `find`.
        let (state, seen_ns, same) =
            unsafe { ((*flow).state, (*flow).seen_ns, is_same(&(*flow).key, &scratch.flow_key)) };
        if same && !is_over(state, seen_ns, scratch.now_ns) {
            scratch.set_flow_index(index);
            return true;
        }
    }
    false
}

/// Word by word: the compiler would call a function that compares bytes.
#[inline(always)]
fn is_same(one: &FlowKey, other: &FlowKey) -> bool {
    let ([a, b, c, d, e], [f, g, h, i, j]) = (one.words(), other.words());
    (e ^ j) | (b ^ g) | (d ^ i) | (a ^ f) | (c ^ h) == 0
}

/// The key of the packet's flow.
#[inline(always)]
fn key_of(packet: &Packet, slot_id: SlotId, way: Direction) -> FlowKey {
    let is_request = icmp::kind(packet) == Kind::Request;
    key(
        (packet.src, packet.src_port_be),
        (packet.dst, packet.dst_port_be),
        packet.protocol,
        is_request,
        slot_id,
        way,
    )
}

/// An echo's identifier is the guest's port, and the other says which side asks: both may use one
/// identifier at once.
#[inline(always)]
fn key(
    src: (Address, u16),
    dst: (Address, u16),
    protocol: u8,
    is_request: bool,
    slot_id: SlotId,
    way: Direction,
) -> FlowKey {
    let leaves = way == Direction::Egress;
    let ((guest, guest_port_be), (peer, mut peer_port_be)) =
        if leaves { (src, dst) } else { (dst, src) };
    if matches!(protocol, ICMP | ICMPV6) {
        peer_port_be = u16::from(is_request == leaves);
    }
    FlowKey { guest, peer, guest_port_be, peer_port_be, slot_id, protocol, _reserved: 0 }
}

/// What a packet makes of a flow.
enum Step {
    /// The state and the FINs after it.
    To(u64, u8),
    /// The flow is over, and the packet begins another.
    Anew,
    /// Nobody sends this in that state.
    Never,
}

#[inline(always)]
fn step(flow: &Flow, packet: &Packet, way: Direction) -> Step {
    let from_opener = flow.opened == way as u8;
    match packet.protocol {
        TCP => step_tcp(flow, packet.tcp_flags, from_opener),
        UDP if from_opener => Step::To(flow.state, 0),
        UDP => Step::To(ANSWERED, 0),
        // The key says who asks: a request of the opener or a reply of the other side.
        _ if from_opener == (icmp::kind(packet) == Kind::Request) => {
            Step::To(if from_opener { flow.state } else { ANSWERED }, 0)
        }
        _ => Step::Anew, // an echo the wrong way round
    }
}

/// RFC 9293 section 3.3.2, as seen from between the two, without simultaneous open. A handshake cannot be
/// joined halfway. `flags` are one of the combinations that the parser lets through.
#[inline(always)]
fn step_tcp(flow: &Flow, flags: u8, from_opener: bool) -> Step {
    const SYN_ACK: u8 = SYN | ACK;
    let (state, fins) = (flow.state, flow.fins);
    if flags == SYN {
        return match (state, from_opener) {
            (CLOSED, _) => Step::Anew,
            (_, true) => Step::To(state, fins),
            (_, false) => Step::Never,
        };
    }
    if flags & RST != 0 {
        return Step::To(CLOSED, fins);
    }
    let fin = match (flags & FIN != 0, from_opener) {
        (false, _) => 0,
        (true, true) => FIN_OPENER,
        (true, false) => FIN_OTHER,
    };
    match (state, from_opener) {
        (SYN_SENT, true) => Step::Never,
        (SYN_SENT, false) if flags == SYN_ACK => Step::To(SYN_RECEIVED, 0),
        // RFC 9293 section 3.5.1: the other side still knows an older connection, and says so.
        (SYN_SENT, false) if flags == ACK => Step::To(state, 0),
        (SYN_SENT, false) => Step::Never,
        (SYN_RECEIVED, true) if flags == SYN_ACK => Step::Never,
        _ if fins | fin == FIN_OPENER | FIN_OTHER => Step::To(CLOSED, fins | fin),
        (SYN_RECEIVED, true) => Step::To(ESTABLISHED, fins | fin),
        _ => Step::To(state, fins | fin), // not yet confirmed, established, or late after the end
    }
}

/// What a TCP packet that follows no flow may do: open one.
#[inline(always)]
pub fn check_opening(packet: &Packet) -> Result<(), DropReason> {
    match packet.protocol {
        TCP if packet.tcp_flags == SYN => Ok(()),
        TCP => Err(DropReason::TcpState),
        UDP => Ok(()),
        ICMP | ICMPV6 => match icmp::kind(packet) {
            Kind::Request => Ok(()),
            Kind::Error => Err(DropReason::IcmpError),
            Kind::Reply | Kind::Other => Err(DropReason::IcmpType),
        },
        _ => Err(DropReason::Protocol), // IGMP
    }
}
