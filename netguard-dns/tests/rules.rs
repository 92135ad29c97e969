//! Rules that are replaced while the server runs: every query is decided by the old ones or by the new ones.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RecordType},
};
use netguard_common::pin::{PinEntry, PinKey};
use netguard_dns::{
    Allowlist, Cache, DEFAULT_NAME_MAX, DEFAULT_TYPES, Endpoint, Entry, Journal, Moment, NameSet,
    PinMap, Pins, QueryLimits, QueryLog, QueryRecord, Resolver, Rules, Server, SlotRules,
    forward::{Forwarder, Settings},
};

const SLOT: u16 = 1;

struct Nothing;

impl Journal for Nothing {
    fn query_log(&self) -> Box<dyn QueryLog> {
        Box::new(Self)
    }

    fn over_limit(&self, _: &str, message: String) {
        eprintln!("{message}");
    }
}

impl QueryLog for Nothing {
    fn write(&mut self, _: &QueryRecord<'_>) {}

    fn flush(&mut self, _: Moment) -> Option<Duration> {
        None
    }

    fn flush_now(&mut self) {}
}

impl PinMap for Nothing {
    fn put(&self, _: &PinKey, _: &PinEntry) -> io::Result<()> {
        Ok(())
    }

    fn remove(&self, _: &PinKey) -> io::Result<()> {
        Ok(())
    }
}

/// One slot that may ask for that name.
fn rules(name: &str) -> Rules {
    let names: NameSet = [name.parse::<Entry>().expect("an entry")].into_iter().collect();
    let limits =
        QueryLimits { queries_per_second: 0, names_per_minute: 0, answer_bytes_per_minute: 0 };
    let allowlist = Allowlist::of([Arc::new(names)]);
    let slot = SlotRules {
        name: "slot1".into(),
        runtime: "vm".into(),
        allowlist,
        pinned: false,
        audit: false,
        limits,
    };
    Rules {
        slots: [(SLOT, slot)].into_iter().collect(),
        private_names: Arc::default(),
        types: DEFAULT_TYPES.to_vec(),
        svcb: false,
        name_max: DEFAULT_NAME_MAX,
    }
}

/// A question that an allowed name has an answer to without any upstream (RFC 8482).
fn ask(client: &UdpSocket, name: &str) -> ResponseCode {
    let mut query = Message::query();
    query.add_query(Query::query(Name::from_ascii(name).expect("a name"), RecordType::ANY));
    client.send(&query.to_vec().expect("bytes")).expect("it is sent");
    let mut reply = [0; 512];
    let length = client.recv(&mut reply).expect("a reply");
    Message::from_vec(&reply[..length]).expect("a message").metadata.response_code
}

#[test]
fn the_next_query_after_a_change_is_decided_by_it() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let cache = Arc::new(Cache::new(1 << 20));
    let settings = Settings {
        upstreams: Vec::new(),
        max_ttl: Duration::from_secs(300),
        is_public: Arc::new(|_| true),
        roots: None,
    };
    let forwarder = Arc::new(Forwarder::new(settings, Arc::clone(&cache), |_| {}));
    let pins = Arc::new(Pins::new(Box::new(Nothing), [SLOT], 16));
    let old = rules("one.example");
    let resolver = Arc::new(Resolver::new(
        old,
        cache,
        forwarder,
        pins,
        Arc::new(AtomicU64::default()),
        Arc::new(Nothing),
    ));
    let server = Server::start(&resolver, 2, runtime.handle().clone()).expect("threads");
    // A port that is free now; nobody else of this test binary takes one.
    let free = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    let port = free.local_addr().expect("an address").port();
    drop(free);
    let addresses = vec![Ipv4Addr::LOCALHOST.into()];
    let endpoint = Endpoint { slot: SLOT, bridge: "lo".into(), addresses, port };
    let _listening = server.listen(&endpoint).expect("sockets");
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    client.set_read_timeout(Some(Duration::from_secs(10))).expect("a time-out");
    client.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).expect("a peer");
    for round in 0..100 {
        let (allowed, denied) = if round % 2 == 0 {
            ("one.example.", "two.example.")
        } else {
            ("two.example.", "one.example.")
        };
        assert_eq!(ask(&client, allowed), ResponseCode::NoError, "round {round}");
        assert_eq!(ask(&client, denied), ResponseCode::NXDomain, "round {round}");
        resolver.replace_rules(rules(denied.trim_end_matches('.')));
    }
}
