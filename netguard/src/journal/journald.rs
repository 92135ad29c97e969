//! journald's own protocol: under systemd, a drop or an event has fields beside its line (`journalctl SLOT=slot1 CODE=540017`).
//! <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>. Lines of queries are too many for a datagram each: they go the way of all lines.

use std::{
    env, io,
    os::{fd::AsFd as _, unix::net::UnixDatagram},
    path::Path,
};

use netguard_common::EventKind;
use nix::sys::stat::fstat;

use super::{Event, Format};

/// Where journald listens.
const SOCKET: &str = "/run/systemd/journal/socket";
/// Which stream systemd has connected to the journal: device and inode, see systemd.exec(5).
const STREAM: &str = "JOURNAL_STREAM";

/// The way to journald.
#[derive(Debug)]
pub struct Journald(UnixDatagram);

impl Journald {
    /// The way to journald, if that is where standard output goes. To be called while this process may make sockets.
    #[must_use]
    pub fn behind_stdout() -> Option<Self> {
        let stdout = fstat(io::stdout().as_fd()).ok()?;
        let is_it = env::var(STREAM).ok()? == format!("{}:{}", stdout.st_dev, stdout.st_ino);
        // Who cannot be reached gets the lines alone.
        if is_it { Self::connect(Path::new(SOCKET)).ok() } else { None }
    }

    fn connect(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        Ok(Self(socket))
    }

    /// Sends an event with its fields. False if it has none, or they do not arrive: then its line is all there is.
    pub(super) fn send(&self, format: Format, event: &Event) -> bool {
        let Some(fields) = fields(event) else { return false };
        let mut line = Vec::new();
        if format.write(event, &mut line).is_err() {
            return false;
        }
        let mut message = Vec::new();
        field("MESSAGE", line.strip_suffix(b"\n").unwrap_or(&line), &mut message);
        field("SYSLOG_IDENTIFIER", b"netguard", &mut message);
        for (name, value) in fields {
            field(name, value.as_bytes(), &mut message);
        }
        self.0.send(&message).is_ok()
    }
}

/// What an event has beside its line.
fn fields(event: &Event) -> Option<Vec<(&'static str, String)>> {
    let (slot, mut fields) = match event {
        Event::Lines(..) => return None,
        Event::Drop(drop) => {
            let fields = vec![
                ("PRIORITY", INFO.to_string()),
                ("REASON", drop.reason.name().to_owned()),
                ("CODE", drop.reason.code().to_string()),
                ("DIRECTION", drop.direction.name().to_owned()),
            ];
            (&drop.slot, fields)
        }
        Event::Note(event) => {
            let fields = vec![
                ("PRIORITY", priority(event.kind).to_string()),
                ("EVENT", event.kind.name().to_owned()),
                ("CODE", event.kind.code().to_string()),
            ];
            (&event.slot, fields)
        }
    };
    fields.extend(slot.clone().map(|slot| ("SLOT", slot)));
    Some(fields)
}

/// Levels of syslog(3).
const CRITICAL: u8 = 2;
const ERROR: u8 = 3;
const WARNING: u8 = 4;
const NOTICE: u8 = 5;
const INFO: u8 = 6;

fn priority(kind: EventKind) -> u8 {
    match kind {
        EventKind::DetachAlarm | EventKind::MapAlarm | EventKind::WatchFailed => CRITICAL,
        EventKind::CannotGuard | EventKind::NotInForce | EventKind::WorkerAbsent => ERROR,
        EventKind::ReloadRefused
        | EventKind::RolledBack
        | EventKind::WorkerEnded
        | EventKind::OverLimit
        | EventKind::Upstream
        | EventKind::LinesLost
        | EventKind::Warning => WARNING,
        _ => NOTICE, // somebody has ordered it, or the host has changed
    }
}

/// A value of one line stands behind `=`, any other behind its length.
fn field(name: &str, value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::events;

    /// What arrives of an event.
    fn sent(event: &Event) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let journald = UnixDatagram::bind(&path).unwrap();
        assert!(Journald::connect(&path).unwrap().send(Format::Text, event));
        let mut message = vec![0; 4096];
        let length = journald.recv(&mut message).unwrap();
        message.truncate(length);
        message
    }

    fn note(kind: EventKind, text: &str) -> Event {
        Event::Note(Arc::new(events::Event::now(kind, Some("slot1"), text)))
    }

    #[test]
    fn an_event_has_its_line_and_its_fields() {
        let message =
            String::from_utf8(sent(&note(EventKind::DetachAlarm, "ALARM: gone"))).unwrap();
        let lines: Vec<_> = message.lines().collect();
        assert!(lines[0].starts_with("MESSAGE=20") && lines[0].ends_with("Z note  ALARM: gone"));
        let fields = [
            "SYSLOG_IDENTIFIER=netguard",
            "PRIORITY=2",
            "EVENT=detach-alarm",
            "CODE=541004",
            "SLOT=slot1",
        ];
        assert_eq!(lines[1..], fields);
    }

    #[test]
    fn a_message_of_two_lines_has_its_length_before_it() {
        let message = sent(&note(EventKind::ReloadRefused, "one\nSLOT=other"));
        let value = &message["MESSAGE\n".len() + 8..];
        let length = u64::from_le_bytes(message["MESSAGE\n".len()..][..8].try_into().unwrap());
        let (value, rest) = value.split_at(usize::try_from(length).unwrap());
        assert!(value.ends_with(b"note  one\nSLOT=other"));
        assert!(rest.starts_with(b"\nSYSLOG_IDENTIFIER=netguard\n"));
    }

    #[test]
    fn queries_have_no_fields() {
        assert!(fields(&Event::Lines(b"dns\n".to_vec(), 1)).is_none());
    }
}
