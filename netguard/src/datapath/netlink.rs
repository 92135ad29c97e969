//! One request to rtnetlink and its answers, while the thread waits: the kernel answers such a request before
//! it is sent.

use std::io;

use rtnetlink::{
    packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage},
    packet_route::RouteNetlinkMessage,
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};

/// `struct nlmsghdr`: length, type, flags, sequence number and port (include/uapi/linux/netlink.h).
const HEADER: usize = 16;
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// Asks for everything of a kind; the answers' payloads.
pub(super) fn list(message: RouteNetlinkMessage) -> io::Result<Vec<Vec<u8>>> {
    ask(message, NLM_F_DUMP)
}

/// Asks for one thing, or for a change with those flags; the answers' payloads.
pub(super) fn request(message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<Vec<u8>>> {
    ask(message, NLM_F_ACK | flags)
}

/// In the network namespace of this thread. Each call has its own socket: what one leaves unread meets no other.
fn ask(message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<Vec<u8>>> {
    let socket = Socket::new(NETLINK_ROUTE)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut message = NetlinkMessage::from(message);
    message.header.flags = NLM_F_REQUEST | flags;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut answers = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        if read(&datagram, &mut answers)? {
            return Ok(answers);
        }
    }
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
