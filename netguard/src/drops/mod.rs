//! Drop records made readable: from the ring buffer's bytes to an event with names and addresses.

mod capture;
mod filter;
pub(crate) mod line;
mod packet;
#[cfg(test)]
pub(crate) mod samples;
mod view;

use std::{
    fmt,
    str::FromStr,
    time::{Duration, SystemTime},
};

use netguard_common::{Direction, DropReason, Hook, record::DropRecord};

pub use filter::{BadTo, Filter, To};
pub use packet::Summary;
pub use view::{Printer, View};

use crate::{config::Line, feed, policy::Dropped};

/// One dropped packet, as logs tell it.
#[derive(Clone, Debug)]
pub struct Drop {
    /// What it is asked for by: the kernel's time of it, which is the same for every worker that reads the record.
    pub id: Id,
    /// When it was dropped.
    pub time: SystemTime,
    /// The slot's name; none for an interface that has no slot.
    pub slot: Option<String>,
    /// The name of the slot's runtime.
    pub runtime: Option<String>,
    /// The interface's name, or its number if it is gone.
    pub interface: String,
    /// Which way the packet went, seen from the slot.
    pub direction: Direction,
    /// Where it was dropped.
    pub hook: Hook,
    /// Why.
    pub reason: DropReason,
    /// What the packet was.
    pub packet: Summary,
    /// The frame's length in bytes.
    pub length: u32,
    /// Its first bytes, as far as the kernel has kept them.
    pub captured: Box<[u8]>,
    /// The DNS name by which the slot was last told the address at the other end.
    pub name: Option<String>,
    /// Where that stands which decided: `netguard.toml:17`, `netguard.toml (default of egress)`.
    pub line: String,
    /// What decided, in words.
    pub because: String,
    /// True if it passed all the same, because its slot is audited: it would have been dropped.
    pub passed: bool,
    /// How many before it, of the same slot, direction and reason, have no record of their own, because there were too many.
    pub suppressed: u32,
    /// True if it is no packet of its own, but stands for the suppressed ones behind the packet that it shows: the rest of a flood.
    pub is_rest: bool,
}

/// A drop's own number, as lines have it: hexadecimal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Id(pub u64);

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl FromStr for Id {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        let number = u64::from_str_radix(text.trim_matches(['[', ']']), 16);
        number.map(Self).map_err(|_| BadId(text.to_owned()))
    }
}

/// A text that is no drop's number.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no drop; write what stands in brackets at the end of its line, like 1a2b3c4d5e")]
pub struct BadId(String);

/// The difference between the kernel's monotonic clock and the wall clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    monotonic: Duration,
    boot: SystemTime,
}

impl Clock {
    /// Reads both clocks. Steps of the wall clock are followed by reading again.
    #[must_use]
    pub fn read() -> Self {
        let monotonic = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
            .map_or(Duration::ZERO, Duration::from);
        Self { monotonic, boot: SystemTime::now() - monotonic }
    }

    /// The monotonic clock's time when both were read.
    #[must_use]
    pub const fn monotonic(&self) -> Duration {
        self.monotonic
    }

    /// The wall clock's time of a monotonic one.
    #[must_use]
    pub fn wall(&self, monotonic_ns: u64) -> SystemTime {
        self.boot + Duration::from_nanos(monotonic_ns)
    }
}

impl feed::Item for Drop {
    type Filter = Filter;

    fn slot(&self) -> Option<&str> {
        self.slot.as_deref()
    }
}

impl Drop {
    /// Reads a record; `None` if it holds a number that this version does not know. `name_slot`
    /// (the slot's and its runtime's) and `name_interface` know the names behind the numbers. What decided is for
    /// others to say: here it is netguard itself.
    #[must_use]
    pub fn read(
        record: &DropRecord,
        clock: &Clock,
        name_slot: impl FnOnce(u16) -> Option<(String, String)>,
        name_interface: impl FnOnce(u32) -> Option<String>,
    ) -> Option<Self> {
        let (slot, runtime) = name_slot(record.slot_id).unzip();
        let reason = record.reason()?;
        Some(Self {
            id: Id(record.time_ns),
            time: clock.wall(record.time_ns),
            slot,
            runtime,
            interface: name_interface(record.ifindex)
                .unwrap_or_else(|| format!("#{}", record.ifindex)),
            direction: Direction::from_raw(record.direction)?,
            hook: Hook::from_raw(record.hook)?,
            reason,
            packet: Summary::of(record.captured()),
            length: record.frame_length,
            captured: record.captured().into(),
            name: None,
            line: Line::BuiltIn.to_string(),
            because: reason.sentence().trim_end_matches('.').to_owned(),
            passed: record.passed == 1,
            suppressed: record.suppressed,
            is_rest: false,
        })
    }

    /// What stands for so many behind this one that have no record.
    #[must_use]
    pub fn rest(&self, suppressed: u32, clock: &Clock) -> Self {
        let time = clock.boot + clock.monotonic;
        Self { time, suppressed, is_rest: true, ..self.clone() }
    }

    /// What the policy is asked about.
    #[must_use]
    pub fn dropped(&self) -> Dropped {
        Dropped {
            reason: self.reason,
            direction: self.direction,
            src: self.packet.src,
            dst: self.packet.dst,
            traffic: self.packet.traffic(),
        }
    }
}
