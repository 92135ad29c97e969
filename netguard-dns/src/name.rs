//! A domain name that cannot be built wrong.

use std::{fmt, str::FromStr};

use hickory_proto::rr::Name;

use crate::NAME_MAX;

/// Lower case, IDNA-encoded (RFC 5891), without its final dot, with at least one label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DomainName(Box<str>);

impl DomainName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True if `other` is this name or lies below it.
    #[must_use]
    pub fn covers(&self, other: &str) -> bool {
        let rest = other.strip_suffix(&*self.0);
        rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }

    /// The name in a message. `None` for the root, and for names with bytes that no host name has.
    #[must_use]
    pub fn from_wire(name: &Name) -> Option<Self> {
        let text = name.to_lowercase().to_ascii();
        Self::of_ascii(text.strip_suffix('.').unwrap_or(&text))
    }

    fn of_ascii(text: &str) -> Option<Self> {
        let is_usual = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let is_label = |label: &str| matches!(label.len(), 1..=63) && label.bytes().all(is_usual);
        // Two bytes less than in wire form: the first length and the final zero.
        let is_name = text.len() <= NAME_MAX - 2 && text.split('.').all(is_label);
        is_name.then(|| Self(text.to_ascii_lowercase().into()))
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
#[error("{0:?} is no domain name; write it as in \"github.com\", without wildcard or scheme")]
pub struct BadName(String);

impl FromStr for DomainName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let bad = || BadName(text.to_owned());
        let name = text.strip_suffix('.').unwrap_or(text);
        // An address would be a name by its letters, but nobody asks for it.
        if name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
            return Err(bad());
        }
        if name.is_ascii() {
            return Self::of_ascii(name).ok_or_else(bad);
        }
        if name.contains(|c: char| c.is_whitespace() || c.is_control() || "*:/\\@!=".contains(c)) {
            return Err(bad());
        }
        let name = Name::from_utf8(name).map_err(|_| bad())?;
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
        let longest = [&"a".repeat(63)[..]; 4].join(".")[..253].to_owned();
        assert_eq!(name(&longest), Some(longest.clone()));
        let longest: DomainName = longest.parse().unwrap();
        assert_eq!(crate::WireName::from(&longest).lower().len(), NAME_MAX);
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long_label = format!("{}.com", "a".repeat(64));
        let long = [&"a".repeat(63)[..]; 4].join(".");
        for text in [
            "",
            ".",
            "a..b",
            "*.example.com",
            "https://example.com",
            "a b",
            "1.2.3.4",
            "bü cher.example",
            &long_label,
            &long,
        ] {
            assert_eq!(name(text), None, "{text:?}");
        }
    }

    #[test]
    fn covering_is_on_label_boundaries() {
        let name: DomainName = "example.com".parse().unwrap();
        assert!(name.covers("example.com") && name.covers("www.example.com"));
        assert!(!name.covers("evilexample.com") && !name.covers("com"));
    }
}
