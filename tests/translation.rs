//! The DNS redirect: what the program writes into a query, and how it restores the reply.

use std::{collections::BTreeSet, net::IpAddr};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use netguard_common::{
    DropReason, Hook,
    maps::{DNS_FLOW_FIRST_PORT, DNS_FLOWS_PER_SLOT},
};
use netguard_tests::{
    can_use_kernel,
    kernel::{FROM_HOST, Kernel, Outcome},
    packet::{BRIDGE_MAC, ip, with_byte},
};

/// Addresses, ports and payload of a frame whose checksums are right.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    src: IpAddr,
    dst: IpAddr,
    src_port: u16,
    dst_port: u16,
    payload: Vec<u8>,
}

fn read(frame: &[u8]) -> Seen {
    let packet = SlicedPacket::from_ethernet(frame).expect("a whole packet");
    let (src, dst): (IpAddr, IpAddr) = match packet.net.as_ref().expect("an IP packet") {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            let right = header.to_header().calc_header_checksum();
            assert_eq!(header.header_checksum(), right, "the IPv4 header checksum");
            (header.source_addr().into(), header.destination_addr().into())
        }
        NetSlice::Ipv6(ip) => {
            (ip.header().source_addr().into(), ip.header().destination_addr().into())
        }
        NetSlice::Arp(_) => panic!("ARP"),
    };
    let (src_port, dst_port, payload, found, right) = match packet.transport.expect("a transport") {
        TransportSlice::Udp(udp) => {
            let header = udp.to_header();
            let right = match (src, dst) {
                (IpAddr::V4(src), IpAddr::V4(dst)) => {
                    header.calc_checksum_ipv4_raw(src.octets(), dst.octets(), udp.payload())
                }
                (IpAddr::V6(src), IpAddr::V6(dst)) => {
                    header.calc_checksum_ipv6_raw(src.octets(), dst.octets(), udp.payload())
                }
                _ => panic!("two families"),
            };
            let (src_port, dst_port) = (udp.source_port(), udp.destination_port());
            (src_port, dst_port, udp.payload().to_vec(), header.checksum, right.expect("short"))
        }
        TransportSlice::Tcp(tcp) => {
            let header = tcp.to_header();
            let right = match (src, dst) {
                (IpAddr::V4(src), IpAddr::V4(dst)) => {
                    header.calc_checksum_ipv4_raw(src.octets(), dst.octets(), tcp.payload())
                }
                (IpAddr::V6(src), IpAddr::V6(dst)) => {
                    header.calc_checksum_ipv6_raw(src.octets(), dst.octets(), tcp.payload())
                }
                _ => panic!("two families"),
            };
            let (src_port, dst_port) = (tcp.source_port(), tcp.destination_port());
            (src_port, dst_port, tcp.payload().to_vec(), header.checksum, right.expect("short"))
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(found, right, "the transport checksum");
    Seen { src, dst, src_port, dst_port, payload }
}

fn redirect(kernel: &mut Kernel, query: &[u8]) -> (Seen, Vec<u8>) {
    let (outcome, probed) = kernel.probe(Hook::PortEgress, query, 0);
    assert_eq!(outcome, Outcome::Redirect);
    (read(&probed.frame), probed.frame)
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[test]
fn a_query_reaches_the_resolver_and_its_reply_comes_from_where_it_was_sent() {
    if !can_use_kernel() {
        return;
    }
    let mut kernel = Kernel::new();
    for (guest, asked, gateway) in [
        ("10.1.0.2", "8.8.8.8", "10.1.0.1"),
        ("10.1.0.2", "10.1.0.1", "10.1.0.1"),
        ("fd00:10:1::2", "2001:4860:4860::8888", "fd00:10:1::1"),
        ("fd00:10:1::2", "fd00:10:1::1", "fd00:10:1::1"),
    ] {
        for tcp in [false, true] {
            // A payload of odd length, so that a checksum that forgets its last byte shows.
            let send = |from: &str, to: &str, src_port, dst_port| {
                let path = ip(from, to);
                if tcp {
                    path.tcp_ack(src_port, dst_port, b"payload")
                } else {
                    path.udp(src_port, dst_port, b"payload")
                }
            };
            let (query, frame) = redirect(&mut kernel, &send(guest, asked, 40000, 53));
            assert_eq!((query.src, query.dst), (address(guest), address(gateway)));
            assert_eq!((query.dst_port, query.payload.as_slice()), (53, b"payload".as_slice()));
            assert_eq!(frame[..6], BRIDGE_MAC, "the bridge must take the frame for its own");

            let reply = send(gateway, guest, 53, query.src_port);
            let (outcome, probed) = kernel.probe(Hook::PortIngress, &reply, FROM_HOST);
            assert_eq!(outcome, Outcome::Pass, "{guest} asked {asked}, tcp {tcp}");
            let reply = read(&probed.frame);
            assert_eq!((reply.src, reply.src_port), (address(asked), 53));
            assert_eq!((reply.dst, reply.dst_port), (address(guest), 40000));
        }
    }
}

#[test]
fn one_socket_that_asks_four_resolvers_gets_four_right_replies() {
    if !can_use_kernel() {
        return;
    }
    let mut kernel = Kernel::new();
    let resolvers = ["1.1.1.1", "8.8.8.8", "9.9.9.9", "10.1.0.1"];
    let ports: Vec<_> = resolvers
        .iter()
        .map(|resolver| {
            let query = ip("10.1.0.2", resolver).udp(40000, 53, b"same");
            redirect(&mut kernel, &query).0.src_port
        })
        .collect();
    assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), 4, "the ports tell them apart");
    for (resolver, port) in resolvers.iter().zip(&ports) {
        let reply = ip("10.1.0.1", "10.1.0.2").udp(53, *port, b"answer");
        let (_, probed) = kernel.probe(Hook::PortIngress, &reply, FROM_HOST);
        assert_eq!(read(&probed.frame).src, address(resolver));
    }
}

#[test]
fn a_connection_keeps_its_port_and_its_destination_mac_does_not_matter() {
    if !can_use_kernel() {
        return;
    }
    let mut kernel = Kernel::new();
    let path = ip("10.1.0.2", "8.8.8.8");
    let (first, _) = redirect(&mut kernel, &path.tcp_syn(40000, 53));
    for mac in [[0xff; 6], [0x33, 0x33, 0, 0, 0, 1], [2, 9, 9, 9, 9, 9]] {
        let (later, frame) = redirect(&mut kernel, &path.to_mac(mac).tcp_ack(40000, 53, b"q"));
        assert_eq!(later.src_port, first.src_port);
        assert_eq!(frame[..6], BRIDGE_MAC);
    }
}

#[test]
fn a_connection_that_has_ended_makes_room_however_it_ended() {
    if !can_use_kernel() {
        return;
    }
    // Three times as many connections as the slot has ports, one after the other.
    let mut kernel = Kernel::new();
    let path = ip("10.1.0.2", "8.8.8.8");
    for number in 0..3 * DNS_FLOWS_PER_SLOT {
        let (src_port, fin) = (20_000 + number, number % 2 == 0);
        let port = redirect(&mut kernel, &path.tcp_syn(src_port, 53)).0.src_port;
        if fin {
            let fin = ip("10.1.0.1", "10.1.0.2").tcp_flags(53, port, 0x11);
            assert_eq!(kernel.ingress(&fin), Outcome::Pass);
            let last_ack = redirect(&mut kernel, &path.tcp_ack(src_port, 53, b"")).0;
            assert_eq!(last_ack.src_port, port, "the connection keeps its port to the end");
        } else {
            let reset = path.tcp_flags(src_port, 53, 0x04);
            assert_eq!(redirect(&mut kernel, &reset).0.src_port, port);
        }
    }
}

#[test]
fn a_datagram_without_a_checksum_stays_without_one() {
    if !can_use_kernel() {
        return;
    }
    let mut kernel = Kernel::new();
    let query = ip("10.1.0.2", "8.8.8.8").udp(40000, 53, b"query");
    let bare = with_byte(with_byte(query, 40, 0), 41, 0);
    let (outcome, probed) = kernel.probe(Hook::PortEgress, &bare, 0);
    assert_eq!(outcome, Outcome::Redirect);
    assert_eq!(probed.frame[40..42], [0, 0]);
}

#[test]
fn a_reply_reaches_only_the_guest_that_asked() {
    if !can_use_kernel() {
        return;
    }
    let mut kernel = Kernel::new();
    let query = ip("10.1.0.2", "8.8.8.8").udp(40000, 53, b"");
    let port = redirect(&mut kernel, &query).0.src_port;
    for stray in [
        ip("10.1.0.1", "10.1.0.3").udp(53, port, b""),
        ip("10.1.0.1", "10.1.0.2").tcp_ack(53, port, b""),
        ip("10.1.0.1", "10.1.0.2").udp(53, port ^ 1, b""),
        ip("10.1.0.1", "10.1.0.2").udp(53, 40000, b""),
    ] {
        assert_eq!(kernel.ingress(&stray), Outcome::Drop(DropReason::DnsUnsolicited));
    }
    let reply = ip("10.1.0.1", "10.1.0.2").udp(53, port, b"");
    assert_eq!(kernel.ingress(&reply), Outcome::Pass);
}

#[test]
fn a_slot_that_asks_without_end_fills_its_own_table_and_finished_queries_make_room() {
    if !can_use_kernel() {
        return;
    }
    let mut kernel = Kernel::new();
    let table = DNS_FLOW_FIRST_PORT..DNS_FLOW_FIRST_PORT + DNS_FLOWS_PER_SLOT;
    let mut open = Vec::new();
    let mut full = 0;
    for port in 10_000..13_000 {
        let query = ip("10.1.0.2", "8.8.8.8").udp(port, 53, b"");
        let (outcome, probed) = kernel.probe(Hook::PortEgress, &query, 0);
        match outcome {
            Outcome::Redirect => {
                let translated = read(&probed.frame).src_port;
                assert!(table.contains(&translated), "{translated}");
                open.push((port, translated));
            }
            outcome => {
                assert_eq!(outcome, Outcome::Drop(DropReason::DnsFlowsFull));
                full += 1;
            }
        }
    }
    let places: BTreeSet<_> = open.iter().map(|(_, translated)| translated).collect();
    assert_eq!(places.len(), open.len(), "no place is given twice while it is in use");
    assert!(full > 0 && open.len() > usize::from(DNS_FLOWS_PER_SLOT) * 9 / 10, "{}", open.len());

    // Every open flow still gets its reply, and that makes room.
    for (port, translated) in &open {
        let reply = ip("10.1.0.1", "10.1.0.2").udp(53, *translated, b"");
        let (outcome, probed) = kernel.probe(Hook::PortIngress, &reply, FROM_HOST);
        assert_eq!(outcome, Outcome::Pass);
        assert_eq!(read(&probed.frame).dst_port, *port);
    }
    let query = ip("10.1.0.2", "8.8.8.8").udp(20_000, 53, b"");
    assert_eq!(kernel.egress(&query), Outcome::Redirect);
}
