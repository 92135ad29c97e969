//! Upstreams on loopback that answer as a test wants, lies included; and time that stands still.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use hickory_proto::{
    op::{Message, MessageType},
    rr::{
        Name, RData, Record,
        rdata::{A, CNAME, SOA},
    },
};
use netguard_dns::{
    Cache, Question,
    forward::{Forwarder, Settings, Transport, Upstream},
    read_framed, write_framed,
};
use tokio::{
    net::{TcpListener, UdpSocket},
    task::spawn_blocking,
};

/// A query as an upstream sees it.
pub struct Asked {
    pub bytes: Vec<u8>,
    pub over_tcp: bool,
    /// How many came before.
    pub before: usize,
    /// Whence.
    pub peer: SocketAddr,
}

/// What an upstream does about a query.
pub enum Reply {
    Send(Vec<u8>),
    SendAll(Vec<Vec<u8>>),
    /// The first from another port, then the second from its own.
    FromElsewhere(Vec<u8>, Vec<u8>),
    After(Duration, Vec<u8>),
    Nothing,
}

/// An upstream in this process.
pub struct Fake {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Asked>>>,
}

impl Fake {
    /// Answers as `behave` says, over UDP and TCP on one port.
    pub async fn start(behave: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let (udp, tcp) = sockets().await;
        let address = udp.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let behave = Arc::new(behave);
        let note = {
            let seen = Arc::clone(&seen);
            move |bytes: Vec<u8>, over_tcp, peer| {
                let mut seen = seen.lock().unwrap();
                let asked = Asked { bytes, over_tcp, before: seen.len(), peer };
                let reply = behave(&asked);
                seen.push(asked);
                reply
            }
        };
        tokio::spawn(serve_udp(udp, note.clone()));
        tokio::spawn(serve_tcp(tcp, note));
        Self { address, seen }
    }

    /// As many queries as have come, so far.
    pub fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    pub fn queries(&self) -> Vec<Vec<u8>> {
        self.seen.lock().unwrap().iter().map(|asked| asked.bytes.clone()).collect()
    }

    pub fn peers(&self) -> Vec<SocketAddr> {
        self.seen.lock().unwrap().iter().map(|asked| asked.peer).collect()
    }

    pub fn over_tcp(&self) -> usize {
        self.seen.lock().unwrap().iter().filter(|asked| asked.over_tcp).count()
    }
}

async fn sockets() -> (UdpSocket, TcpListener) {
    for _ in 0..100 {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
            return (udp, tcp);
        }
    }
    panic!("no port is free for both UDP and TCP");
}

async fn serve_udp(
    socket: UdpSocket,
    note: impl Fn(Vec<u8>, bool, SocketAddr) -> Reply + Send + 'static,
) {
    let socket = Arc::new(socket);
    let mut buffer = vec![0; 65_535];
    while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
        match note(buffer[..length].to_vec(), false, peer) {
            Reply::Send(reply) => _ = socket.send_to(&reply, peer).await,
            Reply::SendAll(replies) => {
                for reply in replies {
                    _ = socket.send_to(&reply, peer).await;
                }
            }
            Reply::FromElsewhere(forged, honest) => {
                let elsewhere = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
                _ = elsewhere.send_to(&forged, peer).await;
                _ = socket.send_to(&honest, peer).await;
            }
            Reply::After(time, reply) => {
                let socket = Arc::clone(&socket);
                tokio::spawn(async move {
                    tokio::time::sleep(time).await;
                    _ = socket.send_to(&reply, peer).await;
                });
            }
            Reply::Nothing => {}
        }
    }
}

async fn serve_tcp(
    listener: TcpListener,
    note: impl Fn(Vec<u8>, bool, SocketAddr) -> Reply + Clone + Send + 'static,
) {
    while let Ok((mut stream, peer)) = listener.accept().await {
        let note = note.clone();
        tokio::spawn(async move {
            while let Ok(query) = read_framed(&mut stream).await {
                match note(query, true, peer) {
                    Reply::Send(reply) => _ = write_framed(&mut stream, &reply).await,
                    _ => return, // closes the connection
                }
            }
        });
    }
}

/// No timer fires while this is alive, in a test whose time is paused: nothing is asked again because the machine is
/// slow.
pub struct Frozen(#[expect(dead_code, reason = "its end is what counts")] mpsc::Sender<()>);

impl Frozen {
    pub fn new() -> Self {
        // tokio moves a paused clock by itself only while no blocking task runs.
        let (end, ended) = mpsc::channel::<()>();
        // Not for ever: a test whose upstream has panicked shall fail and not hang.
        spawn_blocking(move || ended.recv_timeout(Duration::from_secs(60)));
        Self(end)
    }
}

/// A reply to a query, with records and flags as `edit` makes them. The question is the query's, case and all.
pub fn reply(query: &[u8], edit: impl FnOnce(&mut Message)) -> Vec<u8> {
    let mut message = Message::from_vec(query).expect("netguard's query can be read");
    message.metadata.message_type = MessageType::Response;
    message.metadata.recursion_available = true;
    edit(&mut message);
    message.to_vec().unwrap()
}

/// A reply with one public address for the asked name.
pub fn address(query: &[u8]) -> Vec<u8> {
    reply(query, |message| {
        let name = message.queries[0].name().clone();
        message.add_answer(Record::from_rdata(name, 60, a([203, 0, 113, 1])));
    })
}

pub fn a(address: [u8; 4]) -> RData {
    RData::A(A(address.into()))
}

pub fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

pub fn cname(owner: &str, target: &str) -> Record {
    Record::from_rdata(name(owner), 60, RData::CNAME(CNAME(name(target))))
}

pub fn soa(owner: &str, minimum: u32) -> Record {
    let soa = SOA::new(name("ns.test."), name("root.test."), 1, 2, 3, 4, minimum);
    Record::from_rdata(name(owner), 600, RData::SOA(soa))
}

/// The asked name of a query, in lower case.
pub fn asked_name(query: &[u8]) -> String {
    Message::from_vec(query).unwrap().queries[0].name().to_lowercase().to_ascii()
}

pub fn question(text: &str, record_type: u16) -> Question {
    let mut wire = Vec::new();
    for label in text.split('.') {
        wire.push(label.len() as u8);
        wire.extend(label.as_bytes());
    }
    wire.push(0);
    Question { name: wire.into(), record_type, dnssec_ok: false, checking_disabled: false }
}

/// What netguard tells its operator.
pub type Told = Arc<Mutex<Vec<String>>>;

pub fn forwarder_with(settings: Settings) -> (Arc<Forwarder>, Arc<Cache>, Told) {
    let cache = Arc::new(Cache::new(1 << 20));
    let told = Told::default();
    let report = {
        let told = Arc::clone(&told);
        move |line| told.lock().unwrap().push(line)
    };
    (Arc::new(Forwarder::new(settings, Arc::clone(&cache), report)), cache, told)
}

pub fn settings(upstreams: Vec<Upstream>) -> Settings {
    let is_public = |address: IpAddr| match address {
        IpAddr::V4(v4) => !v4.is_private() && !v4.is_loopback() && !v4.is_link_local(),
        IpAddr::V6(v6) => v6.segments()[0] & 0xe000 == 0x2000,
    };
    Settings {
        upstreams,
        max_ttl: Duration::from_secs(300),
        is_public: Arc::new(is_public),
        roots: None,
    }
}

pub fn forwarder(fakes: &[&Fake]) -> (Arc<Forwarder>, Arc<Cache>, Told) {
    let upstream = |fake: &&Fake| Upstream { address: fake.address, transport: Transport::Plain };
    forwarder_with(settings(fakes.iter().map(upstream).collect()))
}
