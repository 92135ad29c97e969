//! Stage 3: a slot speaks for itself only. Its MAC, its addresses, and no server's or router's voice.

use netguard_common::{
    Address, DropReason,
    maps::{SlotEntry, slot_flags},
};

use crate::{
    icmp,
    packet::{ICMPV6, Packet, UDP},
    policy,
};

const DHCP_SERVER: u16 = 67_u16.to_be();
const DHCP_CLIENT: u16 = 68_u16.to_be();
const DHCPV6_SERVER: u16 = 547_u16.to_be();

/// The Ethernet source is one machine's, and the slot's own where the policy knows it.
#[inline(always)]
pub fn check_mac(packet: &Packet, slot: &SlotEntry) -> Result<(), DropReason> {
    let is_group = packet.eth_src[0] & 1 != 0; // IEEE 802.3 section 3.2.3
    let is_other = slot.flags & slot_flags::MAC != 0 && packet.eth_src != slot.mac;
    if is_group || is_other { Err(DropReason::SpoofedMac) } else { Ok(()) }
}

/// The sender's MAC as in the frame, the sender's address the slot's own or 0.0.0.0 (a probe, RFC 5227
/// section 1.1).
#[inline(always)]
pub fn check_arp(packet: &Packet, slot: &SlotEntry) -> Result<(), DropReason> {
    if !packet.arp_is_sane {
        return Err(DropReason::BadHeader);
    }
    let sender = packet.src;
    let is_own = sender.is_unspecified() || is_guest(sender, slot);
    if packet.arp_sender != packet.eth_src || !is_own {
        return Err(DropReason::ArpSpoof);
    }
    Ok(())
}

/// The source is the slot's own, or one that autoconfiguration needs: link-local, `::` for the questions
/// of duplicate address detection (RFC 4862 section 5.4.2, RFC 3810 section 5.2.13), 0.0.0.0 for DHCP
/// where the slot may use it. So is the address that a neighbour advertisement or such a question claims.
#[inline(always)]
pub fn check_source(packet: &Packet, slot: &SlotEntry) -> Result<(), DropReason> {
    let from_nowhere = packet.src == Address::UNSPECIFIED && icmp::is_link_upkeep(packet);
    let good_source = is_guest(packet.src, slot)
        || packet.src.is_v6_link_local()
        || from_nowhere
        || asks_for_address(packet, slot);
    if !good_source {
        return Err(DropReason::SpoofedSource);
    }
    if packet.protocol == UDP && matches!(packet.src_port_be, DHCP_SERVER | DHCPV6_SERVER) {
        return Err(DropReason::RogueDhcp);
    }
    let claims = match (packet.protocol, packet.icmp_type) {
        (ICMPV6, icmp::ND_ADVERTISE) => true,
        (ICMPV6, icmp::ND_SOLICIT) => from_nowhere,
        _ => false, // nothing else speaks of an address as the sender's
    };
    let target = packet.nd_target;
    if claims && !target.is_v6_link_local() && !is_guest(target, slot) {
        return Err(DropReason::NdSpoof);
    }
    Ok(())
}

/// A DHCP client's broadcast (RFC 2131 section 4.1), where the host serves it to the slot.
#[inline(always)]
pub fn asks_for_address(packet: &Packet, slot: &SlotEntry) -> bool {
    packet.protocol == UDP
        && packet.src_port_be == DHCP_CLIENT
        && packet.dst_port_be == DHCP_SERVER
        && packet.src == Address::v4([0; 4])
        && packet.dst == Address::v4([255; 4])
        && !packet.is_fragment()
        && (slot.flags & slot_flags::HOST != 0
            || policy::is_service(slot, slot.host_services, UDP, DHCP_SERVER))
}

/// True for an address that a workload of the slot can have: in its subnet, and neither the gateway's nor
/// one that means them all (broadcast, and the anycast of RFC 4291 section 2.6.1).
#[inline(always)]
pub fn is_guest(address: Address, slot: &SlotEntry) -> bool {
    if address.is_v4() {
        let (host, all) = host_bits_v4(address, slot);
        is_within(address, slot.subnet4, slot.mask4)
            && host != 0
            && host != all
            && address != slot.gateway4
    } else {
        let [address_words, mask] = [address, slot.mask6].map(Address::words);
        is_within(address, slot.subnet6, slot.mask6)
            && (address_words[0] & !mask[0]) | (address_words[1] & !mask[1]) != 0
            && address != slot.gateway6
    }
}

/// True for the broadcast address of the slot's own subnet, or everybody's.
#[inline(always)]
pub fn is_broadcast(address: Address, slot: &SlotEntry) -> bool {
    let (host, all) = host_bits_v4(address, slot);
    let of_subnet = is_within(address, slot.subnet4, slot.mask4) && host == all;
    address == Address::v4([255; 4]) || (address.is_v4() && of_subnet)
}

/// The bits of an IPv4 address that the slot's subnet leaves open, and all of those.
#[inline(always)]
fn host_bits_v4(address: Address, slot: &SlotEntry) -> (u64, u64) {
    let [address, mask] = [address, slot.mask4].map(|it| it.words()[1]);
    (address & !mask, !mask)
}

/// A slot without a subnet of that family has an unspecified one, in which no address is.
#[inline(always)]
fn is_within(address: Address, subnet: Address, mask: Address) -> bool {
    let [address, net, mask] = [address, subnet, mask].map(Address::words);
    let differs = ((address[0] ^ net[0]) & mask[0]) | ((address[1] ^ net[1]) & mask[1]);
    differs == 0 && net[0] | net[1] != 0
}
