//! Queries on connections (RFC 7766): several at once, answered in whatever order they are ready.

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Mutex, Semaphore},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::Shared;
use crate::{
    Moment, Transport,
    framing::write_framed,
    resolver::{Begun, Client, Desk, SlotState},
};

/// How many connections one slot may hold; the rest waits in the listener's backlog.
const CONNECTIONS: usize = 8;
/// How many queries of one connection are worked on at once; the rest waits in its socket.
const QUERIES_IN_FLIGHT: usize = 32;
/// How long a connection may go without a query (RFC 7766 section 6.2.3): the first one, and any other.
const FIRST_QUERY: Duration = Duration::from_secs(3);
const IDLE: Duration = Duration::from_secs(10);
/// How long a query may take from its first byte to its last, and a reply to be taken.
const WHOLE_MESSAGE: Duration = Duration::from_secs(2);
/// How long a listener rests after an error, so that one that lasts costs no processor.
const AFTER_ERROR: Duration = Duration::from_millis(20);
/// As over UDP.
const QUERY_MAX: usize = 1232;

pub fn places() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(CONNECTIONS))
}

pub async fn serve(
    listener: TcpListener,
    slot: Arc<SlotState>,
    shared: Arc<Shared>,
    places: Arc<Semaphore>,
) {
    // Connections end with their listener: a bridge that is gone takes them with it.
    let mut open = JoinSet::new();
    loop {
        while open.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, or the guest gave up before it was its turn.
                log::debug!("accepting a connection: {error}");
                sleep(AFTER_ERROR).await;
                continue;
            }
        };
        let (slot, shared) = (Arc::clone(&slot), Arc::clone(&shared));
        open.spawn(async move {
            // However it ends, it is over: there is nobody to tell.
            let _ = serve_connection(stream, client.ip(), &slot, &shared).await;
            drop(place);
        });
    }
}

async fn serve_connection(
    stream: TcpStream,
    address: IpAddr,
    slot: &Arc<SlotState>,
    shared: &Arc<Shared>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut reader, writer) = stream.into_split();
    let writer = Arc::new(Mutex::new(writer));
    let in_flight = Arc::new(Semaphore::new(QUERIES_IN_FLIGHT));
    let mut desk = Desk::new(shared.resolver.journal());
    let mut waiting = JoinSet::new();
    let mut out = Vec::new();
    let mut patience = FIRST_QUERY;
    loop {
        let Ok(place) = Arc::clone(&in_flight).acquire_owned().await else { return Ok(()) };
        while waiting.try_join_next().is_some() {}
        let query = read_query(&mut reader, patience).await?;
        patience = IDLE;
        let client = Client { address, transport: Transport::Tcp, came: Moment::now() };
        let rules = arc_swap::Guard::into_inner(shared.resolver.rules());
        let begun = shared.resolver.begin(&mut desk, &rules, slot, client, &query, &mut out);
        drop(rules);
        desk.log.flush_now();
        match begun {
            Begun::Replied => write(&writer, &out).await?,
            Begun::Silent => {} // over its limit, or no query: on to the next
            Begun::Waits(job) => {
                let (shared, writer) = (Arc::clone(shared), Arc::clone(&writer));
                waiting.spawn(async move {
                    let mut out = Vec::new();
                    shared.resolver.finish(*job, &shared.log, &mut out).await;
                    if !out.is_empty() {
                        // The guest is gone: its next query is not there either.
                        let _ = write(&writer, &out).await;
                    }
                    drop(place);
                });
            }
        }
    }
}

/// The next query, once it is whole. Its first byte may take a while, the others may not: whoever sends byte by
/// byte holds a place of his own slot, and not for long.
async fn read_query(reader: &mut OwnedReadHalf, patience: Duration) -> io::Result<Vec<u8>> {
    let first = timeout(patience, reader.read_u8()).await??;
    let rest = async {
        let length = usize::from(u16::from_be_bytes([first, reader.read_u8().await?]));
        if length > QUERY_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut query = vec![0; length];
        reader.read_exact(&mut query).await?;
        Ok(query)
    };
    timeout(WHOLE_MESSAGE, rest).await?
}

async fn write(writer: &Mutex<OwnedWriteHalf>, reply: &[u8]) -> io::Result<()> {
    let mut writer = writer.lock().await;
    let written = timeout(WHOLE_MESSAGE, write_framed(&mut *writer, reply)).await;
    let written = written.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    if written.is_err() {
        // Half a reply may be out: nothing after it could be read.
        let _ = writer.shutdown().await;
    }
    written
}
