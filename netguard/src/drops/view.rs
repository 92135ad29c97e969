//! Drops as somebody wants to see them: lines, or a capture file, piece by piece.

use super::{Drop, capture::Capture, line};
use crate::{feed::Look, paint::Paint};

/// How drops look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// Lines.
    Lines(Look),
    /// A capture file.
    Pcapng,
}

/// Makes pieces of what somebody reads.
pub struct Printer(Form);

enum Form {
    Lines(Look, Paint),
    /// None if the format has no room for its own head.
    Pcapng(Option<Capture>),
}

impl View {
    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lines(look) => look.name(),
            Self::Pcapng => "pcapng",
        }
    }

    /// The one that is called so.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        let lines = Look::find(name).map(Self::Lines);
        lines.or_else(|| (name == Self::Pcapng.name()).then_some(Self::Pcapng))
    }

    /// The media type.
    #[must_use]
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Lines(look) => look.media_type(),
            Self::Pcapng => "application/x-pcapng",
        }
    }

    /// Somebody begins to read; words for people with colours or without.
    #[must_use]
    pub fn begin(self, colored: bool) -> Printer {
        Printer(match self {
            Self::Lines(look) => Form::Lines(look, Paint::new(colored)),
            Self::Pcapng => Form::Pcapng(Capture::begin()),
        })
    }
}

impl Printer {
    /// Some drops, and how many were lost behind them. The first piece of a capture file has its head.
    #[must_use]
    pub fn print<'a>(&mut self, drops: impl IntoIterator<Item = &'a Drop>, lost: u64) -> Vec<u8> {
        let (look, paint) = match &mut self.0 {
            Form::Lines(look, paint) => (*look, paint),
            Form::Pcapng(capture) => {
                let Some(capture) = capture else { return Vec::new() };
                for drop in drops {
                    // One that the format cannot hold leaves out no other.
                    let _ = capture.add(drop);
                }
                capture.lose(lost);
                return capture.take();
            }
        };
        let mut lines = Vec::new();
        for drop in drops {
            // Writing to a Vec cannot fail.
            let _ = match look {
                Look::Text => line::painted(drop, paint, &mut lines),
                Look::Compact => line::compact(drop, paint, &mut lines),
                Look::Json => line::json(drop, &mut lines),
            };
        }
        if lost > 0 {
            lines.extend_from_slice(look.lost(lost, "drop records").as_bytes());
        }
        lines
    }
}
