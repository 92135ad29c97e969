//! Which names a slot may resolve. The longest listed name that covers the asked one decides; of two as long, the
//! exception.

mod entry;
mod name_set;
mod suffixes;

use std::{fmt, sync::Arc};

pub use entry::{BadEntry, Entry, Kind};
pub use name_set::{NameSet, TooMany};
pub use suffixes::Suffixes;

use crate::{Ports, WireName, write_name};
use name_set::Decides;

/// Sets of names that count together; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Allowlist {
    layers: Arc<[Arc<NameSet>]>,
}

/// What an allowlist says of a name.
#[derive(Clone, Copy, Debug)]
pub enum Listed<'a> {
    /// It is allowed by that rule.
    Allowed(Rule<'a>),
    /// An exception says no.
    Excepted(Rule<'a>),
    /// It is not allowed, but a name below it is: to deny its existence would deny that one's (RFC 8020).
    Above,
    /// Nothing speaks of it.
    Unlisted,
}

/// The listed name that decided.
#[derive(Clone, Copy)]
pub struct Rule<'a> {
    set: &'a NameSet,
    decides: Decides,
}

impl<'a> Rule<'a> {
    /// The name in wire form.
    #[must_use]
    pub fn name(&self) -> &'a [u8] {
        self.set.name_at(self.decides.at)
    }

    /// What stands before it in the file.
    #[must_use]
    pub fn sign(&self) -> &'static str {
        self.decides.kind.sign()
    }

    /// Where it is from, see [`NameSet::begin`].
    #[must_use]
    pub fn origin(&self) -> Option<&'a Arc<str>> {
        self.set.origin_at(self.decides.at)
    }

    /// The ports that it is bound to.
    #[must_use]
    pub fn ports(&self) -> Option<&'a Ports> {
        self.set.ports_at(self.decides.at)
    }
}

impl fmt::Display for Rule<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.sign())?;
        let mut written = Ok(());
        write_name(self.name(), |part| {
            written = written.and_then(|()| f.write_str(str::from_utf8(part).unwrap_or_default()));
        });
        written
    }
}

impl fmt::Debug for Rule<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rule({self})")
    }
}

impl Allowlist {
    /// The names of all these sets.
    #[must_use]
    pub fn of(sets: impl IntoIterator<Item = Arc<NameSet>>) -> Self {
        Self { layers: sets.into_iter().filter(|set| !set.is_empty()).collect() }
    }

    /// What it says of a name.
    #[must_use]
    pub fn decide(&self, name: &WireName) -> Listed<'_> {
        let mut best: Option<Rule<'_>> = None;
        let mut is_above = false;
        for set in self.layers.iter() {
            let found = set.find(name);
            is_above |= found.is_above;
            let Some(decides) = found.decides else { continue };
            let wins = best.is_none_or(|best| {
                let best = best.decides;
                decides.labels > best.labels
                    || (decides.labels == best.labels && decides.kind == Kind::Exception)
            });
            if wins {
                best = Some(Rule { set, decides });
            }
        }
        match best {
            Some(rule) if rule.decides.kind != Kind::Exception => Listed::Allowed(rule),
            _ if is_above => Listed::Above,
            Some(rule) => Listed::Excepted(rule),
            None => Listed::Unlisted,
        }
    }

    /// The sets.
    #[must_use]
    pub fn sets(&self) -> &[Arc<NameSet>] {
        &self.layers
    }

    /// How many names are listed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.layers.iter().map(|set| set.len()).sum()
    }

    /// True if nothing is allowed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }
}

impl Extend<Entry> for NameSet {
    /// Names that fit into memory; for those of a file that may not, see [`NameSet::add`].
    fn extend<T: IntoIterator<Item = Entry>>(&mut self, entries: T) {
        for entry in entries {
            if self.add(&entry).is_err() {
                break;
            }
        }
        self.finish();
    }
}

impl FromIterator<Entry> for NameSet {
    fn from_iter<T: IntoIterator<Item = Entry>>(entries: T) -> Self {
        let mut set = Self::default();
        set.extend(entries);
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DomainName;

    fn set(names: &[&str]) -> Arc<NameSet> {
        Arc::new(names.iter().map(|name| name.parse::<Entry>().unwrap()).collect())
    }

    fn decide(list: &Allowlist, name: &str) -> String {
        let name: DomainName = name.parse().unwrap();
        match list.decide(&WireName::from(&name)) {
            Listed::Allowed(rule) => format!("by {rule}"),
            Listed::Excepted(rule) => format!("not by {rule}"),
            Listed::Above => "above".into(),
            Listed::Unlisted => "unlisted".into(),
        }
    }

    #[test]
    fn a_name_covers_itself_and_all_below_on_label_boundaries() {
        let list = Allowlist::of([set(&["example.com", "a.b.example.org"])]);
        for (asked, expected) in [
            ("example.com", "by example.com"),
            ("www.EXAMPLE.com", "by example.com"),
            ("x.y.a.b.example.org", "by a.b.example.org"),
            ("evilexample.com", "unlisted"),
            ("example.com.evil.net", "unlisted"),
            ("com", "above"),
            ("b.example.org", "above"),
            ("c.b.example.org", "unlisted"),
        ] {
            assert_eq!(decide(&list, asked), expected, "{asked}");
        }
    }

    #[test]
    fn exact_names_exceptions_and_the_longest_match() {
        let list = Allowlist::of([set(&[
            "example.com",
            "!ads.example.com",
            "good.ads.example.com",
            "=example.net",
            "!example.org",
        ])]);
        for (asked, expected) in [
            ("x.example.com", "by example.com"),
            ("ads.example.com", "above"),
            ("x.ads.example.com", "not by !ads.example.com"),
            ("x.good.ads.example.com", "by good.ads.example.com"),
            ("example.net", "by =example.net"),
            ("www.example.net", "unlisted"),
            ("example.org", "not by !example.org"),
            ("org", "unlisted"),
        ] {
            assert_eq!(decide(&list, asked), expected, "{asked}");
        }
    }

    #[test]
    fn of_several_sets_the_longest_name_decides_and_of_equal_ones_the_exception() {
        let list = Allowlist::of([
            set(&["example.com", "example.net", "b.a"]),
            set(&["!www.example.com", "!example.net"]),
        ]);
        assert_eq!(decide(&list, "example.com"), "by example.com");
        assert_eq!(decide(&list, "www.example.com"), "not by !www.example.com");
        assert_eq!(decide(&list, "example.net"), "not by !example.net");
        assert_eq!(decide(&list, "a"), "above");
        assert_eq!(list.len(), 5);
    }

    #[test]
    fn a_name_knows_where_it_is_from_also_if_another_ends_like_it() {
        let mut names = NameSet::default();
        for (origin, listed) in [
            ("one", &["www.example.com", "a.example.org"][..]),
            ("two", &["example.com", "=example.org", "www.example.com"]),
            ("three", &["x.b.example.com", "!b.example.com", "example.com:80"]),
        ] {
            names.begin(origin);
            for name in listed {
                names.add(&name.parse().unwrap()).unwrap();
            }
        }
        names.finish();
        let unknown: NameSet = ["example.net".parse().unwrap()].into_iter().collect();
        let list = Allowlist::of([Arc::new(names), Arc::new(unknown)]);
        let origin = |text: &str| {
            let name: DomainName = text.parse().unwrap();
            match list.decide(&WireName::from(&name)) {
                Listed::Allowed(rule) | Listed::Excepted(rule) => rule.origin().map(|it| &**it),
                other => panic!("{text}: {other:?}"),
            }
        };
        for (asked, expected) in [
            ("www.example.com", Some("one")),
            ("x.a.example.org", Some("one")),
            ("example.com", Some("two")),
            ("example.org", Some("two")),
            ("x.b.example.com", Some("three")),
            ("y.b.example.com", Some("three")),
            ("example.net", None),
        ] {
            assert_eq!(origin(asked), expected, "{asked}");
        }
        assert_eq!(list.len(), 7);
    }

    #[test]
    fn ports_belong_to_their_rule() {
        let names =
            set(&["github.com:22,443", "api.github.com", "both.example:53", "both.example"]);
        let list = Allowlist::of([names]);
        let ports = |text: &str| {
            let name: DomainName = text.parse().unwrap();
            match list.decide(&WireName::from(&name)) {
                Listed::Allowed(rule) => rule.ports().map(ToString::to_string),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(ports("www.github.com").as_deref(), Some("22,443"));
        assert_eq!(ports("x.api.github.com"), None);
        assert_eq!(ports("both.example"), None, "once without ports is any port");
    }

    #[test]
    fn entries_are_refused_with_what_is_wrong() {
        let error = |text: &str| text.parse::<Entry>().unwrap_err().to_string();
        assert!(error("https://example.com").contains("no domain name"));
        assert!(error("*.example.com").contains("no domain name"));
        assert!(error("example.com:0").contains("example.com:0"));
        assert!(error("!example.com:443").contains("exception"));
        assert!(error("==example.com").contains("no domain name"));
    }

    /// Against a list of names looked through one by one.
    #[test]
    fn a_large_set_agrees_with_a_plain_search() {
        let mut state = 1_u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % below
        };
        let mut name = || {
            let labels = 1 + random(4);
            let labels: Vec<_> = (0..labels).map(|_| format!("l{}", random(12))).collect();
            labels.join(".")
        };
        let names: Vec<_> = (0..2000).map(|_| name()).collect();
        let list = Allowlist::of([set(&names.iter().map(String::as_str).collect::<Vec<_>>())]);
        for _ in 0..5000 {
            let asked = name();
            let covers = |listed: &&String| {
                asked == **listed
                    || asked.strip_suffix(&***listed).is_some_and(|it| it.ends_with('.'))
            };
            let longest = names.iter().filter(covers).max_by_key(|listed| listed.len());
            let below = format!(".{asked}");
            let expected = match longest {
                Some(rule) => format!("by {rule}"),
                None if names.iter().any(|listed| listed.ends_with(&below)) => "above".into(),
                None => "unlisted".into(),
            };
            assert_eq!(decide(&list, &asked), expected, "{asked}");
        }
    }
}
