//! Queries on their way to the resolver and back: the keys and values of [`DNS_FLOWS`].

#[cfg(doc)]
use super::DNS_FLOWS;
use super::Layout;
use crate::{Address, SlotId};

/// How many DNS flows of one protocol a slot can have at once; a power of two.
pub const DNS_FLOWS_PER_SLOT: u16 = 256;
/// Room for every flow of every slot over UDP and TCP: no slot takes another's.
pub const DNS_FLOWS_MAX: u32 = crate::MAX_SLOT_ID as u32 * 2 * DNS_FLOWS_PER_SLOT as u32;
/// The lowest port that a redirected query is sent from; the others follow it.
pub const DNS_FLOW_FIRST_PORT: u16 = 32768;

/// The key of [`DNS_FLOWS`]: the resolver's view of a query's sender.
///
/// The slot is part of the key and the ports of a slot are [`DNS_FLOWS_PER_SLOT`] many, so a slot
/// that opens flows without end fills its own share and nobody else's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct DnsFlowKey {
    /// The slot.
    pub slot_id: SlotId,
    /// The translated source port, in host order.
    pub port: u16,
    /// IPPROTO_UDP or IPPROTO_TCP.
    pub protocol: u8,
    /// Zero: hash keys compare every byte.
    pub _reserved: [u8; 3],
}
const _: () = assert!(size_of::<DnsFlowKey>() == 8);
// SAFETY: `repr(C)`, integers only, sizes add up to the asserted total.
unsafe impl Layout for DnsFlowKey {}

/// The value of [`DNS_FLOWS`]: what the guest sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct DnsFlow {
    /// The guest.
    pub client: Address,
    /// The resolver that the guest asked.
    pub asked: Address,
    /// `CLOCK_MONOTONIC` in nanoseconds of the guest's latest packet.
    pub seen_ns: u64,
    /// The entry's own key: memory of a replaced entry may hold another by the time it is read.
    pub key: DnsFlowKey,
    /// The guest's source port in network order.
    pub client_port_be: u16,
    /// Zero.
    pub _reserved: u16,
    /// Queries that have no reply yet; at 0 the flow may be replaced at once.
    pub outstanding: u32,
}
const _: () = assert!(size_of::<DnsFlow>() == 56);
// SAFETY: `repr(C)`, integers only, sizes add up to the asserted total.
unsafe impl Layout for DnsFlow {}
