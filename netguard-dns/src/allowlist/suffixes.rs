//! A set of names as the kernel's programs look names up in it: each suffix by its hash.

use std::fmt;

use netguard_common::names::{SET_LISTS_TOP, label_hash, name_kind, with_label};

/// Every suffix of a set's names, and what is known of it ([`netguard_common::names::name_kind`]). Two suffixes that share a hash are one
/// that is known for both.
pub struct Suffixes {
    number: u64,
    /// In ascending order of hashes.
    entries: Box<[(u64, u32)]>,
}

impl Suffixes {
    pub(super) fn of<'a>(suffixes: impl Iterator<Item = (&'a [u8], u32)>) -> Self {
        let mut lists_top = false;
        let mut entries: Vec<_> = suffixes
            .inspect(|(name, kind)| {
                lists_top |= kind & name_kind::TREE != 0 && is_single_label(name);
            })
            .map(|(name, kind)| (hash(name), kind))
            .collect();
        entries.sort_unstable();
        entries.dedup_by(|later, kept| {
            let is_same = later.0 == kept.0;
            kept.1 |= if is_same { later.1 } else { 0 };
            is_same
        });
        let all = entries.iter().fold(entries.len() as u64, |all, (hash, kind)| {
            with_label(with_label(all, *hash), u64::from(*kind))
        });
        let number = (all & !SET_LISTS_TOP).max(SET_LISTS_TOP << 1);
        let number = if lists_top { number | SET_LISTS_TOP } else { number };
        Self { number, entries: entries.into() }
    }

    /// A fingerprint of all of it, in which [`SET_LISTS_TOP`] says what it says; never 0.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.entries.len()
    }

    /// True if there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All of them, by hash.
    #[must_use]
    pub const fn entries(&self) -> &[(u64, u32)] {
        &self.entries
    }

    /// What is known of the suffixes with a hash.
    #[must_use]
    pub fn find(&self, hash: u64) -> Option<u32> {
        let at = self.entries.binary_search_by_key(&hash, |(hash, _)| *hash).ok()?;
        Some(self.entries[at].1)
    }
}

impl PartialEq for Suffixes {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Suffixes {}

impl fmt::Debug for Suffixes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Suffixes({:016x}, {})", self.number, self.entries.len())
    }
}

/// True for a name in wire form that is a top-level domain's.
fn is_single_label(name: &[u8]) -> bool {
    let label = name.first().map_or(0, |length| usize::from(*length) + 1);
    label > 1 && name.get(label).is_none_or(|next| *next == 0)
}

/// The hash of a name in wire form and lower case.
fn hash(name: &[u8]) -> u64 {
    match name.split_first() {
        Some((length, rest)) if *length > 0 => {
            let (label, rest) = rest.split_at_checked((*length).into()).unwrap_or_default();
            with_label(hash(rest), label_hash(label))
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use netguard_common::names::lower;

    use super::*;
    use crate::{Entry, NameSet, WireName};

    fn set(names: &[&str]) -> NameSet {
        names.iter().map(|name| name.parse::<Entry>().unwrap()).collect()
    }

    fn wire(name: &str) -> WireName {
        WireName::from(&name.parse().unwrap())
    }

    #[test]
    fn every_suffix_says_how_far_its_names_reach() {
        let set = set(&["example.com", "=a.b.example.org", "!ads.example.com", "x.example.net"]);
        let suffixes = set.suffixes();
        let kind = |name: &str| suffixes.find(hash(wire(name).lower()));
        assert_eq!(kind("example.com"), Some(name_kind::TREE));
        assert_eq!(
            kind("ads.example.com"),
            Some(name_kind::TREE),
            "an exception is not denied here"
        );
        assert_eq!(kind("a.b.example.org"), Some(name_kind::EXACT));
        for above in ["com", "org", "example.org", "b.example.org", "net", "example.net"] {
            assert_eq!(kind(above), Some(name_kind::ABOVE), "{above}");
        }
        for nowhere in ["www.example.com", "example", "y.example.net", "b.org"] {
            assert_eq!(kind(nowhere), None, "{nowhere}");
        }
        assert_eq!(suffixes.len(), 10);
    }

    #[test]
    fn a_number_is_a_fingerprint_of_what_is_listed() {
        let one = set(&["a.example", "b.example"]);
        assert_eq!(one.suffixes(), set(&["b.example", "a.example"]).suffixes());
        for other in [&["a.example", "=b.example"][..], &["a.example"], &[]] {
            assert_ne!(one.suffixes().number(), set(other).suffixes().number(), "{other:?}");
        }
        let lists_top = |names: &[&str]| set(names).suffixes().number() & SET_LISTS_TOP != 0;
        assert!(lists_top(&["a.example", "com"]) && lists_top(&["!com"]));
        assert!(!lists_top(&["a.example", "b.example"]) && !lists_top(&[]));
        let mut grown = set(&["a.example"]);
        let before = grown.suffixes().number();
        grown.extend(["b.example".parse::<Entry>().unwrap()]);
        assert_ne!(grown.suffixes().number(), before);
        assert_eq!(grown.suffixes(), one.suffixes());
    }

    #[test]
    fn the_programs_read_bytes_of_names_as_the_resolver_does() {
        for byte in 0..=u8::MAX {
            let mut name = WireName::root();
            name.read(&[3, b'a', byte, b'z', 0]).unwrap();
            let word = u64::from_le_bytes([b'a', byte, b'z', 0, 0, 0, 0, 0]);
            let (bytes, is_plain) = lower(word, 3);
            assert_eq!(is_plain, name.is_host_name(), "{byte}");
            if is_plain {
                assert_eq!(bytes.to_le_bytes()[..3], name.lower()[1..4], "{byte}");
            }
            let whole = u64::from_le_bytes([byte; 8]);
            assert_eq!(lower(whole, 8).1, is_plain, "{byte}");
        }
    }
}
