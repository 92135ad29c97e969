//! `netguard explain`: a packet put to the programs that are loaded, as a question that leaves no trace, and what they answer, stage
//! by stage: one that is built for the question, or one that was dropped. What stands beside the answer is read from the same maps;
//! which line of the configuration decides, the daemon says.

mod frame;
mod loaded;
mod print;
mod recorded;
mod stages;
mod steps;

use std::net::IpAddr;

use netguard_common::{Direction, DropReason, Hook, NO_SLOT, maps::slot_flags, vouched_by};
use serde_json::Value;

pub use frame::{Carried, OtherFamily, Packet};
pub use print::dns_text;
pub use recorded::{NotAgain, Recorded};
pub use stages::Stage;

use crate::{
    control,
    daemon::Weighed,
    datapath::{self, Asked, PinDirectory},
    drops::Summary,
    pinned::NoSlot,
};
use loaded::Loaded;
use steps::Step;

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

/// Says which lines of the configuration decide about a packet; none if nobody knows, because no daemon runs.
pub type Weigh<'a> = dyn Fn(&Weighed) -> Result<Option<Value>, control::Error> + 'a;

/// What became of the question.
#[derive(Clone, Debug)]
pub struct Explained {
    slot: String,
    packet: Summary,
    /// What the resolver says of the name, if one was asked for.
    dns: Option<Value>,
    /// The record of the packet, if it was dropped once.
    recorded: Option<Recorded>,
    /// Why nobody was asked: the record is all that there is.
    unasked: Option<NotAgain>,
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
    /// What the daemon says of the lines that decide, see [`Weigh`].
    weighed: Value,
    /// True if the slot would be told of the drop.
    is_told: bool,
    steps: Vec<Step>,
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel does not answer.
    #[error(transparent)]
    Datapath(#[from] datapath::Error),
    /// The daemon does not.
    #[error(transparent)]
    Daemon(#[from] control::Error),
    /// There is no such slot.
    #[error(transparent)]
    NoSlot(#[from] NoSlot),
    /// No packet can be like that.
    #[error(transparent)]
    OtherFamily(#[from] OtherFamily),
    /// A record cannot be asked about.
    #[error(transparent)]
    NotAgain(#[from] NotAgain),
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

/// A packet as the programs get it.
struct Subject<'a> {
    frame: &'a [u8],
    packet: Summary,
    /// The interface that it is asked at, if it must be one of several.
    interface: Option<&'a str>,
    /// No program has seen it before that of the port, on its way in.
    is_unvouched: bool,
}

/// Asks.
///
/// # Errors
///
/// The kernel does not answer, or no packet can be like that.
pub fn ask(
    pins: &PinDirectory,
    question: &Question,
    dns: Option<Value>,
    weigh: &Weigh<'_>,
) -> Result<Explained, Error> {
    let loaded = Loaded::open(pins, weigh)?;
    let id = loaded.find(&question.slot)?;
    let slot = loaded.slot(id);
    let guest = loaded.guest_address(slot, question)?;
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
    let frame = packet.build()?;
    let packet = Summary::of(&frame);
    let subject = Subject { frame: &frame, packet, interface: None, is_unvouched: false };
    let hops = loaded.hops(&question.slot, question.direction, &subject)?;
    let (slot, packet) = (question.slot.clone(), subject.packet);
    Ok(Explained { slot, packet, dns, recorded: None, unasked: None, hops })
}

/// Asks once more about a packet that was dropped. Where that cannot be, the record is the answer.
///
/// # Errors
///
/// The kernel does not answer, or the slot is gone.
pub fn again(
    pins: &PinDirectory,
    recorded: Recorded,
    weigh: &Weigh<'_>,
) -> Result<Explained, Error> {
    let slot = recorded.slot().map(str::to_owned);
    let (slot, frame) = match slot.and_then(|slot| Ok((slot, recorded.frame()?))) {
        Ok(asked) => asked,
        Err(why) => {
            let (slot, packet) = (recorded.slot().unwrap_or("-").to_owned(), recorded.summary());
            let (recorded, unasked) = (Some(recorded), Some(why));
            return Ok(Explained { slot, packet, dns: None, recorded, unasked, hops: Vec::new() });
        }
    };
    let loaded = Loaded::open(pins, weigh)?;
    let (packet, interface) = (Summary::of(&frame), recorded.interface());
    let is_unvouched = recorded.is_unvouched();
    let subject = Subject { frame: &frame, packet, interface, is_unvouched };
    let hops = loaded.hops(&slot, recorded.direction()?, &subject)?;
    let packet = subject.packet;
    Ok(Explained { slot, packet, dns: None, recorded: Some(recorded), unasked: None, hops })
}

impl Explained {
    /// Why it would be dropped, if it would.
    #[must_use]
    pub fn dropped(&self) -> Option<DropReason> {
        self.hops.iter().find_map(Hop::dropped)
    }

    /// What the slot would be told, where it would be told something.
    fn answer(&self) -> Option<&'static str> {
        let is_told = self.hops.iter().any(|hop| hop.is_told);
        is_told.then_some(if self.packet.protocol == "tcp" { "RST" } else { "ICMP" })
    }
}

impl Hop {
    const fn dropped(&self) -> Option<DropReason> {
        match self.asked {
            Asked::Drop(reason) => Some(reason),
            Asked::Pass | Asked::Redirect | Asked::Answer => None,
        }
    }

    fn direction(&self) -> Direction {
        direction_of(self.hook)
    }
}

fn direction_of(hook: Hook) -> Direction {
    if hook == Hook::PortEgress { Direction::Egress } else { Direction::Ingress }
}

impl Loaded<'_> {
    /// The way of a packet through the programs of one slot, or of two.
    fn hops(
        &self,
        slot: &str,
        direction: Direction,
        subject: &Subject<'_>,
    ) -> Result<Vec<Hop>, Error> {
        let id = self.find(slot)?;
        let peer = match direction {
            Direction::Egress => subject.packet.dst,
            Direction::Ingress => subject.packet.src,
        };
        let other = match peer {
            Some(peer) => self.owner(peer)?.filter(|other| *other != id),
            None => None,
        };
        if direction == Direction::Ingress {
            let mark = match other {
                _ if subject.is_unvouched => 0,
                Some(other) => self.voucher(other, id),
                None => vouched_by(NO_SLOT),
            };
            return Ok(vec![self.hop(id, Hook::PortIngress, mark, subject)?]);
        }
        let mut hops = vec![self.hop(id, Hook::PortEgress, 0, subject)?];
        let passes = hops.iter().all(|hop| hop.asked == Asked::Pass);
        if let Some(other) = other.filter(|_| passes) {
            let mark = self.voucher(id, other);
            let subject = Subject { packet: subject.packet.clone(), interface: None, ..*subject };
            hops.push(self.hop(other, Hook::PortIngress, mark, &subject)?);
        }
        Ok(hops)
    }
}

/// A port that no connection of the slot is likely to have now.
fn ephemeral_port() -> u16 {
    rand::random_range(49152..=65535)
}
