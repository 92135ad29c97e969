//! What is coloured in lines for people, so that drops and queries look alike.

use anstyle::{AnsiColor, Style};

/// How words look; without colours by default.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Paint {
    pub(crate) time: Style,
    pub(crate) slot: Style,
    pub(crate) allowed: Style,
    pub(crate) denied: Style,
    /// Where in the configuration something stands.
    pub(crate) line: Style,
}

impl Paint {
    /// Nothing has a colour.
    pub(crate) const PLAIN: Self = {
        let plain = Style::new();
        Self { time: plain, slot: plain, allowed: plain, denied: plain, line: plain }
    };

    pub(crate) fn new(colored: bool) -> Self {
        if !colored {
            return Self::PLAIN;
        }
        Self {
            time: Style::new().dimmed(),
            slot: AnsiColor::Cyan.on_default(),
            allowed: AnsiColor::Green.on_default(),
            denied: AnsiColor::Red.on_default().bold(),
            line: AnsiColor::Yellow.on_default(),
        }
    }
}
