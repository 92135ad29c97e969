//! What a file says of names: categories, lists and single names, for all slots and for one. What several slots share
//! is read and kept once, and what stands in texts beside the file also when slots are added to it.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
};

use netguard_common::SlotId;
use netguard_dns::{Allowlist, Entry, NameSet, QueryLimits};
use toml::Spanned;

use super::{
    super::{
        file::{self, AllowlistFile},
        name_lines::Categories,
        problem::Source,
        template,
    },
    Checker,
};
use crate::policy::{SlotDns, origin};

/// The allowlist that netguard ships.
const SHIPPED_ALLOWLIST: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../dist/allowlist.toml"));

pub(in crate::config) fn shipped_allowlist() -> AllowlistFile {
    toml::from_str(SHIPPED_ALLOWLIST).expect("the shipped allowlist is under test")
}

/// What each slot may ask.
pub(super) fn of_slots(
    checker: &mut Checker<'_>,
    dns: &file::Dns,
    entries: &[template::Entry],
) -> BTreeMap<SlotId, SlotDns> {
    let mut reader = Reader { dns, categories: None, single: HashMap::new() };
    let hosts = Chosen {
        categories: dns.categories.as_deref(),
        lists: dns.lists.as_deref(),
        names: dns.names.as_deref(),
        origin: origin::NAMES,
    };
    // Also if every slot has keys of its own: what is wrong with them is wrong.
    reader.allowlist(checker, hosts);
    let mut slots = BTreeMap::new();
    for entry in entries {
        let own = &entry.rest.dns;
        let chosen = Chosen {
            categories: own.categories.as_deref().or(hosts.categories),
            lists: own.lists.as_deref().or(hosts.lists),
            names: own.names.as_deref().or(hosts.names),
            origin: if own.names.is_some() { origin::OWN_NAMES } else { origin::NAMES },
        };
        let allowlist = reader.allowlist(checker, chosen);
        let limits = limits(&entry.rest.limits);
        slots.insert(*entry.id.get_ref(), SlotDns { allowlist, limits });
    }
    slots
}

/// Which names count.
#[derive(Clone, Copy)]
struct Chosen<'a> {
    categories: Option<&'a [Spanned<String>]>,
    lists: Option<&'a [Spanned<PathBuf>]>,
    names: Option<&'a [Spanned<String>]>,
    /// Where the names are from.
    origin: &'static str,
}

fn limits(limits: &file::SlotLimits) -> QueryLimits {
    let default = QueryLimits::default();
    let given =
        |limit: &Option<Spanned<u32>>, default| limit.as_ref().map_or(default, |it| *it.get_ref());
    QueryLimits {
        queries_per_second: limits.queries_per_second.unwrap_or(default.queries_per_second),
        names_per_minute: given(&limits.names_per_minute, default.names_per_minute),
        answer_bytes_per_minute: given(
            &limits.answer_bytes_per_minute,
            default.answer_bytes_per_minute,
        ),
    }
}

/// What was read of texts beside the file: they do not change, so neither does this when slots are added.
#[derive(Clone, Debug, Default)]
pub(in crate::config) struct Shelf {
    /// Where the names of categories that count stand.
    pub(in crate::config) categories: Option<Arc<Categories>>,
    /// By which categories are chosen; all of them if none is said to be.
    chosen: HashMap<Option<Vec<String>>, Arc<NameSet>>,
    lists: HashMap<PathBuf, Arc<NameSet>>,
}

impl Shelf {
    /// With the file of categories that has that text.
    fn begin(&mut self, source: Source) {
        let fresh = || Arc::new(Categories { source, names: HashMap::new() });
        let _ = self.categories.get_or_insert_with(fresh);
    }
}

/// Reads what is on no shelf. What is wrong with a set is told once.
struct Reader<'a> {
    dns: &'a file::Dns,
    /// Open since something of it was wanted; nothing if it cannot be read.
    categories: Option<Option<AllowlistFile>>,
    /// By the places of their names in the file: slots of one template have the same.
    single: HashMap<usize, Arc<NameSet>>,
}

impl Reader<'_> {
    /// The categories of the file that the operator names, or of the shipped one.
    fn open(&self, checker: &mut Checker<'_>) -> Option<AllowlistFile> {
        let Some(path) = &self.dns.allowlist else {
            checker.shelf.begin(Source::new(Path::new("the shipped allowlist"), SHIPPED_ALLOWLIST));
            return Some(shipped_allowlist());
        };
        let full = checker.source.beside(path.get_ref());
        let text = match checker.texts.read(&full) {
            Ok(text) => text,
            Err(error) => {
                let message = format!("allowlist {} cannot be read: {error}", full.display());
                checker.refuse(path, message);
                return None;
            }
        };
        let source = Source::new(&full, &text);
        match toml::from_str(&text) {
            Ok(categories) => {
                checker.shelf.begin(source);
                Some(categories)
            }
            Err(error) => {
                checker.problems.push(source.toml_problem(&error));
                None
            }
        }
    }

    fn allowlist(&mut self, checker: &mut Checker<'_>, chosen: Chosen<'_>) -> Allowlist {
        let mut sets = vec![self.categories(checker, chosen.categories)];
        for path in chosen.lists.unwrap_or_default() {
            sets.push(Self::list(checker, path));
        }
        sets.push(self.names(checker, chosen.names.unwrap_or_default(), chosen.origin));
        Allowlist::of(sets)
    }

    /// The names of the categories that count: all of them if none is chosen.
    fn categories(
        &mut self,
        checker: &mut Checker<'_>,
        chosen: Option<&[Spanned<String>]>,
    ) -> Arc<NameSet> {
        let key = chosen.map(|chosen| chosen.iter().map(|it| it.get_ref().clone()).collect());
        if let Some(set) = checker.shelf.chosen.get(&key) {
            return Arc::clone(set);
        }
        let set = Arc::new(self.read_categories(checker, chosen).unwrap_or_default());
        checker.shelf.chosen.insert(key, Arc::clone(&set));
        set
    }

    fn read_categories(
        &mut self,
        checker: &mut Checker<'_>,
        chosen: Option<&[Spanned<String>]>,
    ) -> Option<NameSet> {
        if self.categories.is_none() {
            self.categories = Some(self.open(checker));
        }
        let categories = self.categories.as_ref()?.as_ref()?;
        for wanted in chosen.into_iter().flatten() {
            if !categories.contains_key(wanted.get_ref()) {
                let known = categories.keys().cloned().collect::<Vec<_>>().join(", ");
                let message = format!("no category {:?}; there are {known}", wanted.get_ref());
                checker.refuse(wanted, message);
            }
        }
        let Categories { source, names } = Arc::make_mut(checker.shelf.categories.as_mut()?);
        let mut set = NameSet::default();
        for (category, list) in categories {
            let is_wanted = |chosen: &[Spanned<String>]| {
                chosen.iter().any(|wanted| wanted.get_ref() == category)
            };
            if !chosen.is_none_or(is_wanted) {
                continue;
            }
            set.begin(category);
            for name in &list.names {
                let at = name.span().start;
                let entry = name.get_ref().parse::<Entry>().map_err(|error| error.to_string());
                let added = entry.and_then(|entry| {
                    names.entry(entry.rule()).or_insert(at);
                    set.add(&entry).map_err(|error| error.to_string())
                });
                if let Err(message) = added {
                    checker.problems.push(source.problem(at, message));
                }
            }
        }
        set.finish();
        Some(set)
    }

    /// The names of a file, one on each line; `#` begins a comment.
    fn list(checker: &mut Checker<'_>, path: &Spanned<PathBuf>) -> Arc<NameSet> {
        /// A file of something else has a problem on every line.
        const PROBLEMS_MAX: usize = 10;
        let full = checker.source.beside(path.get_ref());
        if let Some(set) = checker.shelf.lists.get(&full) {
            return Arc::clone(set);
        }
        let mut set = NameSet::default();
        set.begin(&format!("{}{}", origin::LIST, path.get_ref().display()));
        match checker.texts.read(&full) {
            Err(error) => {
                checker.refuse(path, format!("list {} cannot be read: {error}", full.display()));
            }
            Ok(text) => {
                let mut problems = 0;
                for line in text.lines() {
                    let name = line.split('#').next().unwrap_or_default().trim();
                    if name.is_empty() {
                        continue;
                    }
                    let added = name.parse::<Entry>().map_err(|error| error.to_string());
                    let added = added.and_then(|it| set.add(&it).map_err(|it| it.to_string()));
                    let Err(message) = added else { continue };
                    let source = Source::new(&full, &text);
                    let at = line.as_ptr() as usize - text.as_ptr() as usize;
                    checker.problems.push(source.problem(at, message));
                    problems += 1;
                    if problems == PROBLEMS_MAX {
                        break;
                    }
                }
            }
        }
        set.finish();
        let set = Arc::new(set);
        checker.shelf.lists.insert(full, Arc::clone(&set));
        set
    }

    /// Single names.
    fn names(
        &mut self,
        checker: &mut Checker<'_>,
        names: &[Spanned<String>],
        origin: &str,
    ) -> Arc<NameSet> {
        let Some(first) = names.first() else { return Arc::default() };
        let key = first.span().start;
        if let Some(set) = self.single.get(&key) {
            return Arc::clone(set);
        }
        let mut set = NameSet::default();
        set.begin(origin);
        set.extend(checker.parse_all::<Entry>(names, "names"));
        let set = Arc::new(set);
        self.single.insert(key, Arc::clone(&set));
        set
    }
}

#[cfg(test)]
mod tests {
    use netguard_dns::{DomainName, WireName};

    use super::*;
    use crate::config::Config;

    #[test]
    fn a_slot_more_reads_nothing_that_was_read_already() {
        let directory = tempfile::tempdir().unwrap();
        let list = directory.path().join("list");
        std::fs::write(&list, "listed.example\n").unwrap();
        let text = format!(
            "[dns]\nupstreams = [\"1.1.1.1\"]\ncategories = [\"code-hosting\"]\nlists = [{list:?}]\n\
             [[slot]]\nname = \"one\"\nid = 1\nsubnet = \"10.1.0.0/24\"\n"
        );
        let config = Config::parse(&text, Path::new("test")).unwrap();
        std::fs::remove_file(&list).unwrap();
        let with = |more: &str| {
            let slot = "[[slot]]\nname = \"two\"\nid = 2\nsubnet = \"10.2.0.0/24\"\n";
            config.with_slots(&format!("{slot}{more}")).unwrap()
        };
        let sets = |config: &Config, id| config.policy.dns.slots[&id].allowlist.sets().to_vec();
        let more = with("");
        let before = sets(&config, 1);
        assert_eq!(before.len(), 2);
        for id in [1, 2] {
            assert!(
                before.iter().zip(&sets(&more, id)).all(|(one, other)| Arc::ptr_eq(one, other))
            );
        }
        // What is chosen now only is read now.
        let other = with("dns.categories = [\"ai-services\"]\n");
        let covers = |config: &Config, id, name: &str| {
            let name = WireName::from(&name.parse::<DomainName>().unwrap());
            sets(config, id).iter().any(|set| set.covers(&name))
        };
        for (name, by_one, by_two) in [
            ("github.com", true, false),
            ("api.openai.com", false, true),
            ("listed.example", true, true),
        ] {
            assert_eq!(covers(&other, 1, name), by_one, "{name}");
            assert_eq!(covers(&other, 2, name), by_two, "{name}");
        }
        let places = |config: &Config| config.shelf.categories.as_ref().unwrap().names.len();
        assert!(places(&other) > places(&config));
        assert_eq!(places(&more), places(&config));
    }
}
