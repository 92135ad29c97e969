//! Nothing of a guest's query but name, type, DO and CD reaches an upstream: 10,000 random ones, compared byte by
//! byte with what the lab's internet has received.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use netguard_tests::{can_use_kernel, lab::Lab};
use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::SmallRng};

use crate::{
    question::{
        A, AAAA, CAA, CLIENT_SUBNET, COOKIE, MX, NS, Opt, PADDING, Question, SRV, TXT, ask, hex,
    },
    run, unhex,
};

const COUNT: usize = 10_000;
/// What options have in them: it must be nowhere outside.
const MARK: &[u8] = b"OF-THE-GUEST";

const CONFIG: &str = r#"
[host]
uplinks = ["eth0"]
[dns]
upstreams = ["1.1.1.1", "8.8.8.8"]
names = ["any.lab.example"]
[[slot]]
name = "slot1"
id = 1
subnet = "10.1.0.0/24"
[slot.limits]
queries_per_second = 0
names_per_minute = 0
answer_bytes_per_minute = 0
"#;

/// A query with everything that a guest can say in it. Its name is asked once only: what is in the cache is not asked.
fn random(random: &mut SmallRng, number: usize) -> Question {
    let mut name = format!("n{number}");
    for _ in 0..random.random_range(0..4) {
        name.push('.');
        for _ in 0..random.random_range(1..=12) {
            name.push(char::from(
                b"abcdefghijklmnopqrstuvwxyz0123456789-_"[random.random_range(0..38)],
            ));
        }
    }
    name.push_str(".any.lab.example");
    let name: String =
        name.chars().map(|c| if random.random() { c.to_ascii_uppercase() } else { c }).collect();
    let types = [A, AAAA, MX, TXT, SRV, NS, CAA];
    let mut query = ask(&name, types[random.random_range(0..types.len())]);
    query.id = random.random();
    // AA, TC and RD; Z, AD and CD.
    query.flags = [random.random::<u8>() & 0x07, random.random::<u8>() & 0x70];
    if random.random() {
        let mut opt = Opt {
            payload: random.random(),
            version: 0,
            flags: random.random(),
            options: Vec::new(),
        };
        for _ in 0..random.random_range(0..4) {
            let known = [CLIENT_SUBNET, COOKIE, PADDING, random.random()];
            let mut data = MARK.to_vec();
            data.resize(random.random_range(MARK.len()..80), 0);
            random.fill_bytes(&mut data[MARK.len()..]);
            opt.options.push((known[random.random_range(0..4)], data));
        }
        query.opt = Some(opt);
    }
    query
}

/// What may leave the host of a query, built by hand: id 0, in lower case.
fn outside(query: &Question) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0x01, if query.has_cd() { 0x10 } else { 0 }];
    bytes.extend([0, 1, 0, 0, 0, 0, 0, 1]);
    bytes.extend(query.name.to_ascii_lowercase());
    bytes.extend(query.record_type.to_be_bytes());
    bytes.extend([0, 1]);
    bytes.extend([
        0,
        0,
        41,
        0x04,
        0xd0,
        0,
        0,
        if query.has_dnssec_ok() { 0x80 } else { 0 },
        0,
        0,
        0,
    ]);
    bytes
}

#[test]
fn of_ten_thousand_random_queries_only_name_type_do_and_cd_leave_the_host() {
    if !can_use_kernel() {
        return;
    }
    let seed = std::env::var("NETGUARD_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(rand::random::<u64>);
    eprintln!("NETGUARD_SEED={seed}");
    let mut generator = SmallRng::seed_from_u64(seed);
    let lab = Lab::with(CONFIG, "veth");
    let queries: Vec<_> = (0..COUNT).map(|number| random(&mut generator, number)).collect();
    let mut input = String::from("10.1.0.1\n");
    input.extend(queries.iter().map(|query| hex(&query.bytes()) + "\n"));
    let sent = run(&lab, "slot1", include_str!("send_many.py"), input.as_bytes());
    assert_eq!(sent.success().trim(), COUNT.to_string(), "all are answered");

    // By name: each is asked of an upstream, and asked as it would be by hand.
    let end = |bytes: &[u8]| 12 + bytes[12..].iter().position(|byte| *byte == 0).expect("a root");
    let by_name: BTreeMap<Vec<u8>, Vec<u8>> = queries
        .iter()
        .map(|query| {
            let bytes = outside(query);
            (bytes[12..end(&bytes)].to_vec(), bytes)
        })
        .collect();
    assert_eq!(by_name.len(), COUNT);
    let (mut ids, mut ports, mut names) = (HashSet::new(), HashSet::new(), HashSet::new());
    let (mut upper, mut letters) = (0, 0);
    for entry in lab.internet() {
        let Some(text) = entry["bytes"].as_str() else { continue };
        let sent = unhex(text);
        let end = end(&sent);
        let mut plain = sent.clone();
        plain[..2].fill(0);
        plain[12..end].make_ascii_lowercase();
        let expected =
            by_name.get(&plain[12..end]).unwrap_or_else(|| panic!("nobody asked {text}"));
        assert_eq!(hex(&plain), hex(expected));
        assert!(!sent.windows(MARK.len()).any(|bytes| bytes == MARK), "{text}");
        ids.insert([sent[0], sent[1]]);
        ports.insert(entry["src_port"].as_u64());
        names.insert(plain[12..end].to_vec());
        upper += sent[12..end].iter().filter(|byte| byte.is_ascii_uppercase()).count();
        letters += sent[12..end].iter().filter(|byte| byte.is_ascii_alphabetic()).count();
    }
    assert_eq!(names.len(), COUNT, "each was asked");
    // Of 65,536 ids 10,000 draws have 9,275 different ones, of 28,232 ports 8,422, give or take a hundred.
    assert!((9_000..9_600).contains(&ids.len()), "{} ids", ids.len());
    assert!(ports.len() > 7_500, "{} ports", ports.len());
    assert!((letters * 2 / 5..letters * 3 / 5).contains(&upper), "{upper} of {letters} letters");
    let kinds: BTreeSet<_> = queries.iter().map(|query| query.record_type).collect();
    assert_eq!(kinds.len(), 7);
}
