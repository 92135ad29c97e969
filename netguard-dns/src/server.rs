//! Sockets: the resolver listens on the gateway addresses of each slot, bound to the slot's bridge,
//! so that a query on them can only have come from that slot.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{Resolver, Transport, read_framed, write_framed};

/// How many queries of one slot are worked on at once; the rest waits in the socket's buffer.
const QUERIES_IN_FLIGHT: usize = 256;
/// How many TCP connections one slot may hold; the rest waits in the listener's backlog.
const CONNECTIONS: usize = 64;
/// How long a listener rests after an error, so that one that lasts costs no processor.
const AFTER_ERROR: Duration = Duration::from_millis(20);
/// How long a connection may stay silent (RFC 7766 section 6.2.3).
const CONNECTION_IDLE: Duration = Duration::from_secs(10);

/// Where a slot's resolver listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The slot's name, for the log.
    pub slot: Arc<str>,
    /// The slot's bridge.
    pub bridge: String,
    /// The slot's gateways.
    pub addresses: Vec<IpAddr>,
    /// On each of them.
    pub port: u16,
}

/// The running listeners of one slot; they stop when this is dropped.
pub struct SlotServer {
    _tasks: JoinSet<()>,
}

impl SlotServer {
    /// Binds every socket of the endpoint and serves them in the background.
    ///
    /// # Errors
    ///
    /// A socket cannot be bound: the address and port are named in the error.
    pub fn start(endpoint: &Endpoint, resolver: &Arc<Resolver>) -> io::Result<Self> {
        let mut tasks = JoinSet::new();
        let in_flight = Arc::new(Semaphore::new(QUERIES_IN_FLIGHT));
        let connections = Arc::new(Semaphore::new(CONNECTIONS));
        for address in &endpoint.addresses {
            let at = SocketAddr::new(*address, endpoint.port);
            let named = |error: io::Error| {
                let message = format!(
                    "cannot listen for DNS on {at} ({}): {error}; is another resolver running \
                     there? (ss -lunp)",
                    endpoint.bridge
                );
                io::Error::new(error.kind(), message)
            };
            let udp = bind(at, Type::DGRAM, &endpoint.bridge).map_err(named)?;
            let udp = UdpSocket::from_std(udp.into()).map_err(named)?;
            let tcp = bind(at, Type::STREAM, &endpoint.bridge).map_err(named)?;
            tcp.listen(128).map_err(named)?;
            let tcp = TcpListener::from_std(tcp.into()).map_err(named)?;
            let slot = &endpoint.slot;
            tasks.spawn(serve_udp(
                udp,
                Arc::clone(slot),
                Arc::clone(resolver),
                Arc::clone(&in_flight),
            ));
            tasks.spawn(serve_tcp(
                tcp,
                Arc::clone(slot),
                Arc::clone(resolver),
                Arc::clone(&connections),
            ));
        }
        Ok(Self { _tasks: tasks })
    }
}

fn bind(at: SocketAddr, kind: Type, bridge: &str) -> io::Result<Socket> {
    let protocol = if kind == Type::DGRAM { Protocol::UDP } else { Protocol::TCP };
    let socket = Socket::new(Domain::for_address(at), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?; // a restart must not wait for TIME_WAIT
    }
    socket.bind_device(Some(bridge.as_bytes()))?;
    // The address may still be on its way (duplicate address detection).
    match at {
        SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
        SocketAddr::V6(_) => {
            socket.set_freebind_v6(true)?;
            socket.set_only_v6(true)?;
        }
    }
    socket.bind(&at.into())?;
    Ok(socket)
}

async fn serve_udp(
    socket: UdpSocket,
    slot: Arc<str>,
    resolver: Arc<Resolver>,
    in_flight: Arc<Semaphore>,
) {
    let socket = Arc::new(socket);
    let mut queries = JoinSet::new();
    let mut buffer = [0; 4096];
    loop {
        while queries.try_join_next().is_some() {}
        let Ok(permit) = Arc::clone(&in_flight).acquire_owned().await else {
            return;
        };
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                // An ICMP error of an earlier reply, or the bridge is going away.
                log::debug!("slot {slot}: receiving a query: {error}");
                sleep(AFTER_ERROR).await;
                continue;
            }
        };
        let (socket, slot, resolver) =
            (Arc::clone(&socket), Arc::clone(&slot), Arc::clone(&resolver));
        let query = buffer[..length].to_vec();
        queries.spawn(async move {
            if let Some(reply) = resolver.answer(&query, &slot, client.ip(), Transport::Udp).await
                && let Err(error) = socket.send_to(&reply, client).await
            {
                log::warn!("slot {slot}: cannot reply to {client}: {error}");
            }
            drop(permit);
        });
    }
}

async fn serve_tcp(
    listener: TcpListener,
    slot: Arc<str>,
    resolver: Arc<Resolver>,
    connections: Arc<Semaphore>,
) {
    let mut open = JoinSet::new();
    loop {
        while open.try_join_next().is_some() {}
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else {
            return;
        };
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, or the guest gave up before it was its turn.
                log::debug!("slot {slot}: accepting a connection: {error}");
                sleep(AFTER_ERROR).await;
                continue;
            }
        };
        let (slot, resolver) = (Arc::clone(&slot), Arc::clone(&resolver));
        open.spawn(async move {
            serve_connection(stream, client.ip(), &slot, &resolver).await;
            drop(permit);
        });
    }
}

async fn serve_connection(
    mut stream: TcpStream,
    client: IpAddr,
    slot: &Arc<str>,
    resolver: &Resolver,
) {
    while let Ok(Ok(query)) = timeout(CONNECTION_IDLE, read_framed(&mut stream)).await {
        let Some(reply) = resolver.answer(&query, slot, client, Transport::Tcp).await else {
            return;
        };
        match timeout(CONNECTION_IDLE, write_framed(&mut stream, &reply)).await {
            Ok(Ok(())) => {}
            _ => return, // the guest is gone or does not read
        }
    }
}
