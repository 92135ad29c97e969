//! How one event looks: as text for people or as JSON for machines.

use std::io::{self, Write};

use super::{Event, Format};
use crate::drops::line;

impl Format {
    /// Writes the event's line or lines, each with its end.
    pub(super) fn write(self, event: &Event, out: &mut impl Write) -> io::Result<()> {
        match (self, event) {
            (_, Event::Lines(lines, _)) => out.write_all(lines),
            (Self::Text, Event::Drop(drop)) => line::text(drop, out),
            (Self::Json, Event::Drop(drop)) => line::json(drop, out),
            (Self::Text, Event::Note(event)) => event.note(out),
            (Self::Json, Event::Note(event)) => event.json(out),
        }
    }
}
