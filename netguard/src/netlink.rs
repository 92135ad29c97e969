//! Netlink: one request and its answers, while the thread waits, which is not long: the kernel answers such a request
//! before it is sent. And rtnetlink's news that somebody has changed something.

use std::io;

use rtnetlink::{
    MulticastGroup,
    packet_core::{
        NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
        NetlinkSerializable, Parseable,
    },
    packet_route::RouteNetlinkMessage,
    sys::{
        Socket, SocketAddr,
        protocols::{NETLINK_NETFILTER, NETLINK_ROUTE},
    },
};
use tokio::io::{Interest, unix::AsyncFd};

/// `struct nlmsghdr`: length, type, flags, sequence number and port (include/uapi/linux/netlink.h).
const HEADER: usize = 16;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// The kernel sends no longer ones (`netlink_recvmsg` and `netlink_dump` in net/netlink/af_netlink.c: 32 KiB).
const DATAGRAM_MAX: usize = 64 << 10;
const NEWS_BYTES: usize = 8 << 20;

/// Asks for everything of a kind; the answers' payloads.
pub(crate) fn list(message: RouteNetlinkMessage) -> io::Result<Vec<Vec<u8>>> {
    ask(message, NLM_F_DUMP)
}

/// Asks for one thing, or for a change with those flags; the answers' payloads.
pub(crate) fn request(message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<Vec<u8>>> {
    ask(message, NLM_F_ACK | flags)
}

/// An answer's payload as what it is.
pub(crate) fn payload<T: Parseable<[u8]>>(answer: &[u8]) -> io::Result<T> {
    T::parse(answer).map_err(io::Error::other)
}

/// A subscription in the network namespace that opened it.
pub(crate) struct News {
    socket: AsyncFd<Socket>,
}

impl News {
    /// Must be called within a tokio runtime.
    pub(crate) fn of(groups: &[MulticastGroup]) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        // As much as the system allows: what finds no room is news that must be asked for.
        socket.set_rx_buf_sz(NEWS_BYTES)?;
        for group in groups {
            socket.add_membership(*group as u32)?;
        }
        socket.set_non_blocking(true)?;
        // SAFETY: a `Socket` owns its descriptor and never changes or closes it.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE)? };
        Ok(Self { socket })
    }

    /// Waits until there are some. They must be taken then, until there are no more. Whoever stops waiting loses none.
    pub(crate) async fn wait(&self) -> io::Result<()> {
        self.socket.readable().await.map(|mut ready| ready.clear_ready())
    }

    /// The next datagram of them; `None` if there is none yet. What cannot be read is left out.
    ///
    /// # Errors
    ///
    /// ENOBUFS if some are lost.
    pub(crate) fn next(&self) -> io::Result<Option<Vec<NetlinkMessage<RouteNetlinkMessage>>>> {
        // Not by way of the runtime, which may not have heard of them yet.
        match receive(self.socket.get_ref(), &mut Vec::with_capacity(DATAGRAM_MAX)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            received => Ok(Some(messages(received?))),
        }
    }
}

fn messages(datagram: &[u8]) -> Vec<NetlinkMessage<RouteNetlinkMessage>> {
    let mut messages = Vec::new();
    let mut rest = datagram;
    while let Some(length) = word(rest) {
        let Some(bytes) = rest.get(..length as usize).filter(|it| it.len() >= HEADER) else {
            break;
        };
        messages.extend(NetlinkMessage::deserialize(bytes));
        rest = rest.get((length as usize).next_multiple_of(4)..).unwrap_or_default();
    }
    messages
}

/// Has nf_tables do all that a batch wants, or nothing of it. Its last change must ask for an answer
/// (`nfnetlink_rcv_batch` in net/netfilter/nfnetlink.c: what fails is answered before it).
pub(crate) fn transact(batch: &[u8]) -> io::Result<()> {
    exchange(NETLINK_NETFILTER, batch).map(drop)
}

/// One message as it is sent.
pub(crate) fn bytes<T: NetlinkSerializable>(message: T, flags: u16) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

fn ask(message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<Vec<u8>>> {
    exchange(NETLINK_ROUTE, &bytes(message, flags))
}

/// In the network namespace of this thread. Each call has its own socket: what one leaves unread meets no other.
fn exchange(protocol: isize, request: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let socket = Socket::new(protocol)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(request, 0)?;
    let mut answers = Vec::new();
    let mut datagram = Vec::with_capacity(DATAGRAM_MAX);
    loop {
        if read(receive(&socket, &mut datagram)?, &mut answers)? {
            return Ok(answers);
        }
    }
}

/// The next datagram, in that room.
fn receive<'a>(socket: &Socket, room: &'a mut Vec<u8>) -> io::Result<&'a [u8]> {
    room.clear();
    // With this flag the kernel tells how long it was.
    let length = socket.recv(room, libc::MSG_TRUNC)?;
    room.get(..length).ok_or_else(|| io::Error::other("the kernel's answer is cut off"))
}

/// Reads one datagram of messages; true if it has the last one.
fn read(datagram: &[u8], answers: &mut Vec<Vec<u8>>) -> io::Result<bool> {
    let cut = || io::Error::other("the kernel's answer is cut off");
    let mut rest = datagram;
    while let Some((header, _)) = rest.split_at_checked(HEADER) {
        let length = word(header).ok_or_else(cut)? as usize;
        let payload = rest.get(HEADER..length).ok_or_else(cut)?;
        match u16::from_ne_bytes([header[4], header[5]]) {
            // Both begin with an error number; 0 is "done".
            ERROR | DONE => {
                return match word(payload).unwrap_or(0).cast_signed() {
                    0 => Ok(true),
                    error => Err(io::Error::from_raw_os_error(-error)),
                };
            }
            _ => answers.push(payload.to_vec()),
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

fn word(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().copied().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER + payload.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.resize(HEADER, 0);
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn answers_end_with_done_or_an_error() {
        let mut answers = Vec::new();
        let two = [message(44, b"one"), message(44, b"second")].concat();
        assert!(!read(&two, &mut answers).unwrap());
        assert_eq!(answers, [b"one".to_vec(), b"second".to_vec()]);
        assert!(read(&message(DONE, &0_i32.to_ne_bytes()), &mut answers).unwrap());
        assert!(read(&message(ERROR, &0_i32.to_ne_bytes()), &mut answers).unwrap());
        let refused = read(&message(ERROR, &(-17_i32).to_ne_bytes()), &mut answers);
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(17));
        let mut cut = message(44, b"second");
        cut.truncate(HEADER + 2);
        assert!(read(&cut, &mut answers).is_err());
    }
}
