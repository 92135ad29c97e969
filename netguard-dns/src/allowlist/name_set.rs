//! Names in one arena and a hash table of their suffixes: a million names in 32 MB, looked up label by label from
//! the right, until a suffix is not there.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use netguard_common::names::name_kind;

use super::{Entry, Kind, Rule, Suffixes};
use crate::{Ports, WireName};

/// What a name's entry says; the upper bits of a table's word.
mod flags {
    /// The name and all below it is allowed.
    pub const ALLOW: u32 = 1 << 28;
    /// The name itself is allowed.
    pub const EXACT: u32 = 1 << 29;
    /// The name and all below it is an exception.
    pub const EXCEPT: u32 = 1 << 30;
    /// Something below it is allowed.
    pub const ABOVE: u32 = 1 << 31;
    /// The name is listed in one way or another.
    pub const LISTED: u32 = ALLOW | EXACT | EXCEPT;
}

/// The bits of a table's word that say where in the arena the name is; 0 for no name.
const OFFSET: u32 = flags::ALLOW - 1;

/// A set of names. Built once, then only read.
#[derive(Debug, Default)]
pub struct NameSet {
    /// Listed names one after the other, in wire form and lower case; the first byte is nobody's.
    arena: Vec<u8>,
    /// Open addressing, a power of two long. Every suffix of a listed name has a word, so that a suffix without
    /// one ends a search.
    table: Vec<u32>,
    used: usize,
    listed: usize,
    /// By place in the arena, the few that have ports.
    ports: HashMap<u32, Ports>,
    /// Where names are from, by the place in the arena where they begin.
    origins: Vec<(u32, Arc<str>)>,
    /// Made when somebody asks for them.
    suffixes: OnceLock<Arc<Suffixes>>,
}

/// What a set says of a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// The longest name that decides.
    pub(super) decides: Option<Decides>,
    /// Something below the asked name is allowed.
    pub(super) is_above: bool,
}

/// A listed name that decides about the asked one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Decides {
    /// Labels in common: the longest wins.
    pub(super) labels: usize,
    pub(super) kind: Kind,
    pub(super) at: u32,
}

/// There are more names than fit into the arena.
#[derive(Debug, thiserror::Error)]
#[error("the names of an allowlist take more than {} MiB", OFFSET >> 20)]
pub struct TooMany;

impl NameSet {
    /// What is added from now on is from there. A name that is there already stays what it is.
    pub fn begin(&mut self, origin: &str) {
        self.origins.push((self.arena.len().max(1) as u32, origin.into()));
    }

    /// Adds a name; one that is there already stays.
    ///
    /// # Errors
    ///
    /// The arena is full.
    pub fn add(&mut self, entry: &Entry) -> Result<(), TooMany> {
        let name = WireName::from(&entry.name);
        self.suffixes.take();
        if self.arena.is_empty() {
            self.arena.push(0);
        }
        let at = self.arena.len();
        if at + name.lower().len() > OFFSET as usize {
            return Err(TooMany);
        }
        if (self.used + name.labels().len()) * 5 > self.table.len() * 3 {
            self.grow();
        }
        self.arena.extend_from_slice(name.lower());
        let (listed, above) = match entry.kind {
            Kind::Tree => (flags::ALLOW, flags::ABOVE),
            Kind::Exact => (flags::EXACT, flags::ABOVE),
            Kind::Exception => (flags::EXCEPT, 0),
        };
        let mut hash = 0;
        let mut is_new = false;
        let mut own = 0;
        for (index, label) in name.labels().iter().enumerate().rev() {
            let start = usize::from(*label);
            hash = extend(hash, label_at(name.lower(), start));
            let slot = self.probe(hash, &name.lower()[start..]);
            if self.table[slot] == 0 {
                self.table[slot] = (at + start) as u32;
                self.used += 1;
                is_new = true;
            }
            let flag = if index == 0 { listed } else { above };
            let word = self.table[slot];
            // What ends a name of elsewhere has a place of its own, by which it is known where it is from.
            if index == 0 && word & flags::LISTED == 0 && word & OFFSET < self.newest() {
                self.table[slot] = word & !OFFSET | at as u32;
                is_new = true;
            }
            if index == 0 && word & flag == 0 {
                self.listed += 1;
            }
            self.table[slot] |= flag;
            own = self.table[slot] & OFFSET;
        }
        if !is_new {
            self.arena.truncate(at); // the arena has it as a suffix of another
        }
        if let Some(ports) = &entry.ports {
            self.ports.insert(own, ports.clone());
        } else if entry.kind != Kind::Exception {
            self.ports.remove(&own); // named twice, once without ports: any
        }
        Ok(())
    }

    /// Gives back what growing has left over.
    pub fn finish(&mut self) {
        self.arena.shrink_to_fit();
    }

    /// How many names are listed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.listed
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.listed == 0
    }

    /// Every listed name as it stands in a file, in no order.
    pub fn listed(&self) -> impl Iterator<Item = String> {
        const SIGNS: [(u32, Kind); 3] = [
            (flags::ALLOW, Kind::Tree),
            (flags::EXACT, Kind::Exact),
            (flags::EXCEPT, Kind::Exception),
        ];
        self.table.iter().flat_map(move |word| {
            let listed = SIGNS.iter().filter(move |(flag, _)| word & flag != 0);
            listed.map(move |(_, kind)| {
                let at = word & OFFSET;
                let rule = Rule { set: self, decides: Decides { labels: 0, kind: *kind, at } };
                let ports = rule.ports().filter(|_| *kind != Kind::Exception);
                ports.map_or_else(|| rule.to_string(), |ports| format!("{rule}:{ports}"))
            })
        })
    }

    /// The same as the kernel's programs look names up.
    #[must_use]
    pub fn suffixes(&self) -> &Arc<Suffixes> {
        let kind = |word: u32| {
            [
                (flags::ALLOW | flags::EXCEPT, name_kind::TREE),
                (flags::EXACT, name_kind::EXACT),
                (flags::ABOVE, name_kind::ABOVE),
            ]
            .iter()
            .fold(0, |kind, (flag, bit)| kind | if word & flag == 0 { 0 } else { *bit })
        };
        let words = || self.table.iter().filter(|word| **word != 0);
        let names = || words().map(|word| (self.name_at(word & OFFSET), kind(*word)));
        self.suffixes.get_or_init(|| Arc::new(Suffixes::of(names())))
    }

    /// How many bytes it takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.arena.capacity() + self.table.capacity() * size_of::<u32>()
    }

    /// True if a listed name covers it.
    #[must_use]
    pub fn covers(&self, name: &WireName) -> bool {
        self.find(name).decides.is_some_and(|decides| decides.kind != Kind::Exception)
    }

    /// What it says of a name.
    pub(super) fn find(&self, name: &WireName) -> Found {
        let mut found = Found::default();
        if self.table.is_empty() {
            return found;
        }
        let (lower, labels) = (name.lower(), name.labels());
        let mut hash = 0;
        for (index, label) in labels.iter().enumerate().rev() {
            let start = usize::from(*label);
            hash = extend(hash, label_at(lower, start));
            let word = self.table[self.probe(hash, &lower[start..])];
            if word == 0 {
                return found;
            }
            let kind = if word & flags::EXCEPT != 0 {
                Some(Kind::Exception)
            } else if index == 0 && word & flags::EXACT != 0 {
                Some(Kind::Exact)
            } else if word & flags::ALLOW != 0 {
                Some(Kind::Tree)
            } else {
                None
            };
            if let Some(kind) = kind {
                let labels = labels.len() - index;
                found.decides = Some(Decides { labels, kind, at: word & OFFSET });
            }
            found.is_above = index == 0 && word & flags::ABOVE != 0;
        }
        found
    }

    /// The name at a place in the arena.
    pub(super) fn name_at(&self, at: u32) -> &[u8] {
        let from = &self.arena[at as usize..];
        let mut end = 0;
        while let Some(length) = from.get(end)
            && *length > 0
        {
            end += 1 + usize::from(*length);
        }
        from.get(..=end).unwrap_or_default()
    }

    pub(super) fn ports_at(&self, at: u32) -> Option<&Ports> {
        if self.ports.is_empty() { None } else { self.ports.get(&at) }
    }

    pub(super) fn origin_at(&self, at: u32) -> Option<&Arc<str>> {
        let behind = self.origins.partition_point(|(start, _)| *start <= at);
        Some(&self.origins.get(behind.checked_sub(1)?)?.1)
    }

    /// Where in the arena names are from where names are added from now.
    fn newest(&self) -> u32 {
        self.origins.last().map_or(0, |(start, _)| *start)
    }

    /// Where the table has the suffix, or the free place for it.
    fn probe(&self, hash: u64, suffix: &[u8]) -> usize {
        let mask = self.table.len() - 1;
        let mut slot = (hash >> 20) as usize & mask;
        loop {
            let word = self.table[slot];
            let at = (word & OFFSET) as usize;
            if at == 0 || self.arena[at..].starts_with(suffix) {
                return slot;
            }
            slot = (slot + 1) & mask;
        }
    }

    fn grow(&mut self) {
        const LEAST: usize = 64;
        let length = (self.table.len() * 2).max(LEAST);
        let old = std::mem::replace(&mut self.table, vec![0; length]);
        let mut name = WireName::root();
        for word in old.into_iter().filter(|word| *word != 0) {
            let start = (word & OFFSET) as usize;
            let end = self.arena.len().min(start + crate::NAME_MAX);
            let _ = name.read(&self.arena[start..end]); // it was read before
            let labels = name.labels().iter().rev();
            let hash = labels
                .fold(0, |hash, label| extend(hash, label_at(name.lower(), usize::from(*label))));
            let slot = self.probe(hash, name.lower());
            self.table[slot] = word;
        }
    }
}

/// The label whose length byte stands at `start`, with that byte.
fn label_at(name: &[u8], start: usize) -> &[u8] {
    let length = usize::from(name[start]);
    &name[start..=start + length]
}

/// The hash of a suffix that is one label longer. What a guest asks for is never added to the table, so nobody can
/// make it slow by choosing names.
fn extend(hash: u64, label: &[u8]) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |hash: u64, word: u64| {
        let product = u128::from(hash ^ word).wrapping_mul(u128::from(ODD));
        (product as u64) ^ (product >> 64) as u64
    };
    let (words, rest) = label.as_chunks::<8>();
    let hash = words.iter().fold(hash ^ ODD, |hash, word| mix(hash, u64::from_le_bytes(*word)));
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    mix(hash, u64::from_le_bytes(last))
}
