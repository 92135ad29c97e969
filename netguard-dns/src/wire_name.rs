//! A name out of a message, as it was sent and in lower case, with the places of its labels.

use std::fmt;

use crate::DomainName;

/// The longest name in wire form (RFC 1035 section 2.3.4).
pub const NAME_MAX: usize = 255;

/// A name in wire form, uncompressed. One is used again and again, so that reading allocates nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct WireName {
    sent: [u8; NAME_MAX],
    lower: [u8; NAME_MAX],
    length: u8,
    /// Where each label starts, at its length byte; the final zero is none.
    labels: [u8; NAME_MAX / 2],
    count: u8,
    is_host_name: bool,
}

impl WireName {
    /// The root.
    #[must_use]
    pub const fn root() -> Self {
        Self {
            sent: [0; NAME_MAX],
            lower: [0; NAME_MAX],
            length: 1,
            labels: [0; NAME_MAX / 2],
            count: 0,
            is_host_name: true,
        }
    }

    /// Makes it the root.
    pub fn clear(&mut self) {
        (self.sent[0], self.lower[0], self.length, self.count) = (0, 0, 1, 0);
        self.is_host_name = true;
    }

    /// Reads the name at the start of `bytes` and returns what follows it. On `None` it is the root: the name is
    /// compressed, too long, or not whole.
    pub fn read<'a>(&mut self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let rest = self.try_read(bytes);
        if rest.is_none() {
            self.clear();
        }
        rest
    }

    fn try_read<'a>(&mut self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let mut at = 0;
        let mut count = 0;
        let mut is_host_name = true;
        loop {
            let length = *bytes.get(at)?;
            if length == 0 {
                break;
            }
            // The upper two bits are a pointer or a label type that nobody uses (RFC 6891 section 5).
            if length > 63 {
                return None;
            }
            let end = at + 1 + usize::from(length);
            if end >= NAME_MAX {
                return None;
            }
            *self.labels.get_mut(count)? = at as u8;
            count += 1;
            let label = bytes.get(at + 1..end)?;
            self.lower[at] = length;
            for (to, from) in self.lower[at + 1..end].iter_mut().zip(label) {
                let class = CLASSES[usize::from(*from)];
                *to = from | class & 0x20;
                is_host_name &= class & USUAL != 0;
            }
            at = end;
        }
        self.lower[at] = 0;
        let (name, rest) = bytes.split_at_checked(at + 1)?;
        self.sent[..=at].copy_from_slice(name);
        self.length = (at + 1) as u8;
        self.count = count as u8;
        self.is_host_name = is_host_name;
        Some(rest)
    }

    /// In lower case, with the final zero.
    #[must_use]
    pub fn lower(&self) -> &[u8] {
        &self.lower[..usize::from(self.length)]
    }

    /// As the guest wrote it.
    #[must_use]
    pub fn as_sent(&self) -> &[u8] {
        &self.sent[..usize::from(self.length)]
    }

    /// Where its labels start in [`Self::lower`], from left to right.
    #[must_use]
    pub fn labels(&self) -> &[u8] {
        &self.labels[..usize::from(self.count)]
    }

    /// True if it has only letters, digits, hyphens and underscores: every other byte is no name of a host
    /// or a service (RFC 1123 section 2.1, RFC 8552) and carries data.
    #[must_use]
    pub const fn is_host_name(&self) -> bool {
        self.is_host_name
    }
}

impl From<&DomainName> for WireName {
    fn from(name: &DomainName) -> Self {
        let mut bytes = Vec::with_capacity(NAME_MAX);
        for label in name.as_str().split('.') {
            bytes.push(label.len() as u8); // 63 at most, or it were no such name
            bytes.extend_from_slice(label.as_bytes());
        }
        bytes.push(0);
        let mut wire = Self::root();
        wire.read(&bytes);
        wire
    }
}

/// The bit of [`CLASSES`] for bytes that names usually have; 0x20 is set for what must be made lower case.
const USUAL: u8 = 1;

const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        classes[byte] = match byte as u8 {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => USUAL,
            b'A'..=b'Z' => USUAL | 0x20,
            _ => 0,
        };
        byte += 1;
    }
    classes
};

/// As people write it, without the final dot and with odd bytes escaped (RFC 1035 section 5.1).
pub fn write_name(wire: &[u8], mut put: impl FnMut(&[u8])) {
    let mut rest = wire;
    let mut first = true;
    while let Some((length, after)) = rest.split_first()
        && *length > 0
    {
        let Some((label, after)) = after.split_at_checked(usize::from(*length)) else { return };
        if !first {
            put(b".");
        }
        first = false;
        if label.iter().all(|byte| CLASSES[usize::from(*byte)] != 0) {
            put(label);
        } else {
            for byte in label {
                match byte {
                    b'.' | b'\\' | b'"' => put(&[b'\\', *byte]),
                    b'!'..=b'~' => put(&[*byte]),
                    odd => {
                        let digit = |value: u8| b'0' + value % 10;
                        put(&[b'\\', digit(odd / 100), digit(odd / 10), digit(*odd)]);
                    }
                }
            }
        }
        rest = after;
    }
    if first {
        put(b".");
    }
}

/// [`write_name`] as a text.
#[must_use]
pub fn name_text(wire: &[u8]) -> String {
    let mut text = Vec::with_capacity(wire.len());
    write_name(wire, |part| text.extend_from_slice(part));
    String::from_utf8(text).unwrap_or_default() // it is ASCII
}

impl fmt::Debug for WireName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WireName({})", name_text(self.as_sent()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_name_is_read_and_a_longer_one_is_not() {
        let longest = [&[63; 64][..], &[63; 64], &[63; 64], &[61; 62], &[0]].concat();
        assert_eq!(longest.len(), NAME_MAX);
        let mut name = WireName::root();
        assert_eq!(name.read(&longest), Some(&[][..]));
        assert_eq!(name.labels(), [0, 64, 128, 192]);
        let longer = [&[63; 64][..], &[63; 64], &[63; 64], &[62; 63], &[0]].concat();
        assert_eq!(name.read(&longer), None);
        assert_eq!(name.lower(), [0], "a name that cannot be read is the root");
        let many = [[1, b'a']; 127].concat();
        assert_eq!(name.read(&[&many[..], &[0]].concat()), Some(&[][..]));
        assert_eq!(name.labels().len(), 127);
    }

    #[test]
    fn odd_bytes_are_told_and_escaped() {
        let mut name = WireName::root();
        name.read(b"\x04a.\xff\"\x02Bc\x00").unwrap();
        assert!(!name.is_host_name());
        assert_eq!(name_text(name.as_sent()), r#"a\.\255\".Bc"#);
        assert_eq!(name_text(b"\x00"), ".");
        name.read(b"\x05_Dmar\x01-\x00").unwrap();
        assert!(name.is_host_name());
        assert_eq!(name.lower(), b"\x05_dmar\x01-\x00");
    }
}
