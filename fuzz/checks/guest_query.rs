//! What must hold for every message of a guest, whatever is in it. The fuzzer runs it, and a test runs it over what the
//! fuzzer has found.

use hickory_proto::op::Message;
use netguard_dns::{
    Transport, name_text,
    query::{self, Query, Unfit},
    reply,
};

/// Panics if something does not hold.
pub fn check(bytes: &[u8]) {
    let mut query = Query::default();
    let mut out = Vec::new();
    match query::read(bytes, &mut query) {
        Ok(()) => agrees(bytes, &query),
        Err(Unfit::Silent) => return,
        Err(Unfit::Header(fault)) => {
            reply::unreadable(bytes, fault.rcode(), &mut out);
            assert_eq!(out.len(), query::HEADER_LENGTH);
            assert_eq!(out[..2], bytes[..2]);
            return;
        }
        Err(Unfit::Question(_)) => {}
    }
    for write in [
        |query: &Query, out: &mut Vec<u8>| reply::nothing(query, reply::NXDOMAIN, Some("why"), out),
        |query: &Query, out: &mut Vec<u8>| reply::empty(query, 16, None, out),
        |query: &Query, out: &mut Vec<u8>| reply::address(query, [127, 0, 0, 1].into(), out),
        |query: &Query, out: &mut Vec<u8>| reply::any(query, out),
    ] {
        write(&query, &mut out);
        let read = Message::from_vec(&out).expect("netguard's own reply is a message");
        assert_eq!(read.metadata.id, query.id);
        assert_eq!(read.queries.len(), 1);
        assert!(out.len() <= reply::limit(&query, Transport::Udp), "it fits into any datagram");
        // What netguard writes of the guest's name is read as that name again.
        let mut again = out[query::HEADER_LENGTH..].to_vec();
        again.truncate(query.name.as_sent().len());
        assert_eq!(again, query.name.as_sent());
    }
    assert!(name_text(query.name.lower()).is_ascii(), "the log stays readable");
}

/// An independent reader sees the same question, if it takes the message at all: it looks into options, whose contents
/// are nothing to netguard.
fn agrees(bytes: &[u8], query: &Query) {
    let Ok(message) = Message::from_vec(bytes) else { return };
    assert_eq!(message.metadata.id, query.id);
    let question = &message.queries[0];
    assert_eq!(u16::from(question.query_type()), query.record_type);
    let mut name = Vec::new();
    for label in question.name().iter() {
        name.push(label.len() as u8);
        name.extend_from_slice(label);
    }
    name.push(0);
    assert_eq!(name, query.name.as_sent());
    assert_eq!(name.to_ascii_lowercase(), query.name.lower());
    let edns = message.edns.as_ref();
    // hickory reads what RFC 6891 section 6.2.5 says smaller sizes mean.
    assert_eq!(
        edns.map(hickory_proto::op::Edns::max_payload),
        query.edns.map(|edns| edns.payload.max(512))
    );
    assert_eq!(edns.map(|edns| edns.flags().dnssec_ok), query.edns.map(|edns| edns.dnssec_ok));
}
