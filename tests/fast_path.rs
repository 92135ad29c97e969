//! The fast path on real wires: what leaves by an uplink looks as it should outside, what comes back finds its guest, and what
//! the fast path cannot carry is answered as ever. The peers are sockets in the lab's internet.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use netguard_common::translation::is_nat_port;
use netguard_tests::{
    can_use_kernel,
    lab::{Lab, on_both_port_kinds_open},
};

/// A host of the lab's internet that nobody serves, in both families, and the host's own addresses there.
const PEERS: [&str; 2] = ["203.0.113.66", "2001:db8:113::66"];
const HOST: [&str; 2] = ["192.0.2.2", "2001:db8:ffff::2"];
const OTHER_PEER: &str = "203.0.113.67";
const PORT: u16 = 7000;
/// Longer than a packet takes, shorter than anybody waits for a test.
const PATIENCE: Duration = Duration::from_secs(10);
/// Within which nothing that is on its way would stay out.
const SILENCE: Duration = Duration::from_millis(300);

fn both() -> [(IpAddr, IpAddr); 2] {
    let address = |text: &str| text.parse::<IpAddr>().expect("an address");
    [0, 1].map(|family| (address(PEERS[family]), address(HOST[family])))
}

fn udp(lab: &Lab, host: &str, at: impl Into<SocketAddr>) -> UdpSocket {
    let at = at.into();
    let socket = lab.within(host, || UdpSocket::bind(at).expect("a socket"));
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket
}

/// A guest's socket that talks to a peer.
fn guest_udp(lab: &Lab, peer: SocketAddr) -> UdpSocket {
    let any: IpAddr = if peer.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
    let socket = udp(lab, "slot1", (any, 0));
    socket.connect(peer).expect("a way to the peer");
    socket
}

/// Sends some bytes to a peer's socket, and says from where they came.
fn arrives(guest: &UdpSocket, peer: &UdpSocket, bytes: &[u8]) -> SocketAddr {
    let sent = guest.send(bytes).expect("it is sent");
    let mut buffer = vec![0; 1 << 16];
    let (length, from) = peer.recv_from(&mut buffer).expect("it arrives");
    assert_eq!((sent, &buffer[..length]), (bytes.len(), bytes));
    from
}

/// Sends some bytes back.
fn returns(peer: &UdpSocket, to: SocketAddr, guest: &UdpSocket, bytes: &[u8]) {
    let _ = peer.send_to(bytes, to).expect("it is sent");
    let mut buffer = vec![0; 1 << 16];
    let length = guest.recv(&mut buffer).expect("it comes back");
    assert_eq!(&buffer[..length], bytes);
}

/// Has the host know its neighbour: where it does not, the first packets take the slow path.
fn acquaint(lab: &Lab) {
    for neighbour in ["192.0.2.1", "2001:db8:ffff::1"] {
        let _ = lab.exec("hv", &format!("ping -c 1 -W 5 {neighbour}")).success();
    }
}

/// A lab whose host knows its neighbour, a peer, and the host's address.
fn acquainted() -> (Lab, IpAddr, IpAddr) {
    let lab = Lab::open("veth");
    acquaint(&lab);
    let (peer, host) = both()[0];
    (lab, peer, host)
}

/// True if that is how a flow on the fast path looks.
fn is_fast(from: SocketAddr, host: IpAddr) -> bool {
    from.ip() == host && is_nat_port(from.port())
}

/// A flow of slot 1 that has taken the fast path: the guest's socket, the peer's, and how the peer sees the guest.
fn exchange(lab: &Lab, peer: IpAddr, host: IpAddr) -> (UdpSocket, UdpSocket, SocketAddr) {
    let server = udp(lab, "net", (peer, PORT));
    let guest = guest_udp(lab, (peer, PORT).into());
    let from = arrives(&guest, &server, b"there");
    assert!(is_fast(from, host), "{from}");
    (guest, server, from)
}

/// What the host's connection tracking knows about a peer.
fn tracked(lab: &Lab, peer: &str) -> usize {
    let all = lab.shell("hv", "cat /proc/net/nf_conntrack");
    all.success().lines().filter(|line| line.contains(peer)).count()
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

/// A connection from slot 1 to a peer's port, from both ends.
fn connect(lab: &Lab, peer: IpAddr, port: u16) -> ([TcpStream; 2], SocketAddr) {
    let listener = lab.within("net", || TcpListener::bind((peer, port)).expect("a listener"));
    let guest = lab.within("slot1", || TcpStream::connect_timeout(&(peer, port).into(), PATIENCE));
    let guest = guest.expect("a connection");
    let (server, from) = listener.accept().expect("it arrives");
    for stream in [&guest, &server] {
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    }
    ([guest, server], from)
}

/// Carries so many bytes from one end to the other.
fn carries(from: &mut TcpStream, to: &mut TcpStream, length: usize) {
    let sent = bytes(length);
    let mut got = vec![0; length];
    thread::scope(|scope| {
        let sender = scope.spawn(|| from.write_all(&sent));
        to.read_exact(&mut got).expect("it arrives");
        sender.join().expect("it does not panic").expect("it is sent");
    });
    assert!(got == sent, "other bytes than were sent");
}

#[test]
fn packets_leave_with_the_hosts_address_and_their_answers_come_back() {
    on_both_port_kinds_open(|lab| {
        acquaint(lab);
        for (peer, host) in both() {
            let before = lab.counters("slot1");
            let (guest, server, from) = exchange(lab, peer, host);
            returns(&server, from, &guest, b"and back");
            assert_eq!(arrives(&guest, &server, b"again"), from);
            // One socket of a guest is one socket to everybody (RFC 4787 REQ-1).
            if peer.is_ipv4() {
                let other = udp(lab, "net", (OTHER_PEER.parse::<IpAddr>().expect("one"), PORT));
                guest.connect((OTHER_PEER, PORT)).expect("a way");
                assert_eq!(arrives(&guest, &other, b"to another"), from);
            }
            let ([mut client, mut server], from) = connect(lab, peer, PORT);
            assert!(is_fast(from, host), "{from}");
            carries(&mut client, &mut server, 3_000_000);
            carries(&mut server, &mut client, 3_000_000);
            assert_eq!(tracked(lab, PEERS[0]) + tracked(lab, "2001:0db8:0113"), 0);
            let after = lab.counters("slot1");
            for way in ["egress", "ingress"] {
                let key = (way.to_owned(), "pass".to_owned());
                let counted = |counters: &netguard_tests::lab::Packets| {
                    counters.get(&key).copied().unwrap_or_default()
                };
                assert!(counted(&after) > counted(&before), "{way} is not counted");
            }
        }
    });
}

/// Some of them leave by a way that is known from the one before.
#[test]
fn every_frame_bears_the_hosts_address_and_its_neighbours() {
    const FRAMES: usize = 256;
    if !can_use_kernel() {
        return;
    }
    let (lab, peer, host) = acquainted();
    let (guest, server, from) = exchange(&lab, peer, host);
    let text = |host| lab.mac(host, "eth0").map(|byte| format!("{byte:02x}")).join(":");
    let (source, destination) = (text("hv"), text("net"));
    let rule = format!("ether saddr {source} ether daddr {destination} udp dport {PORT} counter");
    let chain = "add chain inet seen arriving { type filter hook prerouting priority -300; }";
    let script = format!("nft 'add table inet seen; {chain}; add rule inet seen arriving {rule}'");
    let _ = lab.shell("net", &script).success();
    for _ in 0..FRAMES {
        let _ = guest.send(b"one of many").expect("it is sent");
    }
    let mut buffer = [0; 64];
    for _ in 0..FRAMES {
        assert_eq!(server.recv_from(&mut buffer).expect("it arrives").1, from);
    }
    let seen = lab.exec("net", "nft list table inet seen").success().to_owned();
    assert!(seen.contains(&format!("packets {FRAMES} ")), "{seen}");
}

#[test]
fn the_slow_path_is_there_without_it() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::slow("veth");
    for (peer, host) in both() {
        let server = udp(&lab, "net", (peer, PORT));
        let guest = guest_udp(&lab, (peer, PORT).into());
        let from = arrives(&guest, &server, b"there");
        assert_eq!(from, (host, guest.local_addr().expect("it").port()).into());
        returns(&server, from, &guest, b"and back");
    }
    assert_ne!(tracked(&lab, PEERS[0]), 0);
    let links = lab.status()["links"].to_string();
    assert!(!links.contains("ng_up_"), "no program on the uplink: {links}");
}

#[test]
fn packets_in_fragments_go_and_come_whole() {
    on_both_port_kinds_open(|lab| {
        acquaint(lab);
        for (peer, host) in both() {
            let (guest, server, from) = exchange(lab, peer, host);
            assert_eq!(arrives(&guest, &server, &bytes(4000)), from);
            returns(&server, from, &guest, &bytes(5000));
            // One that begins with fragments.
            let guest = guest_udp(lab, (peer, PORT).into());
            let from = arrives(&guest, &server, &bytes(4000));
            assert!(is_fast(from, host), "{from}");
            returns(&server, from, &guest, &bytes(5000));
        }
    });
}

#[test]
fn errors_find_whom_they_are_about() {
    on_both_port_kinds_open(|lab| {
        acquaint(lab);
        for (peer, host) in both() {
            // Nobody listens at the peer, and its host says so.
            let guest = guest_udp(lab, (peer, PORT + 1).into());
            let _ = guest.send(b"anybody?").expect("it is sent");
            let refused = guest.recv(&mut [0; 16]).expect_err("nobody is there");
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused, "{peer}: {refused}");
            // The guest has gone, and its kernel says so.
            let (guest, server, from) = exchange(lab, peer, host);
            drop(guest);
            server.connect(from).expect("a way");
            let _ = server.send(b"still there?").expect("it is sent");
            let refused = server.recv(&mut [0; 16]).expect_err("nobody is there");
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused, "{peer}: {refused}");
        }
    });
}

#[test]
fn what_is_too_long_or_has_no_life_left_is_answered_by_the_host() {
    on_both_port_kinds_open(|lab| {
        acquaint(lab);
        for (peer, host) in both() {
            let ([mut client, mut server], from) = connect(lab, peer, PORT);
            assert!(is_fast(from, host), "{from}");
            let udp_server = udp(lab, "net", (peer, PORT));
            let guest = guest_udp(lab, (peer, PORT).into());
            let outside = arrives(&guest, &udp_server, b"there");
            // IPv6 wants 1,280. Only this end of the wire is shorter, so nothing long comes back.
            let _ = lab.exec("hv", "ip link set eth0 mtu 1300").success();
            carries(&mut client, &mut server, 1_000_000);
            assert_eq!(arrives(&guest, &udp_server, b"short"), outside);
            let _ = lab.exec("hv", "ip link set eth0 mtu 1500").success();
            let _ = if peer.is_ipv4() {
                lab.python(
                    "slot1",
                    TRACE,
                    &[&peer.to_string(), &guest.local_addr().expect("it").port().to_string()],
                )
            } else {
                continue;
            }
            .success();
        }
    });
}

/// Sends a packet that may meet no router, and fails unless the gateway says that it is at its end.
const TRACE: &str = "
import socket, struct, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(10)
s.setsockopt(socket.IPPROTO_IP, 11, 1) # IP_RECVERR
s.connect((sys.argv[1], 7000))
s.send(b'first') # the flow is on the fast path
s.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 1)
s.send(b'last')
try: s.recv(16)
except OSError as error: assert error.errno == 113, error # EHOSTUNREACH
data, ancillary, flags, _ = s.recvmsg(512, 512, socket.MSG_ERRQUEUE)
(level, kind, payload), = ancillary
errno, origin, icmp_type = struct.unpack_from('IBB', payload)
assert (origin, icmp_type) == (2, 11), (origin, icmp_type)
assert socket.inet_ntoa(payload[20:24]) == '10.1.0.1', payload[20:24]
";

#[test]
fn where_the_neighbour_is_not_known_the_host_finds_it() {
    if !can_use_kernel() {
        return;
    }
    let (lab, peer, host) = acquainted();
    let (guest, server, from) = exchange(&lab, peer, host);
    let _ = lab.exec("hv", "ip neigh flush dev eth0").success();
    assert_eq!(arrives(&guest, &server, b"the neighbour is looked for"), from);
    let _ = lab.exec("hv", "ip neigh flush dev eth0").success();
    let other = guest_udp(&lab, (peer, PORT).into());
    let slow = arrives(&other, &server, b"there");
    assert!(!is_fast(slow, host), "{slow}");
    returns(&server, slow, &other, b"and back");
    assert_eq!(arrives(&other, &server, b"a flow stays on its path"), slow);
}

#[test]
fn what_takes_the_place_of_a_translated_flow_has_nothing_of_its_looks() {
    if !can_use_kernel() {
        return;
    }
    let config = netguard::lab::CONFIG.replace("egress = \"pinned\"", "egress = \"open\"");
    let lab = Lab::with(&format!("{config}\n[limits]\nflows = 64\n"), "veth");
    acquaint(&lab);
    let (peer, _) = both()[0];
    // Nobody answers, so each entry of the slot's share has had several of them.
    for _ in 0..512 {
        let _ = guest_udp(&lab, (peer, PORT).into()).send(b"there").expect("it is sent");
    }
    // Pings take the slow path.
    for peer in [PEERS[0], OTHER_PEER] {
        let _ = lab.exec("slot1", &format!("ping -c 3 -i 0.2 -W 5 {peer}")).success();
        assert_ne!(tracked(&lab, peer), 0, "{peer}");
    }
}

#[test]
fn nobody_from_outside_gets_in_by_it() {
    if !can_use_kernel() {
        return;
    }
    let (lab, peer, host) = acquainted();
    let (guest, server, from) = exchange(&lab, peer, host);
    // Another port of the peer, another host, another port of the host's.
    let others = [
        (peer, PORT + 1, from),
        (OTHER_PEER.parse().expect("one"), PORT, from),
        (peer, PORT, SocketAddr::new(host, from.port() ^ 1)),
    ];
    for (stranger, port, to) in others {
        let socket = if (stranger, port) == (peer, PORT) {
            server.try_clone().expect("a descriptor")
        } else {
            udp(&lab, "net", (stranger, port))
        };
        let _ = socket.send_to(b"let me in", to).expect("it is sent");
    }
    guest.set_read_timeout(Some(SILENCE)).expect("a timeout");
    let heard = guest.recv(&mut [0; 16]);
    assert!(heard.is_err(), "a stranger was heard");
    guest.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    returns(&server, from, &guest, b"but the peer is");
}

/// What a container engine does for its containers: here the management network is one.
const ENGINE: &str = "nft -f - <<'END'
table ip engine {
	chain POSTROUTING {
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr 100.64.0.0/10 oifname \"eth0\" counter masquerade
	}
}
END";

#[test]
fn others_on_the_host_and_slots_keep_out_of_each_others_way() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::open("veth");
    acquaint(&lab);
    let _ = lab.shell("hv", ENGINE).success();
    let _ = lab.exec("mgmt", "ip route replace default via 100.64.0.1").success();
    let (peer, host) = both()[0];
    let any = IpAddr::from([0; 4]);
    let servers = [PORT, PORT + 1, PORT + 2].map(|port| udp(&lab, "net", (peer, port)));
    for other_host in ["mgmt", "hv"] {
        let at = |server: &UdpSocket| server.local_addr().expect("its address");
        let guest = udp(&lab, "slot1", (any, 0));
        let talk = |socket: &UdpSocket, server: &UdpSocket, word: &[u8]| {
            socket.connect(at(server)).expect("a way");
            arrives(socket, server, word)
        };
        let [first, second, third] = &servers;
        let outside = talk(&guest, first, b"the guest's port outside");
        assert!(is_fast(outside, host), "{outside}");
        // Somebody else has the same port to another server, first.
        let other = udp(&lab, other_host, (any, outside.port()));
        assert_eq!(talk(&other, second, b"as it is"), outside, "{other_host}");
        let moved = talk(&guest, second, b"another one");
        assert!(is_fast(moved, host) && moved != outside, "{moved}");
        returns(second, moved, &guest, b"to the guest");
        returns(second, outside, &other, b"to the other");
        // And here the guest was first.
        assert_eq!(talk(&guest, third, b"as ever"), outside);
        let moved = talk(&other, third, b"in its way");
        assert!(moved.ip() == host && moved != outside, "{other_host}: {moved}");
        returns(third, outside, &guest, b"to the guest");
        returns(third, moved, &other, b"to the other");
        assert_eq!(arrives(&other, third, b"once more"), moved);
    }
    assert_ne!(tracked(&lab, "100.64.0.2"), 0, "the engine's connections are tracked as ever");
}
