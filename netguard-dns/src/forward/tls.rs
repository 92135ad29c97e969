//! One kept connection over TLS to an upstream (RFC 7858), on which many queries are under way at once.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::{Buf as _, BytesMut};
use hickory_proto::op::Message;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf, split},
    net::TcpStream,
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until, timeout},
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{ClientConfig, Error, RootCertStore, crypto::ring},
};

use super::{
    plain,
    query::{Failure, Query},
};

/// How long a connection may take to be made.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// A connection on which queries wait and nothing is heard for so long is dead; the next query makes a new one.
const SILENCE_MAX: Duration = Duration::from_secs(2);
/// How long a connection without queries is kept.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// What is read at once, at least; most answers are shorter.
const READ_SIZE: usize = 2048;
/// How many queries may wait to be written.
const QUEUE_MAX: usize = 256;
/// How many queries may be under way on a connection; half the ids, so that a free one is found soon.
const PENDING_MAX: usize = 32_768;

/// What all connections have in common; or why there can be none.
pub(super) type Config = Result<Arc<ClientConfig>, Arc<Error>>;

/// Trusts those roots, or Mozilla's. Roots that cannot be read are trusted with nothing.
pub(super) fn client_config(roots: Option<Vec<CertificateDer<'static>>>) -> Config {
    let mut store = RootCertStore::empty();
    match roots {
        Some(roots) => {
            store.add_parsable_certificates(roots);
        }
        None => store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
    }
    let provider = Arc::new(ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = builder.map_err(Arc::new)?.with_root_certificates(store).with_no_client_auth();
    Ok(Arc::new(config))
}

/// The way to one upstream over TLS.
pub(super) struct Channel {
    peer: Result<Peer, Failed>,
    /// To the task that owns the connection.
    connection: Mutex<Option<mpsc::Sender<Request>>>,
}

#[derive(Clone)]
struct Peer {
    address: SocketAddr,
    name: ServerName<'static>,
    connector: TlsConnector,
}

/// Why there is no connection, for each query that wanted it.
#[derive(Clone)]
enum Failed {
    ToConnect(io::ErrorKind, Arc<str>),
    Name(Arc<str>),
    /// It was there before.
    Closed,
}

struct Request {
    query: Box<[u8]>,
    reply: oneshot::Sender<Result<Vec<u8>, Failed>>,
}

impl From<Failed> for Failure {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::ToConnect(io::ErrorKind::TimedOut, _) => Self::TimedOut,
            Failed::ToConnect(_, why) => Self::Tls(why.to_string()),
            Failed::Name(name) => Self::NoServerName(name.to_string()),
            Failed::Closed => Self::Closed,
        }
    }
}

impl Channel {
    pub(super) fn new(address: SocketAddr, name: String, config: &Config) -> Self {
        let server_name = ServerName::try_from(name.clone());
        let peer = match (server_name, config) {
            (Ok(name), Ok(config)) => {
                Ok(Peer { address, name, connector: TlsConnector::from(Arc::clone(config)) })
            }
            (Err(_), _) => Err(Failed::Name(name.into())),
            (_, Err(error)) => {
                Err(Failed::ToConnect(io::ErrorKind::Other, error.to_string().into()))
            }
        };
        Self { peer, connection: Mutex::new(None) }
    }

    /// Asks on the kept connection, and once more on a new one if the server has closed it meanwhile.
    pub(super) async fn ask(&self, query: &Query) -> Result<Box<Message>, Failure> {
        let peer = self.peer.as_ref().map_err(|failed| Failure::from(failed.clone()))?;
        let (connection, is_new) = self.connection(peer);
        let mut answered = ask_on(&connection, query).await;
        if matches!(answered, Err(Failed::Closed)) && !is_new {
            answered = ask_on(&self.connection(peer).0, query).await;
        }
        plain::on_connection(query, &answered?)
    }

    /// The connection, and whether it is being made for this very query.
    fn connection(&self, peer: &Peer) -> (mpsc::Sender<Request>, bool) {
        let mut kept = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connection) = kept.as_ref().filter(|connection| !connection.is_closed()) {
            return (connection.clone(), false);
        }
        let (sender, requests) = mpsc::channel(QUEUE_MAX);
        // It ends when the channel is gone, when it is idle, or when the server closes it.
        tokio::spawn(run(peer.clone(), requests));
        *kept = Some(sender.clone());
        (sender, true)
    }
}

async fn ask_on(connection: &mpsc::Sender<Request>, query: &Query) -> Result<Vec<u8>, Failed> {
    let (reply, answered) = oneshot::channel();
    let request = Request { query: query.bytes().into(), reply };
    connection.send(request).await.map_err(|_| Failed::Closed)?;
    answered.await.unwrap_or(Err(Failed::Closed))
}

/// The life of one connection.
async fn run(peer: Peer, mut requests: mpsc::Receiver<Request>) {
    let connected = timeout(CONNECT_MAX, connect(&peer)).await;
    let failed = match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(stream) => {
            // Why it ended tells nothing that its end does not.
            let _ = Connection::new(stream).serve(&mut requests).await;
            Failed::Closed
        }
        Err(error) => Failed::ToConnect(error.kind(), error.to_string().into()),
    };
    requests.close();
    while let Ok(request) = requests.try_recv() {
        let _ = request.reply.send(Err(failed.clone())); // who has gone away needs no answer
    }
}

async fn connect(peer: &Peer) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(peer.address).await?;
    stream.set_nodelay(true)?;
    peer.connector.connect(peer.name.clone(), stream).await
}

struct Connection {
    reader: ReadHalf<TlsStream<TcpStream>>,
    writer: WriteHalf<TlsStream<TcpStream>>,
    received: BytesMut,
    pending: HashMap<u16, Pending>,
    /// When it is given up unless something is heard.
    until: Instant,
    /// Nothing was under way when that was said.
    is_idle: bool,
}

struct Pending {
    /// The id that the query had; on the connection it may need another one.
    id: [u8; 2],
    reply: oneshot::Sender<Result<Vec<u8>, Failed>>,
}

impl Connection {
    fn new(stream: TlsStream<TcpStream>) -> Self {
        let (reader, writer) = split(stream);
        let (received, pending) = (BytesMut::new(), HashMap::new());
        let until = Instant::now() + IDLE_MAX;
        Self { reader, writer, received, pending, until, is_idle: true }
    }

    /// Until there is nobody to serve, or nobody who serves.
    async fn serve(mut self, requests: &mut mpsc::Receiver<Request>) -> io::Result<()> {
        loop {
            self.received.reserve(READ_SIZE);
            tokio::select! {
                request = requests.recv(), if self.pending.len() < PENDING_MAX => {
                    let Some(request) = request else { return Ok(()) };
                    self.send(request).await?;
                }
                read = self.reader.read_buf(&mut self.received) => {
                    if read? == 0 {
                        return Ok(());
                    }
                    self.hand_out();
                }
                () = sleep_until(self.until) => {
                    self.pending.retain(|_, pending| !pending.reply.is_closed());
                    if self.is_idle || !self.pending.is_empty() {
                        return Ok(());
                    }
                    // Only what nobody waits for any more was unanswered: the connection may be good.
                    self.expect();
                }
            }
        }
    }

    async fn send(&mut self, request: Request) -> io::Result<()> {
        let Request { mut query, reply } = request;
        let Some((head, _)) = query.split_first_chunk_mut::<2>() else { return Ok(()) };
        let id = *head;
        let mut drawn = u16::from_be_bytes(id);
        while self.pending.contains_key(&drawn) {
            drawn = rand::random();
        }
        *head = drawn.to_be_bytes();
        self.pending.insert(drawn, Pending { id, reply });
        if self.is_idle {
            self.expect();
        }
        let mut framed = (query.len() as u16).to_be_bytes().to_vec();
        framed.extend_from_slice(&query);
        let write = async {
            self.writer.write_all(&framed).await?;
            self.writer.flush().await
        };
        timeout(SILENCE_MAX, write).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Gives every whole message to who waits for it.
    fn hand_out(&mut self) {
        while let Some(length) = self.received.first_chunk::<2>() {
            let length = usize::from(u16::from_be_bytes(*length));
            if self.received.len() < 2 + length {
                break;
            }
            self.received.advance(2);
            let mut message = self.received.split_to(length).to_vec();
            let Some(id) = message.first_chunk_mut::<2>() else { continue };
            // An answer to no query of this connection has nobody to go to.
            let Some(pending) = self.pending.remove(&u16::from_be_bytes(*id)) else { continue };
            *id = pending.id;
            let _ = pending.reply.send(Ok(message)); // who has gone away needs no answer
        }
        self.expect();
    }

    /// From now on, waits as long as is right for what is under way.
    fn expect(&mut self) {
        self.is_idle = self.pending.is_empty();
        let patience = if self.is_idle { IDLE_MAX } else { SILENCE_MAX };
        self.until = Instant::now() + patience;
    }
}
