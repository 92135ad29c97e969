//! How one event looks: as text for people or as JSON for machines.

use std::{
    io::{self, Write},
    time::SystemTime,
};

use serde_json::json;

use super::{Event, Format};
use crate::drops::Drop;

impl Format {
    /// The lines of some drops, as the journal has them, and how many were lost behind them.
    #[must_use]
    pub fn drops<'a>(self, drops: impl IntoIterator<Item = &'a Drop>, lost: u64) -> Vec<u8> {
        let mut lines = Vec::new();
        for drop in drops {
            // Writing to a Vec cannot fail.
            let _ = self.drop(drop, &mut lines);
        }
        if lost > 0 {
            let _ = match self {
                Self::Text => {
                    writeln!(lines, "{lost} drop records were lost: whoever reads them is too slow")
                }
                Self::Json => writeln!(lines, "{}", json!({ "lost": lost })),
            };
        }
        lines
    }

    fn drop(self, drop: &Drop, out: &mut impl Write) -> io::Result<()> {
        match self {
            Self::Text => drop_text(drop, out),
            Self::Json => drop_json(drop, out),
        }
    }

    /// Writes the event's line or lines, each with its end.
    pub(super) fn write(self, event: &Event, out: &mut impl Write) -> io::Result<()> {
        match (self, event) {
            (_, Event::Lines(lines, _)) => out.write_all(lines),
            (_, Event::Drop(drop)) => self.drop(drop, out),
            (Self::Text, Event::Note(time, message)) => {
                writeln!(out, "{} note  {message}", timestamp(*time))
            }
            (Self::Json, Event::Note(time, message)) => {
                let time = timestamp(*time);
                writeln!(out, "{}", json!({"event": "note", "time": time, "message": message}))
            }
        }
    }
}

fn timestamp(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

fn drop_text(drop: &Drop, out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "{} drop  {:<8} {:<7} {:<19} {} {} ({} bytes) at {} {}",
        timestamp(drop.time),
        drop.slot.as_deref().unwrap_or("-"),
        drop.direction.name(),
        drop.reason.name(),
        drop.reason.code(),
        drop.packet,
        drop.length,
        drop.interface,
        drop.hook.program(),
    )
}

fn drop_json(drop: &Drop, out: &mut impl Write) -> io::Result<()> {
    let object = json!({
        "event": "drop",
        "time": timestamp(drop.time),
        "slot": drop.slot,
        "runtime": drop.runtime,
        "direction": drop.direction.name(),
        "reason": drop.reason.name(),
        "code": drop.reason.code(),
        "protocol": drop.packet.protocol,
        "src": drop.packet.src,
        "src_port": drop.packet.src_port,
        "dst": drop.packet.dst,
        "dst_port": drop.packet.dst_port,
        "detail": drop.packet.detail,
        "bytes": drop.length,
        "interface": drop.interface,
        "program": drop.hook.program(),
    });
    writeln!(out, "{object}")
}
