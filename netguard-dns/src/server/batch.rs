//! Many datagrams with one system call: recvmmsg(2) and sendmmsg(2).

use std::{
    io, mem,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, BorrowedFd},
    ptr,
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
    vectors: Box<[libc::iovec; BATCH]>,
    replies: Vec<(usize, Vec<u8>)>,
    used: usize,
}

// SAFETY: the pointers in `received` and `vectors` are into the boxes of the same value, or written anew before
// they are used; nothing of them is shared with another thread.
unsafe impl Send for Batch {}

impl Batch {
    pub fn new() -> Self {
        // SAFETY: plain C structures, of which all-zero bytes are a value.
        let (senders, received, vectors) = unsafe { mem::zeroed() };
        Self {
            queries: Box::new([[0; QUERY_MAX]; BATCH]),
            senders: Box::new(senders),
            received: Box::new(received),
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

    /// Sends the replies. What the socket does not take is lost, as on any network.
    pub fn send(&mut self, socket: BorrowedFd<'_>) {
        for (number, (index, reply)) in self.replies[..self.used].iter_mut().enumerate() {
            self.vectors[number] =
                libc::iovec { iov_base: reply.as_mut_ptr().cast(), iov_len: reply.len() };
            // Replies are fewer than queries and in their order: what is overwritten was read.
            let header = &mut self.received[number].msg_hdr;
            header.msg_name = (&raw mut self.senders[*index]).cast();
            header.msg_iov = &raw mut self.vectors[number];
            header.msg_iovlen = 1;
        }
        let mut sent = 0;
        while sent < self.used {
            let rest = &mut self.received[sent..self.used];
            // SAFETY: as in `receive`; `msg_namelen` is still what the kernel wrote, which is the same for all
            // of a socket's family.
            let count = unsafe {
                libc::sendmmsg(
                    socket.as_raw_fd(),
                    rest.as_mut_ptr(),
                    rest.len() as libc::c_uint,
                    libc::MSG_DONTWAIT,
                )
            };
            match usize::try_from(count) {
                Ok(count) if count > 0 => sent += count,
                // The first of the rest has failed: an ICMP error of an earlier reply, or a full buffer.
                _ => sent += 1,
            }
        }
        self.used = 0;
    }
}
