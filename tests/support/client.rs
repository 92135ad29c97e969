//! A guest that asks for a name and connects to what it is told, at once: no shell, no other process in between.
//! Its threads are inside the guest's namespace already, see [`crate::lab::Lab::within`].

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, RecordType},
};
use nix::{
    libc::linger,
    sys::socket::{setsockopt, sockopt},
};

use crate::lab::Lab;

/// Well below the second after which Linux sends a SYN again (RFC 6298 section 2): one that is dropped is lost.
const FIRST_SYN: Duration = Duration::from_millis(700);
/// How long one datagram's answer is waited for, and how often it is asked for again.
const PATIENCE: Duration = Duration::from_secs(5);
const TRIES: u32 = 3;

/// A socket that asks one resolver.
pub struct Asker {
    socket: UdpSocket,
    next_id: u16,
    /// How often a question had to be asked again, because no answer came.
    pub repeated: u32,
}

impl Asker {
    /// Asks that resolver from now on.
    ///
    /// # Panics
    ///
    /// There is no way to it.
    #[must_use]
    pub fn of(resolver: IpAddr) -> Self {
        let any: SocketAddr =
            if resolver.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
        let socket = UdpSocket::bind(any).expect("a socket");
        socket.connect((resolver, 53)).expect("a way to the resolver");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Self { socket, next_id: 1, repeated: 0 }
    }

    /// The code and the addresses that the name has, of that type; `None` if nobody answers.
    ///
    /// # Panics
    ///
    /// The name is none, or the reply no message.
    pub fn ask(&mut self, name: &str, kind: RecordType) -> Option<(ResponseCode, Vec<IpAddr>)> {
        let mut buffer = [0; 4096];
        for _ in 0..TRIES {
            let id = self.next_id;
            self.next_id = self.next_id.wrapping_add(1);
            let mut query = Message::new(id, MessageType::Query, OpCode::Query);
            query.metadata.recursion_desired = true;
            query.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
            self.socket.send(&query.to_vec().expect("a message")).ok()?;
            while let Ok(length) = self.socket.recv(&mut buffer) {
                let reply = Message::from_vec(&buffer[..length]).expect("a message");
                if reply.metadata.id == id {
                    let address = |data: &RData| match data {
                        RData::A(v4) => Some(IpAddr::from(v4.0)),
                        RData::AAAA(v6) => Some(IpAddr::from(v6.0)),
                        _ => None, // the alias on the way there
                    };
                    let addresses = reply.answers.iter().filter_map(|it| address(&it.data));
                    return Some((reply.metadata.response_code, addresses.collect()));
                }
            }
            self.repeated += 1;
        }
        None
    }
}

/// Connects, with one SYN, and leaves without a farewell: the connection is gone on both sides at once.
///
/// # Errors
///
/// The first SYN is not answered, or refused.
pub fn connect_once(address: IpAddr, port: u16) -> io::Result<()> {
    let stream = TcpStream::connect_timeout(&(address, port).into(), FIRST_SYN)?;
    setsockopt(&stream, sockopt::Linger, &linger { l_onoff: 1, l_linger: 0 })?;
    Ok(())
}

/// What a slot's resolver says of a name.
///
/// # Panics
///
/// It says nothing.
#[must_use]
pub fn ask(lab: &Lab, slot: u8, name: &str, kind: RecordType) -> (ResponseCode, Vec<IpAddr>) {
    let gateway = IpAddr::from([10, slot, 0, 1]);
    let answer = lab.within(&format!("slot{slot}"), || Asker::of(gateway).ask(name, kind));
    answer.unwrap_or_else(|| panic!("nobody answers for {name}"))
}

/// True if a slot gets a connection to port 80 of an address.
///
/// # Panics
///
/// It is none.
#[must_use]
pub fn connects(lab: &Lab, slot: u8, address: &str) -> bool {
    let address = address.parse().expect("an address");
    lab.within(&format!("slot{slot}"), || connect_once(address, 80)).is_ok()
}
