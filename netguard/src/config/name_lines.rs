//! Where in the files stands what can decide about a query: byte offsets of listed names and keys.

use std::{collections::HashMap, sync::Arc};

use netguard_dns::Entry as Listed;
use toml::Spanned;

use super::{
    file,
    lines::{Line, start},
    problem::Source,
    template::Entry,
};
use crate::policy::{NameBecause, NameKey, origin};

/// Byte offsets of names in one text, by name with its sign.
type Names = HashMap<String, usize>;

/// The names of an allowlist file.
#[derive(Clone, Debug)]
pub(super) struct Categories {
    pub(super) source: Source,
    pub(super) names: Names,
}

/// Byte offsets.
#[derive(Clone, Debug)]
pub(super) struct NameLines {
    /// None if the file has no names at all.
    categories: Option<Arc<Categories>>,
    types: Option<usize>,
    private_names: Option<usize>,
    name_max: Option<usize>,
    hosts: Own,
    /// In the order of [`crate::policy::Policy::slots`].
    slots: Vec<Own>,
}

/// What a slot can have of its own.
#[derive(Clone, Debug, Default)]
struct Own {
    names: Option<Arc<Names>>,
    /// Where the first of them stands.
    first: Option<usize>,
    lists: Vec<(String, usize)>,
    names_per_minute: Option<usize>,
    answer_bytes_per_minute: Option<usize>,
}

impl NameLines {
    pub(super) fn of(
        dns: &file::Dns,
        entries: &[Entry],
        categories: Option<Arc<Categories>>,
    ) -> Self {
        let mut read = HashMap::new();
        let hosts = Own::of(&mut read, dns.names.as_deref(), dns.lists.as_deref());
        let slots = entries.iter().map(|entry| {
            let (own, limits) = (&entry.rest.dns, &entry.rest.limits);
            Own {
                names_per_minute: limits.names_per_minute.as_ref().and_then(start),
                answer_bytes_per_minute: limits.answer_bytes_per_minute.as_ref().and_then(start),
                ..Own::of(&mut read, own.names.as_deref(), own.lists.as_deref())
            }
        });
        Self {
            slots: slots.collect(),
            categories,
            types: dns.types.iter().flatten().next().and_then(start),
            private_names: dns.private_names.first().and_then(start),
            name_max: dns.name_max.as_ref().and_then(start),
            hosts,
        }
    }

    /// `slot` is an index.
    pub(super) fn line_of(&self, source: &Source, slot: usize, because: &NameBecause) -> Line {
        let of_key = |at: Option<usize>, key: &'static str| match at {
            Some(at) => Line::At(source.place(at)),
            None => Line::Default { file: source.name(), key },
        };
        let Some(own) = self.slots.get(slot) else { return Line::BuiltIn };
        match because {
            NameBecause::Listed(rule, from) => match from.as_str() {
                origin::NAMES => of_key(self.hosts.name(rule), NameKey::Names.name()),
                origin::OWN_NAMES => of_key(own.name(rule), NameKey::Names.name()),
                from if from.starts_with(origin::LIST) => {
                    let lists = own.lists.iter().chain(&self.hosts.lists);
                    let mut found = lists.filter(|(label, _)| label == from);
                    of_key(found.next().map(|(_, at)| *at), "lists")
                }
                _ => match self.categories.as_deref() {
                    Some(Categories { source, names }) if names.contains_key(rule) => {
                        Line::At(source.place(names[rule]))
                    }
                    _ => Line::BuiltIn,
                },
            },
            NameBecause::Key(key) => {
                let at = match key {
                    NameKey::Names => own.first.or(self.hosts.first),
                    NameKey::Types => self.types,
                    NameKey::PrivateNames => self.private_names,
                    NameKey::NameMax => self.name_max,
                    NameKey::NamesPerMinute => own.names_per_minute,
                    NameKey::AnswerBytesPerMinute => own.answer_bytes_per_minute,
                };
                of_key(at, key.name())
            }
            NameBecause::Ordered => Line::Ordered,
            NameBecause::BuiltIn => Line::BuiltIn,
        }
    }
}

impl Own {
    /// Slots of one template have the same names, which are read once: by where the first stands.
    fn of(
        read: &mut HashMap<usize, Arc<Names>>,
        names: Option<&[Spanned<String>]>,
        lists: Option<&[Spanned<std::path::PathBuf>]>,
    ) -> Self {
        let names = names.unwrap_or_default();
        let first = names.first().and_then(start);
        let read = first.map(|at| {
            let offsets = || Arc::new(names.iter().filter_map(offset).collect());
            Arc::clone(read.entry(at).or_insert_with(offsets))
        });
        let label = |path: &Spanned<std::path::PathBuf>| {
            (format!("{}{}", origin::LIST, path.get_ref().display()), path.span().start)
        };
        let lists = lists.unwrap_or_default().iter().map(label).collect();
        Self { names: read, first, lists, ..Self::default() }
    }

    fn name(&self, rule: &str) -> Option<usize> {
        self.names.as_ref()?.get(rule).copied()
    }
}

fn offset(name: &Spanned<String>) -> Option<(String, usize)> {
    Some((name.get_ref().parse::<Listed>().ok()?.rule(), name.span().start))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use netguard_dns::{DomainName, Listed as Found, WireName};

    use super::*;
    use crate::config::Config;

    const FILE: &str = "[dns]\nupstreams = [\"1.1.1.1\"]\ncategories = [\"code-hosting\", \"ai-services\"]\n\
        names = [\n  \"one.example\",\n  \"=Two.example:443\"]\n\
        private_names = [\"corp.example\"]\nname_max = 60\n\
        [[slot]]\ncount = 2\n[slot.dns]\nnames = [\"own.example\",\n  \"!bad.own.example\"]\n\
        [[slot]]\nname = \"web\"\nid = 9\nsubnet = \"10.9.0.0/24\"\nlimits.names_per_minute = 7\n";

    #[test]
    fn a_listed_name_has_its_line_and_so_has_what_else_decides() {
        let config = Config::parse(FILE, Path::new("/etc/some/test.toml")).unwrap();
        // What the allowlist itself says of a name.
        let listed = |slot: usize, name: &str| {
            let name = WireName::from(&name.parse::<DomainName>().unwrap());
            let id = config.policy.slots[slot].id;
            let (Found::Allowed(rule) | Found::Excepted(rule)) =
                config.policy.dns.slots[&id].allowlist.decide(&name)
            else {
                panic!("it is listed")
            };
            let origin = rule.origin().map(|it| &**it);
            NameBecause::of(false, None, || Some(rule.to_string()), origin)
        };
        let of = |is_refused, why| NameBecause::of(is_refused, Some(why), || None, None);
        for (slot, because, expected) in [
            (2, listed(2, "www.one.example"), "test.toml:5"),
            (2, listed(2, "two.example"), "test.toml:6"),
            (1, listed(1, "www.own.example"), "test.toml:12"),
            (0, listed(0, "x.bad.own.example"), "test.toml:13"),
            (0, of(false, "unlisted"), "test.toml:12"),
            (2, of(false, "unlisted"), "test.toml:5"),
            (2, of(false, "type"), "test.toml (default of types)"),
            (2, of(true, "type"), "built in"),
            (2, of(false, "rebinding"), "test.toml:7"),
            (2, of(true, "name-length"), "test.toml:8"),
            (2, of(true, "names-per-minute"), "test.toml:18"),
            (0, of(true, "names-per-minute"), "test.toml (default of limits.names_per_minute)"),
            (0, of(false, "denied-at-run-time"), "ordered at run time"),
            (0, of(false, "localhost"), "built in"),
            (7, of(false, "unlisted"), "built in"),
        ] {
            let line = config.line_of_name(slot, &because).to_string();
            assert_eq!(line, expected, "{because:?} of {slot}");
        }
        let hosted = listed(0, "github.com");
        assert_eq!(hosted, NameBecause::Listed("github.com".into(), "code-hosting".into()));
        let line = config.line_of_name(0, &hosted).to_string();
        let shipped = include_str!("../../../dist/allowlist.toml");
        let number =
            line.strip_prefix("the shipped allowlist:").unwrap_or_else(|| panic!("{line}"));
        let number: usize = number.parse().unwrap();
        assert!(shipped.lines().nth(number - 1).unwrap().contains("\"github.com\""), "{line}");
    }

    #[test]
    fn a_list_has_the_line_that_names_it() {
        let file = "[dns]\nupstreams = [\"1.1.1.1\"]\ncategories = []\nlists = [\n  \"less.txt\",\n  \"more.txt\"]\n\
            [[slot]]\nname = \"web\"\nid = 9\nsubnet = \"10.9.0.0/24\"\n";
        let texts = serde_json::json!({
            "/etc/test.toml": file,
            "/etc/less.txt": "a.example\n",
            "/etc/more.txt": "# more\nb.example\n",
        });
        let path = Path::new("/etc/test.toml");
        let config = Config::unpack(path, texts.to_string().as_bytes()).unwrap();
        let name = WireName::from(&"x.b.example".parse::<DomainName>().unwrap());
        let Found::Allowed(rule) = config.policy.dns.slots[&9].allowlist.decide(&name) else {
            panic!("it is listed")
        };
        let origin = rule.origin().map(|it| &**it);
        assert_eq!(origin, Some("list more.txt"));
        let because = NameBecause::of(false, None, || Some(rule.to_string()), origin);
        assert_eq!(config.line_of_name(0, &because).to_string(), "test.toml:6");
    }
}
