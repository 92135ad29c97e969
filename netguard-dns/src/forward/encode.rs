//! Answers in the form that the cache keeps.

use std::{collections::HashSet, time::Duration};

use hickory_proto::{
    rr::{RData, Record},
    serialize::binary::{BinEncodable as _, BinEncoder},
};

use super::{addresses, wire};
use crate::{Answer, Blocked, Question};

/// What is longer is not worth its place, nor sure to fit with OPT behind it.
const MESSAGE_MAX: usize = 60_000;
/// How long an error is remembered (RFC 2308 section 7.1 allows five minutes).
const ERROR_LIFE: Duration = Duration::from_secs(5);
/// How long it is remembered that there is nothing, if no SOA says how long.
const NOTHING_LIFE: Duration = Duration::from_secs(30);
/// How long it is remembered that an answer was dropped.
const BLOCKED_LIFE: Duration = Duration::from_secs(60);
/// RFC 1035 section 4.1.1.
const SERVFAIL: u16 = 2;

/// Header and question.
fn head(question: &Question, rcode: u16) -> Vec<u8> {
    let [type_high, type_low] = question.record_type.to_be_bytes();
    let code = 0x80 | (rcode & 0x0f) as u8; // RA
    let mut message = vec![0, 0, 0x80, code, 0, 1, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(&question.name);
    message.extend_from_slice(&[type_high, type_low, 0, 1]);
    message
}

fn bare(question: &Question, rcode: u16, life: Duration) -> Answer {
    Answer {
        message: head(question, rcode).into(),
        ttl_offsets: Box::default(),
        life,
        rcode,
        authentic: false,
        addresses: Box::default(),
        upstream: None,
        blocked: None,
    }
}

/// An answer of nothing but an error's code.
pub(super) fn error(question: &Question, rcode: u16) -> Answer {
    bare(question, rcode, ERROR_LIFE)
}

/// Netguard's own answer when there is none.
pub(super) fn servfail(question: &Question) -> Answer {
    error(question, SERVFAIL)
}

/// An empty answer in place of one that was dropped.
pub(super) fn blocked(question: &Question, blocked: Blocked) -> Answer {
    Answer { blocked: Some(blocked), ..bare(question, 0, BLOCKED_LIFE) }
}

/// An answer with records; an error if they are too many to be kept. `is_negative` if what was asked for does not exist.
pub(super) fn records(
    question: &Question,
    rcode: u16,
    mut answers: Vec<Record>,
    mut authorities: Vec<Record>,
    is_negative: bool,
    max_ttl: Duration,
) -> Answer {
    for record in &mut authorities {
        // A SOA there tells how long its answer may be remembered (RFC 2308 section 5).
        if let RData::SOA(soa) = &record.data {
            record.ttl = record.ttl.min(soa.minimum);
        }
    }
    let max_ttl = u32::try_from(max_ttl.as_secs()).unwrap_or(u32::MAX);
    for record in answers.iter_mut().chain(&mut authorities) {
        record.ttl = record.ttl.min(max_ttl);
    }
    let least = answers.iter().chain(&authorities).map(|record| record.ttl).min();
    // An address is pinned for the life of the answer: nobody may believe that it is good for longer.
    let life = least.unwrap_or_default();
    for record in answers.iter_mut().filter(|record| !addresses::of(record).is_empty()) {
        record.ttl = life;
    }
    let written = write(question, rcode, &answers, &authorities);
    let written = written.filter(|message| message.len() <= MESSAGE_MAX);
    let offsets = written.as_deref().and_then(wire::ttl_offsets);
    let (Some(message), Some(ttl_offsets)) = (written, offsets) else {
        return servfail(question);
    };
    let least = least.map_or(NOTHING_LIFE, |seconds| Duration::from_secs(seconds.into()));
    let has_soa = authorities.iter().any(|record| matches!(record.data, RData::SOA(_)));
    let life = if is_negative && !has_soa { least.min(NOTHING_LIFE) } else { least };
    let mut found: Vec<_> = answers.iter().flat_map(addresses::of).collect();
    let mut seen = HashSet::new();
    found.retain(|address| seen.insert(*address));
    let (message, addresses) = (message.into(), found.into());
    Answer { message, ttl_offsets, addresses, ..bare(question, rcode, life) }
}

/// None if a record cannot be written, or not all of them in 65,535 bytes.
fn write(
    question: &Question,
    rcode: u16,
    answers: &[Record],
    authorities: &[Record],
) -> Option<Vec<u8>> {
    let mut head = head(question, rcode);
    head[6..8].copy_from_slice(&u16::try_from(answers.len()).ok()?.to_be_bytes());
    head[8..10].copy_from_slice(&u16::try_from(authorities.len()).ok()?.to_be_bytes());
    let (header, asked) = head.split_at(wire::HEADER_LENGTH);
    let (name, fixed) = asked.split_at(question.name.len());
    let mut message = Vec::new();
    let mut encoder = BinEncoder::new(&mut message);
    encoder.emit_vec(header).ok()?;
    // Written as a name, so that later names become pointers to it.
    wire::read_name(name)?.emit(&mut encoder).ok()?;
    encoder.emit_vec(fixed).ok()?;
    encoder.emit_all(answers.iter()).ok()?;
    encoder.emit_all(authorities.iter()).ok()?;
    Some(message)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use hickory_proto::{
        op::{Message, MessageType},
        rr::{
            Name, RecordType,
            rdata::{A, CNAME, MX, SOA, SRV},
        },
    };

    use super::*;

    const MAX_TTL: Duration = Duration::from_secs(300);

    fn question(record_type: RecordType) -> Question {
        let name = b"\x03www\x07example\0".as_slice().into();
        let record_type = record_type.into();
        Question { name, record_type, dnssec_ok: false, checking_disabled: false }
    }

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn record(owner: &str, ttl: u32, data: RData) -> Record {
        Record::from_rdata(name(owner), ttl, data)
    }

    fn a(host: u8) -> RData {
        RData::A(A(Ipv4Addr::new(203, 0, 113, host)))
    }

    fn soa(minimum: u32) -> RData {
        RData::SOA(SOA::new(name("ns.example."), name("root.example."), 1, 2, 3, 4, minimum))
    }

    fn encode(answers: Vec<Record>, authorities: Vec<Record>) -> Answer {
        let is_negative = answers.is_empty();
        records(&question(RecordType::A), 0, answers, authorities, is_negative, MAX_TTL)
    }

    fn seconds(answer: &Answer) -> u64 {
        answer.life.as_secs()
    }

    #[test]
    fn times_to_live_are_clamped_found_and_the_least_is_the_life() {
        let records = vec![
            record("www.example.", 86_400, RData::CNAME(CNAME(name("cdn.example.")))),
            record("cdn.example.", 40, a(1)),
            record("cdn.example.", 50, a(2)),
        ];
        let answer = encode(records, Vec::new());
        assert_eq!(seconds(&answer), 40);
        let read = |at: &u16| {
            let at = usize::from(*at);
            u32::from_be_bytes(answer.message[at..at + 4].try_into().unwrap())
        };
        assert_eq!(answer.ttl_offsets.iter().map(read).collect::<Vec<_>>(), [300, 40, 40]);
        let message = Message::from_vec(&answer.message).unwrap();
        assert_eq!(
            message.answers.iter().map(|record| record.ttl).collect::<Vec<_>>(),
            [300, 40, 40]
        );
        assert_eq!(message.metadata.message_type, MessageType::Response);
        assert_eq!((message.answers.len(), message.queries.len()), (3, 1));
        assert_eq!(answer.message[..4], [0, 0, 0x80, 0x80], "id 0, QR and RA");
        assert_eq!(answer.addresses.len(), 2);
    }

    #[test]
    fn a_negative_answer_lives_as_its_soa_says_and_half_a_minute_without() {
        for (ttl, minimum, life) in [(100, 20, 20), (20, 100, 20), (9999, 9999, 300), (100, 0, 0)] {
            let answer = encode(Vec::new(), vec![record("example.", ttl, soa(minimum))]);
            assert_eq!(seconds(&answer), life, "{ttl} and {minimum}");
            let message = Message::from_vec(&answer.message).unwrap();
            assert_eq!(u64::from(message.authorities[0].ttl), life);
        }
        assert_eq!(seconds(&encode(Vec::new(), Vec::new())), 30);
        let alias = || record("www.example.", 100, RData::CNAME(CNAME(name("cdn.example."))));
        let question = question(RecordType::A);
        let answer = records(&question, 3, vec![alias()], Vec::new(), true, MAX_TTL);
        assert_eq!((seconds(&answer), answer.rcode), (30, 3));
        let asked_for =
            records(&question, 0, vec![record("example.", 90, soa(5))], Vec::new(), false, MAX_TTL);
        assert_eq!(seconds(&asked_for), 90, "the minimum is of what does not exist");
    }

    #[test]
    fn owners_point_to_the_question_and_data_only_where_it_may() {
        let mx = RData::MX(MX::new(1, name("www.example.")));
        let srv = RData::SRV(SRV::new(1, 2, 3, name("www.example.")));
        let answer = encode(
            vec![record("www.example.", 60, mx), record("www.example.", 60, srv)],
            Vec::new(),
        );
        let question_length = 12 + 13 + 4;
        let mut expected = answer.message[..question_length].to_vec();
        expected.extend(b"\xc0\x0c\0\x0f\0\x01\0\0\0\x3c\0\x04\0\x01\xc0\x0c");
        expected
            .extend(b"\xc0\x0c\0\x21\0\x01\0\0\0\x3c\0\x13\0\x01\0\x02\0\x03\x03www\x07example\0");
        assert_eq!(*answer.message, *expected, "RFC 3597 section 4");
    }

    #[test]
    fn an_address_is_listed_once() {
        let answer = encode(
            vec![record("www.example.", 60, a(1)), record("www.example.", 60, a(1))],
            Vec::new(),
        );
        assert_eq!(*answer.addresses, [Ipv4Addr::new(203, 0, 113, 1)]);
    }

    #[test]
    fn what_is_too_long_is_an_error() {
        let text = || RData::TXT(hickory_proto::rr::rdata::TXT::new(vec!["x".repeat(250); 4]));
        let answer = |count| {
            encode((0..count).map(|_| record("www.example.", 60, text())).collect(), Vec::new())
        };
        assert_eq!(answer(58).rcode, 0);
        for count in [60, 80] {
            assert_eq!((answer(count).rcode, seconds(&answer(count))), (2, 5), "{count} kilobytes");
        }
    }

    #[test]
    fn a_long_code_keeps_its_upper_bits_beside_the_message() {
        let answer = error(&question(RecordType::A), 23);
        assert_eq!((answer.rcode, answer.message[3] & 0x0f), (23, 7));
        assert!(answer.ttl_offsets.is_empty());
    }
}
