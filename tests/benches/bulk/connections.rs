//! New TCP connections, as many a second as there is processor for: opened, closed by a reset so that no port waits, and opened anew.

use std::{
    net::{TcpListener, TcpStream},
    thread,
    time::Instant,
};

use netguard_tests::lab::Lab;
use nix::sys::socket::{Backlog, listen, setsockopt, sockopt::Linger};

/// Where they go.
pub const PORT: u16 = 7000;
/// How many are opened.
pub const CONNECTIONS: u32 = 8_000;
/// How many are opened at the same time.
pub const AT_ONCE: u32 = 16;

/// What they are opened to. The kernel answers by itself; who accepts is no part of what is measured.
pub struct Listener(TcpListener);

impl Listener {
    /// In the internet of a lab.
    pub fn in_internet(lab: &Lab) -> Self {
        // As many connections as are opened wait to be accepted.
        let _ = lab.exec("net", "sysctl -qw net.core.somaxconn=65535").success();
        let bound = lab.within("net", || TcpListener::bind(("0.0.0.0", PORT)));
        let socket = bound.expect("a port");
        listen(&socket, Backlog::MAXALLOWABLE).expect("a longer queue");
        socket.set_nonblocking(true).expect("the option");
        Self(socket)
    }

    /// Makes room for the next ones. Returns how many have waited.
    pub fn clear(&self) -> usize {
        self.0.incoming().map_while(Result::ok).count()
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
