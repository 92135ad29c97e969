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

/// The bound sockets of an endpoint. To bind them takes privileges that to make and to use them does not: another process may do
/// either.
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
    /// The sockets for one address and so many threads, bound to nothing yet: to make them takes no privilege.
    ///
    /// # Errors
    ///
    /// There is no descriptor left.
    pub fn fresh(v6: bool, threads: usize) -> io::Result<Vec<OwnedFd>> {
        let kinds = std::iter::repeat_n(Kind::UDP, threads + UDP_BESIDE_THREADS);
        kinds.chain([Kind::TCP]).map(|kind| kind.socket(v6).map(OwnedFd::from)).collect()
    }

    /// Binds every socket of the endpoint, of those that [`Self::fresh`] has made for each of its addresses.
    ///
    /// # Errors
    ///
    /// A socket cannot be bound, or is another one: the address and port are named in the error.
    pub fn bind(endpoint: &Endpoint, fresh: Vec<Vec<OwnedFd>>) -> io::Result<Self> {
        let bind = |(address, fresh): (&IpAddr, Vec<OwnedFd>)| {
            let at = SocketAddr::new(*address, endpoint.port);
            AddressSockets::bind(at, &endpoint.bridge, fresh).map_err(|error| {
                let message = format!(
                    "cannot listen for DNS on {at} ({}): {error}; is another resolver running \
                     there? (ss -lunp)",
                    endpoint.bridge
                );
                io::Error::new(error.kind(), message)
            })
        };
        if fresh.len() != endpoint.addresses.len() {
            return Err(io::Error::other("these are not an endpoint's sockets"));
        }
        endpoint.addresses.iter().zip(fresh).map(bind).collect::<io::Result<_>>().map(Self)
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
    fn bind(at: SocketAddr, bridge: &str, fresh: Vec<OwnedFd>) -> io::Result<Self> {
        let other = || io::Error::other("these are not an address's sockets");
        let threads = fresh.len().checked_sub(UDP_BESIDE_THREADS + 1).ok_or_else(other)?;
        let mut fresh = fresh.into_iter().map(Socket::from);
        let mut bound = |kind, shared| {
            let socket = fresh.next().ok_or_else(other)?;
            bind(&socket, at, kind, bridge, shared)?;
            Ok::<_, io::Error>(socket)
        };
        // Sockets that share a port do not notice whom else they share it with: this one does.
        drop(bound(Kind::UDP, false)?);
        let mut queries = Vec::new();
        for _ in 0..threads {
            queries.push(bound(Kind::UDP, true)?);
            if let [first] = &queries[..] {
                deal(first, threads)?;
            }
        }
        let replies = bound(Kind::UDP, true)?;
        let tcp = bound(Kind::TCP, false)?;
        tcp.listen(128)?;
        Ok(Self { tcp, replies, queries })
    }
}

/// The UDP sockets of an address beside those of the threads: one for replies, and one that finds out who else is there.
const UDP_BESIDE_THREADS: usize = 2;

/// What a socket is.
#[derive(Clone, Copy)]
struct Kind {
    kind: Type,
    protocol: Protocol,
}

impl Kind {
    const UDP: Self = Self { kind: Type::DGRAM, protocol: Protocol::UDP };
    const TCP: Self = Self { kind: Type::STREAM, protocol: Protocol::TCP };

    fn socket(self, v6: bool) -> io::Result<Socket> {
        let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
        Socket::new(domain, self.kind, Some(self.protocol))
    }

    /// True if a socket that somebody else has made is one like this.
    fn is_of(self, socket: &Socket, at: SocketAddr) -> io::Result<bool> {
        Ok(socket.domain()? == Domain::for_address(at)
            && socket.r#type()? == self.kind
            && socket.protocol()? == Some(self.protocol))
    }
}

/// `shared`: with other sockets of the same port.
fn bind(socket: &Socket, at: SocketAddr, kind: Kind, bridge: &str, shared: bool) -> io::Result<()> {
    /// As much as a busy slot sends while its thread is busy with another.
    const RECEIVE_BUFFER: usize = 1 << 20;
    if !kind.is_of(socket, at)? {
        return Err(io::Error::other("a socket is not what it should be"));
    }
    socket.set_nonblocking(true)?;
    if kind.kind == Type::STREAM {
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
    socket.bind(&at.into())
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
