//! Subnets of slots come to the table's sets and go from them without nft, which lists every table, chain and set of the host
//! before it adds two elements: a slot is made as fast on a host with a thousand rules of others.

use std::{io, net::IpAddr};

use ipnet::IpNet;
use rtnetlink::packet_core::{
    DefaultNla, Emitable as _, NLA_F_NESTED, NLM_F_ACK, NLM_F_CREATE, NetlinkSerializable,
};

use super::table::Change;
use crate::netlink;

/// include/uapi/linux/netfilter/nfnetlink.h
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NF_TABLES: u8 = 10;
/// include/uapi/linux/netfilter/nf_tables.h: messages, and attributes of a list of elements, of an element, of its key.
const NEW_ELEMENT: u8 = 12;
const DELETE_ELEMENT: u8 = 14;
const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const ELEMENT: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_FLAGS: u16 = 3;
const KEY_VALUE: u16 = 1;
/// The element is the first behind an interval.
const INTERVAL_END: u32 = 1;
/// include/uapi/linux/netfilter.h
const INET: u8 = 1;

/// Makes all the changes to the sets of a table, or none.
///
/// # Errors
///
/// The kernel refuses: the table is not there or not what it should be, the process may not, or there are more changes than a
/// socket takes at once (some 700 of each family).
pub(super) fn change(table: &str, changes: &[Change]) -> io::Result<()> {
    if changes.is_empty() {
        return Ok(());
    }
    let mut batch = netlink::bytes(Message::edge(BATCH_BEGIN), 0);
    for (index, change) in changes.iter().enumerate() {
        let is_last = index + 1 == changes.len();
        let flags = if is_last { NLM_F_CREATE | NLM_F_ACK } else { NLM_F_CREATE };
        batch.extend(netlink::bytes(Message::of(table, change)?, flags));
    }
    batch.extend(netlink::bytes(Message::edge(BATCH_END), 0));
    netlink::transact(&batch)
}

/// A message of nfnetlink.
struct Message {
    kind: u16,
    /// `struct nfgenmsg`: family, version, and what it is about.
    head: [u8; 4],
    attributes: Vec<DefaultNla>,
}

impl Message {
    /// The begin or the end of a batch.
    fn edge(kind: u16) -> Self {
        Self { kind, head: [0, 0, 0, NF_TABLES], attributes: Vec::new() }
    }

    /// One subnet that comes or goes.
    fn of(table: &str, change: &Change) -> io::Result<Self> {
        let kind = if change.comes { NEW_ELEMENT } else { DELETE_ELEMENT };
        let (first, behind) = interval(&change.prefix)
            .ok_or_else(|| io::Error::other("no address is behind the subnet"))?;
        let elements = [element(&first, 0), element(&behind, INTERVAL_END)];
        let attributes = vec![
            text(LIST_TABLE, table),
            text(LIST_SET, change.set),
            nested(LIST_ELEMENTS, &elements),
        ];
        let kind = u16::from_be_bytes([NF_TABLES, kind]);
        Ok(Self { kind, head: [INET, 0, 0, 0], attributes })
    }
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.head.len() + self.attributes.as_slice().buffer_len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let (head, attributes) = buffer.split_at_mut(self.head.len());
        head.copy_from_slice(&self.head);
        self.attributes.as_slice().emit(attributes);
    }
}

/// The first address of a subnet and the first behind it; none is behind the last one.
fn interval(prefix: &IpNet) -> Option<(Vec<u8>, Vec<u8>)> {
    match (prefix.network(), prefix.broadcast()) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            let behind = last.to_bits().checked_add(1)?;
            Some((first.octets().to_vec(), behind.to_be_bytes().to_vec()))
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            let behind = last.to_bits().checked_add(1)?;
            Some((first.octets().to_vec(), behind.to_be_bytes().to_vec()))
        }
        _ => None,
    }
}

fn element(key: &[u8], flags: u32) -> DefaultNla {
    let value = DefaultNla::new(KEY_VALUE, key.to_vec());
    let flags = DefaultNla::new(ELEMENT_FLAGS, flags.to_be_bytes().to_vec());
    nested(ELEMENT, &[nested(ELEMENT_KEY, &[value]), flags])
}

fn text(kind: u16, text: &str) -> DefaultNla {
    DefaultNla::new(kind, [text.as_bytes(), b"\0"].concat())
}

fn nested(kind: u16, attributes: &[DefaultNla]) -> DefaultNla {
    let mut bytes = vec![0; attributes.buffer_len()];
    attributes.emit(&mut bytes);
    DefaultNla::new(kind | NLA_F_NESTED, bytes)
}
