//! The oracle: the decision of the kernel's programs about a packet, once more, in plain Rust and by a
//! second mind. Tests hold the two against each other, and `netguard policy` prints what it says.
//!
//! Pure: lists and loops over the policy, nothing of the plan or the maps, and no I/O. The model has no
//! clock and room without end: time-outs, rates, and shares that are full do not happen in it; pins it is told, with
//! the moment at which they are read. Nor does
//! it keep the resolver's table: whatever comes from the resolver is unsolicited here, so callers do not
//! ask about the answers to redirected queries.

mod flows;
mod opening;
mod packet;
mod pins;
mod site;
#[cfg(test)]
pub(super) mod tests;
mod transport;

use std::net::IpAddr;

use netguard_common::{
    Direction::{self, Egress, Ingress},
    DropReason, NO_SLOT, SlotId,
    maps::Place,
};

pub(super) use opening::winner;
pub use opening::{Openings, Traffic};
pub use pins::Pin;

use self::{
    flows::{Answer, Flow, Flows},
    packet::{Arp, Content, Packet, Transport},
    site::{BROADCAST, UNSPECIFIED_V4, UNSPECIFIED_V6, is_group, is_guest, is_v6_link_local},
};
use super::{Facts, HostServices, Policy, Protocol, Slot};

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It goes on.
    Pass,
    /// It goes to the slot's resolver.
    Redirect,
    /// It ends here.
    Drop(DropReason),
}

/// Answers whether the host's routing would deliver a packet (source, destination) to the host itself,
/// or has no way for it.
pub type IsLocal<'a> = &'a dyn Fn(IpAddr, IpAddr) -> bool;

/// The longest ICMP error in bytes from the ICMP header on: IPv6's smallest MTU (RFC 4443
/// section 2.4).
const ICMP_ERROR_MAX: usize = 1280;

/// A policy on a host, and what packets have opened there so far.
pub struct Evaluator<'a> {
    policy: &'a Policy,
    openings: Openings<'a>,
    flows: Flows,
}

impl<'a> Evaluator<'a> {
    /// Before the first packet.
    #[must_use]
    pub fn new(policy: &'a Policy, facts: &'a Facts) -> Self {
        Self { policy, openings: Openings::new(policy, facts), flows: Flows::default() }
    }

    /// The same, with pins, at a moment in nanoseconds of the kernel's clock.
    #[must_use]
    pub fn with_pins(mut self, pins: Vec<Pin>, now_ns: u64) -> Self {
        self.openings = self.openings.with_pins(pins, now_ns);
        self
    }

    /// Forgets what packets have opened: the next one is the first.
    pub fn forget(&mut self) {
        self.flows = Flows::default();
    }

    /// What lies at an address; none where nobody knows.
    #[must_use]
    pub fn place(&self, address: IpAddr) -> Option<Place> {
        self.openings.place(address)
    }

    /// A frame leaves the slot.
    pub fn egress(&mut self, slot: &Slot, frame: &[u8], is_local: IsLocal<'_>) -> Verdict {
        self.leave(slot, frame, is_local).unwrap_or_else(Verdict::Drop)
    }

    /// A frame that the host's bridge (none) or another slot's port has let on enters the slot.
    /// `by_uplink`: it came into the host by an uplink.
    pub fn ingress(
        &mut self,
        slot: &Slot,
        frame: &[u8],
        sender: Option<SlotId>,
        by_uplink: bool,
    ) -> Verdict {
        match self.enter(slot, frame, sender, by_uplink) {
            Ok(()) => Verdict::Pass,
            Err(reason) => Verdict::Drop(reason),
        }
    }

    fn leave(
        &mut self,
        slot: &Slot,
        frame: &[u8],
        is_local: IsLocal<'_>,
    ) -> Result<Verdict, DropReason> {
        let frame = packet::parse(frame)?;
        if slot.lockdown {
            return Err(DropReason::Lockdown);
        }
        let is_group_mac = frame.mac.first().is_none_or(|byte| byte & 1 != 0);
        if is_group_mac || slot.mac.is_some_and(|mac| mac != frame.mac) {
            return Err(DropReason::SpoofedMac);
        }
        let packet = match frame.content {
            Content::Arp(arp) => return check_arp(slot, frame.mac, &arp).map(|()| Verdict::Pass),
            Content::Ip(packet) => packet,
        };
        check_identity(slot, &packet)?;
        if packet.is_later_fragment() {
            return self.later_fragment(slot, Egress, &packet).map(|()| Verdict::Pass);
        }
        match (&packet.transport, packet.ports()) {
            (_, Some((_, 53))) if packet.fragment.is_some() => return Err(DropReason::Fragment),
            (_, Some((_, 53))) => {
                let resolver = slot.gateway(packet.dst.is_ipv4());
                return resolver.map(|_| Verdict::Redirect).ok_or(DropReason::NoResolver);
            }
            (Transport::Tcp { .. }, Some((_, 853))) => return Err(DropReason::DnsOverTls),
            (Transport::Udp { .. }, Some((_, 853))) => return Err(DropReason::DnsOverQuic),
            _ => {} // no DNS
        }
        if is_upkeep(&packet) && self.is_on_link(slot, packet.dst) {
            if packet.fragment.is_some() {
                return Err(DropReason::Fragment);
            }
            return Ok(Verdict::Pass);
        }
        check_icmp_size(slot, &packet)?;
        match self.flows.ask(slot.id, Egress, &packet) {
            Answer::Belongs => {}
            Answer::Contradicts => return Err(DropReason::TcpState),
            Answer::Unknown if is_dhcp(slot, &packet) => {}
            Answer::Unknown => self.open(slot, &packet, is_local)?,
        }
        self.flows.passed(slot.id, Egress, &packet);
        Ok(Verdict::Pass)
    }

    fn enter(
        &mut self,
        slot: &Slot,
        frame: &[u8],
        sender: Option<SlotId>,
        by_uplink: bool,
    ) -> Result<(), DropReason> {
        let frame = packet::parse(frame)?;
        if slot.lockdown {
            return Err(DropReason::Lockdown);
        }
        if let Some(sender) = sender {
            self.check_sender(slot, sender, &frame.content)?;
        }
        let packet = match frame.content {
            Content::Arp(_) => return Ok(()), // judged where it left its sender
            Content::Ip(packet) => packet,
        };
        let from_own_gateway = slot.gateway(packet.src.is_ipv4()) == Some(packet.src);
        if from_own_gateway && packet.ports().is_some_and(|(src, _)| src == self.policy.dns.port) {
            return Err(DropReason::DnsUnsolicited);
        }
        if is_redirect(&packet) {
            return Err(DropReason::IcmpType);
        }
        let to_group = is_group(slot, packet.dst);
        if !to_group && !is_guest(slot, packet.dst) && !is_v6_link_local(packet.dst) {
            return Err(DropReason::UnknownAddress);
        }
        if self.is_upkeep_for(slot, &packet) {
            let is_fragment = packet.fragment.is_some();
            return if is_fragment { Err(DropReason::Fragment) } else { Ok(()) };
        }
        if packet.is_later_fragment() {
            return self.later_fragment(slot, Ingress, &packet);
        }
        match self.flows.ask(slot.id, Ingress, &packet) {
            Answer::Belongs => {}
            Answer::Contradicts => return Err(DropReason::TcpState),
            Answer::Unknown => {
                let (guest, peer) = (packet.dst, packet.src);
                self.openings.may_open(slot, Ingress, guest, peer, &packet.traffic())?;
                if by_uplink && self.is_inside(peer) {
                    return Err(DropReason::SpoofedSource);
                }
                if !to_group {
                    let flow = Flow::opened_by(Ingress, &packet)?;
                    self.flows.insert(slot.id, Ingress, &packet, flow);
                }
            }
        }
        self.flows.passed(slot.id, Ingress, &packet);
        Ok(())
    }

    fn later_fragment(
        &mut self,
        slot: &Slot,
        direction: Direction,
        packet: &Packet,
    ) -> Result<(), DropReason> {
        let continues = self.flows.continues(slot.id, direction, packet);
        if continues { Ok(()) } else { Err(DropReason::Fragment) }
    }

    /// The packet opens what it belongs to, if it may.
    fn open(
        &mut self,
        slot: &Slot,
        packet: &Packet,
        is_local: IsLocal<'_>,
    ) -> Result<(), DropReason> {
        self.openings.may_open(slot, Egress, packet.src, packet.dst, &packet.traffic())?;
        let flow = Flow::opened_by(Egress, packet)?;
        let is_exempt = slot.host_services == HostServices::All || self.is_the_hosts(packet.dst);
        if !is_exempt && is_local(packet.src, packet.dst) {
            return Err(DropReason::Host);
        }
        self.flows.insert(slot.id, Egress, packet, flow);
        Ok(())
    }

    /// Frames that came by another port, or by another workload's end of the slot's own.
    fn check_sender(
        &self,
        slot: &Slot,
        sender: SlotId,
        content: &Content,
    ) -> Result<(), DropReason> {
        if sender == slot.id {
            return self.openings.within(slot);
        }
        let by_gate = match content {
            Content::Arp(_) => false,
            Content::Ip(packet) => {
                let holder = self.openings.site(packet.src).map_or(NO_SLOT, |site| site.owner);
                self.openings.is_gate(packet.dst)
                    || (self.openings.is_gate(packet.src) && holder == sender)
            }
        };
        if by_gate { Ok(()) } else { self.openings.sibling(slot, sender) }
    }

    /// True where the link's upkeep may go: not beyond the slot's own link.
    fn is_on_link(&self, slot: &Slot, dst: IpAddr) -> bool {
        self.openings.site(dst).is_some_and(|site| match site.place {
            Place::Slot | Place::Gateway | Place::Gate => site.owner == slot.id,
            Place::LinkLocal | Place::Multicast => true,
            _ => false, // routed: upkeep is for neighbours
        })
    }

    /// The link's upkeep into the slot: from neighbours, and from whatever address the host has.
    fn is_upkeep_for(&self, slot: &Slot, packet: &Packet) -> bool {
        let is_igmp = matches!(packet.transport, Transport::Igmp) && packet.dst.is_multicast();
        if !is_igmp && !matches!(packet.icmpv6_kind(), Some(130..=136 | 143)) {
            return false;
        }
        let site = self.openings.site(packet.src);
        packet.src == UNSPECIFIED_V6
            || is_v6_link_local(packet.src)
            || site.is_some_and(|site| match site.place {
                Place::Slot | Place::Gateway | Place::Gate => site.owner == slot.id,
                Place::Host => true,
                _ => false, // nobody's neighbour
            })
    }

    /// Where the host is asked by its own name, so that its routing has nothing to add.
    fn is_the_hosts(&self, dst: IpAddr) -> bool {
        self.openings.site(dst).is_some_and(|site| match site.place {
            Place::Gateway | Place::Host => true,
            Place::Gate => site.owner == NO_SLOT,
            _ => false, // beyond the host
        })
    }

    /// Where no packet that came by an uplink can be from.
    fn is_inside(&self, src: IpAddr) -> bool {
        matches!(
            self.openings.place(src),
            Some(Place::Gateway | Place::Host | Place::Management | Place::Gate | Place::Slot)
        )
    }
}

/// RFC 826: nobody's MAC and address but the sender's own; a probe has no address (RFC 5227).
fn check_arp(slot: &Slot, mac: [u8; 6], arp: &Arp) -> Result<(), DropReason> {
    if !arp.is_ipv4_on_ethernet {
        return Err(DropReason::BadHeader);
    }
    let is_own = arp.sender.is_unspecified() || is_guest(slot, arp.sender.into());
    if arp.sender_mac == mac && is_own { Ok(()) } else { Err(DropReason::ArpSpoof) }
}

/// Is it the sender's own name that the packet gives?
fn check_identity(slot: &Slot, packet: &Packet) -> Result<(), DropReason> {
    let good_source = is_guest(slot, packet.src)
        || is_v6_link_local(packet.src)
        || (packet.src == UNSPECIFIED_V6 && is_upkeep(packet))
        || is_dhcp(slot, packet);
    if !good_source {
        return Err(DropReason::SpoofedSource);
    }
    let kind = packet.icmpv6_kind();
    if kind == Some(136) || (kind == Some(135) && packet.src == UNSPECIFIED_V6) {
        let target = packet.icmp().and_then(|icmp| icmp.target).map(IpAddr::from);
        let is_own = |it| is_v6_link_local(it) || is_guest(slot, it);
        if !target.is_some_and(is_own) {
            return Err(DropReason::NdSpoof);
        }
    }
    if matches!((&packet.transport, packet.ports()), (Transport::Udp { .. }, Some((67 | 547, _)))) {
        return Err(DropReason::RogueDhcp);
    }
    if kind == Some(134) {
        return Err(DropReason::RogueRa);
    }
    if is_redirect(packet) { Err(DropReason::IcmpType) } else { Ok(()) }
}

/// A router's message that somebody else is the better router.
fn is_redirect(packet: &Packet) -> bool {
    packet.icmpv6_kind() == Some(137) || packet.icmpv4_kind() == Some(5)
}

/// What a guest says to its own link: neighbour discovery, and to groups who is in them.
fn is_upkeep(packet: &Packet) -> bool {
    match (packet.icmpv6_kind(), &packet.transport) {
        (Some(133 | 135 | 136), _) => true,
        (Some(131 | 132 | 143), _) | (_, Transport::Igmp) => packet.dst.is_multicast(),
        _ => false, // traffic
    }
}

/// A guest without an address asks for one (RFC 2131 section 4.1), where the host offers that.
fn is_dhcp(slot: &Slot, packet: &Packet) -> bool {
    let offered = match &slot.host_services {
        HostServices::All => true,
        HostServices::Listed(services) => services.iter().any(|it| it.covers(Protocol::Udp, 67)),
    };
    offered
        && packet.src == UNSPECIFIED_V4
        && packet.dst == BROADCAST
        && packet.fragment.is_none()
        && matches!(packet.transport, Transport::Udp { src: 68, dst: 67 })
}

/// A long ICMP message could be a tunnel; of a fragmented one nobody knows the length.
fn check_icmp_size(slot: &Slot, packet: &Packet) -> Result<(), DropReason> {
    if packet.icmp().is_none() {
        return Ok(());
    }
    let is_error = packet.is_icmp_error();
    let longest = if is_error { ICMP_ERROR_MAX } else { usize::from(slot.limits.icmp_max_bytes) };
    let is_long = packet.fragment.is_some() || packet.payload > longest;
    if is_long { Err(DropReason::IcmpSize) } else { Ok(()) }
}
