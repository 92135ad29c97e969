//! The one way between monitor and worker: a pair of sockets, on which each packet is one message, with descriptors where it
//! needs some. Both sides speak a small closed set of types; what is not one of them ends the conversation.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, Read as _, Seek as _, Write as _},
    net::{IpAddr, Shutdown},
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    time::SystemTime,
};

use netguard_common::{EventKind, SlotId};
use netguard_dns::Ports;
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio_seqpacket::{
    UnixSeqpacket,
    ancillary::{AncillaryMessageWriter, OwnedAncillaryMessage},
};

use super::overlay::{Counted, Overlay};
use crate::events::Event;

/// What is longer travels in memory of its own, which the worker may read but not make: what it says is never so long, see
/// `BODY_MAX` in `control::routes`. A socket takes a third more.
const PACKET_MAX: usize = 160 << 10;
/// A packet that says so: the message is in its first descriptor.
const APART: &[u8] = b"@";
/// Room for the descriptors of one packet: 253 at most (`SCM_MAX_FD`, net/scm.h), and their header.
const CONTROL_MAX: usize = 253 * 4 + 24;

/// What the worker must know of the host and cannot see from its sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HostView {
    /// The names of the interfaces by number.
    pub(super) interfaces: BTreeMap<u32, String>,
    /// How many processors it may ever have.
    pub(super) processors: usize,
}

/// A configuration as it was read.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PolicyText {
    /// Where it was read.
    pub(super) path: PathBuf,
    /// What [`crate::config::Config::pack`] has packed.
    pub(super) packed: String,
}

/// What happened to netguard itself.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Told {
    time: SystemTime,
    /// Its number in the registry.
    kind: u8,
    slot: Option<String>,
    text: String,
}

impl From<&Event> for Told {
    fn from(event: &Event) -> Self {
        let Event { time, kind, slot, text } = event;
        Self { time: *time, kind: *kind as u8, slot: slot.clone(), text: text.clone() }
    }
}

impl Told {
    /// None if it is of a kind that this version does not know.
    pub(super) fn event(self) -> Option<Event> {
        let Self { time, kind, slot, text } = self;
        Some(Event { time, kind: EventKind::from_raw(kind)?, slot, text })
    }
}

/// What the monitor tells.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToWorker {
    /// The first message. With the maps of pins, of drop records, of denied queries, of how much was asked and of what was counted of
    /// drops, and the control socket.
    Begin {
        /// How log lines look.
        json: bool,
        policy: PolicyText,
        overlay: Overlay,
        host: HostView,
        /// What is remembered.
        events: Vec<Told>,
    },
    /// What has happened.
    Events(Vec<Told>),
    /// Interfaces came or went.
    Host(HostView),
    /// Make the sockets for one address of a slot and so many threads. Who binds them may not make any.
    Make { v6: bool, threads: usize },
    /// Make a socket for a stream. Who binds it may not make any.
    MakeStream { v6: bool },
    /// Serve metrics at the socket that comes with this, or nowhere if none does.
    Metrics,
    /// Serve a slot. With the sockets of so many addresses.
    Listen { id: u64, slot: SlotId, addresses: usize },
    /// Serve no longer what was given under that number.
    Unlisten { id: u64 },
    /// The policy is another one.
    Policy { policy: PolicyText, overlay: Overlay },
    /// What was ordered at run time is something else.
    Overlay(Overlay),
    /// These slots have no network now, which the worker has no part in: it does not answer.
    Locked(BTreeSet<String>),
    /// What became of an order.
    Answer { id: u64, answer: Answer },
}

/// What the worker says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToMonitor {
    /// What was told last is in force, but for these; so many pins that it does not allow are gone.
    Done { failed: Vec<String>, unpinned: usize },
    /// The sockets that were wanted. [`ToMonitor::Done`] follows when the worker has none of them any more.
    Made,
    /// The worker cannot come up, or do what it was told.
    Refused { reason: String },
    /// Somebody at the control socket wants something that is the monitor's business.
    Ask { id: u64, order: Order },
    /// The worker is there, as it says each second. It is the monitor's clock too, so that a host on which nothing happens is
    /// woken less often.
    Alive,
}

/// What the monitor does for others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Read the configuration again and put it in force; back to the one before after so many seconds without
    /// [`Order::Confirm`].
    Reload {
        /// Seconds.
        confirm: Option<u64>,
    },
    /// What the latest reload has put in force stays.
    Confirm,
    /// What a reload would change.
    Diff,
    /// What the kernel holds and counts, and how the daemon is.
    Status,
    /// The slots, and what was ordered about them.
    Slots,
    /// Make a slot beside those of the file, from the keys of a `[[slot]]` entry. Without a number it gets one that is free.
    AddSlot {
        /// The keys.
        entry: serde_json::Map<String, serde_json::Value>,
    },
    /// Remove a slot that was made so.
    RemoveSlot {
        /// Its name.
        slot: String,
    },
    /// All that there is of a slot, but for its pins.
    State {
        /// Its name.
        slot: String,
    },
    /// Have a slot be what another one was. Makes it, if it is not there.
    PutState {
        /// Its name.
        slot: String,
        /// What the other one was.
        state: SlotState,
    },
    /// Take a slot's network away, established flows included, or give it back.
    Lock {
        /// The slot.
        slot: String,
        /// Away.
        locked: bool,
    },
    /// Allow or deny a name or a prefix, whatever the file says; the latest word counts.
    Say {
        /// To whom.
        slot: String,
        /// What.
        target: String,
        /// Allow.
        allow: bool,
        /// For how long; for good without.
        seconds: Option<u64>,
    },
    /// Take back what was said of a name or a prefix.
    Forget {
        /// To whom.
        slot: String,
        /// What.
        target: String,
    },
}

/// A slot as another host or another name takes it over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotState {
    /// What it was called.
    pub name: String,
    /// The keys of its `[[slot]]` entry.
    pub entry: serde_json::Map<String, serde_json::Value>,
    /// It has no network.
    pub locked: bool,
    /// What was said of names and prefixes.
    pub said: Vec<Said>,
    /// What became of its packets.
    pub counters: Vec<Counted>,
}

/// A year: who means longer means for good.
pub const SECONDS_MAX: u64 = 366 * 24 * 3600;

/// What was said of a name or a prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Said {
    /// As it was written.
    pub what: String,
    /// Allowed, or denied.
    pub allowed: bool,
    /// For how long; for good without.
    pub seconds_left: Option<u64>,
}

/// A pin that another slot had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CarriedPin {
    /// The name that gave it.
    pub name: String,
    /// The address.
    pub address: IpAddr,
    /// The ports, or `any`.
    pub ports: String,
    /// For how long it lives.
    pub left_seconds: u64,
}

impl CarriedPin {
    /// The ports, if it says some.
    #[must_use]
    pub fn read_ports(&self) -> Option<Ports> {
        let any = Ports::ANY;
        if self.ports == any.to_string() { Some(any) } else { self.ports.parse().ok() }
    }
}

/// What became of an order: an object, or why not.
pub type Answer = Result<serde_json::Value, Refusal>;

/// Why an order is not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Whose fault that is.
    pub fault: Fault,
    /// For whoever has given the order.
    pub message: String,
}

/// Whose fault it is that an order is not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// What was asked for is wrong in itself.
    Order,
    /// What it speaks of is not there.
    Absent,
    /// It does not fit the state of things.
    Conflict,
    /// The host or the kernel refuses.
    Host,
}

impl Refusal {
    pub(super) fn new(fault: Fault, message: impl ToString) -> Self {
        Self { fault, message: message.to_string() }
    }
}

/// One end.
#[derive(Debug)]
pub(super) struct Channel(UnixSeqpacket);

/// A message and its descriptors.
pub(super) type Received<T> = (T, Vec<OwnedFd>);

impl Channel {
    /// Two ends; the second is for the other process. Needs a tokio runtime.
    pub(super) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (own, other) = UnixSeqpacket::pair()?;
        Ok((Self(own), other.into()))
    }

    /// The end that this process was given. Needs a tokio runtime.
    pub(super) fn of(socket: OwnedFd) -> io::Result<Self> {
        UnixSeqpacket::try_from(socket).map(Self)
    }

    /// The end that has been accepted.
    pub(super) fn with(socket: UnixSeqpacket) -> Self {
        Self(socket)
    }

    /// Ends the conversation; the other side notices.
    pub(super) fn hang_up(&self) {
        let _ = self.0.shutdown(Shutdown::Both); // the other side has
    }

    /// Sends a message with descriptors.
    pub(super) async fn send(
        &self,
        message: &impl Serialize,
        descriptors: &[impl AsFd],
    ) -> io::Result<()> {
        let mut packet = serde_json::to_vec(message)?;
        let mut apart = None;
        if packet.len() > PACKET_MAX {
            let mut memory = File::from(memfd_create(c"netguard-message", MFdFlags::MFD_CLOEXEC)?);
            memory.write_all(&packet)?;
            memory.rewind()?;
            packet = APART.to_vec();
            apart = Some(memory);
        }
        let mut control = [0; CONTROL_MAX];
        let mut control = AncillaryMessageWriter::new(&mut control);
        let apart = apart.iter().map(AsFd::as_fd);
        let all: Vec<_> = apart.chain(descriptors.iter().map(AsFd::as_fd)).collect();
        if !all.is_empty() {
            control.add_fds(&all).map_err(|_| io::Error::other("too many descriptors"))?;
        }
        self.0.send_with_ancillary(&packet, &mut control).await.map(|_| ())
    }

    /// The next message; none when the other side is gone. Whoever stops waiting for one loses none.
    pub(super) async fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<Received<T>>> {
        let mut packet = vec![0; PACKET_MAX];
        let mut control = [0; CONTROL_MAX];
        let (info, control) = self.0.recv_with_ancillary(&mut packet, &mut control).await?;
        packet.truncate(info.bytes_read());
        if packet.is_empty() {
            return Ok(None);
        }
        let mut descriptors = Vec::new();
        for message in control.into_messages() {
            if let OwnedAncillaryMessage::FileDescriptors(received) = message {
                descriptors.extend(received);
            }
        }
        if packet == APART {
            let absent = || io::Error::other("a packet without its message");
            let memory = descriptors.drain(..1.min(descriptors.len())).next().ok_or_else(absent)?;
            packet.clear();
            // Read by nothing but read(2): whoever is confined may not look how long it is.
            File::from(memory).take(u64::MAX).read_to_end(&mut packet)?;
        }
        Ok(Some((serde_json::from_slice(&packet)?, descriptors)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_sent_arrives_whole_with_its_descriptors() {
        let (one, other) = Channel::pair().unwrap();
        let other = Channel::of(other).unwrap();
        let file = tempfile::tempfile().unwrap();
        for length in [1, PACKET_MAX, 20 << 20] {
            let text = "x".repeat(length);
            one.send(&text, &[&file]).await.unwrap();
            let (found, descriptors) = other.receive::<String>().await.unwrap().unwrap();
            assert!(found == text && descriptors.len() == 1, "{length}");
        }
        one.send(&1, &[] as &[File]).await.unwrap();
        assert!(other.receive::<String>().await.is_err());
        drop(one);
        assert!(other.receive::<String>().await.unwrap().is_none());
    }
}
