//! Messages, honest and hostile, and what is left of them.

use std::net::{Ipv4Addr, Ipv6Addr};

use hickory_proto::{
    op::OpCode,
    rr::rdata::{
        A, AAAA, CNAME, HTTPS, MX, NS, NULL, SOA,
        svcb::{EchConfigList, IpHint, SVCB, SvcParamKey, SvcParamValue},
    },
};

use super::*;

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn record(owner: &str, data: RData) -> Record {
    Record::from_rdata(name(owner), 60, data)
}

fn a(owner: &str) -> Record {
    record(owner, RData::A(A(Ipv4Addr::new(203, 0, 113, 1))))
}

fn cname(owner: &str, target: &str) -> Record {
    record(owner, RData::CNAME(CNAME(name(target))))
}

fn soa(owner: &str) -> Record {
    let soa = SOA::new(name("NS.test."), name("root.test."), 1, 2, 3, 4, 5);
    record(owner, RData::SOA(soa))
}

fn ns(owner: &str) -> Record {
    record(owner, RData::NS(NS(name("ns.test."))))
}

fn raw(owner: &str, record_type: RecordType, bytes: Vec<u8>) -> Record {
    record(owner, RData::Unknown { code: record_type, rdata: NULL::with(bytes) })
}

fn rrsig(owner: &str, covered: RecordType, signer: &str) -> Record {
    let mut data = vec![0; RRSIG_FIXED];
    data[..2].copy_from_slice(&u16::from(covered).to_be_bytes());
    data.extend(wire::name_bytes(&name(signer)));
    data.extend(b"signature");
    raw(owner, RecordType::RRSIG, data)
}

fn nsec(owner: &str) -> Record {
    raw(owner, RecordType::NSEC, b"\x01z\x04test\0\0\x01\x40".into())
}

fn dname(owner: &str, target: &str) -> Record {
    raw(owner, RecordType::DNAME, wire::name_bytes(&name(target)))
}

/// A message that answers, without a code or with one.
fn message(code: ResponseCode, answers: Vec<Record>, authorities: Vec<Record>) -> Message {
    let mut message = Message::response(1, OpCode::Query);
    message.metadata.response_code = code;
    message.add_answers(answers);
    message.add_authorities(authorities);
    // Through the wire: what is scrubbed was read there, whatever its data became by that.
    Message::from_vec(&message.to_vec().unwrap()).unwrap()
}

fn scrub_for(record_type: RecordType, dnssec_ok: bool, message: Message) -> Scrubbed {
    let wanted = Wanted { name: name("www.test."), record_type };
    scrub(&wanted, message, Rules { dnssec_ok, hops: 8 })
}

/// Owner and type of each record.
fn listed(records: &[Record]) -> Vec<String> {
    let text = |record: &Record| format!("{} {}", record.name, record.record_type());
    records.iter().map(text).collect()
}

#[track_caller]
fn check(scrubbed: &Scrubbed, answers: &[&str], authorities: &[&str], end: &End) {
    assert_eq!(listed(&scrubbed.answers), answers);
    assert_eq!(listed(&scrubbed.authorities), authorities);
    assert_eq!(scrubbed.end, *end);
}

const OK: ResponseCode = ResponseCode::NoError;

#[test]
fn only_what_the_name_leads_to_is_kept() {
    let answers = vec![
        a("evil.test."),
        a("cdn.example."),
        cname("WWW.Test.", "CDN.Example."),
        cname("other.test.", "www.test."),
        record("cdn.example.", RData::AAAA(AAAA(Ipv6Addr::LOCALHOST))),
        ns("cdn.example."),
        a("test."),
        a("evilwww.test."),
        a("x.www.test."),
    ];
    let scrubbed = scrub_for(
        RecordType::A,
        false,
        message(OK, answers, vec![ns("test."), soa("test."), a("www.test.")]),
    );
    check(&scrubbed, &["www.test. CNAME", "cdn.example. A"], &[], &End::Data);
    assert_eq!(scrubbed.hops, 1);
    // The address of another type is not kept, but would drop the answer.
    assert_eq!(scrubbed.addresses.len(), 2);
    assert!(scrubbed.addresses.contains(&IpAddr::from(Ipv6Addr::LOCALHOST)));
}

#[test]
fn names_are_in_lower_case_wherever_they_could_point_to_the_query() {
    let mx = record("wWw.test.", RData::MX(MX::new(1, name("mAil.teSt."))));
    let scrubbed = scrub_for(RecordType::MX, false, message(OK, vec![mx], vec![]));
    assert!(scrubbed.answers[0].name.eq_case(&name("www.test.")));
    let RData::MX(mx) = &scrubbed.answers[0].data else { panic!("no MX") };
    assert!(mx.exchange.eq_case(&name("mail.test.")));
    let alias = vec![cname("WWW.test.", "CDN.test.")];
    let scrubbed = scrub_for(RecordType::A, false, message(OK, alias, vec![soa("tEst.")]));
    let RData::CNAME(target) = &scrubbed.answers[0].data else { panic!("no CNAME") };
    assert!(target.0.eq_case(&name("cdn.test.")));
    let RData::SOA(soa) = &scrubbed.authorities[0].data else { panic!("no SOA") };
    assert!(soa.mname.eq_case(&name("ns.test.")));
}

#[test]
fn another_class_does_not_count() {
    let mut chaos = a("www.test.");
    chaos.dns_class = DNSClass::CH;
    let scrubbed = scrub_for(RecordType::A, false, message(OK, vec![chaos], vec![]));
    check(&scrubbed, &[], &[], &End::NoData);
}

#[test]
fn a_negative_answer_keeps_the_soa_of_a_zone_that_the_last_name_is_in() {
    use ResponseCode::NXDomain;
    let cases = [
        (OK, vec![], vec![soa("test.")], vec!["test. SOA"], End::NoData),
        (OK, vec![], vec![soa("www.test.")], vec!["www.test. SOA"], End::NoData),
        (OK, vec![], vec![soa("example."), ns("test.")], vec![], End::NoData),
        (OK, vec![], vec![soa("a.www.test.")], vec![], End::NoData),
        (NXDomain, vec![], vec![soa(".")], vec![". SOA"], End::NxDomain),
        (NXDomain, vec![], vec![soa("test."), soa("test.")], vec!["test. SOA"], End::NxDomain),
    ];
    for (code, answers, authorities, kept, end) in cases {
        let what = format!("{:?}", listed(&authorities));
        let scrubbed = scrub_for(RecordType::A, false, message(code, answers, authorities));
        assert_eq!(listed(&scrubbed.authorities), kept, "{what}");
        assert_eq!(scrubbed.end, end, "{what}");
    }
}

#[test]
fn a_chain_without_data_is_asked_on_unless_it_is_proven_to_end() {
    let alias = || vec![cname("www.test.", "cdn.example.")];
    let to = name("cdn.example.");
    let kept = ["www.test. CNAME"];
    let scrubbed = scrub_for(RecordType::A, false, message(OK, alias(), vec![]));
    check(&scrubbed, &kept, &[], &End::Incomplete(to.clone()));
    let scrubbed = scrub_for(RecordType::A, false, message(OK, alias(), vec![soa("test.")]));
    check(&scrubbed, &kept, &[], &End::Incomplete(to));
    let scrubbed = scrub_for(RecordType::A, false, message(OK, alias(), vec![soa("example.")]));
    check(&scrubbed, &kept, &["example. SOA"], &End::NoData);
    let nowhere = message(ResponseCode::NXDomain, alias(), vec![soa("example.")]);
    let scrubbed = scrub_for(RecordType::A, false, nowhere);
    check(&scrubbed, &kept, &["example. SOA"], &End::NxDomain);
    let scrubbed = scrub_for(RecordType::CNAME, false, message(OK, alias(), vec![]));
    check(&scrubbed, &kept, &[], &End::Data);
}

#[test]
fn loops_and_long_chains_end() {
    let step = |at: usize| match at {
        0 => "www.test.".to_owned(),
        at => format!("n{at}.test."),
    };
    let chain = |length: usize| -> Vec<Record> {
        let mut records: Vec<_> = (0..length).map(|at| cname(&step(at), &step(at + 1))).collect();
        records.push(a(&step(length)));
        records.reverse(); // the order does not matter
        records
    };
    let scrubbed = scrub_for(RecordType::A, false, message(OK, chain(8), vec![]));
    assert_eq!((scrubbed.hops, scrubbed.answers.len(), &scrubbed.end), (8, 9, &End::Data));
    let scrubbed = scrub_for(RecordType::A, false, message(OK, chain(9), vec![]));
    assert_eq!((scrubbed.hops, scrubbed.end), (8, End::Endless));
    let wanted = Wanted { name: name("www.test."), record_type: RecordType::A };
    let rules = Rules { dnssec_ok: false, hops: 0 };
    assert_eq!(scrub(&wanted, message(OK, chain(1), vec![]), rules).end, End::Endless);
    assert_eq!(scrub(&wanted, message(OK, chain(0), vec![]), rules).end, End::Data);
    let itself = vec![cname("www.test.", "WWW.test.")];
    assert_eq!(scrub_for(RecordType::A, false, message(OK, itself, vec![])).end, End::Endless);
    let round = vec![cname("www.test.", "b.test."), cname("b.test.", "www.test.")];
    assert_eq!(scrub_for(RecordType::A, false, message(OK, round, vec![])).end, End::Endless);
}

#[test]
fn signatures_and_proofs_are_for_those_who_ask_for_them() {
    let answers = || {
        vec![
            cname("www.test.", "cdn.example."),
            rrsig("www.test.", RecordType::CNAME, "test."),
            rrsig("www.test.", RecordType::A, "test."),
            a("cdn.example."),
            rrsig("cdn.example.", RecordType::A, "example."),
            rrsig("evil.example.", RecordType::A, "example."),
        ]
    };
    let authorities = || {
        vec![
            nsec("a.test."),
            rrsig("a.test.", RecordType::NSEC, "test."),
            rrsig("a.test.", RecordType::NS, "test."),
            nsec("a.other."),
            soa("example."),
            rrsig("example.", RecordType::SOA, "example."),
            ns("example."),
        ]
    };
    let all = || message(OK, answers(), authorities());
    let plain = scrub_for(RecordType::A, false, all());
    check(&plain, &["www.test. CNAME", "cdn.example. A"], &[], &End::Data);
    let kept = ["www.test. CNAME", "www.test. RRSIG", "cdn.example. A", "cdn.example. RRSIG"];
    let signed = scrub_for(RecordType::A, true, all());
    check(&signed, &kept, &["a.test. NSEC", "a.test. RRSIG"], &End::Data);
    let covered = Signature::of(&signed.answers[1]).unwrap().covered;
    assert_eq!(covered, u16::from(RecordType::CNAME), "and not the one of A");

    let negative = || message(OK, vec![], authorities());
    let wanted = Wanted { name: name("no.example."), record_type: RecordType::A };
    let signed = scrub(&wanted, negative(), Rules { dnssec_ok: true, hops: 8 });
    check(&signed, &[], &["example. SOA", "example. RRSIG"], &End::NoData);
    let plain = scrub(&wanted, negative(), Rules { dnssec_ok: false, hops: 8 });
    check(&plain, &[], &["example. SOA"], &End::NoData);
}

#[test]
fn a_dname_is_kept_if_it_makes_the_alias() {
    let with = |dname: Record, target: &str| {
        let answers = vec![dname, cname("www.test.", target), a(target)];
        listed(&scrub_for(RecordType::A, false, message(OK, answers, vec![])).answers)
    };
    let kept = ["test. DNAME", "www.test. CNAME", "www.example. A"];
    assert_eq!(with(dname("test.", "example."), "www.example."), kept);
    assert_eq!(with(dname("Test.", "Example."), "www.example."), kept);
    let bare = |target| ["www.test. CNAME".to_owned(), format!("{target} A")];
    assert_eq!(with(dname("test.", "other."), "www.example."), bare("www.example."));
    assert_eq!(with(dname("www.test.", "example."), "www.example."), bare("www.example."));
    assert_eq!(with(dname("w.test.", "example."), "www.example."), bare("www.example."));
    let pointer = raw("test.", RecordType::DNAME, vec![0xc0, 12]);
    assert_eq!(with(pointer, "www.example."), bare("www.example."));
    let signed = vec![
        dname("test.", "example."),
        rrsig("test.", RecordType::DNAME, "test."),
        cname("www.test.", "www.example."),
        a("www.example."),
    ];
    let scrubbed = scrub_for(RecordType::A, true, message(OK, signed, vec![]));
    assert_eq!(listed(&scrubbed.answers)[..2], ["test. DNAME", "test. RRSIG"]);
}

#[test]
fn https_loses_its_ech_and_nothing_else() {
    let hint = Ipv4Addr::new(10, 0, 0, 1);
    let ech = || (SvcParamKey::EchConfigList, SvcParamValue::EchConfigList(EchConfigList(vec![1])));
    let port = || (SvcParamKey::Port, SvcParamValue::Port(8443));
    let ipv4 = || (SvcParamKey::Ipv4Hint, SvcParamValue::Ipv4Hint(IpHint(vec![A(hint)])));
    let six = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
    let ipv6 = || (SvcParamKey::Ipv6Hint, SvcParamValue::Ipv6Hint(IpHint(vec![AAAA(six)])));
    let svcb = || SVCB::new(1, name("svc.test."), vec![port(), ipv4(), ech(), ipv6()]);
    let https = record("www.test.", RData::HTTPS(HTTPS(svcb())));
    let scrubbed = scrub_for(RecordType::HTTPS, false, message(OK, vec![https], vec![]));
    let RData::HTTPS(left) = &scrubbed.answers[0].data else { panic!("no HTTPS") };
    assert_eq!(left.0.svc_params, [port(), ipv4(), ipv6()]);
    assert_eq!(scrubbed.addresses, [IpAddr::from(hint), IpAddr::from(six)]);
    let svcb = record("www.test.", RData::SVCB(svcb()));
    let scrubbed = scrub_for(RecordType::SVCB, false, message(OK, vec![svcb], vec![]));
    let RData::SVCB(left) = &scrubbed.answers[0].data else { panic!("no SVCB") };
    assert_eq!(left.svc_params, [port(), ipv4(), ipv6()]);
}

#[test]
fn any_gives_no_https() {
    let https = record("www.test.", RData::HTTPS(HTTPS(SVCB::new(1, name("."), vec![]))));
    let answers = vec![https, a("www.test."), ns("www.test."), a("x.test.")];
    let scrubbed = scrub_for(RecordType::ANY, false, message(OK, answers, vec![]));
    check(&scrubbed, &["www.test. A", "www.test. NS"], &[], &End::Data);
}
