//! `netguard explain`: a packet built and put to the programs that are loaded, as a question that leaves no trace, and what they
//! answer, stage by stage. What stands beside the answer is read from the same maps. Needs no daemon but for names.

mod frame;
mod print;
mod stages;

use std::{fmt, net::IpAddr};

use netguard_common::{
    Address, Direction, DropReason, Hook, NO_SLOT, SlotId,
    maps::{Place, PortKind, SlotEntry, read_name, slot_flags},
    vouched_by,
};
use serde_json::Value;

pub use frame::{Carried, OtherFamily, Packet};
pub use print::dns_text;
pub use stages::Stage;

use crate::{
    datapath::{self, Asked, InForce, PinDirectory, View},
    pinned::NoSlot,
};

/// The source of a guest whose MAC the policy does not know: locally administered, no group.
pub const ANY_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x02];

/// A packet that somebody asks about.
#[derive(Clone, Debug)]
pub struct Question {
    /// The slot.
    pub slot: String,
    /// The other side's address.
    pub peer: IpAddr,
    /// What the packet carries; the port or identifier of the sender is chosen.
    pub protocol: Protocol,
    /// The port that is opened.
    pub port: u16,
    /// Who sends it.
    pub direction: Direction,
}

/// What a packet can be of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Protocol {
    /// A connection's first segment.
    #[default]
    Tcp,
    /// A datagram.
    Udp,
    /// A ping.
    Icmp,
}

impl Protocol {
    const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        }
    }

    /// The number in IP headers, as rules know it.
    const fn number(self) -> u8 {
        match self {
            Self::Icmp => 1,
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

/// What became of the question.
#[derive(Clone, Debug)]
pub struct Explained {
    question: Question,
    packet: Packet,
    /// What the resolver says of the name, if one was asked for.
    dns: Option<Value>,
    /// The programs that the packet meets, until one drops it.
    hops: Vec<Hop>,
}

/// What one port's program says.
#[derive(Clone, Debug)]
struct Hop {
    slot: String,
    interface: String,
    hook: Hook,
    asked: Asked,
    /// True if the slot would be told of the drop.
    is_told: bool,
    steps: Vec<Step>,
}

/// What one stage says.
#[derive(Clone, Debug)]
struct Step {
    stage: Stage,
    became: Became,
    /// What it went by.
    note: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Became {
    Passed,
    Decided,
    NotReached,
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel does not answer.
    #[error(transparent)]
    Datapath(#[from] datapath::Error),
    /// There is no such slot.
    #[error(transparent)]
    NoSlot(#[from] NoSlot),
    /// No packet can be like that.
    #[error(transparent)]
    OtherFamily(#[from] OtherFamily),
    /// The slot has nothing that a packet could come from.
    #[error("slot {slot:?} has no {family} subnet, so it can send nothing to {peer}")]
    NoFamily {
        /// The slot.
        slot: String,
        /// Which family.
        family: &'static str,
        /// The other side.
        peer: IpAddr,
    },
    /// None of the slot's ports is there.
    #[error("slot {0:?} has no port on its bridge now: start its workload first")]
    NoPort(String),
    /// Somebody has changed what is attached.
    #[error("{0}; netguard verify tells more")]
    NotOurs(String),
}

impl Error {
    /// True if it asks for what is not there or cannot be.
    #[must_use]
    pub const fn is_bad_question(&self) -> bool {
        matches!(self, Self::NoSlot(_) | Self::OtherFamily(_) | Self::NoFamily { .. })
    }
}

/// What is loaded, and whom it knows.
struct Loaded {
    view: View,
    in_force: InForce,
}

/// Asks.
///
/// # Errors
///
/// The kernel does not answer, or no packet can be like that.
pub fn ask(
    pins: &PinDirectory,
    question: Question,
    dns: Option<Value>,
) -> Result<Explained, Error> {
    let loaded = Loaded { view: View::open(pins)?, in_force: InForce::open(pins)? };
    let id = loaded.find(&question.slot)?;
    let slot = loaded.view.slots[&id];
    let guest = loaded.guest_address(&slot, &question)?;
    let guest_mac = if slot.flags & slot_flags::MAC != 0 { slot.mac } else { ANY_MAC };
    let sender_port = ephemeral_port();
    let carried = match question.protocol {
        Protocol::Tcp => Carried::Tcp(sender_port, question.port),
        Protocol::Udp => Carried::Udp(sender_port, question.port),
        Protocol::Icmp => Carried::Ping(sender_port),
    };
    let packet = match question.direction {
        Direction::Egress => Packet {
            from_mac: guest_mac,
            to_mac: slot.bridge_mac,
            src: guest,
            dst: question.peer,
            carried,
        },
        Direction::Ingress => Packet {
            from_mac: slot.bridge_mac,
            to_mac: guest_mac,
            src: question.peer,
            dst: guest,
            carried,
        },
    };
    let bytes = packet.build()?;
    let other = loaded.owner(question.peer)?.filter(|other| *other != id);
    let mut hops = Vec::new();
    match question.direction {
        Direction::Egress => {
            hops.push(loaded.hop(id, Hook::PortEgress, &bytes, 0, &question)?);
            let passes = hops.iter().all(|hop| hop.asked == Asked::Pass);
            if let Some(other) = other.filter(|_| passes) {
                let mark = loaded.voucher(id, other);
                hops.push(loaded.hop(other, Hook::PortIngress, &bytes, mark, &question)?);
            }
        }
        Direction::Ingress => {
            let mark = other.map_or(vouched_by(NO_SLOT), |other| loaded.voucher(other, id));
            hops.push(loaded.hop(id, Hook::PortIngress, &bytes, mark, &question)?);
        }
    }
    Ok(Explained { question, packet, dns, hops })
}

impl Explained {
    /// Why it would be dropped, if it would.
    #[must_use]
    pub fn dropped(&self) -> Option<DropReason> {
        self.hops.iter().find_map(|hop| match hop.asked {
            Asked::Drop(reason) => Some(reason),
            Asked::Pass | Asked::Redirect => None,
        })
    }
}

impl Explained {
    /// What the slot would be told, where it would be told something.
    fn answer(&self) -> Option<&'static str> {
        let is_told = self.hops.iter().any(|hop| hop.is_told);
        is_told.then_some(match self.question.protocol {
            Protocol::Tcp => "RST",
            Protocol::Udp | Protocol::Icmp => "ICMP",
        })
    }
}

impl Loaded {
    fn find(&self, name: &str) -> Result<SlotId, NoSlot> {
        let names = self.view.slots.iter();
        let names = names.map(|(id, slot)| (*id, read_name(&slot.name).to_owned())).collect();
        NoSlot::find(&names, name)
    }

    /// An address that the slot's workload can have.
    fn guest_address(&self, slot: &SlotEntry, question: &Question) -> Result<IpAddr, Error> {
        let is_v4 = question.peer.is_ipv4();
        let (subnet, gateway) =
            if is_v4 { (slot.subnet4, slot.gateway4) } else { (slot.subnet6, slot.gateway6) };
        if subnet == Address::UNSPECIFIED {
            let family = if is_v4 { "IPv4" } else { "IPv6" };
            let (slot, peer) = (question.slot.clone(), question.peer);
            return Err(Error::NoFamily { slot, family, peer });
        }
        let host = |number: u128| Address((u128::from_be_bytes(subnet.0) + number).to_be_bytes());
        // The gateway is one of the first two, as a rule; a guest usually the other of the first three.
        let free = [2, 1, 3].map(host).into_iter();
        let mut free = free.filter(|it| *it != gateway && IpAddr::from(*it) != question.peer);
        Ok(free.next().unwrap_or(subnet).into())
    }

    /// The slot whose address it is.
    fn owner(&self, address: IpAddr) -> Result<Option<SlotId>, Error> {
        let entry = self.in_force.place(address)?;
        let entry = entry.filter(|it| [Place::Slot as u8, Place::Gate as u8].contains(&it.place));
        Ok(entry.map(|it| it.slot_id).filter(|id| *id != NO_SLOT))
    }

    /// Who vouches for what one slot sends another: the host, unless both are on one bridge.
    fn voucher(&self, from: SlotId, to: SlotId) -> u32 {
        let bridge = |id| self.view.slots.get(&id).map(|slot| slot.bridge_ifindex);
        vouched_by(if bridge(from) == bridge(to) { from } else { NO_SLOT })
    }

    fn hop(
        &self,
        id: SlotId,
        hook: Hook,
        frame: &[u8],
        mark: u32,
        question: &Question,
    ) -> Result<Hop, Error> {
        let slot = &self.view.slots[&id];
        let name = read_name(&slot.name).to_owned();
        let is_port = |port: &netguard_common::maps::PortEntry| {
            port.slot_id == id && port.kind == PortKind::Port as u8
        };
        let mut ports = self.view.ports.iter().filter(|(_, port)| is_port(port));
        let Some((ifindex, port)) = ports.next() else { return Err(Error::NoPort(name)) };
        if let Some(wrong) = self.in_force.wrong_on(*ifindex, port)?.into_iter().next() {
            return Err(Error::NotOurs(wrong));
        }
        let asked = self.in_force.program(hook)?.ask(frame, *ifindex, mark)?;
        let steps = self.steps(id, slot, hook, asked, question)?;
        let interface = read_name(&port.name).to_owned();
        let is_told = hook == Hook::PortEgress
            && slot.flags & slot_flags::REJECT != 0
            && matches!(asked, Asked::Drop(reason) if reason.is_of_policy());
        Ok(Hop { slot: name, interface, hook, asked, is_told, steps })
    }

    fn steps(
        &self,
        id: SlotId,
        slot: &SlotEntry,
        hook: Hook,
        asked: Asked,
        question: &Question,
    ) -> Result<Vec<Step>, Error> {
        let decided = match asked {
            Asked::Drop(reason) => Some(Stage::of(reason)),
            Asked::Redirect => Some(Stage::Dns),
            Asked::Pass => None,
        };
        let leaves = hook == Hook::PortEgress;
        let mut steps = Vec::new();
        for stage in Stage::ALL {
            // What enters has no rules of its own and no limits.
            if !leaves && matches!(stage, Stage::EncryptedDns | Stage::Rule | Stage::Limits) {
                continue;
            }
            let became = match decided {
                Some(decided) if stage == decided => Became::Decided,
                Some(decided) if stage > decided => Became::NotReached,
                _ => Became::Passed,
            };
            let note = match (became, asked) {
                (Became::NotReached, _) => String::new(),
                (Became::Decided, Asked::Drop(reason)) => {
                    self.with_place(stage, reason, question)?
                }
                _ => self.note(stage, id, slot, leaves, question)?,
            };
            steps.push(Step { stage, became, note });
        }
        Ok(steps)
    }

    fn with_place(
        &self,
        stage: Stage,
        reason: DropReason,
        question: &Question,
    ) -> Result<String, Error> {
        let told = format!("{} ({}): {}", reason.name(), reason.code(), reason.sentence());
        if stage != Stage::Place {
            return Ok(told);
        }
        Ok(format!("{told} {} is {}.", question.peer, self.place_text(question.peer)?))
    }

    /// What a stage that lets the packet go on went by. Where the policy's file says so is to be told here too.
    fn note(
        &self,
        stage: Stage,
        id: SlotId,
        slot: &SlotEntry,
        leaves: bool,
        question: &Question,
    ) -> Result<String, Error> {
        let Question { protocol, port, peer, .. } = question;
        Ok(match stage {
            Stage::Frame => "a frame that netguard knows".to_owned(),
            Stage::Lockdown => "the slot has a network".to_owned(),
            Stage::Identity if leaves => "its own MAC and address".to_owned(),
            Stage::Identity => "vouched for".to_owned(),
            Stage::Sanity => format!("a sound {} packet", protocol.name()),
            Stage::Dns if leaves && *port == 53 && *protocol != Protocol::Icmp => {
                "a query: it goes to the slot's resolver, whatever its address".to_owned()
            }
            Stage::Dns => "no DNS".to_owned(),
            Stage::EncryptedDns => "not port 853, no ICMP that is too long".to_owned(),
            Stage::Place => self.place_text(*peer)?,
            Stage::State => "opens a flow".to_owned(),
            Stage::Rule => self.rule_text(id, slot, question)?,
            Stage::Limits => "within what the slot may send now".to_owned(),
        })
    }

    fn place_text(&self, address: IpAddr) -> Result<String, Error> {
        let Some(entry) = self.in_force.place(address)? else {
            return Ok("an address that the policy does not know".to_owned());
        };
        let owner = self.view.slots.get(&entry.slot_id);
        let owner = owner.map_or("", |slot| read_name(&slot.name));
        Ok(match Place::from_raw(entry.place) {
            Some(Place::Internet) => "the internet".to_owned(),
            Some(Place::Slot) => format!("slot {owner}"),
            Some(Place::Gateway) => format!("the gateway of slot {owner}"),
            Some(Place::Host) => "the host".to_owned(),
            Some(Place::Management) => "the management network".to_owned(),
            Some(Place::Metadata) => "a metadata service".to_owned(),
            Some(Place::Private) => "private".to_owned(),
            Some(Place::LinkLocal) => "link-local".to_owned(),
            Some(Place::Multicast) => "multicast".to_owned(),
            Some(Place::Resolver) => "a DNS-over-HTTPS resolver".to_owned(),
            Some(Place::Gate) if owner.is_empty() => "the gate".to_owned(),
            Some(Place::Gate) => format!("the gate, slot {owner}"),
            None => "a place that this version does not know".to_owned(),
        })
    }

    /// What let the packet go on where rules are asked.
    fn rule_text(
        &self,
        id: SlotId,
        slot: &SlotEntry,
        question: &Question,
    ) -> Result<String, Error> {
        let Question { protocol, port, peer, .. } = question;
        let port = if *protocol == Protocol::Icmp { 0 } else { *port };
        let rule = self.in_force.rule(id, *peer, (protocol.number(), port))?;
        let mapped = if peer.is_ipv4() { 96 } else { 0 };
        let length = |entry: u8| u32::from(entry).saturating_sub(mapped);
        Ok(match rule {
            Some(rule) if rule.allowed == 1 => {
                format!("a rule of the slot for a /{} allows it", length(rule.prefix_length))
            }
            Some(rule) => {
                format!("a rule of the slot for a /{} speaks of it", length(rule.prefix_length))
            }
            None if slot.flags & slot_flags::OPEN != 0 => {
                "no rule speaks of it, and the slot is open".to_owned()
            }
            None if slot.flags & slot_flags::AUDIT != 0 => {
                "no rule speaks of it; what is not open passes, because the slot is audited"
                    .to_owned()
            }
            None if slot.flags & slot_flags::PINNED != 0 => {
                "no rule speaks of it; what the internet has is pinned".to_owned()
            }
            None => "no rule is asked there".to_owned(),
        })
    }
}

/// A port that no connection of the slot is likely to have now.
fn ephemeral_port() -> u16 {
    rand::random_range(49152..=65535)
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { src, dst, .. } = self;
        match self.carried {
            Carried::Tcp(from, to) => write!(f, "tcp {} -> {}", end(*src, from), end(*dst, to)),
            Carried::Udp(from, to) => write!(f, "udp {} -> {}", end(*src, from), end(*dst, to)),
            Carried::Ping(_) => write!(f, "ping {src} -> {dst}"),
        }
    }
}

fn end(address: IpAddr, port: u16) -> std::net::SocketAddr {
    (address, port).into()
}
