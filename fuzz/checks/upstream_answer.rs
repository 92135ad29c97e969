//! What must hold for whatever an upstream answers. The fuzzer runs it, and a test runs it over what the fuzzer has
//! found.

use std::{net::IpAddr, time::Duration};

use hickory_proto::{
    op::Message,
    rr::{RData, RecordType, rdata::svcb::SvcParamKey},
};
use netguard_dns::{Question, forward::examine, query::Query, reply};

const MAX_TTL: u32 = 300;
/// Past every time-to-live.
const AGE: u32 = 1000;

/// The first byte chooses the question, the rest is the message without it. Panics if something does not hold.
pub fn check(bytes: &[u8]) {
    let Some((choice, message)) = bytes.split_first() else { return };
    let types = [1, 28, 5, 16, 15, 33, 12, 64, 65, 6];
    let question = Question {
        name: b"\x03www\x07example\x03com\x00".as_slice().into(),
        record_type: types[usize::from(choice & 0x0f) % types.len()],
        dnssec_ok: choice & 0x10 != 0,
        checking_disabled: choice & 0x20 != 0,
    };
    let is_public = |address: IpAddr| match address {
        IpAddr::V4(v4) => !v4.is_private() && !v4.is_loopback(),
        IpAddr::V6(v6) => v6.segments()[0] & 0xe000 == 0x2000,
    };
    let max_ttl = Duration::from_secs(MAX_TTL.into());
    let Some(answer) = examine(&question, message, &is_public, max_ttl) else { return };
    assert!(answer.life <= max_ttl);
    let kept = Message::from_vec(&answer.message).expect("what is kept is a message");
    assert!(kept.additionals.is_empty() && kept.edns.is_none());
    if answer.blocked.is_some() {
        assert!(kept.answers.is_empty() && kept.authorities.is_empty());
        return;
    }
    for record in kept.answers.iter().chain(&kept.authorities) {
        assert!(record.ttl <= MAX_TTL);
    }
    for record in &kept.answers {
        let fits = |found: RecordType| {
            u16::from(found) == question.record_type
                || matches!(found, RecordType::CNAME | RecordType::DNAME)
                || (question.dnssec_ok && found == RecordType::RRSIG)
        };
        assert!(fits(record.record_type()), "{record} was not asked for");
        for address in addresses(&record.data) {
            assert!(is_public(address), "{address} is not public");
            assert!(answer.addresses.contains(&address), "{address} would not be pinned");
        }
    }
    is_patched(&question, &answer);
}

/// What a guest is given: its own id and question, and no time left after so long.
fn is_patched(question: &Question, answer: &netguard_dns::Answer) {
    let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    bytes.extend_from_slice(&question.name);
    bytes.extend_from_slice(&question.record_type.to_be_bytes());
    bytes.extend_from_slice(&[0, 1]);
    let mut query = Query::default();
    netguard_dns::query::read(&bytes, &mut query).expect("a query");
    let mut out = Vec::new();
    reply::answer(&query, answer, AGE, usize::from(u16::MAX), &mut out);
    let given = Message::from_vec(&out).expect("what is given is a message");
    assert_eq!(given.metadata.id, 0x1234);
    assert!(given.answers.iter().chain(&given.authorities).all(|record| record.ttl == 0));
    let kept = Message::from_vec(&answer.message).expect("what is kept is a message");
    let data = |message: &Message| -> Vec<RData> {
        message.answers.iter().chain(&message.authorities).map(|it| it.data.clone()).collect()
    };
    assert_eq!(data(&given), data(&kept), "only times are patched");
}

fn addresses(data: &RData) -> Vec<IpAddr> {
    match data {
        RData::A(v4) => vec![v4.0.into()],
        RData::AAAA(v6) => vec![v6.0.into()],
        RData::HTTPS(it) => hints(&it.0),
        RData::SVCB(it) => hints(it),
        _ => Vec::new(), // no other type leads to an address
    }
}

fn hints(svcb: &hickory_proto::rr::rdata::SVCB) -> Vec<IpAddr> {
    use hickory_proto::rr::rdata::svcb::SvcParamValue;
    svcb.svc_params
        .iter()
        .flat_map(|(key, value)| {
            assert_ne!(*key, SvcParamKey::EchConfigList, "ech is taken out");
            match value {
                SvcParamValue::Ipv4Hint(hint) => hint.0.iter().map(|it| it.0.into()).collect(),
                SvcParamValue::Ipv6Hint(hint) => hint.0.iter().map(|it| it.0.into()).collect(),
                _ => Vec::new(), // no address
            }
        })
        .collect()
}
