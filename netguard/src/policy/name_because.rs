//! What decided about a query: a listed name, a key, an order, or netguard itself. Pure: where it stands is the configuration's
//! business.

/// Where listed names are from, in the words of logs. Beside these, the categories of the allowlist have their own names.
pub mod origin {
    /// `names` of `[dns]`.
    pub const NAMES: &str = "dns.names";
    /// `dns.names` of the slot.
    pub const OWN_NAMES: &str = "slot.dns.names";
    /// A file with a name on each line; its path follows.
    pub const LIST: &str = "list ";
    /// `netguard allow`.
    pub const ORDERED: &str = "orders at run time";
}

/// What decided about a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameBecause {
    /// A listed name with its sign, and where it is from.
    Listed(String, String),
    /// A key, by what it says or by what counts without it.
    Key(NameKey),
    /// Somebody has ordered it.
    Ordered,
    /// No configuration says otherwise.
    BuiltIn,
}

/// A key that can decide about a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameKey {
    /// `names`, in which no name fits.
    Names,
    /// `types`
    Types,
    /// `private_names`
    PrivateNames,
    /// `name_max`
    NameMax,
    /// `limits.names_per_minute`
    NamesPerMinute,
    /// `limits.answer_bytes_per_minute`
    AnswerBytesPerMinute,
}

impl NameKey {
    /// As the file has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Names => "names",
            Self::Types => "types",
            Self::PrivateNames => "private_names",
            Self::NameMax => "name_max",
            Self::NamesPerMinute => "limits.names_per_minute",
            Self::AnswerBytesPerMinute => "limits.answer_bytes_per_minute",
        }
    }
}

impl NameBecause {
    /// What decided, by the resolver's words for why, and the rule with where it is from, if there is one.
    #[must_use]
    pub fn of(
        is_refused: bool,
        why: Option<&str>,
        rule: impl FnOnce() -> Option<String>,
        origin: Option<&str>,
    ) -> Self {
        let key = match (is_refused, why) {
            (true, Some("name-length")) => NameKey::NameMax,
            (true, Some("names-per-minute")) => NameKey::NamesPerMinute,
            (true, Some("answer-bytes-per-minute")) => NameKey::AnswerBytesPerMinute,
            (true, _) => return Self::BuiltIn,
            (false, Some("denied-at-run-time")) => return Self::Ordered,
            (false, Some("type")) => NameKey::Types,
            (false, Some("rebinding")) => NameKey::PrivateNames,
            (false, None | Some("listed" | "unlisted" | "exception")) => match (rule(), origin) {
                (Some(_), Some(origin::ORDERED)) => return Self::Ordered,
                (Some(rule), Some(origin)) => return Self::Listed(rule, origin.to_owned()),
                _ => NameKey::Names,
            },
            // What netguard answers itself.
            (false, Some(_)) => return Self::BuiltIn,
        };
        Self::Key(key)
    }
}
