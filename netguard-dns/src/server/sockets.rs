//! The sockets of one address of a slot. Queries come in on one for each thread; replies go out on one of their own that
//! gets no query: a socket that somebody waits on wakes him for each reply that it has sent, too, which costs a tenth
//! of all that a query costs (`sock_wfree`, `ep_poll_callback`; Linux 6.18).

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
};

use netguard_common::SlotId;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

/// Where a slot's resolver listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The slot.
    pub slot: SlotId,
    /// The slot's bridge.
    pub bridge: String,
    /// The slot's gateways.
    pub addresses: Vec<IpAddr>,
    /// On each of them.
    pub port: u16,
}

/// The bound sockets of an endpoint. To bind them takes privileges that to use them does not: they may be handed to another
/// process.
#[derive(Debug)]
pub struct Sockets(pub(super) Vec<AddressSockets>);

/// The sockets of one address.
#[derive(Debug)]
pub(super) struct AddressSockets {
    pub(super) tcp: Socket,
    /// UDP, for all threads.
    pub(super) replies: Socket,
    /// UDP, one for each thread.
    pub(super) queries: Vec<Socket>,
}

impl Sockets {
    /// Binds every socket of the endpoint, for so many threads.
    ///
    /// # Errors
    ///
    /// A socket cannot be bound: the address and port are named in the error.
    pub fn bind(endpoint: &Endpoint, threads: usize) -> io::Result<Self> {
        let bind = |address: &IpAddr| {
            let at = SocketAddr::new(*address, endpoint.port);
            AddressSockets::bind(at, &endpoint.bridge, threads).map_err(|error| {
                let message = format!(
                    "cannot listen for DNS on {at} ({}): {error}; is another resolver running \
                     there? (ss -lunp)",
                    endpoint.bridge
                );
                io::Error::new(error.kind(), message)
            })
        };
        endpoint.addresses.iter().map(bind).collect::<io::Result<_>>().map(Self)
    }

    /// Copies of all sockets, in the order that [`Self::of_descriptors`] expects.
    ///
    /// # Errors
    ///
    /// There is no descriptor left.
    pub fn descriptors(&self) -> io::Result<Vec<OwnedFd>> {
        let sockets =
            self.0.iter().flat_map(|it| [&it.tcp, &it.replies].into_iter().chain(&it.queries));
        sockets.map(|socket| socket.try_clone().map(OwnedFd::from)).collect()
    }

    /// The sockets of so many addresses that another process has bound.
    ///
    /// # Errors
    ///
    /// The addresses cannot all have the same number of sockets.
    pub fn of_descriptors(descriptors: Vec<OwnedFd>, addresses: usize) -> io::Result<Self> {
        let each = descriptors.len() / addresses.max(1);
        if each < 3 || each * addresses != descriptors.len() {
            return Err(io::Error::other("these are not an endpoint's sockets"));
        }
        let mut sockets = descriptors.into_iter().map(Socket::from);
        let of_address = |_| {
            let (tcp, replies) = (sockets.next()?, sockets.next()?);
            Some(AddressSockets {
                tcp,
                replies,
                queries: sockets.by_ref().take(each - 2).collect(),
            })
        };
        Ok(Self((0..addresses).filter_map(of_address).collect()))
    }
}

impl AddressSockets {
    fn bind(at: SocketAddr, bridge: &str, threads: usize) -> io::Result<Self> {
        // Sockets that share a port do not notice whom else they share it with: this one does.
        drop(bind(at, Type::DGRAM, bridge, false)?);
        let first = bind(at, Type::DGRAM, bridge, true)?;
        deal(&first, threads)?;
        let mut queries = vec![first];
        for _ in 1..threads {
            queries.push(bind(at, Type::DGRAM, bridge, true)?);
        }
        let replies = bind(at, Type::DGRAM, bridge, true)?;
        let tcp = bind(at, Type::STREAM, bridge, false)?;
        tcp.listen(128)?;
        Ok(Self { tcp, replies, queries })
    }
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
