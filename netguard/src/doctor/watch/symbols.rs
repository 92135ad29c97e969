//! Which function of the kernel an address lies in (`/proc/kallsyms`), read with the first question. A kernel that hides its
//! addresses (kptr_restrict) has no answers.

use std::{collections::HashMap, fs};

const KALLSYMS: &str = "/proc/kallsyms";

/// The kernel's functions.
#[derive(Default)]
pub(super) struct Symbols {
    /// Sorted by address; none before the first question.
    all: Option<Vec<(u64, String)>>,
    asked: HashMap<u64, Option<usize>>,
}

impl Symbols {
    /// The function that the address is in.
    pub(super) fn at(&mut self, address: u64) -> Option<&str> {
        let all =
            self.all.get_or_insert_with(|| read(&fs::read_to_string(KALLSYMS).unwrap_or_default()));
        let found = self
            .asked
            .entry(address)
            .or_insert_with(|| all.partition_point(|(start, _)| *start <= address).checked_sub(1));
        all.get((*found)?).map(|(_, name)| name.as_str())
    }
}

fn read(text: &str) -> Vec<(u64, String)> {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let address = u64::from_str_radix(words.next()?, 16).ok().filter(|it| *it > 0)?;
        words.next().filter(|kind| matches!(*kind, "t" | "T" | "w" | "W"))?;
        Some((address, words.next()?.to_owned()))
    };
    let mut all: Vec<_> = text.lines().filter_map(line).collect();
    all.sort();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_lies_in_the_function_before_it() {
        let text = "00000020 t br_forward\n00000010 T nf_hook_slow\t[nf]\n00000018 d table\n00000000 T hidden\n";
        let mut symbols = Symbols { all: Some(read(text)), ..Symbols::default() };
        assert_eq!(symbols.at(0x1f), Some("nf_hook_slow"));
        assert_eq!(symbols.at(0x20), Some("br_forward"));
        assert_eq!(symbols.at(0x5), None);
        let mut hidden = Symbols { all: Some(read("00000000 T hidden\n")), ..Symbols::default() };
        assert_eq!(hidden.at(0x20), None);
    }
}
