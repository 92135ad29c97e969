//! One query to an upstream, in netguard's own bytes, and which messages answer it.

use std::io;

use hickory_proto::{
    op::{Edns, Message, OpCode, ResponseCode},
    rr::{Name, RecordType},
    serialize::binary::DecodeError,
};
use thiserror::Error;

use super::wire;
use crate::Question;

/// The largest datagram that an upstream is to send: none is ever fragmented (RFC 9715 section 3).
const UDP_PAYLOAD: u16 = 1232;
/// No honest answer has more; each costs time to read.
const RECORDS_MAX: usize = 1024;

/// Why an upstream has given no answer.
#[derive(Debug, Error)]
pub(super) enum Failure {
    #[error("timed out")]
    TimedOut,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("its answer is malformed: {0}")]
    Malformed(&'static str),
    /// What the zone's owner may have written; the upstream only passes it on.
    #[error("a record of its answer cannot be read")]
    Unreadable(#[source] DecodeError),
    #[error("it answers another query")]
    AnotherQuery,
    #[error("the question has no name that can be asked")]
    NoName,
    #[error("{0:?} is no name of a TLS server")]
    NoServerName(String),
    /// The connection was good before: asking again on a new one may help.
    #[error("the connection was closed")]
    Closed,
    #[error("TLS: {0}")]
    Tls(String),
}

impl Failure {
    /// A guest can choose what it asks for: what the name's owner has caused is not the upstream's fault.
    pub(super) fn is_the_upstreams(&self) -> bool {
        !matches!(self, Self::Unreadable(_) | Self::NoName)
    }
}

/// A query with an id and letter case of its own.
#[derive(Debug)]
pub(super) struct Query {
    bytes: Vec<u8>,
    /// Where the question ends, and OPT begins.
    question_end: usize,
}

/// How an answer must repeat the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Case {
    /// Letter by letter: whoever forges an answer must guess each one's case (draft-vixie-dnsext-dns0x20).
    Exact,
    /// In any case: on a connection nobody else can answer, and some servers write all in lower case.
    Any,
}

/// What a message is to a query.
#[derive(Debug)]
pub(super) enum Heard {
    /// Its answer.
    Answer(Box<Message>),
    /// Its answer does not fit into a datagram.
    Truncated,
    /// An answer to its id and question, but in another case.
    OtherCase,
    /// No answer to it: a late one, or somebody's forgery.
    Other,
}

impl Query {
    /// Name, type, DO and CD are all that it has of the guest's. Without OPT it can say neither DO nor its size.
    pub(super) fn new(question: &Question, with_opt: bool) -> Result<Self, Failure> {
        let name = wire::read_name(&random_case(&question.name)).ok_or(Failure::NoName)?;
        let mut message = Message::query();
        // From the thread's ChaCha generator: an id is half of what a forger must guess.
        message.metadata.id = rand::random();
        message.metadata.recursion_desired = true;
        message.metadata.checking_disabled = question.checking_disabled;
        message.add_query(asked(name, question.record_type));
        if with_opt {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_PAYLOAD);
            edns.set_dnssec_ok(question.dnssec_ok);
            message.set_edns(edns);
        }
        let bytes = message.to_vec().map_err(|_| Failure::NoName)?;
        let question_end = wire::HEADER_LENGTH + question.name.len() + 4;
        Ok(Self { bytes, question_end })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn question(&self) -> &[u8] {
        &self.bytes[wire::HEADER_LENGTH..self.question_end]
    }

    /// What `reply`, which came from the right peer, is to this query.
    pub(super) fn read(&self, reply: &[u8], case: Case) -> Result<Heard, Failure> {
        if reply.get(..2) != self.bytes.get(..2) {
            return Ok(Heard::Other);
        }
        let Some(header) = reply.first_chunk::<{ wire::HEADER_LENGTH }>() else {
            return Err(Failure::Malformed("it ends in its header"));
        };
        let (is_response, op_code) = (header[2] & 0x80 != 0, header[2] >> 3 & 0x0f);
        if !is_response || op_code != 0 {
            return Ok(Heard::Other);
        }
        let code = ResponseCode::from_low(header[3] & 0x0f);
        let is_error = !matches!(code, ResponseCode::NoError | ResponseCode::NXDomain);
        let [questions, records @ ..] = wire::counts(header);
        match questions {
            // A server that cannot read a query may leave the question out.
            0 if is_error => {
                let mut answer = Message::response(0, OpCode::Query);
                answer.metadata.response_code = code;
                return Ok(Heard::Answer(Box::new(answer)));
            }
            1 => {}
            _ => return Err(Failure::Malformed("it has not one question")),
        }
        let Some(question) = reply.get(wire::HEADER_LENGTH..self.question_end) else {
            return Err(Failure::Malformed("it ends in its question"));
        };
        if question != self.question() {
            // Type and class are at the end; as letters they could only be equal to themselves or a type in "another
            // case", which no name's case excuses.
            let fixed = question.len() - 4;
            let is_same = question[..fixed].eq_ignore_ascii_case(&self.question()[..fixed])
                && question[fixed..] == self.question()[fixed..];
            match (is_same, case) {
                (false, _) => return Ok(Heard::Other),
                (true, Case::Exact) => return Ok(Heard::OtherCase),
                (true, Case::Any) => {}
            }
        }
        let truncated = header[2] & 0x02 != 0;
        if truncated {
            return Ok(Heard::Truncated);
        }
        if records.iter().sum::<usize>() > RECORDS_MAX {
            return Err(Failure::Malformed("it has more than 1,024 records"));
        }
        if wire::ttl_offsets(reply).is_none() {
            return Err(Failure::Malformed("it ends before its records do"));
        }
        let answer = Message::from_vec(reply).map_err(Failure::Unreadable)?;
        Ok(Heard::Answer(Box::new(answer)))
    }
}

fn asked(name: Name, record_type: u16) -> hickory_proto::op::Query {
    hickory_proto::op::Query::query(name, RecordType::from(record_type))
}

/// The name with the case of each letter drawn by lot. The lengths of labels are below 64, so no letters.
fn random_case(name: &[u8]) -> Vec<u8> {
    let lots: [u8; 32] = rand::random();
    let draw = |(at, &byte): (usize, &u8)| {
        let upper = lots.get(at / 8).is_some_and(|lots| lots >> (at % 8) & 1 == 1);
        if upper { byte.to_ascii_uppercase() } else { byte }
    };
    name.iter().enumerate().map(draw).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question() -> Question {
        let name = b"\x03www\x09example-1\x04test\0".as_slice().into();
        Question { name, record_type: 28, dnssec_ok: true, checking_disabled: true }
    }

    fn reply(query: &Query, edit: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut reply = query.bytes[..query.question_end].to_vec();
        reply[2] |= 0x80;
        reply[10..12].fill(0);
        edit(&mut reply);
        reply
    }

    #[test]
    fn a_query_is_header_question_and_opt_and_no_more() {
        let query = Query::new(&question(), true).unwrap();
        let mut expected = query.bytes[..2].to_vec();
        expected.extend(b"\x01\x10\0\x01\0\0\0\0\0\x01");
        expected.extend(b"\x03www\x09example-1\x04test\0\0\x1c\0\x01");
        expected.extend(b"\0\0\x29\x04\xd0\0\0\x80\0\0\0");
        assert!(query.bytes.eq_ignore_ascii_case(&expected), "{:?}", query.bytes);
        let plain = Question { dnssec_ok: false, checking_disabled: false, ..question() };
        let query = Query::new(&plain, false).unwrap();
        assert_eq!(query.bytes.len(), query.question_end);
        assert_eq!(query.bytes[2..12], *b"\x01\0\0\x01\0\0\0\0\0\0");
    }

    #[test]
    fn id_and_case_differ_from_query_to_query() {
        let queries: Vec<_> = (0..64).map(|_| Query::new(&question(), true).unwrap()).collect();
        let ids: std::collections::HashSet<_> = queries.iter().map(|q| &q.bytes[..2]).collect();
        assert!(ids.len() > 60, "{} ids", ids.len());
        let questions: std::collections::HashSet<_> = queries.iter().map(Query::question).collect();
        assert!(questions.len() > 60, "{} cases of 2^14", questions.len());
        // Each letter was seen in both cases, and what is no letter never changed.
        let lower = &question().name;
        for (at, byte) in lower.iter().enumerate() {
            let seen: std::collections::HashSet<_> =
                queries.iter().map(|query| query.question()[at]).collect();
            assert_eq!(seen.len(), 1 + usize::from(byte.is_ascii_lowercase()), "byte {at}");
        }
    }

    #[test]
    fn only_the_same_id_question_and_case_count() {
        let query = Query::new(&question(), true).unwrap();
        let hear = |edit: &dyn Fn(&mut Vec<u8>), case| query.read(&reply(&query, edit), case);
        assert!(matches!(hear(&|_| {}, Case::Exact), Ok(Heard::Answer(_))));
        type Edit<'a> = (&'a str, &'a dyn Fn(&mut Vec<u8>));
        let others: [Edit<'_>; 5] = [
            ("id", &|reply| reply[0] ^= 1),
            ("no response", &|reply| reply[2] &= 0x7f),
            ("opcode", &|reply| reply[2] |= 0x28),
            ("name", &|reply| reply[13] ^= 1),
            ("type", &|reply| reply[query.question_end - 3] ^= 1),
        ];
        for (what, edit) in others {
            assert!(matches!(hear(edit, Case::Any), Ok(Heard::Other)), "{what}");
        }
        let swap = |reply: &mut Vec<u8>| reply[13] ^= 0x20;
        assert!(matches!(hear(&swap, Case::Exact), Ok(Heard::OtherCase)));
        assert!(matches!(hear(&swap, Case::Any), Ok(Heard::Answer(_))));
        assert!(matches!(hear(&|reply| reply[2] |= 2, Case::Any), Ok(Heard::Truncated)));
    }

    #[test]
    fn a_type_that_differs_like_a_letter_is_another_type() {
        // 65 and 97 are `A` and `a`.
        let query = Query::new(&Question { record_type: 65, ..question() }, true).unwrap();
        let swapped = reply(&query, |reply| reply[query.question_end - 3] = 97);
        assert!(matches!(query.read(&swapped, Case::Any), Ok(Heard::Other)));
    }

    #[test]
    fn a_question_may_be_missing_beside_an_error_only() {
        let query = Query::new(&question(), true).unwrap();
        let bare = |code: u8| {
            let mut bare = reply(&query, |reply| reply.truncate(12));
            bare[3] = code;
            bare[5] = 0;
            query.read(&bare, Case::Exact)
        };
        assert!(matches!(bare(1), Ok(Heard::Answer(_))));
        for code in [0, 3] {
            assert!(matches!(bare(code), Err(Failure::Malformed(_))), "rcode {code}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_malformed() {
        let query = Query::new(&question(), true).unwrap();
        let whole = reply(&query, |reply| {
            reply[7] = 1;
            reply.extend(
                b"\xc0\x0c\0\x1c\0\x01\0\0\0\x3c\0\x10\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01",
            );
        });
        assert!(matches!(query.read(&whole, Case::Exact), Ok(Heard::Answer(_))));
        for length in 2..whole.len() {
            let read = query.read(&whole[..length], Case::Exact);
            assert!(matches!(read, Err(Failure::Malformed(_))), "{length} bytes: {read:?}");
        }
        let many = reply(&query, |reply| reply[6] = 5);
        assert!(
            matches!(query.read(&many, Case::Exact), Err(Failure::Malformed(why)) if why.contains("1,024"))
        );
        let mut looped = whole.clone();
        let owner = query.question_end;
        looped[owner + 1] = owner as u8;
        let read = query.read(&looped, Case::Exact);
        assert!(matches!(&read, Err(failure) if !failure.is_the_upstreams()), "{read:?}");
    }
}
