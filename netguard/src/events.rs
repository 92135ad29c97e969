//! What happens to netguard itself, as logs and streams tell it. Kinds, codes and names are the registry's
//! (`netguard-common/src/reason.rs`); `docs/codes.md` describes them, and the JSON.

use std::{
    io::{self, Write},
    sync::Arc,
    time::SystemTime,
};

use anstyle::{AnsiColor, Style};
use netguard_common::EventKind;
use serde_json::json;

use crate::{drops::line::timestamp, feed};

/// The version of the JSON: raised when a key goes or means something else, not when one comes.
pub const JSON_VERSION: u32 = 1;

/// How many events are remembered that no guest can cause.
pub const REMEMBERED: usize = 1000;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub time: SystemTime,
    /// What.
    pub kind: EventKind,
    /// The slot's name, if it is about one.
    pub slot: Option<String>,
    /// In words.
    pub text: String,
}

/// Which events somebody wants; all of them without conditions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only those about this slot, which may be gone.
    pub slot: Option<String>,
    /// Only those of this kind.
    pub kind: Option<EventKind>,
    /// Only those from then on.
    pub since: Option<SystemTime>,
}

/// How events look to who follows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum View {
    /// Aligned words; coloured on a terminal
    #[default]
    Text,
    /// One object a line: docs/codes.md
    Json,
}

impl Event {
    /// One of this moment.
    #[must_use]
    pub fn now(kind: EventKind, slot: Option<&str>, text: impl Into<String>) -> Self {
        let slot = slot.map(str::to_owned);
        Self { time: SystemTime::now(), kind, slot, text: text.into() }
    }

    /// The journal's line.
    pub(crate) fn note(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "{} note  {}", timestamp(self.time), self.text)
    }

    /// One object.
    pub(crate) fn json(&self, out: &mut impl Write) -> io::Result<()> {
        let object = json!({
            "event": self.kind.name(),
            "version": JSON_VERSION,
            "time": timestamp(self.time),
            "code": self.kind.code(),
            "slot": self.slot,
            "message": self.text,
        });
        writeln!(out, "{object}")
    }

    fn words(&self, colored: bool, out: &mut impl Write) -> io::Result<()> {
        let paint = |style: Style| if colored { style } else { Style::new() };
        let (time, slot) = (paint(Style::new().dimmed()), paint(AnsiColor::Cyan.on_default()));
        let kind = paint(match self.kind {
            EventKind::DetachAlarm | EventKind::MapAlarm | EventKind::CannotGuard => {
                AnsiColor::Red.on_default().bold()
            }
            _ => Style::new().bold(),
        });
        writeln!(
            out,
            "{time}{}{time:#} {kind}{:<17}{kind:#} {} {slot}{:<8}{slot:#} {}",
            timestamp(self.time),
            self.kind.name(),
            self.kind.code(),
            self.slot.as_deref().unwrap_or("-"),
            self.text,
        )
    }
}

impl feed::Item for Event {
    type Filter = Filter;
    const REMEMBERED: usize = REMEMBERED;

    /// What guests can cause takes no other event's place. Of a slot that is gone the rest is remembered too.
    fn slot(&self) -> Option<&str> {
        match self.kind {
            EventKind::OverLimit => self.slot.as_deref(),
            _ => None,
        }
    }
}

impl feed::Filter<Event> for Filter {
    fn admits(&self, event: &Event) -> bool {
        (self.slot.is_none() || self.slot == event.slot)
            && self.kind.is_none_or(|kind| kind == event.kind)
            && self.since.is_none_or(|since| since <= event.time)
    }
}

impl View {
    /// Every view.
    pub const ALL: [Self; 2] = [Self::Text, Self::Json];

    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }

    /// The media type.
    #[must_use]
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; charset=utf-8",
            Self::Json => "application/x-ndjson",
        }
    }

    /// Some events, and how many were lost behind them.
    #[must_use]
    pub fn print(self, events: &[Arc<Event>], lost: u64, colored: bool) -> Vec<u8> {
        let mut lines = Vec::new();
        for event in events {
            // Writing to a Vec cannot fail.
            let _ = match self {
                Self::Text => event.words(colored, &mut lines),
                Self::Json => event.json(&mut lines),
            };
        }
        if lost > 0 {
            let _ = match self {
                Self::Text => {
                    writeln!(lines, "{lost} events were lost: whoever reads them is too slow")
                }
                Self::Json => writeln!(lines, "{}", json!({ "lost": lost })),
            };
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::feed::{Filter as _, Item as _};

    fn event() -> Event {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1002);
        let slot = Some("slot1".to_owned());
        Event { time, kind: EventKind::Lock, slot, text: "slot slot1 is locked".to_owned() }
    }

    #[test]
    fn an_event_has_its_code_in_every_form_but_the_logs_text() {
        let mut note = Vec::new();
        event().note(&mut note).unwrap();
        assert_eq!(note, b"1970-01-01T00:00:01.002Z note  slot slot1 is locked\n");
        let print = |view: View, lost| {
            String::from_utf8(view.print(&[Arc::new(event())], lost, false)).unwrap()
        };
        assert_eq!(
            print(View::Text, 2),
            "1970-01-01T00:00:01.002Z lock              541007 slot1    slot slot1 is locked\n\
             2 events were lost: whoever reads them is too slow\n"
        );
        let colored = View::Text.print(&[Arc::new(event())], 0, true);
        assert!(String::from_utf8(colored).unwrap().contains("\u{1b}[36mslot1   \u{1b}[0m"));
        let lines = print(View::Json, 2);
        let (object, lost) = lines.split_once('\n').unwrap();
        assert_eq!(lost, "{\"lost\":2}\n");
        let object: serde_json::Value = serde_json::from_str(object).unwrap();
        let expected = json!({
            "event": "lock",
            "version": 1,
            "time": "1970-01-01T00:00:01.002Z",
            "code": 541_007,
            "slot": "slot1",
            "message": "slot slot1 is locked",
        });
        assert_eq!(object, expected);
    }

    #[test]
    fn a_filter_admits_what_fits_all_its_conditions() {
        let event = event();
        assert!(Filter::default().admits(&event));
        let fits = Filter {
            slot: Some("slot1".to_owned()),
            kind: Some(EventKind::Lock),
            since: Some(event.time),
        };
        assert!(fits.admits(&event));
        for other in [
            Filter { slot: Some("slot2".to_owned()), ..fits.clone() },
            Filter { kind: Some(EventKind::Unlock), ..fits.clone() },
            Filter { since: Some(event.time + Duration::from_nanos(1)), ..fits },
        ] {
            assert!(!other.admits(&event), "{other:?}");
        }
    }

    #[test]
    fn only_what_guests_can_cause_has_a_memory_by_slot() {
        assert_eq!(event().slot(), None);
        assert_eq!(Event { kind: EventKind::OverLimit, ..event() }.slot(), Some("slot1"));
    }
}
