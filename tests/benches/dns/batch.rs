//! Many datagrams for one system call. Knows nothing of DNS.
//!
//! Those that are sent have one length and go through the sender's stack as one (UDP_SEGMENT, Linux 4.18): a server
//! receives them one by one as ever, and the sender has time left to look at the answers. Those that are received can have
//! any length (recvmmsg(2)).

use std::{
    io::{self, IoSlice},
    mem::zeroed,
    net::UdpSocket,
    os::fd::AsRawFd as _,
    ptr::null_mut,
};

use nix::{
    libc,
    sys::socket::{
        ControlMessage, MsgFlags, sendmsg, setsockopt,
        sockopt::{UdpGroSegment, UdpGsoSegment},
    },
};

/// How many datagrams one call takes at most; the kernel takes 64 segments.
pub const BATCH: usize = 32;
/// What one datagram may hold: queries and answers of this benchmark are shorter.
const DATAGRAM: usize = 512;

/// Room for a batch, to be used again and again.
pub struct Batch {
    bytes: Box<[[u8; DATAGRAM]; BATCH]>,
    lengths: [usize; BATCH],
    filled: usize,
}

impl Batch {
    /// An empty one.
    pub fn new() -> Self {
        Self { bytes: Box::new([[0; DATAGRAM]; BATCH]), lengths: [0; BATCH], filled: 0 }
    }

    /// The datagrams in it.
    pub fn datagrams(&self) -> impl Iterator<Item = &[u8]> {
        let all = self.bytes.iter().zip(self.lengths);
        all.map(|(bytes, length)| &bytes[..length]).take(self.filled)
    }

    /// Takes out all datagrams.
    pub fn clear(&mut self) {
        self.filled = 0;
    }

    /// Puts in a copy of a datagram, for the caller to patch.
    pub fn push(&mut self, datagram: &[u8]) -> &mut [u8] {
        let at = self.filled;
        let copy = &mut self.bytes[at][..datagram.len()];
        copy.copy_from_slice(datagram);
        self.lengths[at] = datagram.len();
        self.filled += 1;
        copy
    }

    /// Sends all of it on a connected socket. All datagrams have the length of the first.
    pub fn send(&self, socket: &UdpSocket) -> io::Result<()> {
        let mut pieces = [IoSlice::new(&[]); BATCH];
        for (piece, datagram) in pieces.iter_mut().zip(self.datagrams()) {
            *piece = IoSlice::new(datagram);
        }
        let length = self.lengths[0] as u16;
        let segments = [ControlMessage::UdpGsoSegments(&length)];
        let segments = &segments[..usize::from(self.filled > 1)];
        if self.filled > 0 {
            let pieces = &pieces[..self.filled];
            sendmsg::<()>(socket.as_raw_fd(), pieces, segments, MsgFlags::empty(), None)?;
        }
        Ok(())
    }

    /// Fills it with at most `most` datagrams that have come to a socket, and does not wait for any.
    pub fn receive(&mut self, socket: &UdpSocket, most: usize) -> io::Result<()> {
        self.filled = 0;
        // SAFETY: all bits zero is a valid `iovec` and a valid `mmsghdr`: null pointers and integers.
        let (mut vectors, mut headers): ([libc::iovec; BATCH], [libc::mmsghdr; BATCH]) =
            unsafe { (zeroed(), zeroed()) };
        for ((bytes, vector), header) in self.bytes.iter_mut().zip(&mut vectors).zip(&mut headers) {
            *vector = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: DATAGRAM };
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
        }
        let most = most.min(BATCH) as libc::c_uint;
        // SAFETY: the socket is open as long as it is borrowed; `most` headers are filled in, each with one vector of
        // `self.bytes` that is as long as it says and with no name; all of them outlive the call; no timeout is given.
        let received = unsafe {
            let headers = headers.as_mut_ptr();
            libc::recvmmsg(socket.as_raw_fd(), headers, most, libc::MSG_DONTWAIT, null_mut())
        };
        let Ok(received) = usize::try_from(received) else {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::WouldBlock { Ok(()) } else { Err(error) };
        };
        for (length, header) in self.lengths.iter_mut().zip(&headers[..received]) {
            *length = header.msg_len as usize;
        }
        self.filled = received;
        Ok(())
    }
}

/// Sends every datagram back to where it came from, patched, until the socket fails. Those of one length go through the
/// stack as they came, many as one (UDP_GRO, Linux 5.0): nothing that answers can be faster.
pub fn echo(socket: &UdpSocket, length: u16, mut patch: impl FnMut(&mut [u8])) -> io::Result<()> {
    setsockopt(socket, UdpGroSegment, &true)?;
    setsockopt(socket, UdpGsoSegment, &i32::from(length))?;
    let mut bytes = vec![0; 1 << 16];
    loop {
        let (received, asker) = socket.recv_from(&mut bytes)?;
        for datagram in bytes[..received].chunks_mut(length.into()) {
            patch(datagram);
        }
        // An asker that is gone gets no answer.
        let _ = socket.send_to(&bytes[..received], asker);
    }
}

/// Receives and answers datagrams by the batch, as servers do, until the socket fails: `answer` makes each one's reply.
pub fn serve(socket: &UdpSocket, mut answer: impl FnMut(&[u8], &mut Vec<u8>)) -> io::Result<()> {
    let mut queries = Box::new([[0_u8; DATAGRAM]; BATCH]);
    let mut replies: Vec<Vec<u8>> = (0..BATCH).map(|_| Vec::with_capacity(DATAGRAM)).collect();
    // SAFETY: all bits zero is a valid value of each: null pointers and integers.
    let (mut askers, mut vectors, mut headers): (
        [libc::sockaddr_storage; BATCH],
        [libc::iovec; BATCH],
        [libc::mmsghdr; BATCH],
    ) = unsafe { (zeroed(), zeroed(), zeroed()) };
    let count = |count: libc::c_int| usize::try_from(count).map_err(|_| io::Error::last_os_error());
    loop {
        for index in 0..BATCH {
            vectors[index] =
                libc::iovec { iov_base: queries[index].as_mut_ptr().cast(), iov_len: DATAGRAM };
            let header = &mut headers[index].msg_hdr;
            header.msg_name = (&raw mut askers[index]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_iov = &raw mut vectors[index];
            header.msg_iovlen = 1;
        }
        let (socket, most) = (socket.as_raw_fd(), BATCH as libc::c_uint);
        // SAFETY: every header is filled in, with a vector and a name that are as long as it says and outlive the call.
        let received = unsafe {
            libc::recvmmsg(socket, headers.as_mut_ptr(), most, libc::MSG_WAITFORONE, null_mut())
        };
        let received = count(received)?;
        for index in 0..received {
            let query = &queries[index][..headers[index].msg_len as usize];
            let reply = &mut replies[index];
            answer(query, reply);
            vectors[index] =
                libc::iovec { iov_base: reply.as_mut_ptr().cast(), iov_len: reply.len() };
        }
        // SAFETY: as above; the names are those that the kernel has written.
        count(unsafe {
            libc::sendmmsg(socket, headers.as_mut_ptr(), received as libc::c_uint, 0)
        })?;
    }
}
