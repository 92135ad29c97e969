//! Which names a slot may resolve. A listed name covers itself and everything below it, on label
//! boundaries.

use std::{collections::HashSet, sync::Arc};

use super::DomainName;

/// A set of names; cheap to clone, looked up once per label of the asked name.
#[derive(Clone, Debug, Default)]
pub struct Allowlist {
    names: Arc<HashSet<DomainName>>,
}

impl Allowlist {
    /// The listed name that covers `name`, the longest one first.
    #[must_use]
    pub fn covering(&self, name: &DomainName) -> Option<&DomainName> {
        let text = name.as_str();
        let below = text.match_indices('.').map(|(dot, _)| &text[dot + 1..]);
        std::iter::once(text).chain(below).find_map(|suffix| self.names.get(suffix))
    }

    /// How many names are listed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// True if nothing is allowed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}

impl FromIterator<DomainName> for Allowlist {
    fn from_iter<T: IntoIterator<Item = DomainName>>(names: T) -> Self {
        Self { names: Arc::new(names.into_iter().collect()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_covers_itself_and_all_below_on_label_boundaries() {
        let list: Allowlist =
            ["example.com", "a.b.example.org"].iter().map(|name| name.parse().unwrap()).collect();
        let covering = |name: &str| {
            let name: DomainName = name.parse().unwrap();
            list.covering(&name).map(ToString::to_string)
        };
        assert_eq!(covering("example.com").as_deref(), Some("example.com"));
        assert_eq!(covering("www.EXAMPLE.com").as_deref(), Some("example.com"));
        assert_eq!(covering("x.y.a.b.example.org").as_deref(), Some("a.b.example.org"));
        for outside in ["evilexample.com", "com", "b.example.org", "example.com.evil.net"] {
            assert_eq!(covering(outside), None, "{outside}");
        }
    }
}
