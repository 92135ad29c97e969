//! What the worker is for, done in the sandbox with the library's own parts: the resolver with its upstreams, pins in the
//! kernel's map, drop records from the ring buffer, orders from an inherited socket, lines on standard output.

use std::{
    ffi::OsStr,
    net::{Ipv4Addr, SocketAddr},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::UnixListener,
    },
    path::Path,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use aya::maps::{HashMap, Map, MapData, RingBuf};
use hickory_proto::{
    op::{Message, MessageType, Query},
    rr::{Name, RData, Record, RecordType, rdata::A},
};
use netguard::{
    datapath::{PinDirectory, PinWriter},
    feed::Feed,
    journal::{Format, Journal, Queries, Writer},
    sandbox::confine,
};
use netguard_common::{
    maps::{DROPS, PINS},
    pin::{PinEntry, PinKey},
    record::DropRecord,
};
use netguard_dns::{
    Allowlist, Cache, DEFAULT_NAME_MAX, DEFAULT_TYPES, Endpoint, Entry, NameSet, Pins, QueryLimits,
    Resolver, Rules, Server, SlotRules,
    forward::{Forwarder, Settings, Transport, Upstream},
    read_framed, write_framed,
};
use netguard_tests::hosts::{enter_new_namespace, ip};
use nix::libc;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, unix::AsyncFd},
    net::{TcpListener, TcpStream, UdpSocket},
    runtime::{Builder, Handle},
    signal::unix::{SignalKind, signal},
};

use crate::nothing;

const SLOT: u16 = 1;
const ADDRESS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 77);
type Key = [u8; size_of::<PinKey>()];
type Value = [u8; size_of::<PinEntry>()];

/// Takes what a monitor would hand over, confines itself, and says of each duty that it is done.
pub fn perform(maps: &Path, listener: &Path) {
    // A loopback of its own.
    enter_new_namespace();
    ip("link set lo up");
    let open = |name: &str| -> OwnedFd {
        let map = MapData::from_pin(maps.join(name)).expect("a pinned map");
        map.fd().as_fd().try_clone_to_owned().expect("its descriptor")
    };
    let (drops, pins) = (open(DROPS), open(PINS));
    let instance = maps.parent().and_then(Path::file_name).and_then(OsStr::to_str);
    let instance = instance.and_then(|name| name.parse().ok()).expect("an instance");
    let writer = PinWriter::open(&PinDirectory::of(&instance)).expect("the map of pins");
    let listener = UnixListener::bind(listener).expect("a listener");
    listener.set_nonblocking(true).expect("a listener");
    // Counts processors, by files of /proc too.
    let cache = Arc::new(Cache::new(1 << 20));
    println!("{}", confine(&nothing()).expect("a sandbox"));

    change_map(pins);
    let named = std::thread::Builder::new().name("worker".to_owned());
    named.spawn(|| println!("thread")).expect("a thread").join().expect("its end");
    let runtime =
        Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        println!("timer");
        let read = tokio::task::spawn_blocking(|| vec![1_u8; 8 << 20].len());
        assert_eq!(read.await.expect("a blocking thread"), 8 << 20);
        let mut hangup = signal(SignalKind::hangup()).expect("a handler");
        // SAFETY: sends a signal to this very thread, which has a handler for it.
        assert_eq!(unsafe { libc::raise(libc::SIGHUP) }, 0);
        hangup.recv().await.expect("the signal");
        println!("signal");
        take_orders(listener).await;
        read_drops(drops).await;
        resolve(writer, cache).await;
    });
    // What the kernel logs of this process ends here.
    // SAFETY: asks for nothing.
    unsafe { libc::syscall(libc::SYS_getpriority, 0, 0) };
}

/// Every command on a map that the library has.
fn change_map(descriptor: OwnedFd) {
    let data = MapData::from_fd(descriptor).expect("a map");
    let mut map: HashMap<_, Key, Value> = HashMap::try_from(Map::HashMap(data)).expect("a hash");
    let (key, value) = ([7; size_of::<PinKey>()], [9; size_of::<PinEntry>()]);
    map.insert(key, value, 0).expect("an update");
    assert_eq!(map.get(&key, 0).expect("a lookup"), value);
    assert_eq!(map.keys().filter(|other| matches!(other, Ok(other) if *other == key)).count(), 1);
    map.remove(&key).expect("a removal");
    assert!(map.get(&key, 0).is_err());
    println!("map");
}

/// One order from a caller outside.
async fn take_orders(listener: UnixListener) {
    let listener = tokio::net::UnixListener::from_std(listener).expect("the listener");
    println!("listening");
    let (mut stream, _) = listener.accept().await.expect("a caller");
    let mut order = [0; 5];
    stream.read_exact(&mut order).await.expect("an order");
    stream.write_all(&order).await.expect("an answer");
    println!("order");
}

/// A drop that comes while it waits.
async fn read_drops(descriptor: OwnedFd) {
    let data = MapData::from_fd(descriptor).expect("a map");
    let ring = RingBuf::try_from(Map::RingBuf(data)).expect("a ring buffer");
    // SAFETY: a `RingBuf` owns its map's descriptor and never changes or closes it.
    let mut ring =
        unsafe { AsyncFd::register(ring) }.map_err(std::io::Error::from).expect("readiness");
    println!("waiting");
    ring.readable().await.expect("a record").clear_ready();
    let record = ring.get_mut().next().and_then(|item| DropRecord::from_bytes(&item));
    println!("drop {}", record.and_then(|record| record.reason()).expect("a reason").name());
}

/// Queries over UDP and TCP, to upstreams over TLS, UDP and TCP; pins for what they answer.
async fn resolve(map: PinWriter, cache: Arc<Cache>) {
    let (hello, plain) = (loopback().await, loopback().await);
    let upstreams = vec![
        Upstream { address: hello.1, transport: Transport::Tls { name: "127.0.0.1".to_owned() } },
        Upstream { address: plain.1, transport: Transport::Plain },
    ];
    let greeted = tokio::spawn(greet(hello.0));
    tokio::spawn(answer(plain.0, UdpSocket::bind(plain.1).await.expect("an upstream")));

    let (journal, writer) = Journal::start(Format::Text, None).expect("the journal");
    let pins = Arc::new(Pins::new(Box::new(map), [SLOT], 4096));
    let resolver = resolver(upstreams, cache, pins, &journal);
    let server = Server::start(&resolver, 2, Handle::current()).expect("the threads");
    let (free, at) = loopback().await;
    drop(free);
    let endpoint =
        Endpoint { slot: SLOT, bridge: "lo".to_owned(), addresses: vec![at.ip()], port: at.port() };
    let listening = server.listen(&endpoint).expect("the sockets");

    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a client");
    client.send_to(&query("one.example."), at).await.expect("a query");
    let mut reply = vec![0; 1232];
    let length = client.recv(&mut reply).await.expect("a reply");
    assert_address(&reply[..length]);
    let mut client = TcpStream::connect(at).await.expect("a client");
    write_framed(&mut client, &query("two.example.")).await.expect("a query");
    assert_address(&read_framed(&mut client).await.expect("a reply"));
    assert_eq!(greeted.await.expect("the upstream"), 0x16, "no TLS handshake came");
    // No second thread waits for its threads: that would be this one.
    tokio::task::spawn_blocking(move || drop((listening, server, resolver))).await.expect("an end");
    finish(journal, writer);
    println!("resolved");
}

/// A resolver for one slot, which is pinned.
fn resolver(
    upstreams: Vec<Upstream>,
    cache: Arc<Cache>,
    pins: Arc<Pins>,
    journal: &Journal,
) -> Arc<Resolver> {
    let names = ["one.example", "two.example"].map(|name| name.parse::<Entry>().expect("a name"));
    let slot = SlotRules {
        name: "slot1".into(),
        runtime: "vm".into(),
        allowlist: Allowlist::of([Arc::new(names.into_iter().collect::<NameSet>())]),
        pinned: true,
        audit: false,
        limits: QueryLimits::default(),
    };
    let rules = Rules {
        slots: [(SLOT, slot)].into_iter().collect(),
        private_names: Arc::default(),
        types: DEFAULT_TYPES.to_vec(),
        svcb: false,
        name_max: DEFAULT_NAME_MAX,
    };
    let settings = Settings {
        upstreams,
        max_ttl: Duration::from_secs(300),
        is_public: Arc::new(netguard::policy::is_public),
        roots: None,
    };
    let forwarder = Arc::new(Forwarder::new(settings, Arc::clone(&cache), |_| {}));
    let told = Queries::new(journal.clone(), Feed::default());
    Arc::new(Resolver::new(
        rules,
        cache,
        forwarder,
        pins,
        Arc::new(AtomicU64::default()),
        Arc::new(told),
    ))
}

/// Every line is out when this returns.
fn finish(journal: Journal, writer: Writer) {
    drop(journal);
    writer.finish();
}

async fn loopback() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let address = listener.local_addr().expect("its address");
    (listener, address)
}

/// An upstream that hears a handshake and hangs up; the first byte of what it heard.
async fn greet(listener: TcpListener) -> u8 {
    let (mut stream, _) = listener.accept().await.expect("the resolver");
    stream.read_u8().await.expect("a byte")
}

/// An upstream whose answers fit into no datagram.
async fn answer(listener: TcpListener, socket: UdpSocket) {
    tokio::spawn(async move {
        let mut asked = vec![0; 1232];
        while let Ok((length, peer)) = socket.recv_from(&mut asked).await {
            let reply = reply(&asked[..length], |message| message.metadata.truncation = true);
            socket.send_to(&reply, peer).await.expect("a reply");
        }
    });
    while let Ok((mut stream, _)) = listener.accept().await {
        let asked = read_framed(&mut stream).await.expect("a query");
        let reply = reply(&asked, |message| {
            let name = message.queries[0].name().clone();
            message.add_answer(Record::from_rdata(name, 60, RData::A(A(ADDRESS))));
        });
        write_framed(&mut stream, &reply).await.expect("a reply");
    }
}

fn reply(query: &[u8], edit: impl FnOnce(&mut Message)) -> Vec<u8> {
    let mut message = Message::from_vec(query).expect("a query");
    message.metadata.message_type = MessageType::Response;
    message.metadata.recursion_available = true;
    edit(&mut message);
    message.to_vec().expect("a message")
}

fn query(name: &str) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).expect("a name"), RecordType::A));
    message.to_vec().expect("a message")
}

fn assert_address(reply: &[u8]) {
    let message = Message::from_vec(reply).expect("a message");
    let addresses: Vec<_> = message.answers.iter().map(|record| record.data.clone()).collect();
    assert_eq!(addresses, [RData::A(A(ADDRESS))], "{message}");
}
