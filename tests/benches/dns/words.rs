//! Names: those of the shipped allowlist, and random ones.

use std::{fs, ops::RangeInclusive, path::Path};

use rand::{RngExt as _, rngs::SmallRng};

/// How many of the shipped allowlist's names are the policy.
const POLICY: usize = 177;
/// The first names of the shipped allowlist, all categories together and in order.
pub fn policy() -> Vec<String> {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dist/allowlist.toml");
    let text = fs::read_to_string(&shipped).expect("the shipped allowlist");
    let categories: toml::Table = text.parse().expect("it is TOML");
    let lists = categories.values().filter_map(|category| category.get("names")?.as_array());
    let mut names: Vec<_> = lists.flatten().filter_map(|name| name.as_str()).collect();
    names.sort_unstable();
    names.truncate(POLICY);
    assert_eq!(names.len(), POLICY, "the shipped allowlist has become short");
    names.into_iter().map(str::to_owned).collect()
}

/// Random letters.
pub fn label(random: &mut SmallRng, lengths: RangeInclusive<usize>) -> String {
    let length = random.random_range(lengths);
    (0..length).map(|_| char::from(random.random_range(b'a'..=b'z'))).collect()
}
