//! New TCP connections, as many a second as there is processor for: opened, closed by a reset so that no port waits, and opened anew.

use std::{
    net::{TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    thread::{self, JoinHandle},
    time::Instant,
};

use nix::sys::socket::{Backlog, Shutdown, listen, setsockopt, shutdown, sockopt::Linger};

const PORT: u16 = 7000;
const CONNECTIONS: u32 = 4_000;
/// How many are opened at the same time.
const AT_ONCE: u32 = 16;

/// What accepts them, until it is dropped.
pub struct Listener {
    socket: TcpListener,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// In the calling thread's namespace.
    pub fn new() -> Self {
        let socket = TcpListener::bind(("0.0.0.0", PORT)).expect("a port");
        // Whoever connects may have the processor for a while.
        listen(&socket, Backlog::MAXALLOWABLE).expect("a longer queue");
        let accepts = socket.try_clone().expect("a descriptor");
        let thread = thread::spawn(move || while accepts.accept().is_ok() {});
        Self { socket, thread: Some(thread) }
    }
}

impl Drop for Listener {
    /// Who removes a lab ends every process that has a thread in it.
    fn drop(&mut self) {
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Thousands a second, from the calling thread's namespace to an address of the listener's.
pub fn rate(address: &str) -> f64 {
    let began = Instant::now();
    thread::scope(|threads| {
        for _ in 0..AT_ONCE {
            threads.spawn(|| {
                for _ in 0..CONNECTIONS / AT_ONCE {
                    let stream = TcpStream::connect((address, PORT)).expect("a connection");
                    // Closed at once, with a reset.
                    let reset = libc::linger { l_onoff: 1, l_linger: 0 };
                    setsockopt(&stream, Linger, &reset).expect("the option");
                }
            });
        }
    });
    f64::from(CONNECTIONS) / began.elapsed().as_secs_f64() / 1e3
}
