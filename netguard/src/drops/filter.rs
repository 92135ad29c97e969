//! Which drops somebody wants.

use std::{net::IpAddr, str::FromStr, time::SystemTime};

use ipnet::IpNet;
use netguard_common::DropReason;
use netguard_dns::DomainName;

use super::{Drop, Id};
use crate::feed;

/// Which drops somebody wants; all of them without conditions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only this one.
    pub id: Option<Id>,
    /// Only this slot's.
    pub slot: Option<String>,
    /// Only those of this reason.
    pub reason: Option<DropReason>,
    /// Only those of slots of this runtime.
    pub runtime: Option<String>,
    /// Only those from then on.
    pub since: Option<SystemTime>,
    /// Only those of packets to there.
    pub to: Option<To>,
}

/// Where a packet was to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum To {
    /// An address of this prefix.
    Prefix(IpNet),
    /// What the slot knew by this name or one below it.
    Name(DomainName),
}

/// A text that says no destination.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no address like 203.0.113.7, prefix like 203.0.113.0/24 or name like example.com"
)]
pub struct BadTo(String);

impl FromStr for To {
    type Err = BadTo;

    fn from_str(text: &str) -> Result<Self, BadTo> {
        if let Ok(prefix) = text.parse() {
            return Ok(Self::Prefix(prefix));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Prefix(address.into()));
        }
        // What has no letter was meant to be an address.
        let is_name = text.contains(|letter: char| letter.is_alphabetic()) && !text.contains('/');
        let name = text.parse().ok().filter(|_| is_name);
        name.map(Self::Name).ok_or_else(|| BadTo(text.to_owned()))
    }
}

impl To {
    fn admits(&self, drop: &Drop) -> bool {
        match self {
            Self::Prefix(prefix) => drop.packet.dst.is_some_and(|dst| prefix.contains(&dst)),
            Self::Name(name) => {
                let head = drop.name.as_deref().and_then(|it| it.strip_suffix(name.as_str()));
                head.is_some_and(|head| head.is_empty() || head.ends_with('.'))
            }
        }
    }
}

impl feed::Filter<Drop> for Filter {
    fn admits(&self, drop: &Drop) -> bool {
        let is_it = |wanted: &Option<String>, found| wanted.is_none() || wanted == found;
        is_it(&self.slot, &drop.slot)
            && is_it(&self.runtime, &drop.runtime)
            && self.id.is_none_or(|id| id == drop.id)
            && self.reason.is_none_or(|reason| reason == drop.reason)
            && self.since.is_none_or(|since| since <= drop.time)
            && self.to.as_ref().is_none_or(|to| to.admits(drop))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::samples, *};
    use crate::feed::Filter as _;

    #[test]
    fn a_filter_admits_what_fits_all_its_conditions() {
        let drop = samples::drop_of(Some("one"), DropReason::Host, 1);
        let filter = |slot: &str, reason, runtime: &str| Filter {
            slot: (!slot.is_empty()).then(|| slot.to_owned()),
            reason,
            runtime: (!runtime.is_empty()).then(|| runtime.to_owned()),
            ..Filter::default()
        };
        assert!(filter("", None, "").admits(&drop));
        assert!(filter("one", Some(DropReason::Host), "of-one").admits(&drop));
        for other in [
            filter("two", Some(DropReason::Host), "of-one"),
            filter("one", Some(DropReason::Metadata), "of-one"),
            filter("one", Some(DropReason::Host), "of-two"),
        ] {
            assert!(!other.admits(&drop), "{other:?}");
        }
        let of_none = samples::drop_of(None, DropReason::Host, 1);
        assert!(!filter("one", None, "").admits(&of_none));
    }

    #[test]
    fn a_drop_is_found_by_what_its_line_ends_with() {
        let drop = samples::tcp();
        for (id, is_it) in [("1a2b", true), ("[1A2B]", true), ("1a2c", false)] {
            let filter = Filter { id: Some(id.parse().unwrap()), ..Filter::default() };
            assert_eq!(filter.admits(&drop), is_it, "{id}");
        }
        assert_eq!(drop.id.to_string().parse(), Ok(drop.id));
        assert!("".parse::<Id>().is_err() && "slot1".parse::<Id>().is_err());
    }

    #[test]
    fn a_destination_is_an_address_a_prefix_or_a_name() {
        let drop = samples::tcp();
        for (to, is_it) in [
            ("203.0.113.10", true),
            ("203.0.113.11", false),
            ("203.0.113.0/24", true),
            ("10.1.0.2", false),
            ("::/0", false),
            ("www.example.com", true),
            ("example.com", true),
            ("ample.com", false),
            ("a.www.example.com", false),
        ] {
            let filter = Filter { to: Some(to.parse().unwrap()), ..Filter::default() };
            assert_eq!(filter.admits(&drop), is_it, "{to}");
        }
        for bad in ["", "203.0.113", "203.0.113.0/33", "example.com/24", "*.example.com"] {
            assert!(bad.parse::<To>().is_err(), "{bad}");
        }
    }

    #[test]
    fn since_counts_the_moment_itself() {
        let drop = samples::tcp();
        for (since, is_it) in [(drop.time, true), (drop.time + Duration::from_nanos(1), false)] {
            let filter = Filter { since: Some(since), ..Filter::default() };
            assert_eq!(filter.admits(&drop), is_it);
        }
    }
}
