//! The forwarder over TLS, against a server of this test with a certificate authority of its own.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::fake::{self, Frozen, address, question};
use netguard_dns::{
    Kept,
    forward::{Settings, Transport, Upstream},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring},
    server::TlsStream,
};

const NAME: &str = "dns.example";

/// What the server does with the queries of a connection.
#[derive(Clone, Copy)]
enum Serves {
    /// Answers each as it comes.
    Each,
    /// Waits for so many, and answers the last one first.
    Backwards(usize),
    /// Answers one and closes the connection.
    One,
    /// Answers nothing on the first connection, each on the next.
    NothingAtFirst,
    /// Answers in lower case.
    LowerCase,
}

struct Server {
    address: SocketAddr,
    root: CertificateDer<'static>,
    handshakes: Arc<AtomicUsize>,
    queries: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Server {
    async fn start(serves: Serves) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let names = vec![NAME.to_owned(), "127.0.0.1".to_owned()];
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            root: issuer.der().clone(),
            handshakes: Arc::default(),
            queries: Arc::default(),
        };
        let (handshakes, queries) = (Arc::clone(&server.handshakes), Arc::clone(&server.queries));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap(); // it writes in pieces
                let (acceptor, handshakes) = (acceptor.clone(), Arc::clone(&handshakes));
                let queries = Arc::clone(&queries);
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let nth = handshakes.fetch_add(1, Relaxed);
                    let _ = serve(stream, serves, nth, &queries).await; // it ends when netguard's does
                });
            }
        });
        server
    }

    fn settings(&self, name: &str) -> Settings {
        let transport = Transport::Tls { name: name.to_owned() };
        let upstream = Upstream { address: self.address, transport };
        Settings { roots: Some(vec![self.root.clone()]), ..fake::settings(vec![upstream]) }
    }

    fn count(&self) -> usize {
        self.queries.lock().unwrap().len()
    }
}

async fn serve(
    mut stream: TlsStream<TcpStream>,
    serves: Serves,
    nth: usize,
    queries: &Mutex<Vec<Vec<u8>>>,
) -> std::io::Result<()> {
    let mut waiting = Vec::new();
    loop {
        let mut query = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut query).await?;
        queries.lock().unwrap().push(query.clone());
        let mut reply = address(&query);
        match serves {
            Serves::NothingAtFirst if nth == 0 => continue,
            Serves::LowerCase => reply[12..28].make_ascii_lowercase(),
            _ => {}
        }
        waiting.push(reply);
        if let Serves::Backwards(count) = serves
            && waiting.len() < count
        {
            continue;
        }
        while let Some(reply) = waiting.pop() {
            // Byte for byte in pieces: a message need not come whole.
            let framed = [&(reply.len() as u16).to_be_bytes()[..], &reply].concat();
            let (head, tail) = framed.split_at(1);
            stream.write_all(head).await?;
            stream.flush().await?;
            stream.write_all(tail).await?;
            stream.flush().await?;
        }
        if matches!(serves, Serves::One) {
            return stream.shutdown().await;
        }
    }
}

fn is_answered(kept: &Kept) -> bool {
    kept.answer.rcode == 0 && kept.answer.addresses.len() == 1
}

#[tokio::test(start_paused = true)]
async fn one_connection_serves_all_queries() {
    let _frozen = Frozen::new();
    let server = Server::start(Serves::Each).await;
    let (forwarder, _, told) = fake::forwarder_with(server.settings(NAME));
    for nth in 0..100 {
        let kept = forwarder.answer(question(&format!("n{nth}.example"), 1), false).await;
        assert!(is_answered(&kept), "{nth}");
        assert_eq!(kept.answer.upstream, Some(server.address));
    }
    assert_eq!((server.count(), server.handshakes.load(Relaxed)), (100, 1));
    assert!(told.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn queries_do_not_wait_for_each_other_and_each_gets_its_own_answer() {
    let _frozen = Frozen::new();
    /// So many that two have drawn the same id, but for once in ten million times.
    const COUNT: usize = 1_500;
    let server = Server::start(Serves::Backwards(COUNT)).await;
    let (forwarder, _, _) = fake::forwarder_with(server.settings("127.0.0.1"));
    let names: Vec<_> = (0..COUNT).map(|nth| format!("n{nth}.example")).collect();
    let ask = |name: &String| forwarder.answer(question(name, 1), false);
    let kept = futures_util::future::join_all(names.iter().map(ask)).await;
    for (kept, name) in kept.iter().zip(&names) {
        assert!(is_answered(kept), "{name}");
        let label = name.split('.').next().unwrap();
        assert_eq!(kept.answer.message[13..13 + label.len()], *label.as_bytes());
    }
    assert_eq!(server.handshakes.load(Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_closed_connection_is_made_anew() {
    let _frozen = Frozen::new();
    let server = Server::start(Serves::One).await;
    let (forwarder, _, told) = fake::forwarder_with(server.settings(NAME));
    for nth in 0..5 {
        let kept = forwarder.answer(question(&format!("n{nth}.example"), 1), false).await;
        assert!(is_answered(&kept), "{nth}");
    }
    assert_eq!(server.handshakes.load(Relaxed), 5);
    assert!(told.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_answer_in_another_case_is_taken_from_a_verified_server() {
    let _frozen = Frozen::new();
    let server = Server::start(Serves::LowerCase).await;
    let (forwarder, _, _) = fake::forwarder_with(server.settings(NAME));
    assert!(is_answered(&forwarder.answer(question("abcdefgh.example", 1), false).await));
    assert_eq!(server.count(), 1);
}

#[tokio::test]
async fn a_silent_connection_is_given_up_for_a_new_one() {
    let server = Server::start(Serves::NothingAtFirst).await;
    let (forwarder, _, _) = fake::forwarder_with(server.settings(NAME));
    let kept = forwarder.answer(question("www.example", 1), false).await;
    assert!(is_answered(&kept), "{:?}", kept.answer);
    assert_eq!(server.handshakes.load(Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_not_the_named_one_hears_no_query() {
    let _frozen = Frozen::new();
    let server = Server::start(Serves::Each).await;
    let other = Server::start(Serves::Each).await;
    let stranger = Settings { roots: Some(vec![other.root.clone()]), ..server.settings(NAME) };
    let public = Settings { roots: None, ..server.settings(NAME) };
    let cases = [
        (
            server.settings("other.example"),
            "TLS: invalid peer certificate: certificate not valid for name",
        ),
        (
            server.settings("127.0.0.2"),
            "TLS: invalid peer certificate: certificate not valid for name",
        ),
        (stranger, "TLS: invalid peer certificate: "),
        (public, "TLS: invalid peer certificate: UnknownIssuer"),
        (server.settings("no name"), "\"no name\" is no name of a TLS server"),
    ];
    for (settings, why) in cases {
        let (forwarder, _, told) = fake::forwarder_with(settings);
        for nth in 0..3 {
            let kept = forwarder.answer(question(&format!("n{nth}.example"), 1), false).await;
            assert_eq!((kept.answer.rcode, kept.answer.upstream), (2, None), "{why}");
        }
        let told = told.lock().unwrap();
        let expected = format!("upstream {} fails: {why}", server.address);
        assert!(told.len() == 1 && told[0].starts_with(&expected), "{told:?}");
    }
    assert_eq!(server.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_asked_without_tls_of_an_upstream_that_has_it() {
    let plain = fake::Fake::start(|asked| fake::Reply::Send(address(&asked.bytes))).await;
    let transport = Transport::Tls { name: NAME.to_owned() };
    let upstream = Upstream { address: plain.address, transport };
    let (forwarder, _, _) = fake::forwarder_with(fake::settings(vec![upstream]));
    let kept = forwarder.answer(question("www.example", 1), false).await;
    assert_eq!((kept.answer.rcode, kept.answer.life), (2, Duration::from_secs(5)));
    let clear = plain.queries().into_iter().filter(|query| query.windows(3).any(|w| w == b"www"));
    assert_eq!(clear.count(), 0);
}
