//! The forwarder against upstreams that answer well: what leaves, what is kept, who is asked.

use std::{
    collections::HashSet,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::fake::{self, Fake, Frozen, Reply, a, address, forwarder, question, reply, soa};
use hickory_proto::{
    op::{Message, ResponseCode},
    rr::Record,
};
use netguard_dns::{Asked, Moment, Question};
use rand::RngExt as _;

const MS: Duration = Duration::from_millis(1);

/// [`Question`], as the cache is asked.
fn asked(question: &Question) -> Asked<'_> {
    Asked {
        name: &question.name,
        record_type: question.record_type,
        dnssec_ok: question.dnssec_ok,
        checking_disabled: question.checking_disabled,
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_netguards_own_and_in_the_cache() {
    let _frozen = Frozen::new();
    let fake = Fake::start(|asked| {
        Reply::Send(reply(&asked.bytes, |message| {
            message.metadata.authentic_data = true;
            message.metadata.authoritative = true;
            let name = message.queries[0].name().clone();
            message.add_answer(Record::from_rdata(name, 9_000, a([203, 0, 113, 1])));
        }))
    })
    .await;
    let (forwarder, cache, _) = forwarder(&[&fake]);
    let question = question("www.example", 1);
    let kept = forwarder.answer(question.clone(), false).await;
    let answer = &kept.answer;
    let expected = b"\0\0\x80\x80\0\x01\0\x01\0\0\0\0\x03www\x07example\0\0\x01\0\x01\
        \xc0\x0c\0\x01\0\x01\0\0\x01\x2c\0\x04\xcb\0\x71\x01";
    assert_eq!(*answer.message, *expected);
    assert_eq!(*answer.ttl_offsets, [35]);
    assert_eq!(answer.life, Duration::from_secs(300));
    assert_eq!(*answer.addresses, [Ipv4Addr::new(203, 0, 113, 1)]);
    assert_eq!((answer.rcode, answer.authentic, answer.blocked), (0, true, None));
    assert_eq!(answer.upstream, Some(fake.address));
    let cached = cache.get(&asked(&question), Moment::now()).expect("in the cache");
    assert_eq!(cached.answer, kept.answer);
    let health = &forwarder.upstreams()[0];
    assert_eq!((health.asked, health.answered, health.failing), (1, 1, false));
    assert!(health.latency.is_some());
}

/// What a query must be, but for its id and the case of its letters. Written apart from the code that writes it.
fn expected(question: &Question) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0x01, u8::from(question.checking_disabled) << 4];
    bytes.extend([0, 1, 0, 0, 0, 0, 0, 1]);
    bytes.extend(&question.name);
    bytes.extend(question.record_type.to_be_bytes());
    bytes.extend([0, 1]);
    bytes.extend([0, 0, 41, 0x04, 0xd0, 0, 0, u8::from(question.dnssec_ok) << 7, 0, 0, 0]);
    bytes
}

#[tokio::test(start_paused = true)]
async fn nothing_of_a_guests_query_leaves_but_name_type_do_and_cd() {
    let _frozen = Frozen::new();
    let fake = Fake::start(|asked| Reply::Send(reply(&asked.bytes, |_| {}))).await;
    let (forwarder, _, _) = forwarder(&[&fake]);
    let mut rng = rand::rng();
    for nth in 0..1_000 {
        let mut name = Vec::new();
        for _ in 0..rng.random_range(1..=4) {
            let length = rng.random_range(1..=63);
            name.push(length);
            // Any byte may stand in a label (RFC 2181 section 11); guests' names come in lower case.
            name.extend((0..length).map(|_| rng.random::<u8>().to_ascii_lowercase()));
        }
        name.truncate(254);
        name = whole_labels(&name);
        let question = Question {
            name: name.into(),
            record_type: rng.random_range(1..=40), // not OPT, nor types of queries only
            dnssec_ok: rng.random(),
            checking_disabled: rng.random(),
        };
        let kept = forwarder.answer(question.clone(), rng.random()).await;
        assert_eq!(kept.answer.rcode, 0, "question {nth}: {question:?}");
        let sent = fake.queries().pop().expect("a query");
        assert_eq!(fake.count(), nth + 1);
        let mut plain = sent.clone();
        plain[..2].fill(0);
        let end = 12 + question.name.len();
        plain[12..end].make_ascii_lowercase();
        assert_eq!(plain, expected(&question), "question {nth}: {question:?}");
    }
    let queries = fake.queries();
    let ids: HashSet<_> = queries.iter().map(|query| &query[..2]).collect();
    assert!(ids.len() > 950, "{} ids of 1,000", ids.len());
    let ports: HashSet<_> = fake.peers().iter().map(std::net::SocketAddr::port).collect();
    assert!(ports.len() > 900, "{} ports of 1,000", ports.len());
}

/// The longest name of whole labels in there.
fn whole_labels(bytes: &[u8]) -> Vec<u8> {
    let mut end = 0;
    while let Some(&length) = bytes.get(end) {
        let next = end + 1 + usize::from(length);
        if next > bytes.len() {
            break;
        }
        end = next;
    }
    let mut name = bytes[..end].to_vec();
    name.push(0);
    name
}

#[tokio::test(start_paused = true)]
async fn a_question_is_asked_once_however_many_wait() {
    let _frozen = Frozen::new();
    let fake = Fake::start(|asked| Reply::Send(address(&asked.bytes))).await;
    let (forwarder, _, _) = forwarder(&[&fake]);
    let askers = (0..50).map(|_| forwarder.answer(question("www.example", 1), false));
    let kept = futures_util::future::join_all(askers).await;
    assert_eq!(fake.count(), 1);
    assert!(kept.iter().all(|other| Arc::ptr_eq(&other.answer, &kept[0].answer)));
    forwarder.answer(question("www.example", 28), false).await;
    assert_eq!(fake.count(), 2, "another type is another question");
}

#[tokio::test(start_paused = true)]
async fn who_waits_gets_the_answer_though_the_first_asker_went_away() {
    let fake =
        Fake::start(|asked| Reply::After(Duration::from_millis(300), address(&asked.bytes))).await;
    let (forwarder, _, _) = forwarder(&[&fake]);
    let ask = || {
        let forwarder = forwarder.clone();
        tokio::spawn(async move { forwarder.answer(question("www.example", 1), false).await })
    };
    let first = ask();
    tokio::task::yield_now().await;
    let second = ask();
    tokio::task::yield_now().await;
    first.abort();
    assert_eq!(second.await.unwrap().answer.addresses.len(), 1);
    assert_eq!(fake.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn negative_answers_and_errors_are_kept_for_their_time() {
    let _frozen = Frozen::new();
    let fake = Fake::start(|asked| {
        let name = fake::asked_name(&asked.bytes);
        Reply::Send(reply(&asked.bytes, |message| match name.as_str() {
            "no.test." => {
                message.metadata.response_code = ResponseCode::NXDomain;
                message.add_authority(soa("test.", 90));
            }
            "nodata.test." => _ = message.add_authority(soa("test.", 70)),
            "empty.test." => {}
            "error.test." => message.metadata.response_code = ResponseCode::ServFail,
            "extended.test." => message.metadata.response_code = ResponseCode::BADCOOKIE,
            "zero.test." => {
                let record = Record::from_rdata(fake::name("zero.test."), 0, a([203, 0, 113, 1]));
                message.add_answer(record);
            }
            other => panic!("{other} was not asked"),
        }))
    })
    .await;
    let (forwarder, cache, _) = forwarder(&[&fake]);
    for (name, rcode, life, is_kept) in [
        ("no.test", 3, 90, true),
        ("nodata.test", 0, 70, true),
        ("empty.test", 0, 30, true),
        ("error.test", 2, 5, true),
        ("extended.test", 23, 5, true),
        ("zero.test", 0, 0, false),
    ] {
        let question = question(name, 1);
        let kept = forwarder.answer(question.clone(), false).await;
        assert_eq!(kept.answer.rcode, rcode, "{name}");
        assert_eq!(kept.answer.life, Duration::from_secs(life), "{name}");
        assert_eq!(kept.answer.upstream, Some(fake.address), "{name}");
        assert_eq!(cache.get(&asked(&question), Moment::now()).is_some(), is_kept, "{name}");
        let message = Message::from_vec(&kept.answer.message).unwrap();
        assert_eq!(u16::from(message.metadata.response_code.low()), rcode & 15, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_truncated_answer_is_fetched_over_tcp_from_the_same_upstream() {
    let _frozen = Frozen::new();
    let fake = Fake::start(|asked| {
        let whole = address(&asked.bytes);
        let cut = || reply(&asked.bytes, |message| message.metadata.truncation = true);
        Reply::Send(if asked.over_tcp { whole } else { cut() })
    })
    .await;
    let (forwarder, _, _) = forwarder(&[&fake]);
    let kept = forwarder.answer(question("www.example", 1), false).await;
    assert_eq!(kept.answer.addresses.len(), 1);
    assert_eq!((fake.count(), fake.over_tcp()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_server_without_edns_is_asked_without() {
    let _frozen = Frozen::new();
    for code in [ResponseCode::FormErr, ResponseCode::NotImp] {
        let fake = Fake::start(move |asked| {
            let has_opt = asked.bytes[11] == 1;
            Reply::Send(if has_opt {
                let mut bare = asked.bytes[..12].to_vec();
                bare[2] |= 0x80;
                bare[3] = u16::from(code) as u8;
                bare[4..].fill(0);
                bare
            } else {
                address(&asked.bytes)
            })
        })
        .await;
        let (forwarder, _, _) = forwarder(&[&fake]);
        let kept = forwarder.answer(question("www.example", 1), false).await;
        assert_eq!(kept.answer.addresses.len(), 1, "{code}");
        assert_eq!(fake.count(), 2, "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_upstream_is_overtaken_and_then_asked_second() {
    let slow =
        Fake::start(|asked| Reply::After(Duration::from_secs(3), address(&asked.bytes))).await;
    let fast = Fake::start(|asked| Reply::Send(address(&asked.bytes))).await;
    let (forwarder, _, told) = forwarder(&[&slow, &fast]);
    let kept = forwarder.answer(question("a.example", 1), false).await;
    assert_eq!(kept.answer.upstream, Some(fast.address));
    assert_eq!(slow.count(), 1);
    let _frozen = Frozen::new();
    let kept = forwarder.answer(question("b.example", 1), false).await;
    assert_eq!(kept.answer.upstream, Some(fast.address));
    assert_eq!(slow.count(), 1, "the fast one is asked first now, and alone");
    assert!(told.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_lost_datagram_is_sent_again_from_another_port_with_another_id() {
    let fake = Fake::start(|asked| match asked.before {
        0 => Reply::Nothing,
        _ => Reply::Send(address(&asked.bytes)),
    })
    .await;
    let (forwarder, _, _) = forwarder(&[&fake]);
    let kept = forwarder.answer(question("www.example", 1), false).await;
    assert_eq!(kept.answer.addresses.len(), 1);
    let (queries, peers) = (fake.queries(), fake.peers());
    assert_eq!(queries.len(), 2);
    assert_ne!(peers[0], peers[1]);
    assert_ne!(queries[0][..20], queries[1][..20], "id and case");
}

#[tokio::test(start_paused = true)]
async fn a_dead_upstream_is_told_once_probed_and_told_when_it_answers_again() {
    let is_alive = Arc::new(AtomicBool::new(false));
    let dying = {
        let is_alive = Arc::clone(&is_alive);
        Fake::start(move |asked| match is_alive.load(Relaxed) {
            false => Reply::Nothing,
            true => Reply::Send(address(&asked.bytes)),
        })
    }
    .await;
    let (forwarder, _, told) = forwarder(&[&dying]);
    let kept = forwarder.answer(question("www.example", 1), false).await;
    assert_eq!((kept.answer.rcode, kept.answer.upstream), (2, None));
    assert_eq!(kept.answer.life, Duration::from_secs(5));
    let fails = format!("upstream {} fails: timed out", dying.address);
    forwarder.answer(question("b.example", 1), false).await;
    assert_eq!(told.lock().unwrap().join("|"), fails);
    assert!(forwarder.upstreams()[0].failing);
    is_alive.store(true, Relaxed);
    forwarder.answer(question("c.example", 1), false).await;
    let again = format!("upstream {} answers again", dying.address);
    assert_eq!(*told.lock().unwrap(), [fails, again]);
    assert!(!forwarder.upstreams()[0].failing);
}

#[tokio::test(start_paused = true)]
async fn a_dead_upstream_is_found_dead_though_another_answers() {
    let is_dead = Arc::new(AtomicBool::new(false));
    let dying = {
        let is_dead = Arc::clone(&is_dead);
        Fake::start(move |asked| match is_dead.load(Relaxed) {
            true => Reply::Nothing,
            false => Reply::Send(address(&asked.bytes)),
        })
    }
    .await;
    let slower = Fake::start(|asked| Reply::After(MS * 90, address(&asked.bytes))).await;
    let (forwarder, _, told) = forwarder(&[&dying, &slower]);
    let ask = async |name: &str| forwarder.answer(question(name, 1), false).await.answer.upstream;
    assert_eq!(ask("a.test").await, Some(dying.address));
    assert_eq!(ask("b.test").await, Some(slower.address), "it has no figure yet");
    assert_eq!(ask("c.test").await, Some(dying.address), "the faster one");
    is_dead.store(true, Relaxed);
    let answered = tokio::join!(ask("d.test"), ask("e.test"), ask("f.test"));
    assert_eq!(answered, (Some(slower.address), Some(slower.address), Some(slower.address)));
    assert!(told.lock().unwrap().is_empty(), "it has still time to answer");
    tokio::time::sleep(MS * 5000).await;
    let fails = format!("upstream {} fails: timed out", dying.address);
    assert_eq!(*told.lock().unwrap(), [fails]);
    let asked = dying.count();
    for name in ["g.test", "h.test", "i.test"] {
        assert_eq!(ask(name).await, Some(slower.address));
    }
    assert_eq!(dying.count(), asked + 1, "one probe a second");
    is_dead.store(false, Relaxed);
    tokio::time::sleep(MS * 5000).await;
    assert_eq!(ask("j.test").await, Some(dying.address), "the probe's answer comes first");
    assert!(!forwarder.upstreams()[0].failing);
}
