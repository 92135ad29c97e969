//! How items of a feed can look to whoever reads them as lines.

use serde_json::json;

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Look {
    /// Aligned words, as the journal has them; coloured on a terminal
    #[default]
    Text,
    /// Fewer words
    Compact,
    /// One object a line
    Json,
}

impl Look {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Text, Self::Compact, Self::Json];

    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Compact => "compact",
            Self::Json => "json",
        }
    }

    /// The one that is called so.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|look| look.name() == name)
    }

    /// The media type.
    #[must_use]
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Text | Self::Compact => "text/plain; charset=utf-8",
            Self::Json => "application/x-ndjson",
        }
    }

    /// The line that stands where a reader who is too slow has lost some.
    #[must_use]
    pub fn lost(self, count: u64, what: &str) -> String {
        match self {
            Self::Text | Self::Compact => {
                format!("{count} {what} were lost: whoever reads them is too slow\n")
            }
            Self::Json => format!("{}\n", json!({ "lost": count })),
        }
    }
}
