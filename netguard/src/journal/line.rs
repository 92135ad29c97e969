//! How one event looks: as text for people or as JSON for machines.

use std::{
    io::{self, Write},
    time::SystemTime,
};

use serde_json::json;

use super::{Event, Format};
use crate::drops::Drop;

impl Format {
    /// Writes the event's line or lines, each with its end.
    pub(super) fn write(self, event: &Event, out: &mut impl Write) -> io::Result<()> {
        match (self, event) {
            (_, Event::Lines(lines, _)) => out.write_all(lines),
            (Self::Text, Event::Drop(drop)) => drop_text(drop, out),
            (Self::Json, Event::Drop(drop)) => drop_json(drop, out),
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
