//! The forwarder against upstreams and forgers that lie.

use std::{net::IpAddr, time::Duration};

use crate::fake::{
    self, Asked, Fake, Frozen, Reply, a, address, cname, forwarder, name, question, reply,
};
use hickory_proto::{
    op::ResponseCode,
    rr::{
        RData, Record, RecordType,
        rdata::{
            A, AAAA, HTTPS,
            svcb::{IpHint, SVCB, SvcParamKey, SvcParamValue},
        },
    },
};
use netguard_dns::Blocked;

/// An answer that gives itself away, if it is believed.
fn forged(asked: &Asked, edit: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut forged = reply(&asked.bytes, |message| {
        let name = message.queries[0].name().clone();
        message.add_answer(Record::from_rdata(name, 60, a([198, 51, 100, 66])));
    });
    edit(&mut forged);
    forged
}

fn is_honest(addresses: &[IpAddr]) -> bool {
    addresses == [IpAddr::from([203, 0, 113, 1])]
}

#[tokio::test(start_paused = true)]
async fn forgeries_are_passed_over_and_the_real_answer_counts() {
    let _frozen = Frozen::new();
    type Forge = fn(&mut Vec<u8>);
    let forgeries: [(&str, Forge); 5] = [
        ("id", |reply| reply[1] ^= 1),
        ("name", |reply| reply[13] ^= 1),
        ("no response", |reply| reply[2] &= 0x7f),
        ("opcode", |reply| reply[2] |= 0x10),
        ("one byte", |reply| reply.truncate(1)),
    ];
    for (what, forge) in forgeries {
        let fake = Fake::start(move |asked| {
            Reply::SendAll(vec![forged(asked, forge), address(&asked.bytes)])
        })
        .await;
        let (forwarder, _, _) = forwarder(&[&fake]);
        let kept = forwarder.answer(question("www.example", 1), false).await;
        assert!(is_honest(&kept.answer.addresses), "{what}: {:?}", kept.answer);
        assert_eq!(fake.count(), 1, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_from_elsewhere_is_not_heard() {
    let _frozen = Frozen::new();
    let fake =
        Fake::start(|asked| Reply::FromElsewhere(forged(asked, |_| {}), address(&asked.bytes)))
            .await;
    let (forwarder, _, _) = forwarder(&[&fake]);
    let kept = forwarder.answer(question("www.example", 1), false).await;
    assert!(is_honest(&kept.answer.addresses));
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_forgeries_makes_netguard_ask_over_tcp() {
    let _frozen = Frozen::new();
    let fake = Fake::start(|asked| match asked.over_tcp {
        false => Reply::SendAll((0..40).map(|_| forged(asked, |reply| reply[0] ^= 1)).collect()),
        true => Reply::Send(address(&asked.bytes)),
    })
    .await;
    let (forwarder, _, _) = forwarder(&[&fake]);
    let kept = forwarder.answer(question("www.example", 1), false).await;
    assert!(is_honest(&kept.answer.addresses));
    assert_eq!((fake.count(), fake.over_tcp()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn an_answer_in_another_case_is_asked_for_over_tcp() {
    let _frozen = Frozen::new();
    let lower = |mut reply: Vec<u8>| {
        reply[12..24].make_ascii_lowercase();
        reply
    };
    let fake = Fake::start(move |asked| {
        Reply::Send(lower(match asked.over_tcp {
            false => forged(asked, |_| {}),
            true => address(&asked.bytes),
        }))
    })
    .await;
    let (forwarder, _, _) = forwarder(&[&fake]);
    // One of 2^22 queries is in lower case anyway.
    let kept = forwarder.answer(question("abcdefghijkl.mnopqrstuv", 1), false).await;
    assert!(is_honest(&kept.answer.addresses));
    assert_eq!((fake.count(), fake.over_tcp()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn who_sends_no_usable_answer_is_passed_by_at_once() {
    let _frozen = Frozen::new(); // so not by the hedge
    let code = |code| {
        move |asked: &Asked| {
            Reply::Send(reply(&asked.bytes, |message| message.metadata.response_code = code))
        }
    };
    type Behave = Box<dyn Fn(&Asked) -> Reply + Send + Sync>;
    let bad: [(&str, Behave, u16); 6] = [
        ("servfail", Box::new(code(ResponseCode::ServFail)), 2),
        ("refused", Box::new(code(ResponseCode::Refused)), 5),
        ("notimp", Box::new(code(ResponseCode::NotImp)), 4),
        ("formerr", Box::new(code(ResponseCode::FormErr)), 1),
        ("garbage", Box::new(|asked| Reply::Send([&asked.bytes[..2], &[0x80; 40]].concat())), 2),
        ("cut", Box::new(|asked| Reply::Send(forged(asked, |reply| reply.truncate(30)))), 2),
    ];
    for (what, behave, alone) in bad {
        let bad = Fake::start(behave).await;
        let good = Fake::start(|asked| Reply::Send(address(&asked.bytes))).await;
        let (both, _, _) = forwarder(&[&bad, &good]);
        let kept = both.answer(question("www.example", 1), false).await;
        assert!(is_honest(&kept.answer.addresses), "{what}: {:?}", kept.answer);
        assert_eq!(kept.answer.upstream, Some(good.address), "{what}");
        assert!(bad.count() >= 1, "{what}");
        let (only, _, _) = forwarder(&[&bad]);
        let kept = only.answer(question("www.example", 1), false).await;
        assert_eq!((kept.answer.rcode, kept.answer.addresses.len()), (alone, 0), "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn three_answers_of_garbage_make_an_upstream_fail() {
    let _frozen = Frozen::new();
    let fake = Fake::start(|asked| Reply::Send(asked.bytes[..2].to_vec())).await;
    let (forwarder, _, told) = forwarder(&[&fake]);
    for nth in 0..5 {
        assert_eq!(forwarder.upstreams()[0].failing, nth >= 3);
        forwarder.answer(question(&format!("n{nth}.example"), 1), false).await;
    }
    let told = told.lock().unwrap();
    assert_eq!(told.len(), 1);
    assert!(told[0].ends_with("fails: its answer is malformed: it ends in its header"), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_closed_port_is_an_answer_of_its_own() {
    let _frozen = Frozen::new();
    let nobody = {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.local_addr().unwrap()
    };
    let upstream = netguard_dns::forward::Upstream {
        address: nobody,
        transport: netguard_dns::forward::Transport::Plain,
    };
    let (forwarder, _, _) = fake::forwarder_with(fake::settings(vec![upstream]));
    let kept = forwarder.answer(question("www.example", 1), false).await;
    assert_eq!((kept.answer.rcode, kept.answer.upstream), (2, None));
}

#[tokio::test(start_paused = true)]
async fn records_beside_the_question_are_dropped() {
    let _frozen = Frozen::new();
    let fake = Fake::start(|asked| {
        Reply::Send(reply(&asked.bytes, |message| {
            let www = message.queries[0].name().clone();
            let evil = |owner: &str| Record::from_rdata(name(owner), 1, a([10, 0, 0, 1]));
            message.add_answer(evil("bank.example."));
            message.add_answer(Record::from_rdata(www, 60, a([203, 0, 113, 1])));
            message.add_authority(evil("ns.example."));
            message.add_additional(evil("bank.example."));
        }))
    })
    .await;
    let (forwarder, _, _) = forwarder(&[&fake]);
    let kept = forwarder.answer(question("www.example", 1), false).await;
    assert!(is_honest(&kept.answer.addresses));
    assert_eq!(kept.answer.message[6..12], [0, 1, 0, 0, 0, 0], "one record in all");
    assert_eq!(kept.answer.life, Duration::from_secs(60), "not the life of what was dropped");
}

#[tokio::test(start_paused = true)]
async fn a_chain_that_ends_too_early_is_asked_on() {
    let _frozen = Frozen::new();
    let fake = Fake::start(|asked| {
        let name = fake::asked_name(&asked.bytes);
        Reply::Send(match name.as_str() {
            "www.test." => reply(&asked.bytes, |message| {
                message.metadata.authentic_data = true;
                message.add_answer(cname("www.test.", "b.test."));
                message.add_answer(cname("b.test.", "c.example."));
            }),
            "c.example." => reply(&asked.bytes, |message| {
                message.metadata.authentic_data = false;
                message.add_answer(cname("c.example.", "d.example."));
                message.add_answer(Record::from_rdata(
                    fake::name("d.example."),
                    30,
                    a([203, 0, 113, 1]),
                ));
            }),
            other => panic!("{other} was not to be asked"),
        })
    })
    .await;
    let (forwarder, _, _) = forwarder(&[&fake]);
    let kept = forwarder.answer(question("www.test", 1), false).await;
    let message = hickory_proto::op::Message::from_vec(&kept.answer.message).unwrap();
    let owners: Vec<_> = message.answers.iter().map(|record| record.name.to_ascii()).collect();
    assert_eq!(owners, ["www.test.", "b.test.", "c.example.", "d.example."]);
    assert_eq!(kept.answer.life, Duration::from_secs(30));
    assert!(!kept.answer.authentic, "a part of it is not");
    assert!(is_honest(&kept.answer.addresses));
    assert_eq!(fake.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn endless_chains_are_given_up() {
    let _frozen = Frozen::new();
    let fake = Fake::start(|asked| {
        let next = format!("n{}.test.", asked.before);
        Reply::Send(reply(&asked.bytes, |message| {
            let owner = message.queries[0].name().to_ascii();
            message.add_answer(cname(&owner, &next));
        }))
    })
    .await;
    let (forwarder, _, _) = forwarder(&[&fake]);
    let kept = forwarder.answer(question("www.test", 1), false).await;
    assert_eq!((kept.answer.rcode, kept.answer.addresses.len()), (2, 0));
    assert_eq!(fake.count(), 9, "the asked name and eight more");
}

#[tokio::test(start_paused = true)]
async fn an_error_on_the_way_is_not_the_asked_names() {
    let _frozen = Frozen::new();
    let fake = Fake::start(|asked| {
        let is_first = fake::asked_name(&asked.bytes) == "www.test.";
        Reply::Send(reply(&asked.bytes, |message| match is_first {
            true => _ = message.add_answer(cname("www.test.", "b.test.")),
            false => message.metadata.response_code = ResponseCode::Refused,
        }))
    })
    .await;
    let (forwarder, _, _) = forwarder(&[&fake]);
    let kept = forwarder.answer(question("www.test", 1), false).await;
    assert_eq!(kept.answer.rcode, 2);
}

/// An answer to `record_type` with that data at the end of a chain.
async fn rebinding(
    record_type: RecordType,
    data: RData,
    may_be_private: bool,
) -> netguard_dns::Kept {
    let fake = Fake::start(move |asked| {
        let data = data.clone();
        Reply::Send(reply(&asked.bytes, |message| {
            message.metadata.authentic_data = true;
            message.add_answer(cname("www.test.", "b.example."));
            message.add_answer(Record::from_rdata(name("b.example."), 60, data));
            let public = Record::from_rdata(name("b.example."), 60, a([203, 0, 113, 1]));
            message.add_answer(public);
        }))
    })
    .await;
    let (forwarder, _, _) = forwarder(&[&fake]);
    let kept = forwarder.answer(question("www.test", record_type.into()), may_be_private).await;
    assert_eq!(kept.answer.upstream, Some(fake.address));
    kept
}

#[tokio::test(start_paused = true)]
async fn an_address_that_is_not_public_drops_the_whole_answer() {
    let _frozen = Frozen::new();
    let aaaa = |text: &str| RData::AAAA(AAAA(text.parse().unwrap()));
    let https = |key, value| RData::HTTPS(HTTPS(SVCB::new(1, name("."), vec![(key, value)])));
    let hint = |text: &str| {
        let address = AAAA(text.parse().unwrap());
        https(SvcParamKey::Ipv6Hint, SvcParamValue::Ipv6Hint(IpHint(vec![address])))
    };
    let hint_v4 = || {
        let address = A([10, 0, 0, 1].into());
        https(SvcParamKey::Ipv4Hint, SvcParamValue::Ipv4Hint(IpHint(vec![address])))
    };
    let cases = [
        (RecordType::A, a([10, 0, 0, 1]), "10.0.0.1"),
        (RecordType::A, a([127, 0, 0, 1]), "127.0.0.1"),
        (RecordType::A, a([169, 254, 169, 254]), "169.254.169.254"),
        (RecordType::AAAA, aaaa("fd00::1"), "fd00::1"),
        (RecordType::AAAA, aaaa("::ffff:203.0.113.1"), "::ffff:203.0.113.1"),
        (RecordType::AAAA, aaaa("2002:a00:1::"), "2002:a00:1::"),
        (RecordType::HTTPS, hint("fe80::1"), "fe80::1"),
        (RecordType::HTTPS, hint_v4(), "10.0.0.1"),
    ];
    for (record_type, data, address) in cases {
        let address: IpAddr = address.parse().unwrap();
        let answer = rebinding(record_type, data.clone(), false).await.answer;
        assert_eq!(answer.blocked, Some(Blocked::Rebinding(address)));
        assert_eq!((answer.rcode, answer.authentic), (0, false), "{address}");
        assert_eq!(answer.message[4..12], [0, 1, 0, 0, 0, 0, 0, 0], "{address}: question only");
        assert!(answer.addresses.is_empty() && answer.ttl_offsets.is_empty(), "{address}");
        assert_eq!(answer.life, Duration::from_secs(60));
        let answer = rebinding(record_type, data, true).await.answer;
        assert_eq!(answer.blocked, None, "{address}: its name may");
        assert!(answer.addresses.contains(&address), "{address}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_huge_answer_costs_an_error_and_no_more() {
    let _frozen = Frozen::new();
    let fake = Fake::start(|asked| {
        Reply::Send(match asked.over_tcp {
            false => reply(&asked.bytes, |message| message.metadata.truncation = true),
            true => {
                // As many records as fit, each owner a pointer to the question.
                let mut bytes = asked.bytes[..asked.bytes.len() - 11].to_vec();
                bytes[2] |= 0x80;
                let count = (65_000 - bytes.len()) / 16;
                bytes[6..8].copy_from_slice(&(count as u16).to_be_bytes());
                bytes[10..12].fill(0);
                for nth in 0..count as u16 {
                    let [high, low] = nth.to_be_bytes();
                    bytes.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 203, 0, high, low]);
                }
                bytes
            }
        })
    })
    .await;
    let (forwarder, _, _) = forwarder(&[&fake]);
    let kept = forwarder.answer(question("www.test", 1), false).await;
    assert_eq!((kept.answer.rcode, kept.answer.addresses.len()), (2, 0));
    assert_eq!(fake.over_tcp(), 1);
}
