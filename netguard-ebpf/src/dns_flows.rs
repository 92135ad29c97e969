//! Who asked what: the table that tells a slot's redirected queries apart, by the port that each is
//! sent to the resolver from.
//!
//! The ports of a slot are a small open-addressed table of its own: a flow may stand at any of
//! [`PROBES`] places behind its hash.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    programs::TcContext,
};
use netguard_common::{
    Address, DropReason, SlotId,
    maps::{DNS_FLOW_FIRST_PORT, DNS_FLOWS_PER_SLOT, DnsFlow, DnsFlowKey},
};

use crate::{
    clock::{SECOND_NS, now_ns},
    dry_run::is_dry_run,
    maps::DNS_FLOWS,
    packet::{FIN, Packet, RST, TCP, UDP},
};

/// A resolver gives up long before; a UDP flow without a reply is free again after this time.
const UDP_IDLE_NS: u64 = 10 * SECOND_NS;
/// RFC 7766 section 6.2.3 lets idle connections be closed after seconds; this is generous.
const TCP_IDLE_NS: u64 = 120 * SECOND_NS;
/// How many places a flow may take; all of them busy means the slot's table is about full.
const PROBES: u16 = 8;

/// Finds the flow of a query or opens one; the port is the resolver's name for it.
///
/// All places are looked at before a free one is taken, because a TCP connection must keep its port.
/// Of those that are free it is the one left longest ago: a port that is used again at once may meet
/// the last moments of the connection before.
#[inline(always)]
pub fn acquire(
    ctx: &TcContext,
    slot_id: SlotId,
    query: &Packet,
    memory: &mut DnsFlow,
) -> Result<u16, DropReason> {
    let now = now_ns();
    let idle_ns = if query.protocol == TCP { TCP_IDLE_NS } else { UDP_IDLE_NS };
    let home = hash(query);
    // 0 is no port of ours. An `Option` would be copied before it is known to hold one, and the verifier refuses
    // to copy a register that nobody has written (Linux 6.1 to 6.18).
    let (mut free, mut free_since) = (0, u64::MAX);
    let mut probe = 0;
    // Counted at its end: a loop that counts at its start is entered by falling through to its start, which
    // Linux 6.1 to 6.2 take for an endless one (push_insn in kernel/bpf/verifier.c).
    loop {
        let index = home.wrapping_add(probe) & (DNS_FLOWS_PER_SLOT - 1);
        let port = DNS_FLOW_FIRST_PORT + index;
        let key = flow_key(slot_id, query.protocol, port);
        let since = match DNS_FLOWS.get_ptr_mut(key) {
            None => 0, // never used
            // SAFETY: the entry stays writable for the whole program; two CPUs that touch one flow at
            // once are two packets of the same slot, and the counts are hints.
            Some(flow) => unsafe {
                let same = (*flow).key == key
                    && (*flow).client_port_be == query.src_port_be
                    && (*flow).client == query.src
                    && (*flow).asked == query.dst;
                if same {
                    if is_dry_run(ctx) {
                        return Ok(port);
                    }
                    (*flow).seen_ns = now;
                    (*flow).outstanding = outstanding((*flow).outstanding, query);
                    return Ok(port);
                }
                let idle = now.saturating_sub((*flow).seen_ns) > idle_ns;
                if (*flow).outstanding == 0 || idle { (*flow).seen_ns } else { u64::MAX }
            },
        };
        if since < free_since {
            (free, free_since) = (port, since);
        }
        probe += 1;
        if probe == PROBES {
            break;
        }
    }
    if free == 0 {
        return Err(DropReason::DnsFlowsFull);
    }
    let port = free;
    if is_dry_run(ctx) {
        return Ok(port);
    }
    let key = flow_key(slot_id, query.protocol, port);
    *memory = DnsFlow {
        client: query.src,
        asked: query.dst,
        seen_ns: now,
        key,
        client_port_be: query.src_port_be,
        _reserved: 0,
        outstanding: outstanding(0, query),
    };
    // A place that another CPU has filled in between is not taken twice: the client asks again.
    let flags = if free_since == 0 { BPF_NOEXIST } else { BPF_ANY };
    let entry: &DnsFlow = memory;
    DNS_FLOWS.insert(key, entry, u64::from(flags)).map_err(|_| DropReason::DnsFlowsFull)?;
    Ok(port)
}

/// The flow that a packet of the resolver answers: the address that was asked, and the port that
/// asked it. The packet may be several replies that are still one (`replies`, from GSO).
#[inline(always)]
pub fn answered(
    ctx: &TcContext,
    slot_id: SlotId,
    reply: &Packet,
    replies: u32,
) -> Result<(Address, u16), DropReason> {
    let key = flow_key(slot_id, reply.protocol, u16::from_be(reply.dst_port_be));
    let flow = DNS_FLOWS.get_ptr_mut(key).ok_or(DropReason::DnsUnsolicited)?;
    // SAFETY: the memory stays writable for the whole program. If another CPU replaces the entry, it
    // may hold another slot's flow at once: then its key is another.
    unsafe {
        if (*flow).key != key || (*flow).client != reply.dst {
            return Err(DropReason::DnsUnsolicited);
        }
        let closes = reply.protocol == UDP || reply.tcp_flags & (FIN | RST) != 0;
        if closes && !is_dry_run(ctx) {
            (*flow).outstanding = (*flow).outstanding.saturating_sub(replies);
        }
        Ok(((*flow).asked, (*flow).client_port_be))
    }
}

/// How many replies a flow waits for after a packet of the guest. A TCP connection counts as one from
/// its SYN to either side's end; its other segments change nothing, or the last ACK would hold the
/// port for as long as an idle connection.
#[inline(always)]
fn outstanding(before: u32, query: &Packet) -> u32 {
    match query.protocol {
        TCP if query.opens_tcp() => 1,
        TCP if query.tcp_flags & RST != 0 => 0,
        TCP => before,
        _ => before.saturating_add(1), // UDP: every datagram is a query
    }
}

#[inline(always)]
fn flow_key(slot_id: SlotId, protocol: u8, port: u16) -> DnsFlowKey {
    DnsFlowKey { slot_id, port, protocol, _reserved: [0; 3] }
}

/// FNV-1a over what tells a slot's queries apart. A guest that makes its own queries collide only
/// fills its own places.
#[inline(always)]
fn hash(query: &Packet) -> u16 {
    let mut hash = 0x811c_9dc5_u32 ^ u32::from(query.src_port_be);
    for address in [query.src, query.dst] {
        for word in address.0.as_chunks::<4>().0 {
            hash = (hash ^ u32::from_ne_bytes(*word)).wrapping_mul(0x0100_0193);
            hash ^= hash >> 15;
        }
    }
    (hash ^ (hash >> 16)) as u16
}
