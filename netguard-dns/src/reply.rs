//! Questions read from a guest's bytes, and the replies that netguard builds itself.

use std::net::IpAddr;

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{SOA, opt::EdnsOption},
    },
};

use super::{DomainName, Transport};

/// The largest UDP reply, so that none is ever fragmented (RFC 9715 section 3).
pub(super) const UDP_PAYLOAD_MAX: u16 = 1232;
/// RFC 1035 section 4.2.1: what a guest without EDNS can take.
const UDP_PAYLOAD_PLAIN: u16 = 512;
/// How long a guest may remember that a name is not allowed, in seconds.
const DENIAL_TTL: u32 = 60;
/// Extended DNS error "Blocked" (RFC 8914 section 4.16).
const EDE_BLOCKED: u16 = 15;
/// The option code of extended DNS errors (RFC 8914 section 2).
const EDE_OPTION: u16 = 15;
const HEADER_LENGTH: usize = 12;

/// One question of a guest: all that is kept of its bytes.
#[derive(Clone, Debug)]
pub(super) struct Question {
    id: u16,
    recursion_desired: bool,
    pub(super) checking_disabled: bool,
    pub(super) query: Query,
    edns: Option<Asked>,
}

/// What the guest's OPT record said.
#[derive(Clone, Copy, Debug)]
struct Asked {
    payload: u16,
    dnssec_ok: bool,
}

impl Question {
    /// The asked name in the form that the allowlist has; the root and odd bytes have none.
    pub(super) fn domain(&self) -> Option<DomainName> {
        DomainName::from_wire(self.query.name())
    }

    pub(super) fn dnssec_ok(&self) -> bool {
        self.edns.is_some_and(|asked| asked.dnssec_ok)
    }

    pub(super) fn display_name(&self) -> String {
        let name = self.query.name();
        if name.is_root() {
            return ".".into();
        }
        let text = name.to_lowercase().to_ascii();
        text.strip_suffix('.').map_or(text.clone(), ToOwned::to_owned)
    }

    pub(super) fn display_type(&self) -> String {
        self.query.query_type().to_string()
    }
}

/// What a message of a guest is.
pub(super) enum Read {
    /// A question to decide.
    Question(Question),
    /// A question that is never answered: why, and with which code to say so.
    Refused(Question, &'static str, ResponseCode),
    /// No question that can be read: why, and the reply that says so.
    Unreadable(&'static str, Message),
    /// No query at all: silence, so that no two servers can be made to talk for ever.
    NoQuery,
}

pub(super) fn read(bytes: &[u8]) -> Read {
    let Some(header) = bytes.first_chunk::<HEADER_LENGTH>() else {
        return Read::NoQuery;
    };
    let is_response = header[2] & 0x80 != 0;
    if is_response {
        return Read::NoQuery;
    }
    let op_code = OpCode::from_u8(header[2] >> 3 & 0x0f);
    let empty = |rcode| {
        let mut reply = Message::response(u16::from_be_bytes([header[0], header[1]]), op_code);
        reply.metadata.recursion_desired = header[2] & 0x01 != 0;
        reply.metadata.response_code = rcode;
        reply
    };
    if op_code != OpCode::Query {
        return Read::Unreadable("opcode", empty(ResponseCode::NotImp));
    }
    let malformed = || Read::Unreadable("malformed", empty(ResponseCode::FormErr));
    let Ok(message) = Message::from_vec(bytes) else {
        return malformed();
    };
    let Ok([query]) = <[Query; 1]>::try_from(message.queries) else {
        return malformed(); // one question per message (RFC 9619)
    };
    let edns = message.edns.as_ref();
    let question = Question {
        id: message.metadata.id,
        recursion_desired: message.metadata.recursion_desired,
        checking_disabled: message.metadata.checking_disabled,
        query,
        edns: edns
            .map(|edns| Asked { payload: edns.max_payload(), dnssec_ok: edns.flags().dnssec_ok }),
    };
    if edns.is_some_and(|edns| edns.version() != 0) {
        return Read::Refused(question, "edns version", ResponseCode::BADVERS);
    }
    if question.query.query_class() != DNSClass::IN {
        return Read::Refused(question, "class", ResponseCode::Refused);
    }
    match question.query.query_type() {
        RecordType::AXFR | RecordType::IXFR => {
            Read::Refused(question, "zone transfer", ResponseCode::Refused)
        }
        _ => Read::Question(question), // every other type is for the upstream to know
    }
}

/// NXDOMAIN with a SOA that lets the guest remember it (RFC 2308 section 3).
pub(super) fn not_allowed(question: &Question) -> Message {
    let mut reply = reply_to(question, ResponseCode::NXDomain);
    let name = question.query.name().clone();
    let here = || Name::from_ascii("netguard.invalid.").unwrap_or_else(|_| Name::root());
    let soa = SOA::new(here(), here(), 1, 3600, 600, 86400, DENIAL_TTL);
    reply.add_authority(Record::from_rdata(name, DENIAL_TTL, RData::SOA(soa)));
    if let Some(edns) = reply.edns.as_mut() {
        let mut option = EDE_BLOCKED.to_be_bytes().to_vec();
        option.extend_from_slice(b"not on netguard's allowlist");
        edns.options_mut().insert(EdnsOption::Unknown(EDE_OPTION, option));
    }
    reply
}

/// An empty reply with a code.
pub(super) fn refusal(question: &Question, rcode: ResponseCode) -> Message {
    reply_to(question, rcode)
}

/// The upstream's answer and authority under the guest's own question.
pub(super) fn from_upstream(question: &Question, upstream: Message) -> Message {
    // A code above 15 needs the guest's OPT to be told (RFC 6891 section 6.1.3).
    let rcode = match upstream.metadata.response_code {
        extended if u16::from(extended) > 15 && question.edns.is_none() => ResponseCode::ServFail,
        rcode => rcode,
    };
    let mut reply = reply_to(question, rcode);
    reply.metadata.authentic_data = upstream.metadata.authentic_data && question.dnssec_ok();
    reply.add_answers(upstream.answers);
    reply.add_authorities(upstream.authorities);
    reply
}

fn reply_to(question: &Question, rcode: ResponseCode) -> Message {
    let mut reply = Message::response(question.id, OpCode::Query);
    reply.metadata.message_type = MessageType::Response;
    reply.metadata.recursion_desired = question.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.metadata.checking_disabled = question.checking_disabled;
    reply.metadata.response_code = rcode;
    reply.add_query(question.query.clone());
    if let Some(asked) = question.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_PAYLOAD_MAX);
        edns.set_dnssec_ok(asked.dnssec_ok);
        reply.set_edns(edns);
    }
    reply
}

/// The reply's bytes, truncated to what the guest can take.
pub(super) fn encode(
    reply: &Message,
    question: Option<&Question>,
    transport: Transport,
) -> Option<Vec<u8>> {
    let limit = match transport {
        Transport::Tcp => usize::from(u16::MAX),
        Transport::Udp => {
            let asked = question.and_then(|question| question.edns);
            let payload = asked.map_or(UDP_PAYLOAD_PLAIN, |asked| asked.payload);
            usize::from(payload.clamp(UDP_PAYLOAD_PLAIN, UDP_PAYLOAD_MAX))
        }
    };
    let bytes = reply.to_vec().ok()?;
    if bytes.len() <= limit { Some(bytes) } else { reply.truncate().to_vec().ok() }
}

/// The addresses that a reply gives away.
pub(super) fn addresses(reply: &Message) -> Vec<IpAddr> {
    reply.answers.iter().filter_map(|record| record.data.ip_addr()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(edit: impl FnOnce(&mut Message)) -> Vec<u8> {
        let mut message = Message::query();
        message.metadata.id = 7;
        let name = Name::from_ascii("blocked.example.").unwrap();
        message.add_query(Query::query(name, RecordType::A));
        edit(&mut message);
        message.to_vec().unwrap()
    }

    #[test]
    fn a_denial_is_nxdomain_with_soa_and_extended_error() {
        let bytes = query(|message| {
            message.set_edns(Edns::new());
        });
        let Read::Question(question) = read(&bytes) else { panic!("not read as a question") };
        let reply = encode(&not_allowed(&question), Some(&question), Transport::Udp).unwrap();
        let reply = Message::from_vec(&reply).unwrap();
        assert_eq!(reply.metadata.id, 7);
        assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(reply.authorities[0].ttl, DENIAL_TTL);
        assert_eq!(reply.authorities[0].record_type(), RecordType::SOA);
        let edns = reply.edns.unwrap();
        let blocked = edns.option(EDE_OPTION.into()).expect("extended error");
        assert!(matches!(blocked, EdnsOption::Unknown(_, data) if data.starts_with(&[0, 15])));
    }

    #[test]
    fn what_is_no_question_gets_the_code_that_says_so() {
        assert!(matches!(read(&[0; 11]), Read::NoQuery));
        let mut response = query(|_| {});
        response[2] |= 0x80;
        assert!(matches!(read(&response), Read::NoQuery));
        let code = |bytes: &[u8]| match read(bytes) {
            Read::Unreadable(_, reply) => (reply.metadata.id, reply.metadata.response_code),
            _ => panic!("it was read"),
        };
        assert_eq!(code(&query(|_| {})[..20]), (7, ResponseCode::FormErr));
        let two = query(|message| {
            let again = message.queries[0].clone();
            message.add_query(again);
        });
        assert_eq!(code(&two), (7, ResponseCode::FormErr));
        let mut update = query(|_| {});
        update[2] |= 5 << 3;
        assert_eq!(code(&update), (7, ResponseCode::NotImp));
        let Read::Unreadable(_, reply) = read(&update) else { panic!("it was read") };
        assert_eq!(reply.metadata.op_code, OpCode::Update, "RFC 1035 section 4.1.1: copied");
        let chaos = query(|message| {
            message.queries[0].set_query_class(DNSClass::CH);
        });
        assert!(matches!(read(&chaos), Read::Refused(_, "class", ResponseCode::Refused)));
        let transfer = query(|message| {
            message.queries[0].set_query_type(RecordType::AXFR);
        });
        assert!(matches!(read(&transfer), Read::Refused(_, "zone transfer", _)));
    }

    #[test]
    fn an_extended_code_is_not_told_without_opt() {
        let Read::Question(question) = read(&query(|_| {})) else { panic!("not a question") };
        let mut upstream = Message::response(1, OpCode::Query);
        upstream.metadata.response_code = ResponseCode::BADVERS;
        let reply = from_upstream(&question, upstream);
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    }

    #[test]
    fn a_reply_that_does_not_fit_is_truncated() {
        let Read::Question(question) = read(&query(|_| {})) else { panic!("not a question") };
        let mut upstream = Message::response(1, OpCode::Query);
        for host in 0..100 {
            let address = RData::A(std::net::Ipv4Addr::new(203, 0, 113, host).into());
            upstream.add_answer(Record::from_rdata(question.query.name().clone(), 60, address));
        }
        let reply = from_upstream(&question, upstream);
        let over_udp = encode(&reply, Some(&question), Transport::Udp).unwrap();
        assert!(over_udp.len() <= usize::from(UDP_PAYLOAD_PLAIN));
        assert!(Message::from_vec(&over_udp).unwrap().metadata.truncation);
        let over_tcp = encode(&reply, Some(&question), Transport::Tcp).unwrap();
        assert_eq!(Message::from_vec(&over_tcp).unwrap().answers.len(), 100);
    }
}
