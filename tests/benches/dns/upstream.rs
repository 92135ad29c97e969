//! The resolver that every server asks for the policy's names, and a server that does nothing, to find out what
//! the load generator can do alone.

use std::{
    collections::HashSet,
    io,
    net::{Ipv4Addr, UdpSocket},
    thread,
};

use anyhow::Result;
use hickory_proto::{
    op::{Edns, Message},
    rr::{RData, Record, RecordType, rdata::A},
};

use super::{
    batch,
    names::{PAYLOAD, policy},
};

/// Where it listens, as the peers' configurations have it.
pub const UPSTREAM: &str = "127.0.0.1:5300";

/// Starts the upstream on a thread that ends with the benchmark.
pub fn start() -> io::Result<()> {
    let socket = UdpSocket::bind(UPSTREAM)?;
    thread::Builder::new().name("upstream".to_owned()).spawn(move || {
        let mut query = [0; 4096];
        while let Ok((length, asker)) = socket.recv_from(&mut query) {
            if let Some(answer) = answer(&query[..length]) {
                // Whoever has gone in the meantime gets no answer.
                let _ = socket.send_to(&answer, asker);
            }
        }
    })?;
    Ok(())
}

/// What the upstream says: one address for each name, to keep for five minutes.
fn answer(query: &[u8]) -> Option<Vec<u8>> {
    let query = Message::from_vec(query).ok()?;
    let question = query.queries.first()?.clone();
    let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
    answer.metadata.recursion_desired = query.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    if question.query_type() == RecordType::A {
        let host = question.name().iter().flatten().fold(1u8, |sum, byte| sum.wrapping_add(*byte));
        let address = A(Ipv4Addr::new(203, 0, 113, host.max(1)));
        answer.add_answer(Record::from_rdata(question.name().clone(), 300, RData::A(address)));
    }
    answer.add_query(question);
    if query.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(PAYLOAD);
        answer.set_edns(edns);
    }
    answer.to_vec().ok()
}

/// Says of every name that it does not exist, and looks at nothing to say so. All queries have the given length.
pub fn serve_echo(address: &str, length: &str) -> Result<()> {
    let socket = UdpSocket::bind(address)?;
    batch::echo(&socket, length.parse()?, |query| {
        if let Some(flags) = query.get_mut(2..4) {
            flags.copy_from_slice(&[0x81, 0x83]); // QR and RD, RA and NXDOMAIN
        }
    })?;
    Ok(())
}

/// What any server pays that answers one query with one datagram: the kernel's part, and a hash to tell the policy's names from
/// others. It reads no message and keeps nothing.
pub fn serve_floor(address: &str) -> Result<()> {
    const HEADER: usize = 12;
    const OPT: usize = 11;
    const ADDRESS: [u8; 16] = [0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 44, 0, 4, 203, 0, 113, 1];
    let names: HashSet<Vec<u8>> = policy().iter().map(|name| wire_name(name)).collect();
    let socket = UdpSocket::bind(address)?;
    batch::serve(&socket, |query, reply| {
        reply.clear();
        reply.extend_from_slice(query);
        let end = query.len().saturating_sub(OPT);
        let name = query.get(HEADER..end.saturating_sub(4)).unwrap_or_default();
        let is_listed = names.contains(name);
        let Some(head) = reply.first_chunk_mut::<HEADER>() else { return };
        (head[2], head[3]) = (0x81, if is_listed { 0x80 } else { 0x83 });
        if is_listed {
            head[7] = 1;
            reply.splice(end..end, ADDRESS);
        }
    })?;
    Ok(())
}

fn wire_name(name: &str) -> Vec<u8> {
    let label = |label: &str| [&[label.len() as u8], label.as_bytes()].concat();
    name.split('.').flat_map(label).chain([0]).collect()
}
