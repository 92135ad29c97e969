//! A moment as lines have it, made cheaply for line after line.

use std::time::{SystemTime, UNIX_EPOCH};

/// A moment as RFC 3339 has it, written anew once a second but for its milliseconds.
pub(crate) struct Timestamp {
    second: u64,
    text: [u8; 24],
}

impl Default for Timestamp {
    fn default() -> Self {
        Self { second: 0, text: *b"1970-01-01T00:00:00.000Z" }
    }
}

impl Timestamp {
    pub(crate) fn text(&self) -> &[u8] {
        &self.text
    }

    /// Without its date.
    pub(crate) fn of_day(&self) -> &[u8] {
        &self.text[11..23]
    }

    pub(crate) fn set(&mut self, time: SystemTime) {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        if since.as_secs() != self.second {
            self.second = since.as_secs();
            let text = humantime::format_rfc3339_millis(time).to_string();
            if let Ok(text) = text.as_bytes().try_into() {
                self.text = text;
            }
        }
        let mut millis = since.subsec_millis();
        for digit in self.text[20..23].iter_mut().rev() {
            *digit = b'0' + (millis % 10) as u8;
            millis /= 10;
        }
    }
}
