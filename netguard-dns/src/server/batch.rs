//! Many datagrams with one system call: recvmmsg(2) and sendmmsg(2).

use std::{
    cmp::Reverse,
    io, mem,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, BorrowedFd},
    ptr,
    sync::atomic::{AtomicBool, Ordering},
};

use socket2::{SockAddr, SockAddrStorage};

/// How many datagrams are taken at once.
pub const BATCH: usize = 32;
/// A query that is longer is no query that netguard answers: a name, a question and an OPT take a third of it.
const QUERY_MAX: usize = 1232;

/// Memory for one batch of queries and one of replies.
pub struct Batch {
    queries: Box<[[u8; QUERY_MAX]; BATCH]>,
    senders: Box<[libc::sockaddr_storage; BATCH]>,
    received: Box<[libc::mmsghdr; BATCH]>,
    sent: Box<[libc::mmsghdr; BATCH]>,
    segments: [Segments; BATCH],
    vectors: Box<[libc::iovec; BATCH]>,
    replies: Vec<(usize, Vec<u8>)>,
    used: usize,
}

// SAFETY: the pointers in `received`, `sent` and `vectors` are into the boxes of the same value, or written anew before
// they are used; nothing of them is shared with another thread.
unsafe impl Send for Batch {}

impl Batch {
    pub fn new() -> Self {
        // SAFETY: plain C structures, of which all-zero bytes are a value.
        let (senders, received, sent, vectors) = unsafe { mem::zeroed() };
        Self {
            queries: Box::new([[0; QUERY_MAX]; BATCH]),
            senders: Box::new(senders),
            received: Box::new(received),
            sent: Box::new(sent),
            segments: [Segments::of(0); BATCH],
            vectors: Box::new(vectors),
            replies: (0..BATCH).map(|_| (0, Vec::with_capacity(QUERY_MAX))).collect(),
            used: 0,
        }
    }

    /// Takes what is there, without waiting; how many datagrams.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.used = 0;
        for index in 0..BATCH {
            self.vectors[index] = libc::iovec {
                iov_base: self.queries[index].as_mut_ptr().cast(),
                iov_len: QUERY_MAX,
            };
            let header = &mut self.received[index].msg_hdr;
            header.msg_name = (&raw mut self.senders[index]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_iov = &raw mut self.vectors[index];
            header.msg_iovlen = 1;
            header.msg_flags = 0;
        }
        let flags = libc::MSG_DONTWAIT;
        // SAFETY: the headers point to buffers and addresses of the lengths that they say, which live in `self`.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.received.as_mut_ptr(),
                BATCH as libc::c_uint,
                flags,
                ptr::null_mut(),
            )
        };
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    }

    /// The datagram of that number and its sender. One that was longer than any query is empty.
    pub fn query(&self, index: usize) -> Option<(&[u8], IpAddr)> {
        let header = &self.received[index];
        let is_whole = header.msg_hdr.msg_flags & libc::MSG_TRUNC == 0;
        let length = if is_whole { header.msg_len as usize } else { 0 };
        Some((self.queries[index].get(..length)?, self.sender(index)?.ip()))
    }

    /// Who sent the datagram of that number.
    pub fn sender(&self, index: usize) -> Option<SocketAddr> {
        let length = self.received[index].msg_hdr.msg_namelen;
        let mut storage = SockAddrStorage::zeroed();
        // SAFETY: `SockAddrStorage` is this very structure, and the kernel has written an address of that length
        // into the one that is copied.
        let address = unsafe {
            *storage.view_as::<libc::sockaddr_storage>() = self.senders[index];
            SockAddr::new(storage, length)
        };
        address.as_socket()
    }

    /// Room for a reply to the datagram of that number: taken out, to be given back with [`Self::put`].
    pub fn take(&mut self) -> Vec<u8> {
        mem::take(&mut self.replies[self.used].1)
    }

    /// Gives the room back, with a reply in it or without.
    pub fn put(&mut self, index: usize, reply: Vec<u8>, is_reply: bool) {
        self.replies[self.used] = (index, reply);
        self.used += usize::from(is_reply);
    }

    /// Sends the replies. Those to one socket of a guest go through the stack together, as segments of one length but for a
    /// shorter last one (udp(7), UDP_SEGMENT): a guest that asks much from one socket costs less. `whole` says that the
    /// bridge's ports cannot have that. What the socket does not take is lost, as on any network.
    pub fn send(&mut self, socket: BorrowedFd<'_>, whole: &AtomicBool) {
        let together = !whole.load(Ordering::Relaxed);
        let Self { replies, senders, received, sent, vectors, segments, used, .. } = self;
        let replies = &mut replies[..*used];
        *used = 0;
        if together {
            replies.sort_unstable_by_key(|(index, reply)| {
                (key(&senders[*index]), Reverse(reply.len()))
            });
        }
        let (mut groups, mut at) = (0, 0);
        while at < replies.len() {
            let count = if together { run(&replies[at..], senders, received) } else { 1 };
            let group = &mut replies[at..at + count];
            segments[groups] = Segments::of(group[0].1.len());
            let header = &mut sent[groups].msg_hdr;
            header.msg_name = (&raw mut senders[group[0].0]).cast();
            header.msg_namelen = received[group[0].0].msg_hdr.msg_namelen;
            header.msg_iov = &raw mut vectors[at];
            header.msg_iovlen = count;
            header.msg_control = (&raw mut segments[groups]).cast();
            header.msg_controllen = if count > 1 { size_of::<Segments>() } else { 0 };
            for (vector, (_, reply)) in vectors[at..].iter_mut().zip(group) {
                *vector = libc::iovec { iov_base: reply.as_mut_ptr().cast(), iov_len: reply.len() };
            }
            (groups, at) = (groups + 1, at + count);
        }
        let mut next = 0;
        while next < groups {
            let rest = &mut sent[next..groups];
            let (first, most) = (rest.as_mut_ptr(), rest.len() as libc::c_uint);
            // SAFETY: every header points to a name, vectors and control data of the lengths that it says, in `self`.
            let count =
                unsafe { libc::sendmmsg(socket.as_raw_fd(), first, most, libc::MSG_DONTWAIT) };
            match usize::try_from(count) {
                Ok(count) if count > 0 => next += count,
                // The first of the rest has failed: a full buffer, or segments that nobody can make.
                _ => {
                    send_apart(socket, &mut sent[next], whole);
                    next += 1;
                }
            }
        }
    }
}

/// Sends the replies of one group one by one, if it was more than one that failed.
fn send_apart(socket: BorrowedFd<'_>, group: &mut libc::mmsghdr, whole: &AtomicBool) {
    let error = io::Error::last_os_error();
    let mut header = group.msg_hdr;
    if header.msg_iovlen < 2 || error.kind() == io::ErrorKind::WouldBlock {
        return; // lost
    }
    // Without checksum offload there are no segments (`udp_send_skb`, EIO).
    whole.store(true, Ordering::Relaxed);
    let count = mem::replace(&mut header.msg_iovlen, 1);
    header.msg_controllen = 0;
    for _ in 0..count {
        // SAFETY: the header points to one vector after the other of those that it had, and to no control data.
        unsafe {
            libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_DONTWAIT);
            header.msg_iov = header.msg_iov.add(1);
        }
    }
}

/// How many of the replies, from the first on, may be segments of one datagram: to the same socket, each as long as the first, and
/// then one that is shorter.
fn run(
    replies: &[(usize, Vec<u8>)],
    senders: &[libc::sockaddr_storage; BATCH],
    received: &[libc::mmsghdr; BATCH],
) -> usize {
    /// What one datagram can hold (65,507 bytes over IPv4), less some.
    const TOGETHER_MAX: usize = 60_000;
    let name = |index: usize| {
        let length = received[index].msg_hdr.msg_namelen as usize;
        // SAFETY: the kernel has written so many bytes of an address there, and the structure is longer.
        unsafe {
            std::slice::from_raw_parts((&raw const senders[index]).cast::<u8>(), length.min(28))
        }
    };
    let (first, length) = (name(replies[0].0), replies[0].1.len());
    let mut total = length;
    for (count, (index, reply)) in replies.iter().enumerate().skip(1) {
        total += reply.len();
        if reply.len() > length || total > TOGETHER_MAX || name(*index) != first {
            return count;
        }
        if reply.len() < length {
            return count + 1;
        }
    }
    replies.len()
}

/// A number by which addresses are put beside each other; two that share one are told apart by [`run`].
fn key(sender: &libc::sockaddr_storage) -> u64 {
    // SAFETY: the structure is 128 bytes long and any bytes are numbers. Family and port are word 0, an IPv4 address is word
    // 1, the last of an IPv6 address word 5.
    let words = unsafe { (&raw const *sender).cast::<[u32; 6]>().read() };
    let is_v6 = i32::from(sender.ss_family) == libc::AF_INET6;
    u64::from(words[0]) << 32 | u64::from(words[if is_v6 { 5 } else { 1 }])
}

/// The control message that makes segments of a datagram.
#[repr(C)]
#[derive(Clone, Copy)]
struct Segments {
    header: libc::cmsghdr,
    length: u16,
    _padding: [u8; 6],
}

impl Segments {
    const fn of(length: usize) -> Self {
        let header = libc::cmsghdr {
            cmsg_len: size_of::<libc::cmsghdr>() + size_of::<u16>(),
            cmsg_level: libc::SOL_UDP,
            cmsg_type: libc::UDP_SEGMENT,
        };
        Self { header, length: length as u16, _padding: [0; 6] }
    }
}
