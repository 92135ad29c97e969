//! The socket: who may use it, and how much of the daemon a caller can take.

use std::{
    collections::VecDeque,
    io, net,
    os::unix::net as unix,
    path::Path,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Router, serve::Listener};
use futures_util::TryFutureExt as _;
use hyper::{
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use nix::unistd::Group;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::Semaphore,
    task::JoinHandle,
};

use super::{Names, daemon::Daemon, routes, stream::Lasting};
use crate::socket_file::SocketFile;

/// How many callers are heard at once; the others wait in the kernel's queue, or send silent ones away.
const CONNECTIONS_MAX: usize = 64;
/// How long a caller may take to say what it wants.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one request may take from its first byte to its last, unless its answer is [`Lasting`].
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Whose members may give orders, if there is such a group.
const GROUP: &str = "netguard";

/// The socket, with its file as long as this lives.
#[derive(Debug)]
pub struct Socket {
    _file: SocketFile,
    listener: unix::UnixListener,
}

impl Socket {
    /// Makes the socket, in the place of whatever an earlier daemon has left there: whoever calls this holds the instance's
    /// lock.
    ///
    /// # Errors
    ///
    /// The socket cannot be made.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let group = Group::from_name(GROUP).ok().flatten();
        let (file, listener) =
            SocketFile::make(path, group.map(|it| it.gid), |path| unix::UnixListener::bind(path))?;
        listener.set_nonblocking(true)?;
        Ok(Self { _file: file, listener })
    }

    /// Where callers are waited for.
    #[must_use]
    pub fn listener(&self) -> &unix::UnixListener {
        &self.listener
    }
}

/// Takes orders, as long as this lives.
pub struct Server {
    daemon: Daemon,
    task: JoinHandle<()>,
    metrics: Option<JoinHandle<()>>,
}

impl Server {
    /// From now on orders may speak of these.
    pub fn replace_names(&self, names: Names) {
        self.daemon.replace_names(names);
    }

    /// Serves metrics, and nothing else, to whoever comes to that listener, and to nobody at the one before.
    ///
    /// # Errors
    ///
    /// The system does not tell of callers.
    pub fn serve_metrics(&mut self, listener: Option<net::TcpListener>) -> io::Result<()> {
        if let Some(before) = self.metrics.take() {
            before.abort();
        }
        if let Some(listener) = listener {
            listener.set_nonblocking(true)?;
            let listener = TcpListener::from_std(listener)?;
            let router = routes::metrics_router(self.daemon.clone());
            self.metrics = Some(tokio::spawn(accept(listener, router)));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
        self.metrics.iter().for_each(JoinHandle::abort);
    }
}

/// Takes orders of whoever comes to `listener`. Needs a tokio runtime.
///
/// # Errors
///
/// The system does not tell of callers.
pub fn serve(listener: unix::UnixListener, daemon: Daemon) -> io::Result<Server> {
    let listener = UnixListener::from_std(listener)?;
    let task = tokio::spawn(accept(listener, routes::router(daemon.clone())));
    Ok(Server { daemon, task, metrics: None })
}

/// A caller that is heard, or may be.
struct Caller {
    task: JoinHandle<()>,
    /// True once its request's head is there.
    has_spoken: Arc<AtomicBool>,
}

async fn accept(mut listener: impl Listener, router: Router) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut callers = VecDeque::new();
    loop {
        let (stream, _) = listener.accept().await;
        callers.retain(|caller: &Caller| !caller.task.is_finished());
        if room.available_permits() == 0 {
            // Who has not said what it wants makes room for somebody who may.
            let is_silent = |caller: &Caller| !caller.has_spoken.load(Ordering::Relaxed);
            if let Some(silent) = callers.iter().position(is_silent) {
                callers.remove(silent).into_iter().for_each(|caller| caller.task.abort());
            }
        }
        // Nobody closes the semaphore.
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        let has_spoken = Arc::new(AtomicBool::new(false));
        let (router, spoken) = (router.clone(), Arc::clone(&has_spoken));
        let task = tokio::spawn(async move {
            converse(stream, router, &spoken).await;
            drop(place);
        });
        callers.push_back(Caller { task, has_spoken });
    }
}

/// One request and its answer.
async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    router: Router,
    has_spoken: &AtomicBool,
) {
    let router = TowerToHyperService::new(router);
    let lasts = AtomicBool::new(false);
    let service = service_fn(|request| {
        has_spoken.store(true, Ordering::Relaxed);
        router.call(request).inspect_ok(|response| {
            lasts.store(response.extensions().get::<Lasting>().is_some(), Ordering::Relaxed);
        })
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    // A caller that breaks off, or takes too long, is told nothing.
    let in_time = tokio::time::timeout(REQUEST_TIMEOUT, &mut connection).await;
    if in_time.is_err() && lasts.load(Ordering::Relaxed) {
        let _ = connection.await;
    }
}
