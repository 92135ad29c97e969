//! Many datagrams for one system call: sendmmsg(2) and recvmmsg(2). Knows nothing of DNS.

use std::{
    io,
    mem::zeroed,
    net::UdpSocket,
    os::fd::AsRawFd as _,
    ptr::{addr_of_mut, null_mut},
};

/// How many datagrams one call takes at most.
pub const BATCH: usize = 32;
/// What one datagram may hold: queries and answers of this benchmark are shorter.
pub const DATAGRAM: usize = 512;

/// Room for a batch, to be used again and again.
pub struct Batch {
    bytes: Box<[[u8; DATAGRAM]; BATCH]>,
    lengths: [usize; BATCH],
    /// Whence the datagrams of [`echo`] came; connected sockets need none.
    from: [libc::sockaddr_in; BATCH],
    filled: usize,
}

impl Batch {
    /// An empty one.
    pub fn new() -> Self {
        // SAFETY: all bits zero is a valid `sockaddr_in`: it holds integers only.
        let from = unsafe { zeroed() };
        Self { bytes: Box::new([[0; DATAGRAM]; BATCH]), lengths: [0; BATCH], from, filled: 0 }
    }

    /// The datagrams in it.
    pub fn datagrams(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes
            .iter()
            .zip(self.lengths)
            .map(|(bytes, length)| &bytes[..length])
            .take(self.filled)
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

    /// Sends all of it on a connected socket.
    pub fn send(&mut self, socket: &UdpSocket) -> io::Result<()> {
        let mut sent = 0;
        while sent < self.filled {
            sent += self.transfer(socket, sent..self.filled, Direction::Send)?;
        }
        Ok(())
    }

    /// Fills it with at most `most` datagrams that have come to a connected socket, and does not wait for any.
    pub fn receive(&mut self, socket: &UdpSocket, most: usize) -> io::Result<()> {
        self.filled = 0;
        let received = self.transfer(socket, 0..most.min(BATCH), Direction::Receive);
        match received {
            Ok(filled) => self.filled = filled,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn transfer(
        &mut self,
        socket: &UdpSocket,
        part: std::ops::Range<usize>,
        direction: Direction,
    ) -> io::Result<usize> {
        // SAFETY: all bits zero is a valid `iovec` and a valid `mmsghdr`: null pointers and integers.
        let (mut vectors, mut headers): ([libc::iovec; BATCH], [libc::mmsghdr; BATCH]) =
            unsafe { (zeroed(), zeroed()) };
        let (from, addresses) =
            (part.start, matches!(direction, Direction::Wait | Direction::Reply));
        let count = part.len();
        for index in part {
            let room = match direction {
                Direction::Send | Direction::Reply => self.lengths[index],
                Direction::Receive | Direction::Wait => DATAGRAM,
            };
            let at = index - from;
            vectors[at] =
                libc::iovec { iov_base: self.bytes[index].as_mut_ptr().cast(), iov_len: room };
            let header = &mut headers[at].msg_hdr;
            header.msg_iov = &raw mut vectors[at];
            header.msg_iovlen = 1;
            if addresses {
                header.msg_name = addr_of_mut!(self.from[index]).cast();
                header.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
            }
        }
        let (descriptor, number) = (socket.as_raw_fd(), count as libc::c_uint);
        // SAFETY: the socket is open as long as it is borrowed; `number` headers are filled in, each with one vector
        // of `self.bytes` that is as long as it says, and with no name or one of the size it says; all of them outlive
        // the call.
        let done = unsafe {
            match direction {
                Direction::Send | Direction::Reply => {
                    libc::sendmmsg(descriptor, headers.as_mut_ptr(), number, 0)
                }
                Direction::Receive => libc::recvmmsg(
                    descriptor,
                    headers.as_mut_ptr(),
                    number,
                    libc::MSG_DONTWAIT,
                    null_mut(),
                ),
                Direction::Wait => libc::recvmmsg(
                    descriptor,
                    headers.as_mut_ptr(),
                    number,
                    libc::MSG_WAITFORONE,
                    null_mut(),
                ),
            }
        };
        let done = usize::try_from(done).map_err(|_| io::Error::last_os_error())?;
        if matches!(direction, Direction::Receive | Direction::Wait) {
            for (length, header) in self.lengths.iter_mut().zip(&headers[..done]) {
                *length = header.msg_len as usize;
            }
        }
        Ok(done)
    }
}

#[derive(Clone, Copy)]
enum Direction {
    /// To the connected peer.
    Send,
    /// What is there, without waiting.
    Receive,
    /// At least one, with its sender.
    Wait,
    /// To each datagram's sender.
    Reply,
}

/// Sends every datagram back to where it came from, patched, until the socket fails.
pub fn echo(socket: &UdpSocket, mut patch: impl FnMut(&mut [u8])) -> io::Error {
    let mut batch = Batch::new();
    loop {
        batch.filled = match batch.transfer(socket, 0..BATCH, Direction::Wait) {
            Ok(received) => received,
            Err(error) => return error,
        };
        for index in 0..batch.filled {
            patch(&mut batch.bytes[index][..batch.lengths[index]]);
        }
        let mut sent = 0;
        while sent < batch.filled {
            match batch.transfer(socket, sent..batch.filled, Direction::Reply) {
                Ok(more) => sent += more,
                // Its asker is gone.
                Err(_) => sent += 1,
            }
        }
    }
}
