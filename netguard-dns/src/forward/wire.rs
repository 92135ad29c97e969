//! The shape of a message: where its records and their times-to-live stand. Reads no contents.

use hickory_proto::{
    rr::{Name, RData},
    serialize::binary::{BinDecodable as _, BinDecoder, BinEncodable, BinEncoder, NameEncoding},
};

/// RFC 1035 section 4.1.1.
pub(super) const HEADER_LENGTH: usize = 12;
/// Behind the name of a question: type and class.
const QUESTION_FIXED: usize = 4;
/// Behind the owner of a record: type and class, then the time-to-live.
const TTL_OFFSET: usize = 4;
/// Behind the owner of a record: type, class, time-to-live and the length of the data.
const RECORD_FIXED: usize = 10;

/// The four counts of a header: questions, answers, authority, additional.
pub(super) fn counts(header: &[u8; HEADER_LENGTH]) -> [usize; 4] {
    [4, 6, 8, 10].map(|at| usize::from(u16::from_be_bytes([header[at], header[at + 1]])))
}

/// Where the time-to-live of each record stands; none if the message's lengths contradict each other.
pub(super) fn ttl_offsets(message: &[u8]) -> Option<Box<[u16]>> {
    let [questions, records @ ..] = counts(message.first_chunk()?);
    let mut at = HEADER_LENGTH;
    for _ in 0..questions {
        at = name_end(message, at)? + QUESTION_FIXED;
    }
    let mut offsets = Vec::new();
    for _ in 0..records.iter().sum() {
        at = name_end(message, at)?;
        let fixed = message.get(at..)?.first_chunk::<RECORD_FIXED>()?;
        offsets.push(u16::try_from(at + TTL_OFFSET).ok()?);
        at += RECORD_FIXED + usize::from(u16::from_be_bytes([fixed[8], fixed[9]]));
    }
    (at <= message.len()).then(|| offsets.into())
}

/// Behind the name that stands there: a zero or a pointer ends it (RFC 1035 section 4.1.4). Pointers are not followed.
pub(super) fn name_end(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length @ 1..64 => at += 1 + usize::from(length),
            192.. => return Some(at + 2),
            64..192 => return None, // reserved (RFC 6891 section 5)
        }
    }
}

/// A name in wire form, uncompressed; none if it is none, or if something stands behind it.
pub(super) fn read_name(bytes: &[u8]) -> Option<Name> {
    let mut decoder = BinDecoder::new(bytes);
    let name = Name::read(&mut decoder).ok()?;
    decoder.is_empty().then_some(name)
}

/// A name's or a record's data in wire form, uncompressed.
fn encoded(what: &impl BinEncodable) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_name_encoding(NameEncoding::Uncompressed);
    // What was read from a message is never too long to be written; half of it is refused by who reads it.
    let _ = what.emit(&mut encoder);
    bytes
}

/// A name in wire form.
pub(super) fn name_bytes(name: &Name) -> Vec<u8> {
    encoded(name)
}

/// A record's data in wire form.
pub(super) fn data_bytes(data: &RData) -> Vec<u8> {
    encoded(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One question and two records: one with a whole name, one with a pointer.
    fn message() -> Vec<u8> {
        let mut message = vec![0, 7, 0x80, 0x80, 0, 1, 0, 1, 0, 0, 0, 1];
        message.extend(b"\x01a\x00\x00\x01\x00\x01");
        message.extend(b"\x01a\x00\x00\x01\x00\x01TTL1\x00\x04\x01\x02\x03\x04");
        message.extend(b"\xc0\x0c\x00\x01\x00\x01TTL2\x00\x00");
        message
    }

    #[test]
    fn every_time_to_live_is_found() {
        let message = message();
        let offsets = ttl_offsets(&message).expect("a good message");
        let fields: Vec<_> =
            offsets.iter().map(|&at| &message[usize::from(at)..usize::from(at) + 4]).collect();
        assert_eq!(fields, [b"TTL1", b"TTL2"]);
    }

    #[test]
    fn no_prefix_of_a_message_passes_for_a_message() {
        let message = message();
        for length in 0..message.len() {
            assert_eq!(ttl_offsets(&message[..length]), None, "{length} bytes");
        }
    }

    #[test]
    fn a_name_has_nothing_behind_it_and_no_reserved_labels() {
        assert_eq!(read_name(b"\x01a\x00").map(|name| name_bytes(&name)), Some(b"\x01a\0".into()));
        for bad in [&b"\x01a\x00\x00"[..], b"\x01a", b"", b"\x40a\x00", b"\xc0\x00"] {
            assert_eq!(read_name(bad), None, "{bad:?}");
        }
    }
}
