//! The socket: who may use it, and how much of the daemon a caller can take.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use netguard_common::SlotId;
use netguard_dns::Pins;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    task::JoinHandle,
};

use super::routes;

/// How many callers are heard at once; the others wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 64;
/// How long a caller may take to say what it wants.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one request may take from its first byte to its last.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How long to wait when the system has no descriptor left for a caller.
const BREATH: Duration = Duration::from_millis(100);
/// Owner and group.
const MODE: u32 = 0o660;

/// The socket, as long as this lives.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
        // A socket that stays refuses callers, and the next daemon replaces it.
        let _ = fs::remove_file(&self.path);
    }
}

/// Takes orders at `socket`, in the place of whatever an earlier daemon has left there: whoever calls this holds the
/// instance's lock. Needs a tokio runtime.
///
/// # Errors
///
/// The socket cannot be made.
pub fn serve(
    socket: &Path,
    pins: Arc<Pins>,
    slots: impl IntoIterator<Item = (SlotId, String)>,
) -> io::Result<Server> {
    // Under another name until only those can connect who may.
    let fresh = socket.with_extension("new");
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&fresh)?;
    fs::set_permissions(&fresh, Permissions::from_mode(MODE))?;
    fs::rename(&fresh, socket)?;
    let router = routes::router(pins, slots.into_iter().collect());
    let task = tokio::spawn(accept(listener, router));
    Ok(Server { path: socket.to_path_buf(), task })
}

async fn accept(listener: UnixListener, router: Router) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        // Nobody closes the semaphore.
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let router = router.clone();
                tokio::spawn(async move {
                    converse(stream, router).await;
                    drop(place);
                });
            }
            Err(_) => tokio::time::sleep(BREATH).await,
        }
    }
}

/// One request and its answer.
async fn converse(stream: UnixStream, router: Router) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // A caller that breaks off, or takes too long, is told nothing.
    let _ = tokio::time::timeout(REQUEST_TIMEOUT, connection).await;
}
