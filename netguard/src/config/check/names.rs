//! What a file says of names: categories, lists and single names, for all slots and for one. What several slots share
//! is read and kept once.

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
    let Some(mut shelf) = Shelf::open(checker, dns) else { return BTreeMap::new() };
    let hosts = Chosen {
        categories: dns.categories.as_deref(),
        lists: dns.lists.as_deref(),
        names: dns.names.as_deref(),
        origin: origin::NAMES,
    };
    // Also if every slot has keys of its own: what is wrong with them is wrong.
    shelf.allowlist(checker, hosts);
    let mut slots = BTreeMap::new();
    for entry in entries {
        let own = &entry.rest.dns;
        let chosen = Chosen {
            categories: own.categories.as_deref().or(hosts.categories),
            lists: own.lists.as_deref().or(hosts.lists),
            names: own.names.as_deref().or(hosts.names),
            origin: if own.names.is_some() { origin::OWN_NAMES } else { origin::NAMES },
        };
        let allowlist = shelf.allowlist(checker, chosen);
        let limits = limits(&entry.rest.limits);
        slots.insert(*entry.id.get_ref(), SlotDns { allowlist, limits });
    }
    let Shelf { source, places: names, .. } = shelf;
    checker.categories = Some(Arc::new(Categories { source, names }));
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

/// Sets that are read already. What is wrong with one is told once.
struct Shelf {
    categories: AllowlistFile,
    source: Source,
    /// Where names of categories stand.
    places: HashMap<String, usize>,
    /// By the places of their names in the file: slots of one template have the same.
    chosen: HashMap<Option<Vec<String>>, Arc<NameSet>>,
    lists: HashMap<PathBuf, Arc<NameSet>>,
    single: HashMap<usize, Arc<NameSet>>,
}

impl Shelf {
    /// With the categories of the file that the operator names, or of the shipped one.
    fn open(checker: &mut Checker<'_>, dns: &file::Dns) -> Option<Self> {
        let of = |categories, source| Self {
            categories,
            source,
            places: HashMap::new(),
            chosen: HashMap::new(),
            lists: HashMap::new(),
            single: HashMap::new(),
        };
        let Some(path) = &dns.allowlist else {
            let source = Source::new(Path::new("the shipped allowlist"), SHIPPED_ALLOWLIST);
            return Some(of(shipped_allowlist(), source));
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
            Ok(categories) => Some(of(categories, source)),
            Err(error) => {
                checker.problems.push(source.toml_problem(&error));
                None
            }
        }
    }

    fn allowlist(&mut self, checker: &mut Checker<'_>, chosen: Chosen<'_>) -> Allowlist {
        let mut sets = vec![self.categories(checker, chosen.categories)];
        for path in chosen.lists.unwrap_or_default() {
            sets.push(self.list(checker, path));
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
        if let Some(set) = self.chosen.get(&key) {
            return Arc::clone(set);
        }
        for wanted in chosen.into_iter().flatten() {
            if !self.categories.contains_key(wanted.get_ref()) {
                let known = self.categories.keys().cloned().collect::<Vec<_>>().join(", ");
                let message = format!("no category {:?}; there are {known}", wanted.get_ref());
                checker.refuse(wanted, message);
            }
        }
        let mut set = NameSet::default();
        for (category, list) in &self.categories {
            let is_wanted = |wanted: &Vec<String>| wanted.contains(category);
            if !key.as_ref().is_none_or(is_wanted) {
                continue;
            }
            set.begin(category);
            for name in &list.names {
                let at = name.span().start;
                let entry = name.get_ref().parse::<Entry>().map_err(|error| error.to_string());
                let added = entry.and_then(|entry| {
                    self.places.entry(entry.rule()).or_insert(at);
                    set.add(&entry).map_err(|error| error.to_string())
                });
                if let Err(message) = added {
                    checker.problems.push(self.source.problem(at, message));
                }
            }
        }
        set.finish();
        let set = Arc::new(set);
        self.chosen.insert(key, Arc::clone(&set));
        set
    }

    /// The names of a file, one on each line; `#` begins a comment.
    fn list(&mut self, checker: &mut Checker<'_>, path: &Spanned<PathBuf>) -> Arc<NameSet> {
        /// A file of something else has a problem on every line.
        const PROBLEMS_MAX: usize = 10;
        let full = checker.source.beside(path.get_ref());
        if let Some(set) = self.lists.get(&full) {
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
        self.lists.insert(full, Arc::clone(&set));
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
