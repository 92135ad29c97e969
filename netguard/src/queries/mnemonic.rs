//! Types and reply codes by the names that IANA has registered for them.

use super::line::number;

/// The types that are asked for.
const TYPES: [(u16, &str); 19] = [
    (1, "A"),
    (2, "NS"),
    (5, "CNAME"),
    (6, "SOA"),
    (12, "PTR"),
    (13, "HINFO"),
    (15, "MX"),
    (16, "TXT"),
    (28, "AAAA"),
    (33, "SRV"),
    (35, "NAPTR"),
    (43, "DS"),
    (48, "DNSKEY"),
    (64, "SVCB"),
    (65, "HTTPS"),
    (251, "IXFR"),
    (252, "AXFR"),
    (255, "ANY"),
    (257, "CAA"),
];

/// The codes that netguard and its upstreams give.
const RCODES: [(u16, &str); 7] = [
    (0, "NOERROR"),
    (1, "FORMERR"),
    (2, "SERVFAIL"),
    (3, "NXDOMAIN"),
    (4, "NOTIMP"),
    (5, "REFUSED"),
    (16, "BADVERS"),
];

/// Others as RFC 3597 section 5 writes them; `-` for none.
pub(super) fn type_name(record_type: u16, out: &mut Vec<u8>) {
    if record_type == 0 {
        return out.push(b'-');
    }
    name(&TYPES, record_type, "TYPE", out);
}

pub(crate) fn rcode(code: u16, out: &mut Vec<u8>) {
    name(&RCODES, code, "RCODE", out);
}

fn name(names: &[(u16, &str)], wanted: u16, other: &str, out: &mut Vec<u8>) {
    match names.iter().find(|(number, _)| *number == wanted) {
        Some((_, name)) => out.extend_from_slice(name.as_bytes()),
        None => {
            out.extend_from_slice(other.as_bytes());
            number(wanted.into(), out);
        }
    }
}

/// The type of that name: `AAAA`, `TYPE35`.
///
/// # Errors
///
/// There is none such.
pub fn read_type(text: &str) -> Result<u16, BadMnemonic> {
    read(&TYPES, text, "TYPE").ok_or_else(|| BadMnemonic {
        text: text.to_owned(),
        what: "type of a record",
        example: "\"AAAA\" or \"TYPE35\"",
    })
}

/// The reply code of that name: `NXDOMAIN`, `RCODE9`.
///
/// # Errors
///
/// There is none such.
pub fn read_rcode(text: &str) -> Result<u16, BadMnemonic> {
    read(&RCODES, text, "RCODE").ok_or_else(|| BadMnemonic {
        text: text.to_owned(),
        what: "code of a reply",
        example: "\"NXDOMAIN\" or \"RCODE9\"",
    })
}

fn read(names: &[(u16, &str)], text: &str, other: &str) -> Option<u16> {
    let upper = text.to_ascii_uppercase();
    let known = names.iter().find(|(_, name)| *name == upper).map(|(number, _)| *number);
    known.or_else(|| upper.strip_prefix(other)?.parse().ok())
}

/// A text that names no type or code.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {what}; write {example}")]
pub struct BadMnemonic {
    text: String,
    what: &'static str,
    example: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let written = |write: fn(u16, &mut Vec<u8>), number| {
            let mut out = Vec::new();
            write(number, &mut out);
            String::from_utf8(out).unwrap()
        };
        for number in 1..300 {
            assert_eq!(read_type(&written(type_name, number)), Ok(number));
            assert_eq!(read_rcode(&written(rcode, number)), Ok(number));
        }
        assert_eq!((read_type("aaaa"), read_rcode("nxdomain")), (Ok(28), Ok(3)));
        let bad = read_type("QUAD").unwrap_err().to_string();
        assert_eq!(bad, "\"QUAD\" is no type of a record; write \"AAAA\" or \"TYPE35\"");
        assert!(read_type("-").is_err() && read_rcode("TYPE1").is_err());
    }
}
