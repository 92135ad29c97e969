//! The connection table: which packets belong to a connection that was allowed, from its first packet to
//! its last.
//!
//! `FLOWS` is one array in which every slot has a region of its own, so no slot can fill or evict
//! another's. A region is a hash table of buckets of four; a flow stands in one of two of them, and a bucket's first
//! cache line tells which of its flows it may be. Entries are claimed with one compare-and-swap and need nobody to clean
//! up: what has timed out is free.

use aya_ebpf::programs::TcContext;
use netguard_common::{
    Address, Direction, DropReason, SlotId,
    flow::{
        Bucket, FIN_OPENER, FIN_OTHER, Flow, FlowKey, FlowState, Head, PLACES, Standing, WAYS,
        place, tag,
    },
    maps::SlotEntry,
};

use crate::{
    atomic,
    dry_run::is_dry_run,
    icmp::{self, Kind},
    maps::FLOWS,
    packet::{ACK, FIN, ICMP, ICMPV6, Packet, RST, SYN, TCP, UDP},
    scratch::{Candidate, Scratch},
    words,
};

const SYN_SENT: u8 = FlowState::SynSent as u8;
const SYN_RECEIVED: u8 = FlowState::SynReceived as u8;
const ESTABLISHED: u8 = FlowState::Established as u8;
const CLOSED: u8 = FlowState::Closed as u8;
const ASKED: u8 = FlowState::Asked as u8;
const ANSWERED: u8 = FlowState::Answered as u8;

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
    let Some(entry) = at(scratch.flow_index()) else { return Found::Nothing };
    // If another CPU replaces it meanwhile the packet is judged by one or the other, and `advance` compares again.
    match step(entry.standing(), &scratch.packet, way) {
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

/// An entry of the table, whose memory stays readable and writable for the whole program.
#[derive(Clone, Copy)]
pub struct Entry {
    head: *mut Head,
    pub flow: *mut Flow,
}

/// The entry of that number.
#[inline(always)]
pub fn at(number: u32) -> Option<Entry> {
    let bucket = FLOWS.get_ptr_mut(number / WAYS)?;
    Some(Entry::of(bucket, number % WAYS))
}

impl Entry {
    #[inline(always)]
    fn of(bucket: *mut Bucket, way: u32) -> Self {
        let way = (way % WAYS) as usize;
        // SAFETY: a bucket has so many of both.
        unsafe { Self { head: &raw mut (*bucket).heads[way], flow: &raw mut (*bucket).flows[way] } }
    }

    /// How the flow stands, read once: another CPU may write it at any time.
    #[inline(always)]
    pub fn standing(self) -> Standing {
        // SAFETY: see the type.
        Standing::of_word(unsafe { self.standing_word().read_volatile() })
    }

    /// The same, and since when.
    #[inline(always)]
    pub fn head(self) -> Head {
        // SAFETY: see the type.
        let seen_ns = unsafe { (&raw const (*self.head).seen_ns).read_volatile() };
        Head { seen_ns, standing: self.standing() }
    }

    #[inline(always)]
    fn is_of(self, key: &FlowKey) -> bool {
        // SAFETY: see the type.
        is_same(unsafe { &(*self.flow).key }, key)
    }

    /// Only as the clock ticks: other flows share the line.
    #[inline(always)]
    fn see(self, now_ns: u64) {
        // SAFETY: see the type.
        unsafe {
            if (*self.head).seen_ns != now_ns {
                (*self.head).seen_ns = now_ns;
            }
        }
    }

    #[inline(always)]
    fn standing_word(self) -> *mut u64 {
        // SAFETY: see the type.
        unsafe { (&raw mut (*self.head).standing).cast() }
    }
}

/// Carries out what [`find`] has found possible: the flow's state after the packet. `generation` is the
/// policy that allows it now.
#[inline(always)]
pub fn advance(ctx: &TcContext, scratch: &Scratch, generation: u32, way: Direction) {
    if is_dry_run(ctx) {
        return;
    }
    let Some(entry) = at(scratch.flow_index()) else { return };
    let standing = entry.standing();
    if !entry.is_of(&scratch.flow_key) {
        return; // replaced since it was found: the next packet of this flow opens it anew
    }
    let Step::To(mut next) = step(standing, &scratch.packet, way) else { return };
    entry.see(scratch.now_ns);
    // SAFETY: see `Entry`. Of two CPUs that advance one flow at once, with two packets of one connection, either may be
    // the one that does.
    unsafe {
        let is_asked_again = (*entry.flow).generation != generation;
        if is_asked_again {
            next.pinned |= scratch.attempt.pinned; // a flow that pins have opened once outlives them
        }
        if next != standing && !atomic::replace(entry.standing_word(), standing.word(), next.word())
        {
            return;
        }
        if is_asked_again {
            (*entry.flow).generation = generation;
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
    scratch.set_best(Candidate { index: u32::MAX, rank: u64::MAX, standing: 0 });
    let start = start(scratch, slot, hash);
    let mut probe = 0;
    // Counted at its end, for Linux 6.1: see `dns_flows::acquire`.
    loop {
        let index = place(slot, hash, probe ^ start);
        let Some(entry) = at(index) else { return 0 };
        let head = entry.head();
        let standing = head.standing;
        let holds_nothing = HOLDS_NOTHING >> (standing.state & 7) & 1 != 0;
        let rank = if standing == Standing::CLAIMED {
            u64::MAX // another CPU is about to write it
        } else if standing.tag == tag(hash) && entry.is_of(&scratch.flow_key) {
            0
        } else if head.is_over(scratch.now_ns) {
            1
        } else if standing.is_slots() && (from_outside || holds_nothing) {
            head.seen_ns
        } else {
            u64::MAX
        };
        if rank < scratch.best().rank {
            scratch.set_best(Candidate { index, rank, standing: standing.word() });
        }
        probe += 1;
        if probe == PLACES {
            break;
        }
    }
    let best = scratch.best();
    scratch.set_flow_index(best.index);
    let Some(entry) = at(scratch.flow_index()) else { return 0 };
    if is_dry_run(ctx) {
        return 1;
    }
    let opened = Standing {
        state: if scratch.packet.protocol == TCP { SYN_SENT } else { ASKED },
        opened: way as u8,
        fins: 0,
        pinned: scratch.attempt.pinned,
        tag: tag(hash),
    };
    // SAFETY: see `Entry`. Whoever turns the standing into `CLAIMED` is the only one that writes the rest; readers that
    // meet it so take it for no flow.
    unsafe {
        let word = entry.standing_word();
        if !atomic::replace(word, best.standing, Standing::CLAIMED.word()) {
            return 0;
        }
        words::put_key(&raw mut (*entry.flow).key, &scratch.flow_key);
        (*entry.flow).generation = slot.generation;
        (*entry.flow).translation.port_be = 0;
        (*entry.head).seen_ns = scratch.now_ns;
        atomic::publish(word, opened.word());
    }
    1
}

/// Where a new flow begins to look for room: in the bucket that has more of it. A function of its own in BPF too: what it finds
/// is one number to the verifier.
#[inline(never)]
fn start(scratch: &Scratch, slot: &SlotEntry, hash: u64) -> u32 {
    let room = |first| room(scratch, slot, hash, first);
    if room(WAYS) > room(0) { WAYS } else { 0 }
}

/// How many entries of a bucket are free.
#[inline(never)]
fn room(scratch: &Scratch, slot: &SlotEntry, hash: u64, first: u32) -> u32 {
    let mut room = 0;
    if let Some(bucket) = FLOWS.get_ptr_mut(place(slot, hash, first) / WAYS) {
        for way in 0..WAYS {
            room += u32::from(Entry::of(bucket, way).head().is_over(scratch.now_ns));
        }
    }
    room
}

/// Finds the entry of [`Scratch::flow_key`] and leaves its index in the scratch memory.
#[inline(always)]
fn search(scratch: &mut Scratch, slot: &SlotEntry) -> bool {
    let hash = scratch.flow_key.hash();
    for first in [0, WAYS] {
        let number = place(slot, hash, first);
        let Some(bucket) = FLOWS.get_ptr_mut(number / WAYS) else { return false };
        for way in 0..WAYS {
            let entry = Entry::of(bucket, way);
            let head = entry.head();
            if head.standing.tag == tag(hash)
                && entry.is_of(&scratch.flow_key)
                && !head.is_over(scratch.now_ns)
            {
                scratch.set_flow_index(number + way);
                return true;
            }
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
    /// How it stands after it.
    To(Standing),
    /// The flow is over, and the packet begins another.
    Anew,
    /// Nobody sends this in that state.
    Never,
}

#[inline(always)]
fn step(flow: Standing, packet: &Packet, way: Direction) -> Step {
    let from_opener = flow.opened == way as u8;
    let answered = Step::To(Standing { state: ANSWERED, ..flow });
    match packet.protocol {
        TCP => step_tcp(flow, packet.tcp_flags, from_opener),
        UDP if from_opener => Step::To(flow),
        UDP => answered,
        // The key says who asks: a request of the opener or a reply of the other side.
        _ if from_opener == (icmp::kind(packet) == Kind::Request) => {
            if from_opener {
                Step::To(flow)
            } else {
                answered
            }
        }
        _ => Step::Anew, // an echo the wrong way round
    }
}

/// RFC 9293 section 3.3.2, as seen from between the two, without simultaneous open. A handshake cannot be
/// joined halfway. `flags` are one of the combinations that the parser lets through.
#[inline(always)]
fn step_tcp(flow: Standing, flags: u8, from_opener: bool) -> Step {
    const SYN_ACK: u8 = SYN | ACK;
    let to = |state, fins| Step::To(Standing { state, fins, ..flow });
    let Standing { state, fins, .. } = flow;
    if flags == SYN {
        return match (state, from_opener) {
            (CLOSED, _) => Step::Anew,
            (_, true) => Step::To(flow),
            (_, false) => Step::Never,
        };
    }
    if flags & RST != 0 {
        return to(CLOSED, fins);
    }
    let fin = match (flags & FIN != 0, from_opener) {
        (false, _) => 0,
        (true, true) => FIN_OPENER,
        (true, false) => FIN_OTHER,
    };
    match (state, from_opener) {
        (SYN_SENT, true) => Step::Never,
        (SYN_SENT, false) if flags == SYN_ACK => to(SYN_RECEIVED, 0),
        // RFC 9293 section 3.5.1: the other side still knows an older connection, and says so.
        (SYN_SENT, false) if flags == ACK => to(state, 0),
        (SYN_SENT, false) => Step::Never,
        (SYN_RECEIVED, true) if flags == SYN_ACK => Step::Never,
        _ if fins | fin == FIN_OPENER | FIN_OTHER => to(CLOSED, fins | fin),
        (SYN_RECEIVED, true) => to(ESTABLISHED, fins | fin),
        _ => to(state, fins | fin), // not yet confirmed, established, or late after the end
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
