//! Queries as guests write them, mostly around names that a slot may ask for.

use std::sync::Arc;

use netguard_dns::{Allowlist, DEFAULT_NAME_MAX, Entry, Listed, NameSet, WireName};
use rand::{RngExt as _, rngs::SmallRng, seq::IndexedRandom as _};

/// What the slot may ask for.
pub const LISTED: [&str; 8] = [
    "lab.example",
    "=exact.test",
    "a.b.deep.test",
    "!no.lab.example",
    "yes.no.lab.example",
    "x.y.test:443",
    "!gone.test",
    "very.long.label-with-more-than-eight-bytes.test",
];

/// Top-level domains, in addition.
pub const TOP: [&str; 2] = ["org", "!com"];

/// A query.
#[derive(Clone, Debug)]
pub struct Asked {
    pub id: u16,
    pub flags: [u8; 2],
    /// On the wire.
    pub name: Vec<u8>,
    pub record_type: u16,
    pub class: u16,
    pub edns: Option<Edns>,
}

/// What an OPT says.
#[derive(Clone, Copy, Debug)]
pub struct Edns {
    pub size: u16,
    pub version: u8,
    pub flags: u8,
    /// How long its options are, if it has some.
    pub options: &'static [usize],
}

impl Edns {
    pub const PLAIN: Self = Self { size: 1232, version: 0, flags: 0, options: &[] };
    pub const DNSSEC: Self = Self { flags: 0x80, ..Self::PLAIN };
}

impl Default for Asked {
    fn default() -> Self {
        Self { id: 0x1234, flags: [1, 0], name: vec![0], record_type: 1, class: 1, edns: None }
    }
}

impl Asked {
    /// Its bytes.
    pub fn message(&self) -> Vec<u8> {
        let mut bytes = self.id.to_be_bytes().to_vec();
        bytes.extend(self.flags);
        bytes.extend([0, 1, 0, 0, 0, 0, 0, u8::from(self.edns.is_some())]);
        bytes.extend(&self.name);
        bytes.extend(self.record_type.to_be_bytes());
        bytes.extend(self.class.to_be_bytes());
        if let Some(edns) = self.edns {
            let length: usize = edns.options.iter().map(|length| 4 + length).sum();
            bytes.extend([0, 0, 41]);
            bytes.extend(edns.size.to_be_bytes());
            bytes.extend([0, edns.version, edns.flags, 0]);
            bytes.extend((length as u16).to_be_bytes());
            for length in edns.options {
                bytes.extend([0, 10]);
                bytes.extend((*length as u16).to_be_bytes());
                bytes.extend(vec![7; *length]);
            }
        }
        bytes
    }
}

/// A name on the wire.
pub fn wire(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

/// True if the list does not have the name, and nothing about the query is for the resolver to see.
pub fn is_denied_here(asked: &Asked, listed: &[&str]) -> bool {
    let set: NameSet = listed.iter().map(|it| it.parse::<Entry>().expect("an entry")).collect();
    let list = Allowlist::of([Arc::new(set)]);
    // What an exception says, the resolver says.
    let exceptions = listed.iter().filter_map(|it| it.strip_prefix('!')?.parse::<Entry>().ok());
    let exceptions: NameSet = exceptions.collect();
    let mut name = WireName::root();
    name.read(&asked.name).expect("a name");
    let last = name.labels().last().map(|at| &name.lower()[usize::from(*at)..]);
    let is_known = [&b"\x04arpa\x00"[..], b"\x09localhost\x00"].map(Some).contains(&last);
    let is_plain = name.is_host_name() && name.labels().len() > 1 && !is_known;
    let is_opt = asked.edns.is_none_or(|it| it.version == 0 && it.options.len() < 2);
    is_plain
        && is_opt
        && !exceptions.covers(&name)
        && name.lower().len() <= DEFAULT_NAME_MAX
        && asked.class == 1
        && !matches!(asked.record_type, 0 | 41 | 128..=254)
        && matches!(list.decide(&name), Listed::Unlisted | Listed::Above)
}

/// Any of them.
pub fn random(from: &mut SmallRng) -> Asked {
    const NAMES: [&str; 27] = [
        "lab.example",
        "www.lab.example",
        "exact.test",
        "sub.exact.test",
        "b.deep.test",
        "deep.test",
        "a.b.deep.test",
        "no.lab.example",
        "x.no.lab.example",
        "yes.no.lab.example",
        "gone.test",
        "y.test",
        "x.y.test",
        "test",
        "example",
        "foo.com",
        "foo.org",
        "org",
        "foo.net",
        "notlab.example",
        "labexample.",
        "printer",
        "a.localhost",
        "1.0.0.10.in-addr.arpa",
        "8.8.8.8.in-addr.arpa",
        "label-with-more-than-eight-bytes.test",
        "a.b.c.d.e.f",
    ];
    let mut name = (*NAMES.choose(from).expect("a name")).to_owned();
    for _ in 0..from.random_range(0..3) {
        let length = *[1, 2, 7, 8, 9, 15, 16, 17, 30, 63].choose(from).expect("a length");
        let label: String = (0..length)
            .map(|_| char::from(*b"abcxyz019-_".choose(from).expect("a letter")))
            .collect();
        if name.len() + label.len() < 250 {
            name = format!("{label}.{name}");
        }
    }
    if from.random_ratio(1, 40) {
        let more = "m.".repeat((250 - name.len()) / 2);
        name = format!("{more}{name}");
    }
    let mut name = wire(&name);
    let length = name.len();
    let mut at = 0;
    while name[at] != 0 {
        let end = at + 1 + usize::from(name[at]);
        for byte in &mut name[at + 1..end] {
            if from.random_ratio(1, 3) {
                *byte = byte.to_ascii_uppercase();
            }
            if from.random_ratio(1, 10 * length as u32) {
                *byte = from.random();
            }
        }
        at = end;
    }
    let record_type = match from.random_range(0..10) {
        0..5 => 1,
        5..7 => 28,
        7 => *[5, 6, 15, 16, 33, 64, 65, 257, 65535].choose(from).expect("a type"),
        8 => 255,
        _ => from.random_range(0..300),
    };
    const OPTIONS: [&[usize]; 6] = [&[], &[], &[8], &[0], &[100], &[8, 8]];
    let edns = from.random_ratio(2, 3).then(|| Edns {
        size: *[512, 1232, 4096, 0].choose(from).expect("a size"),
        version: u8::from(from.random_ratio(1, 30)),
        flags: if from.random_ratio(1, 3) { 0x80 } else { 0 },
        options: OPTIONS.choose(from).expect("some"),
    });
    Asked {
        id: from.random(),
        flags: [
            u8::from(from.random_ratio(9, 10)),
            *[0, 0, 0x20, 0x10, 0x30].choose(from).expect("flags"),
        ],
        name,
        record_type,
        class: if from.random_ratio(1, 30) { 3 } else { 1 },
        edns,
    }
}
