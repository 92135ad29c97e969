//! Servers and clients that are no more than a script.

/// A server that tells each client, over TCP and UDP, IPv4 and IPv6, which address it has.
#[must_use]
pub fn echo(ports: &[u16]) -> String {
    format!(
        "
import selectors, socket
def address(peer): return peer[0].removeprefix('::ffff:').encode()
def tcp(s):
    c, peer = s.accept()
    c.sendall(address(peer))
    c.close()
def udp(s):
    peer = s.recvfrom(2048)[1]
    s.sendto(address(peer), peer)
ready = selectors.DefaultSelector()
for port in {ports:?}:
    s = socket.create_server(('::', port), family=socket.AF_INET6, dualstack_ipv6=True)
    ready.register(s, selectors.EVENT_READ, tcp)
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    s.bind(('::', port))
    ready.register(s, selectors.EVENT_READ, udp)
print('ready', flush=True)
while True:
    for key, _ in ready.select(): key.data(key.fileobj)
"
    )
}

/// A client whose socket is not connected, as resolvers and QUIC servers have them.
#[must_use]
pub fn datagram(address: &str, port: u16) -> String {
    let family = if address.contains(':') { "AF_INET6" } else { "AF_INET" };
    format!(
        "python3 -c \"
import socket
s = socket.socket(socket.{family}, socket.SOCK_DGRAM)
s.settimeout(5)
s.sendto(b'x', ('{address}', {port}))
print(s.recvfrom(2048)[0].decode(), end='')\""
    )
}

/// A client that connects and prints what it is told, for so many seconds at most.
#[must_use]
pub fn stream(address: &str, port: u16, patience: u8) -> String {
    format!("nc -w {patience} {address} {port} </dev/null")
}

/// Sends what keeps a link working, each as it should be and once as it must not be believed:
/// queries for groups, a router's advertisement, the answers of DHCP servers. For Python, in the place
/// of 192.0.2.1 on `eth0`; the argument is the link-local address of 192.0.2.2.
pub const LINK_TRAFFIC: &str = "
import socket, sys
link_local = sys.argv[1]
def igmp(ttl):
    s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 2)
    s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton('192.0.2.1'))
    s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, ttl)
    s.sendto(bytes([0x11, 0, 0xee, 0xff, 0, 0, 0, 0]), ('224.0.0.1', 0))
def icmp6(message, hops, alert=False):
    s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, hops)
    if alert:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_HOPOPTS, bytes([0, 0, 5, 2, 0, 0, 1, 0]))
    s.sendto(message, ('ff02::1', 0, 0, socket.if_nametoindex('eth0')))
def udp(family, source, *to):
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.bind(('', source))
    s.sendto(b'x', to)
query, advertisement = bytes([130]) + bytes(23), bytes([134]) + bytes(15)
four, six = socket.AF_INET, socket.AF_INET6
scope = socket.if_nametoindex('eth0')
for wrong in (False, True):
    igmp(2 if wrong else 1)
    icmp6(query, 2 if wrong else 1, alert=True)
    icmp6(advertisement, 64 if wrong else 255)
    udp(four, 66 if wrong else 67, '192.0.2.2', 68)
    if wrong: udp(six, 547, '2001:db8:ffff::2', 546)
    else: udp(six, 547, link_local, 546, 0, scope)
";
