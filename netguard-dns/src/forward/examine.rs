//! What would be kept of one message of an upstream: the way of an answer without sockets, for fuzzing and tests.

use std::{net::IpAddr, time::Duration};

use hickory_proto::rr::RecordType;

use super::{
    addresses, encode,
    query::{Case, Heard, Query},
    scrub::{self, End, Rules, Wanted},
    wire,
};
use crate::{Answer, Blocked, Question};

/// Takes the message that a hostile upstream would build behind a true question: flags, counts and records are
/// `bytes`' own. None if nothing of it is believed.
#[must_use]
pub fn examine(
    question: &Question,
    bytes: &[u8],
    is_public: &dyn Fn(IpAddr) -> bool,
    max_ttl: Duration,
) -> Option<Answer> {
    let query = Query::new(question, true).ok()?;
    let (header, records) = bytes.split_first_chunk::<{ wire::HEADER_LENGTH }>()?;
    let mut reply = header.to_vec();
    reply[..2].copy_from_slice(&query.bytes()[..2]);
    reply[4..6].copy_from_slice(&[0, 1]);
    reply.extend_from_slice(query.question());
    reply.extend_from_slice(records);
    let Ok(Heard::Answer(message)) = query.read(&reply, Case::Exact) else { return None };
    let rcode = u16::from(message.metadata.response_code);
    if !matches!(rcode, 0 | 3) {
        return Some(encode::error(question, rcode));
    }
    let name = wire::read_name(&question.name)?;
    let wanted = Wanted { name, record_type: RecordType::from(question.record_type) };
    let rules = Rules { dnssec_ok: question.dnssec_ok, hops: super::HOPS_MAX };
    let scrubbed = scrub::scrub(&wanted, *message, rules);
    if let Some(address) = addresses::rebinding(&scrubbed.addresses, is_public) {
        return Some(encode::blocked(question, Blocked::Rebinding(address)));
    }
    let (rcode, is_negative) = match scrubbed.end {
        End::Data => (0, false),
        End::NoData => (0, true),
        End::NxDomain => (3, true),
        End::Endless | End::Incomplete(_) => return None,
    };
    let (answers, authorities) = (scrubbed.answers, scrubbed.authorities);
    Some(encode::records(question, rcode, answers, authorities, is_negative, max_ttl))
}
