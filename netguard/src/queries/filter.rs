//! Which queries somebody wants.

use std::time::SystemTime;

use netguard_dns::{DomainName, WireName};

use super::{Entry, Outcome, Query};
use crate::feed;

/// Which queries somebody wants; all of them without conditions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only this slot's.
    pub slot: Option<String>,
    /// Only those of slots of this runtime.
    pub runtime: Option<String>,
    /// Only those for this name and all below it.
    pub name: Option<DomainName>,
    /// Only those for this type.
    pub record_type: Option<u16>,
    /// Only those whose reply has this code.
    pub rcode: Option<u16>,
    /// Only those that were decided so.
    pub side: Option<Side>,
    /// Only those from then on.
    pub since: Option<SystemTime>,
}

/// Two sorts of outcomes; what netguard answers itself is of neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What was asked of an upstream, or remembered from one.
    Allowed,
    /// What was denied or refused.
    Denied,
}

impl Side {
    fn admits(self, outcome: Outcome) -> bool {
        match self {
            Self::Allowed => matches!(outcome, Outcome::Allow | Outcome::WouldDeny),
            Self::Denied => matches!(outcome, Outcome::Deny | Outcome::Refuse),
        }
    }
}

impl Filter {
    fn admits_query(&self, query: &Query) -> bool {
        self.record_type.is_none_or(|it| it == query.record_type)
            && self.rcode.is_none_or(|it| it == query.rcode)
            && self.name.as_ref().is_none_or(|it| covers(it, &query.name))
    }
}

/// True if the name in wire form is that name or lies below it.
fn covers(name: &DomainName, asked: &[u8]) -> bool {
    let name = WireName::from(name);
    let mut rest = asked;
    while let Some(length) = rest.first() {
        if rest == name.lower() {
            return true;
        }
        rest = rest.get(1 + usize::from(*length)..).unwrap_or_default();
    }
    false
}

impl feed::Filter<Entry> for Filter {
    /// Nobody knows which names those had that are told as a number: whoever wants some of the slot's is told of all.
    fn admits(&self, entry: &Entry) -> bool {
        let is_it = |wanted: &Option<String>, found: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| Some(wanted) == found)
        };
        is_it(&self.slot, feed::Item::slot(entry))
            && is_it(&self.runtime, Some(entry.runtime()))
            && self.since.is_none_or(|since| since <= entry.time())
            && self.side.is_none_or(|side| side.admits(entry.outcome()))
            && match entry {
                Entry::Query(query) => self.admits_query(query),
                Entry::Suppressed(_) => true,
            }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use netguard_dns::{Decision, Denial};

    use super::{super::samples, *};
    use crate::feed::Filter as _;

    fn admits(filter: Filter, entry: impl Into<Entry>) -> bool {
        filter.admits(&entry.into())
    }

    impl From<Query> for Entry {
        fn from(query: Query) -> Self {
            Self::Query(query)
        }
    }

    #[test]
    fn a_filter_admits_what_fits_all_its_conditions() {
        let all = || Filter {
            slot: Some("slot1".to_owned()),
            runtime: Some("vm".to_owned()),
            name: Some("github.com".parse().unwrap()),
            record_type: Some(28),
            rcode: Some(0),
            side: Some(Side::Allowed),
            since: Some(SystemTime::UNIX_EPOCH + samples::TIME),
        };
        let query = || samples::query(|_| {});
        assert!(admits(all(), query()) && admits(Filter::default(), query()));
        let later = Some(SystemTime::UNIX_EPOCH + samples::TIME + Duration::from_nanos(1));
        for other in [
            Filter { slot: Some("slot2".to_owned()), ..all() },
            Filter { runtime: Some("pods".to_owned()), ..all() },
            Filter { name: Some("gitlab.com".parse().unwrap()), ..all() },
            Filter { record_type: Some(1), ..all() },
            Filter { rcode: Some(3), ..all() },
            Filter { side: Some(Side::Denied), ..all() },
            Filter { since: later, ..all() },
        ] {
            assert!(!other.admits(&query().into()), "{other:?}");
        }
        let more = || Entry::Suppressed(samples::suppressed());
        assert!(admits(Filter { side: Some(Side::Denied), ..all() }, more()));
        assert!(!admits(all(), more()), "they were denied");
        assert!(!admits(Filter { slot: Some("slot2".to_owned()), ..Filter::default() }, more()));
    }

    #[test]
    fn a_name_is_for_all_below_it_on_label_boundaries() {
        let of = |name: &str| Filter { name: Some(name.parse().unwrap()), ..Filter::default() };
        for (name, is_it) in [
            ("api.github.com", true),
            ("com", true),
            ("hub.com", false),
            ("x.api.github.com", false),
            ("api", false),
        ] {
            assert_eq!(admits(of(name), samples::query(|_| {})), is_it, "{name}");
        }
        let root = samples::query(|record| record.name = &[0]);
        assert!(!admits(of("com"), root));
    }

    #[test]
    fn what_netguard_answers_itself_is_neither_allowed_nor_denied() {
        let of = |side| Filter { side: Some(side), ..Filter::default() };
        for (decision, allowed, denied) in [
            (Decision::Denied(Denial::Type, None), false, true),
            (Decision::Refused("malformed"), false, true),
            (Decision::Local("localhost"), false, false),
        ] {
            let query = samples::query(|record| record.decision = decision);
            assert_eq!(admits(of(Side::Allowed), query.clone()), allowed, "{decision:?}");
            assert_eq!(admits(of(Side::Denied), query), denied, "{decision:?}");
        }
    }
}
