//! What the running kernel says of its own types (BTF, Documentation/bpf/btf.rst): where a structure keeps a member, and the
//! names of an enumeration's values. Reads as far as that needs.

use std::collections::BTreeMap;

use super::{Error, kernel::BTF};

const MAGIC: u16 = 0xeb9f;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
/// Kinds that stand for another type: typedef, volatile, const, restrict, type tag.
const SAME: [u32; 5] = [8, 9, 10, 11, 18];

/// One kernel's types.
pub(super) struct Btf {
    words: Vec<u32>,
    /// Where each type begins among the words; type 0 is none.
    types: Vec<usize>,
    strings: Vec<u8>,
}

impl Btf {
    /// Those of the running kernel.
    ///
    /// # Errors
    ///
    /// It does not tell, or in another form.
    pub(super) fn of_kernel() -> Result<Self, Error> {
        let bytes = std::fs::read(BTF).map_err(|_| Error::Btf("the kernel's types"))?;
        Self::parse(&bytes).ok_or(Error::Btf("the kernel's types"))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
        if (word(0)? & 0xffff) as u16 != MAGIC {
            return None;
        }
        let header = word(4)? as usize;
        let section = |at: usize| {
            let (start, length) = (header + word(at)? as usize, word(at + 4)? as usize);
            bytes.get(start..start + length)
        };
        let strings = section(16)?.to_vec();
        let words: Vec<u32> =
            section(8)?.as_chunks::<4>().0.iter().map(|chunk| u32::from_ne_bytes(*chunk)).collect();
        let mut types = vec![0];
        let mut at = 0;
        while at < words.len() {
            types.push(at);
            at += 3 + Self::tail(*words.get(at + 1)?)?;
        }
        Some(Self { words, types, strings })
    }

    /// How many words follow a type's own three.
    fn tail(info: u32) -> Option<usize> {
        let entries = (info & 0xffff) as usize;
        Some(match kind(info) {
            1 | 14 | 17 => 1,                        // int, variable, declaration tag
            3 => 3,                                  // array
            STRUCT | UNION | 15 | 19 => entries * 3, // data section and 64-bit enumeration too
            ENUM | 13 => entries * 2,                // function prototype too
            2 | 7..=12 | 16 | 18 => 0,
            _ => return None, // of a later kernel
        })
    }

    fn name(&self, offset: u32) -> &str {
        let rest = self.strings.get(offset as usize..).unwrap_or_default();
        let end = rest.iter().position(|byte| *byte == 0).unwrap_or(0);
        std::str::from_utf8(&rest[..end]).unwrap_or_default()
    }

    fn find(&self, wanted: u32, name: &str) -> Option<usize> {
        let is_it = |at: &&usize| {
            let (Some(of), Some(info)) = (self.words.get(**at), self.words.get(**at + 1)) else {
                return false;
            };
            kind(*info) == wanted && info & 0xffff > 0 && self.name(*of) == name
        };
        self.types.iter().skip(1).find(is_it).copied()
    }

    /// Where a structure keeps something, in bytes: `offset("sock", &["__sk_common", "skc_net"])`.
    pub(super) fn offset(&self, of: &'static str, path: &[&str]) -> Result<u32, Error> {
        let mut at = self.find(STRUCT, of);
        let mut offset = 0;
        for member in path {
            let found = at.and_then(|at| self.member(at, member)).ok_or(Error::Btf(of))?;
            offset += found.0 / 8;
            at = self.resolve(found.1);
        }
        Ok(offset)
    }

    /// A member's offset in bits and its type, also if it is in a part without a name.
    fn member(&self, at: usize, wanted: &str) -> Option<(u32, u32)> {
        let info = *self.words.get(at + 1)?;
        if !matches!(kind(info), STRUCT | UNION) {
            return None;
        }
        let is_packed = info >> 31 == 1; // bit fields: the upper byte of the offset is a size
        for entry in 0..(info & 0xffff) as usize {
            let from = at + 3 + entry * 3;
            let [name, kind, offset] = *self.words.get(from..from + 3)? else { return None };
            let offset = if is_packed { offset & 0x00ff_ffff } else { offset };
            if self.name(name) == wanted {
                return Some((offset, kind));
            }
            if name == 0
                && let Some((inner, kind)) =
                    self.resolve(kind).and_then(|inner| self.member(inner, wanted))
            {
                return Some((offset + inner, kind));
            }
        }
        None
    }

    /// Where the type begins that a number means, behind all that only stands for it.
    fn resolve(&self, mut id: u32) -> Option<usize> {
        for _ in 0..16 {
            let at = *self.types.get(id as usize).filter(|_| id > 0)?;
            if !SAME.contains(&kind(*self.words.get(at + 1)?)) {
                return Some(at);
            }
            id = *self.words.get(at + 2)?;
        }
        None
    }

    /// The values of an enumeration with their names.
    pub(super) fn enumeration(&self, name: &'static str) -> Result<BTreeMap<u32, String>, Error> {
        let at = self.find(ENUM, name).ok_or(Error::Btf(name))?;
        let count = self.words.get(at + 1).map_or(0, |info| info & 0xffff) as usize;
        let entries = self.words.get(at + 3..at + 3 + count * 2).unwrap_or_default();
        let pairs = entries.as_chunks::<2>().0.iter();
        Ok(pairs.map(|[name, value]| (*value, self.name(*name).to_owned())).collect())
    }
}

const fn kind(info: u32) -> u32 {
    info >> 24 & 0x1f
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `struct a { union { int b; struct c { int d; int e; } f; }; int g:1; }` and an enumeration, by hand.
    fn sample() -> Btf {
        let strings = b"\0a\0b\0c\0d\0e\0f\0g\0int\0reasons\0ONE\0TWO\0";
        let at = |name: &str| {
            let text = format!("\0{name}\0");
            let found = strings.windows(text.len()).position(|it| it == text.as_bytes()).unwrap();
            found as u32 + 1
        };
        let info = |kind: u32, entries: u32| kind << 24 | entries;
        let types: Vec<u32> = [
            vec![at("int"), info(1, 0), 4, 32], // 1
            vec![at("c"), info(STRUCT, 2), 8, at("d"), 1, 0, at("e"), 1, 32], // 2
            vec![0, info(10, 0), 2],            // 3: const c
            vec![0, info(UNION, 2), 8, at("b"), 1, 0, at("f"), 3, 0], // 4
            vec![at("a"), info(STRUCT, 2) | 1 << 31, 16, 0, 4, 32, at("g"), 1, 1 << 24 | 96], // 5
            vec![at("reasons"), info(ENUM, 2), 4, at("ONE"), 1, at("TWO"), 2], // 6
        ]
        .concat();
        let length = types.len() as u32 * 4;
        let header = [u32::from(MAGIC) | 1 << 16, 24, 0, length, length, strings.len() as u32];
        let words = header.into_iter().chain(types).flat_map(u32::to_ne_bytes);
        Btf::parse(&words.chain(*strings).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn members_are_found_behind_names_and_in_parts_without_one() {
        let btf = sample();
        assert_eq!(btf.offset("a", &["b"]).unwrap(), 4);
        assert_eq!(btf.offset("a", &["f", "e"]).unwrap(), 8);
        assert_eq!(btf.offset("a", &["g"]).unwrap(), 12);
        assert_eq!(btf.offset("c", &["e"]).unwrap(), 4);
        assert!(matches!(btf.offset("a", &["e"]), Err(Error::Btf("a"))));
        assert!(btf.offset("b", &["e"]).is_err());
    }

    #[test]
    fn an_enumeration_has_its_names() {
        let read = sample().enumeration("reasons").unwrap();
        assert_eq!(read, BTreeMap::from([(1, "ONE".to_owned()), (2, "TWO".to_owned())]));
        assert!(Btf::parse(b"nothing").is_none());
    }
}
