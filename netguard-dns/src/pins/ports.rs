//! The ports that a name is bound to.

use std::{fmt, ops::RangeInclusive, str::FromStr, sync::Arc};

use netguard_common::pin::PIN_LANES;

/// Ports of TCP and UDP alike: any, or some ranges of them, sorted, apart from each other, and no more than the kernel
/// keeps for an address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ports(Option<Arc<[RangeInclusive<u16>]>>);

impl Ports {
    /// Any port, and ping, which has none.
    pub const ANY: Self = Self(None);

    /// The ranges; any port is one of all numbers, 0 among them, which stands for ping.
    #[must_use]
    pub fn ranges(&self) -> &[RangeInclusive<u16>] {
        const ALL: &[RangeInclusive<u16>] = &[0..=u16::MAX];
        self.0.as_deref().unwrap_or(ALL)
    }

    /// True if none of the others is beyond these.
    #[must_use]
    pub fn cover(&self, others: &Self) -> bool {
        let is_within = |other: &RangeInclusive<u16>| {
            let mut own = self.ranges().iter();
            own.any(|own| own.contains(other.start()) && own.contains(other.end()))
        };
        others.ranges().iter().all(is_within)
    }

    /// Of ranges in any order. Only a range of all numbers has 0, and makes all others needless. `None` if there is
    /// no range, or too many.
    pub(super) fn of(mut ranges: Vec<RangeInclusive<u16>>) -> Option<Self> {
        if ranges.contains(&(0..=u16::MAX)) {
            return Some(Self::ANY);
        }
        ranges.sort_by_key(|range| *range.start());
        let mut merged: Vec<RangeInclusive<u16>> = Vec::new();
        for range in ranges {
            match merged.last_mut() {
                Some(last) if *range.start() <= last.end().saturating_add(1) => {
                    *last = *last.start()..=*last.end().max(range.end());
                }
                _ => merged.push(range),
            }
        }
        (1..=PIN_LANES).contains(&merged.len()).then(|| Self(Some(merged.into())))
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(ranges) = &self.0 else { return f.write_str("any") };
        for (index, range) in ranges.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let (first, last) = (range.start(), range.end());
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

/// A text that says no ports.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} are no ports; write up to {PIN_LANES} of 1 to 65535, as in \"22,443,8000-8010\"")]
pub struct BadPorts(String);

impl FromStr for Ports {
    type Err = BadPorts;

    fn from_str(text: &str) -> Result<Self, BadPorts> {
        let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port > 0);
        let range = |text: &str| {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            let (first, last) = (port(first)?, port(last)?);
            (first <= last).then_some(first..=last)
        };
        let ranges: Option<Vec<_>> = text.split(',').map(range).collect();
        ranges.and_then(Self::of).ok_or_else(|| BadPorts(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<String> {
        text.parse::<Ports>().ok().map(|ports| ports.to_string())
    }

    #[test]
    fn ports_are_sorted_and_merged() {
        assert_eq!(read("443, 22,8000-8010").as_deref(), Some("22,443,8000-8010"));
        assert_eq!(read("5-9,1-4,8-20,22").as_deref(), Some("1-20,22"));
        assert_eq!(read("1-65535").as_deref(), Some("1-65535"));
        assert_eq!(read("65535,65534").as_deref(), Some("65534-65535"));
        assert_eq!(read("1,3,5,7,9,11,13,15").as_deref(), Some("1,3,5,7,9,11,13,15"));
        assert_eq!(Ports::ANY.to_string(), "any");
        assert_eq!(Ports::of(vec![22..=22, 0..=u16::MAX]), Some(Ports::ANY));
    }

    #[test]
    fn ports_cover_those_that_are_within_them() {
        let ports = |text: &str| text.parse::<Ports>().unwrap_or_default();
        for (own, others, covered) in [
            ("22,443", "443", true),
            ("22,443", "22,443", true),
            ("1-100", "22,80-100", true),
            ("22,443", "80", false),
            ("22,443", "22-443", false),
            ("22,443", "any", false),
            ("1-65535", "any", false),
            ("any", "22", true),
            ("any", "any", true),
        ] {
            assert_eq!(ports(own).cover(&ports(others)), covered, "{own} {others}");
        }
    }

    #[test]
    fn what_are_no_ports_is_refused() {
        for text in ["", "0", "0-9", "9-5", "http", "22,", "70000", "1,3,5,7,9,11,13,15,17", "-"] {
            assert_eq!(read(text), None, "{text:?}");
        }
    }
}
