//! Queries as somebody wants to see them, piece by piece.

use super::{
    Entry, Query, json,
    line::{self, Told},
    timestamp::Timestamp,
};
use crate::{feed::Look, paint::Paint};

/// Makes pieces of what somebody reads.
pub struct Printer {
    look: Look,
    paint: Paint,
    time: Timestamp,
}

impl Printer {
    /// Somebody begins to read; words for people with colours or without.
    #[must_use]
    pub fn new(look: Look, colored: bool) -> Self {
        Self { look, paint: Paint::new(colored), time: Timestamp::default() }
    }

    /// Some entries, and how many were lost behind them. `line_of` knows where that stands which decided.
    #[must_use]
    pub fn print<'a>(
        &mut self,
        entries: impl IntoIterator<Item = &'a Entry>,
        lost: u64,
        line_of: impl Fn(&Query) -> String,
    ) -> Vec<u8> {
        let Self { look, paint, time } = self;
        let mut out = Vec::new();
        for entry in entries {
            time.set(entry.time());
            match (entry, *look) {
                (Entry::Query(query), look) => {
                    let (told, place) = (Told::again(query), line_of(query));
                    match look {
                        Look::Text => line::text(&told, time, paint, Some(&place), &mut out),
                        Look::Compact => line::compact(&told, time, paint, &place, &mut out),
                        Look::Json => json::json(&told, time, Some(&place), &mut out),
                    }
                }
                (Entry::Suppressed(more), Look::Text) => {
                    line::suppressed_text(more, time, paint, &mut out);
                }
                (Entry::Suppressed(more), Look::Compact) => {
                    line::suppressed_compact(more, time, paint, &mut out);
                }
                (Entry::Suppressed(more), Look::Json) => {
                    json::suppressed(more, time, &mut out);
                }
            }
            out.push(b'\n');
        }
        if lost > 0 {
            out.extend_from_slice(look.lost(lost, "queries").as_bytes());
        }
        out
    }
}
