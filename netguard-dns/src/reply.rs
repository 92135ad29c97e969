//! The bytes of replies: those that netguard makes itself, and answers patched for the guest that asks.

use std::net::IpAddr;

pub use netguard_common::names::UDP_PAYLOAD_MAX;
use netguard_common::names::{DENIAL_SOA, DENIAL_TTL, EDE_BLOCKED};

use crate::{
    Answer,
    query::{HEADER_LENGTH, Query},
};

/// RFC 1035 section 4.2.1: what a guest without EDNS can take.
const UDP_PAYLOAD_PLAIN: u16 = 512;
/// The option code of extended DNS errors (RFC 8914 section 2).
const EDE_OPTION: u16 = 15;

/// No error.
pub const NOERROR: u16 = 0;
/// Server failure.
pub const SERVFAIL: u16 = 2;
/// No such name.
pub const NXDOMAIN: u16 = 3;
/// Refused by policy.
pub const REFUSED: u16 = 5;

const TYPE_A: u16 = 1;
const TYPE_HINFO: u16 = 13;
const TYPE_AAAA: u16 = 28;
const TYPE_OPT: u16 = 41;
const CLASS_IN: u16 = 1;
/// A pointer to the question's name (RFC 1035 section 4.1.4).
const TO_QUESTION: [u8; 2] = [0xc0, HEADER_LENGTH as u8];

/// How a query came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// In one datagram.
    Udp,
    /// On a connection.
    Tcp,
}

/// The longest reply that the guest can take.
#[must_use]
pub fn limit(query: &Query, transport: Transport) -> usize {
    match transport {
        Transport::Tcp => usize::from(u16::MAX),
        Transport::Udp => {
            let asked = query.edns.map_or(UDP_PAYLOAD_PLAIN, |edns| edns.payload);
            usize::from(asked.clamp(UDP_PAYLOAD_PLAIN, UDP_PAYLOAD_MAX))
        }
    }
}

/// A message that could not be read, `bytes`, is answered with its header alone (RFC 1035 section 4.1.1).
pub fn unreadable(bytes: &[u8], rcode: u16, out: &mut Vec<u8>) {
    const OPCODE_AND_RD: u8 = 0x79;
    out.clear();
    let Some([id0, id1, flags, ..]) = bytes.first_chunk::<HEADER_LENGTH>() else { return };
    out.extend([*id0, *id1, 0x80 | flags & OPCODE_AND_RD, rcode as u8 & 0x0f]);
    out.extend([0; 8]);
}

/// The question again, and a code.
pub fn empty(query: &Query, rcode: u16, error: Option<&str>, out: &mut Vec<u8>) {
    start(query, rcode, [0, 0], out);
    opt(query, rcode, error, out);
}

/// There is no such name, or nothing of that type: with a SOA to remember it by (RFC 2308 section 3), and why, if
/// that is for the guest to know.
pub fn nothing(query: &Query, rcode: u16, error: Option<&str>, out: &mut Vec<u8>) {
    start(query, rcode, [0, 1], out);
    out.extend(DENIAL_SOA);
    opt(query, rcode, error, out);
}

/// The address of the asked type.
pub fn address(query: &Query, address: IpAddr, out: &mut Vec<u8>) {
    start(query, NOERROR, [1, 0], out);
    match address {
        IpAddr::V4(v4) => {
            record(TYPE_A, DENIAL_TTL, 4, out);
            out.extend(v4.octets());
        }
        IpAddr::V6(v6) => {
            record(TYPE_AAAA, DENIAL_TTL, 16, out);
            out.extend(v6.octets());
        }
    }
    opt(query, NOERROR, None, out);
}

/// The answer to a question for everything (RFC 8482 section 4.2).
pub fn any(query: &Query, out: &mut Vec<u8>) {
    const TEXT: &[u8] = b"\x07RFC8482\x00";
    start(query, NOERROR, [1, 0], out);
    record(TYPE_HINFO, 3600, TEXT.len(), out);
    out.extend(TEXT);
    opt(query, NOERROR, None, out);
}

/// An answer that came `age` seconds ago. Of one that is too long as many whole records as fit: most clients ask again
/// over TCP and must not use them (RFC 2181 section 9), but musl before 1.2.4 knows no TCP and has only these.
pub fn answer(query: &Query, answer: &Answer, age: u32, limit: usize, out: &mut Vec<u8>) {
    // A code above 15 needs the guest's OPT to be told.
    let rcode = if answer.rcode > 15 && query.edns.is_none() { SERVFAIL } else { answer.rcode };
    let opt_length = if query.edns.is_some() { 11 } else { 0 };
    let room = limit.saturating_sub(opt_length);
    let message = &*answer.message;
    if message.len() < HEADER_LENGTH + query.name.lower().len() + 4 {
        empty(query, SERVFAIL, None, out); // no answer to a question that it does not have
        return;
    }
    let is_cut = message.len() > room;
    let (end, records) =
        if is_cut { whole_answers(query, answer, room) } else { (message.len(), 0) };
    out.clear();
    out.extend_from_slice(message.get(..end).unwrap_or(message));
    header(query, rcode, out);
    if is_cut {
        out[2] |= 0x02;
        out[6..8].copy_from_slice(&records.to_be_bytes());
        out[8..10].fill(0);
    }
    out[10..12].copy_from_slice(&u16::from(query.edns.is_some()).to_be_bytes());
    let sent = query.name.as_sent();
    out[HEADER_LENGTH..HEADER_LENGTH + sent.len()].copy_from_slice(sent);
    if answer.authentic && (query.authentic || query.edns.is_some_and(|edns| edns.dnssec_ok)) {
        out[3] |= 0x20;
    }
    if age > 0 {
        for offset in &answer.ttl_offsets {
            let at = usize::from(*offset);
            let Some(field) = out.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<4>()) else {
                continue;
            };
            *field = u32::from_be_bytes(*field).saturating_sub(age).to_be_bytes();
        }
    }
    opt(query, rcode, None, out);
}

/// Where the last record ends that is an answer and within `room`, and how many there are until then.
fn whole_answers(query: &Query, answer: &Answer, room: usize) -> (usize, u16) {
    let message = &*answer.message;
    let mut end = HEADER_LENGTH + query.name.lower().len() + 4;
    let mut count = 0;
    let answers = message.get(6..8).and_then(|field| field.first_chunk()).copied();
    let answers = u16::from_be_bytes(answers.unwrap_or_default());
    for offset in answer.ttl_offsets.iter().take(answers.into()) {
        // The length of the data is behind the time to live.
        let at = usize::from(*offset) + 4;
        let Some(length) = message.get(at..).and_then(|rest| rest.first_chunk()) else { break };
        let record_end = at + 2 + usize::from(u16::from_be_bytes(*length));
        if record_end > room {
            break;
        }
        (end, count) = (record_end, count + 1);
    }
    (end, count)
}

/// Id and flags, over a header that is there: QR, what the guest asked for, RA and the code's lower bits.
fn header(query: &Query, rcode: u16, out: &mut [u8]) {
    let [id0, id1] = query.id.to_be_bytes();
    let flags0 = 0x80 | u8::from(query.recursion_desired);
    let flags1 = 0x80 | u8::from(query.checking_disabled) << 4 | rcode as u8 & 0x0f;
    out[..4].copy_from_slice(&[id0, id1, flags0, flags1]);
}

/// Header and question, for so many answers and authorities.
fn start(query: &Query, rcode: u16, [answers, authorities]: [u8; 2], out: &mut Vec<u8>) {
    out.clear();
    let additional = u8::from(query.edns.is_some());
    out.extend([0, 0, 0, 0, 0, 1, 0, answers, 0, authorities, 0, additional]);
    header(query, rcode, out);
    out.extend_from_slice(query.name.as_sent());
    out.extend(query.record_type.to_be_bytes());
    out.extend(query.class.to_be_bytes());
}

/// A record of the asked name, up to its data.
fn record(record_type: u16, ttl: u32, length: usize, out: &mut Vec<u8>) {
    out.extend(TO_QUESTION);
    out.extend(record_type.to_be_bytes());
    out.extend(CLASS_IN.to_be_bytes());
    out.extend(ttl.to_be_bytes());
    out.extend((length as u16).to_be_bytes());
}

/// netguard's OPT, for who has sent one (RFC 6891 section 7).
fn opt(query: &Query, rcode: u16, error: Option<&str>, out: &mut Vec<u8>) {
    let Some(edns) = query.edns else { return };
    let error = error.map(|text| (EDE_BLOCKED, text));
    let length = error.map_or(0, |(_, text)| 6 + text.len());
    out.push(0);
    out.extend(TYPE_OPT.to_be_bytes());
    out.extend(UDP_PAYLOAD_MAX.to_be_bytes());
    out.extend([(rcode >> 4) as u8, 0, u8::from(edns.dnssec_ok) << 7, 0]);
    out.extend((length as u16).to_be_bytes());
    if let Some((code, text)) = error {
        out.extend(EDE_OPTION.to_be_bytes());
        out.extend((2 + text.len() as u16).to_be_bytes());
        out.extend(code.to_be_bytes());
        out.extend(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hickory_proto::{
        op::{Edns, Message, OpCode, ResponseCode},
        rr::{Name, RData, Record, RecordType, rdata::opt::EdnsOption},
    };

    use super::*;

    fn query(edit: impl FnOnce(&mut Message)) -> Query {
        let mut message = Message::query();
        message.metadata.id = 7;
        let name = Name::from_ascii("Blocked.example.").unwrap();
        message.add_query(hickory_proto::op::Query::query(name, RecordType::A));
        edit(&mut message);
        let mut query = Query::default();
        crate::query::read(&message.to_vec().unwrap(), &mut query).unwrap();
        query
    }

    fn with_opt(payload: u16) -> Query {
        query(|message| {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            message.set_edns(edns);
        })
    }

    fn read(reply: impl FnOnce(&mut Vec<u8>)) -> Message {
        let mut out = vec![1; 3]; // what was in it before is gone
        reply(&mut out);
        Message::from_vec(&out).unwrap()
    }

    /// An answer of so many addresses.
    fn addresses(count: u8) -> Answer {
        let mut message = Message::response(0, OpCode::Query);
        let name = Name::from_ascii("blocked.example.").unwrap();
        message.metadata.recursion_available = true;
        message.add_query(hickory_proto::op::Query::query(name.clone(), RecordType::A));
        for host in 0..count {
            let data = RData::A(std::net::Ipv4Addr::new(203, 0, 113, host).into());
            message.add_answer(Record::from_rdata(name.clone(), 300, data));
        }
        let message = message.to_vec().unwrap();
        let first = HEADER_LENGTH + 17 + 4 + 6;
        Answer {
            ttl_offsets: (0..u16::from(count)).map(|index| first as u16 + index * 16).collect(),
            message: message.into(),
            life: Duration::from_secs(300),
            rcode: 0,
            authentic: true,
            addresses: Box::default(),
            upstream: None,
            blocked: None,
        }
    }

    #[test]
    fn a_denial_is_nxdomain_with_soa_and_extended_error() {
        let query = with_opt(1232);
        let reply = read(|out| nothing(&query, NXDOMAIN, Some("not on the list"), out));
        assert_eq!(reply.metadata.id, 7);
        assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(reply.queries[0].name().to_string(), "Blocked.example.", "as it was sent");
        assert_eq!(reply.authorities[0].ttl, DENIAL_TTL);
        assert_eq!(reply.authorities[0].record_type(), RecordType::SOA);
        let edns = reply.edns.unwrap();
        let blocked = edns.option(EDE_OPTION.into()).expect("extended error");
        assert!(
            matches!(blocked, EdnsOption::Unknown(_, data) if data == b"\x00\x0fnot on the list")
        );
    }

    #[test]
    fn an_answer_is_the_guests_own_with_its_age_taken_off() {
        let query = with_opt(1232);
        let reply = read(|out| answer(&query, &addresses(3), 100, 1232, out));
        assert_eq!(reply.metadata.id, 7);
        assert_eq!(reply.queries[0].name().to_string(), "Blocked.example.");
        assert_eq!(reply.answers.len(), 3);
        assert!(reply.answers.iter().all(|record| record.ttl == 200));
        assert!(!reply.metadata.authentic_data, "the guest did not ask for it");
        assert!(reply.edns.is_some());
        let older = read(|out| answer(&query, &addresses(1), 1000, 1232, out));
        assert_eq!(older.answers[0].ttl, 0);
    }

    #[test]
    fn the_ad_bit_is_for_who_understands_it() {
        let asks = query(|message| message.metadata.authentic_data = true);
        let reply = read(|out| answer(&asks, &addresses(1), 0, 512, out));
        assert!(reply.metadata.authentic_data);
    }

    #[test]
    fn what_does_not_fit_is_cut_behind_a_whole_record() {
        let plain = query(|_| {});
        let long = addresses(100);
        let over_udp = read(|out| {
            answer(&plain, &long, 7, limit(&plain, Transport::Udp), out);
            assert!(out.len() <= 512);
        });
        assert!(over_udp.metadata.truncation);
        assert_eq!(over_udp.answers.len(), 29, "12 + 21 + 29 times 16 is 497");
        assert!(over_udp.answers.iter().all(|record| record.ttl == 293));
        let small = with_opt(512);
        let cut = read(|out| {
            answer(&small, &long, 7, limit(&small, Transport::Udp), out);
            assert!(out.len() <= 512);
        });
        assert!(cut.metadata.truncation && cut.edns.is_some());
        assert_eq!(cut.answers.len(), 29);
        let over_tcp = read(|out| answer(&plain, &long, 0, limit(&plain, Transport::Tcp), out));
        assert!(!over_tcp.metadata.truncation);
        assert_eq!(over_tcp.answers.len(), 100);
        assert_eq!(limit(&with_opt(65535), Transport::Udp), 1232);
        assert_eq!(limit(&with_opt(100), Transport::Udp), 512);
    }

    #[test]
    fn an_extended_code_is_not_told_without_opt() {
        let mut badvers = addresses(0);
        badvers.rcode = 16;
        let told = read(|out| answer(&with_opt(1232), &badvers, 0, 1232, out));
        assert_eq!(u16::from(told.metadata.response_code), 16);
        let hidden = read(|out| answer(&query(|_| {}), &badvers, 0, 512, out));
        assert_eq!(hidden.metadata.response_code, ResponseCode::ServFail);
    }

    #[test]
    fn a_question_for_everything_gets_one_record() {
        let reply = read(|out| any(&query(|_| {}), out));
        assert_eq!(reply.answers[0].record_type(), RecordType::HINFO);
    }

    #[test]
    fn what_could_not_be_read_gets_its_own_header_back() {
        let mut out = Vec::new();
        unreadable(&[1, 2, 0x29, 0xff, 9, 9, 9, 9, 9, 9, 9, 9, 9], 4, &mut out);
        assert_eq!(out, [1, 2, 0xa9, 4, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
}
