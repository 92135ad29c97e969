//! Drops as somebody wants to see them: lines, or a capture file, piece by piece.

use std::io::Write as _;

use serde_json::json;

use super::{Drop, capture::Capture, line};

/// How drops look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// The journal's lines of text.
    Text,
    /// Shorter ones.
    Compact,
    /// Objects, one a line.
    Json,
    /// A capture file.
    Pcapng,
}

/// Makes pieces of what somebody reads.
pub struct Printer {
    view: View,
    paint: line::Paint,
    capture: Option<Capture>,
}

impl View {
    /// Every view.
    pub const ALL: [Self; 4] = [Self::Text, Self::Compact, Self::Json, Self::Pcapng];

    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Compact => "compact",
            Self::Json => "json",
            Self::Pcapng => "pcapng",
        }
    }

    /// The media type.
    #[must_use]
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Text | Self::Compact => "text/plain; charset=utf-8",
            Self::Json => "application/x-ndjson",
            Self::Pcapng => "application/x-pcapng",
        }
    }

    /// Somebody begins to read; words for people with colours or without.
    #[must_use]
    pub fn begin(self, colored: bool) -> Printer {
        let capture = if self == Self::Pcapng { Capture::begin() } else { None };
        Printer { view: self, paint: line::Paint::new(colored), capture }
    }
}

impl Printer {
    /// Some drops, and how many were lost behind them. The first piece of a capture file has its head.
    #[must_use]
    pub fn print<'a>(&mut self, drops: impl IntoIterator<Item = &'a Drop>, lost: u64) -> Vec<u8> {
        if let Some(capture) = &mut self.capture {
            for drop in drops {
                // One that the format cannot hold leaves out no other.
                let _ = capture.add(drop);
            }
            capture.lose(lost);
            return capture.take();
        }
        let mut lines = Vec::new();
        for drop in drops {
            // Writing to a Vec cannot fail.
            let _ = match self.view {
                View::Text => line::painted(drop, &self.paint, &mut lines),
                View::Compact => line::compact(drop, &self.paint, &mut lines),
                View::Json | View::Pcapng => line::json(drop, &mut lines),
            };
        }
        if lost > 0 {
            let _ = match self.view {
                View::Text | View::Compact => {
                    writeln!(lines, "{lost} drop records were lost: whoever reads them is too slow")
                }
                View::Json | View::Pcapng => writeln!(lines, "{}", json!({ "lost": lost })),
            };
        }
        lines
    }
}
