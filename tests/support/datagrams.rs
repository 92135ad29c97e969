//! Many datagrams with one system call (sendmmsg(2)): what a program sends at most.

use std::{net::UdpSocket, os::fd::AsRawFd as _};

/// How many are handed over at once.
pub const AT_ONCE: u32 = 256;

/// Sends the same payload to the same place, from a socket of the calling thread's namespace.
pub struct Datagrams {
    socket: UdpSocket,
    payload: Vec<u8>,
}

impl Datagrams {
    /// With so many bytes of payload.
    ///
    /// # Panics
    ///
    /// There is no way there.
    #[must_use]
    pub fn to(address: &str, port: u16, bytes: usize) -> Self {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        socket.connect((address, port)).expect("a way there");
        Self { socket, payload: vec![0; bytes] }
    }

    /// Sends [`AT_ONCE`] of them, and returns how many the kernel took.
    ///
    /// # Panics
    ///
    /// It took none.
    pub fn send(&mut self) -> u64 {
        let mut part =
            libc::iovec { iov_base: self.payload.as_mut_ptr().cast(), iov_len: self.payload.len() };
        // SAFETY: zeros are a message without an address, parts or options.
        let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
        message.msg_hdr.msg_iov = &raw mut part;
        message.msg_hdr.msg_iovlen = 1;
        let mut messages = [message; AT_ONCE as usize];
        // SAFETY: the messages and the one part that they share live as long as the call.
        let taken =
            unsafe { libc::sendmmsg(self.socket.as_raw_fd(), messages.as_mut_ptr(), AT_ONCE, 0) };
        u64::try_from(taken).expect("datagrams are sent")
    }
}
