//! The sockets of one address of a slot. Queries come in on one for each thread; replies go out on one of their own that
//! gets no query: a socket that somebody waits on wakes him for each reply that it has sent, too, which costs a tenth
//! of all that a query costs (`sock_wfree`, `ep_poll_callback`; Linux 6.18).

use std::{io, net::SocketAddr};

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

/// The UDP sockets of an address.
pub struct Datagrams {
    /// One for each thread.
    pub queries: Vec<Socket>,
    /// For all threads.
    pub replies: Socket,
}

impl Datagrams {
    /// Binds them.
    pub fn bind(at: SocketAddr, bridge: &str, threads: usize) -> io::Result<Self> {
        // Sockets that share a port do not notice whom else they share it with: this one does.
        drop(bind(at, Type::DGRAM, bridge, false)?);
        let first = bind(at, Type::DGRAM, bridge, true)?;
        deal(&first, threads)?;
        let mut queries = vec![first];
        for _ in 1..threads {
            queries.push(bind(at, Type::DGRAM, bridge, true)?);
        }
        let replies = bind(at, Type::DGRAM, bridge, true)?;
        Ok(Self { queries, replies })
    }
}

/// Binds the TCP socket of an address.
pub fn bind_tcp(at: SocketAddr, bridge: &str) -> io::Result<Socket> {
    let socket = bind(at, Type::STREAM, bridge, false)?;
    socket.listen(128)?;
    Ok(socket)
}

/// `shared`: with other sockets of the same port.
fn bind(at: SocketAddr, kind: Type, bridge: &str, shared: bool) -> io::Result<Socket> {
    /// As much as a busy slot sends while its thread is busy with another.
    const RECEIVE_BUFFER: usize = 1 << 20;
    let protocol = if kind == Type::DGRAM { Protocol::UDP } else { Protocol::TCP };
    let socket = Socket::new(Domain::for_address(at), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?; // a restart must not wait for TIME_WAIT
    } else {
        socket.set_reuse_port(shared)?;
        let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER); // less is slower, not wrong
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

/// Deals datagrams out by lot among the first `threads` sockets that are bound, and to none that is bound later. The
/// kernel's own dealing would give the last one its part.
fn deal(first: &Socket, threads: usize) -> io::Result<()> {
    const RANDOM: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_RANDOM) as u32;
    let step = |code, k| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let mut program = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, RANDOM),
        step(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, threads.max(1) as u32),
        step(libc::BPF_RET | BPF_A, 0),
    ];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    Ok(setsockopt(first, sockopt::AttachReusePortCbpf, &program)?)
}

/// The accumulator is returned (linux/filter.h).
const BPF_A: u32 = 0x10;
