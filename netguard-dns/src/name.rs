//! A domain name that cannot be built wrong.

use std::{fmt, str::FromStr};

use hickory_proto::rr::Name;

/// Lower case, IDNA-encoded (RFC 5891), without its final dot, with at least one label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DomainName(Box<str>);

impl DomainName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of a query. `None` for the root, and for names with bytes that no host name has.
    #[must_use]
    pub fn from_wire(name: &Name) -> Option<Self> {
        let text = name.to_lowercase().to_ascii();
        let text = text.strip_suffix('.').unwrap_or(&text);
        // hickory escapes what is no letter, digit, '-' or '_' with a backslash.
        (!text.is_empty() && !text.contains('\\')).then(|| Self(text.into()))
    }
}

/// Sets of names can be asked with a plain suffix; hashes agree because both hash the text.
impl std::borrow::Borrow<str> for DomainName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that is no domain name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no domain name; write it as in \"github.com\", without wildcard, port or scheme")]
pub struct BadName(String);

impl FromStr for DomainName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let bad = || BadName(text.to_owned());
        let looks_wrong = |c: char| c.is_whitespace() || c.is_control() || "*:/\\@!=".contains(c);
        if text.contains(looks_wrong) || text.parse::<std::net::IpAddr>().is_ok() {
            return Err(bad());
        }
        let name = Name::from_utf8(text).map_err(|_| bad())?;
        Self::from_wire(&name).ok_or_else(bad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Option<String> {
        text.parse::<DomainName>().ok().map(|name| name.to_string())
    }

    #[test]
    fn names_are_normalised() {
        assert_eq!(name("GitHub.COM."), Some("github.com".into()));
        assert_eq!(name("bücher.example"), Some("xn--bcher-kva.example".into()));
        assert_eq!(name("_dmarc.example.com"), Some("_dmarc.example.com".into()));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long_label = format!("{}.com", "a".repeat(64));
        for text in
            ["", ".", "a..b", "*.example.com", "https://example.com", "a b", "1.2.3.4", &long_label]
        {
            assert_eq!(name(text), None, "{text:?}");
        }
    }
}
