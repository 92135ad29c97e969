//! Random policies and random packets, by a seed: mostly sensible, so that they get far, and then
//! broken. Knows nothing of the kernel; the addresses are those of the host that [`crate::kernel`]
//! builds.

use std::{collections::VecDeque, net::IpAddr};

use rand::{RngExt as _, rngs::SmallRng, seq::IndexedRandom as _};

use crate::packet::{BRIDGE_MAC, GUEST_MAC};

mod ip;
mod mutate;
mod policy;

use ip::{ACK, FIN, ICMP, ICMPV6, IGMP, Ip, RST, SYN, TCP, UDP, echo, ethernet, tcp, udp};
pub use mutate::mutate;
pub use policy::{pins, policy};

/// The slot whose packets these are.
pub const SLOT: u16 = 1;

/// A packet and where it shows up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// It leaves [`SLOT`].
    Egress(Vec<u8>),
    /// It enters [`SLOT`], let on by another slot's port, or by the host's bridge (none).
    Ingress(Vec<u8>, Option<u16>),
}

impl Probe {
    /// The frame.
    #[must_use]
    pub fn frame(&self) -> &[u8] {
        match self {
            Self::Egress(frame) | Self::Ingress(frame, _) => frame,
        }
    }

    /// The same, of its frame only the first bytes.
    #[must_use]
    pub fn cut(&self, length: usize) -> Self {
        let mut probe = self.clone();
        probe.frame_mut().truncate(length);
        probe
    }

    fn frame_mut(&mut self) -> &mut Vec<u8> {
        match self {
            Self::Egress(frame) | Self::Ingress(frame, _) => frame,
        }
    }

    /// False for what BPF_PROG_TEST_RUN refuses to make an skb of: an end within the IP header.
    #[must_use]
    pub fn fits_an_skb(&self) -> bool {
        let frame = self.frame();
        let least = match frame.get(12..14) {
            Some([0x08, 0x00]) => 34,
            Some([0x86, 0xdd]) => 54,
            Some(_) => 14,
            None => return false,
        };
        frame.len() >= least
    }
}

/// What is interesting to send to and to hear from. Of each family the guests come first.
const V4: [&str; 28] = [
    "10.1.0.2",
    "10.1.0.3",
    "10.1.0.9",
    "10.1.0.1",
    "10.1.0.255",
    "10.2.0.2",
    "10.2.0.9",
    "10.2.0.1",
    "10.3.0.2",
    "10.3.0.9",
    "10.3.0.1",
    "198.51.100.1",
    "198.51.100.255",
    "203.0.113.9",
    "203.0.113.9",
    "203.0.113.77",
    "8.8.8.8",
    "1.1.1.1",
    "100.64.0.2",
    "169.254.169.254",
    "169.254.1.1",
    "192.168.1.1",
    "192.168.2.2",
    "127.0.0.1",
    "224.0.0.22",
    "239.1.1.1",
    "255.255.255.255",
    "0.0.0.0",
];
const V6: [&str; 22] = [
    "fd00:10:1::2",
    "fd00:10:1::3",
    "fe80::2",
    "fd00:10:1::1",
    "fd00:10:1::",
    "fe80::1",
    "fd00:10:2::2",
    "fd00:10:2::9",
    "fd00:10:2::1",
    "fd00:10:3::9",
    "2001:db8:ffff::2",
    "2001:db8:113::9",
    "2001:db8:113::9",
    "2606:4700:4700::1111",
    "fd99::2",
    "fd12::7",
    "fd00:ec2::254",
    "4000::1",
    "ff02::1",
    "ff02::16",
    "ff05::2",
    "::",
];
const PORTS: [u16; 14] = [443, 443, 22, 80, 9, 4317, 67, 68, 547, 853, 53, 40000, 40001, 8080];
/// Few, because every one of them is a flow of the slot's share at the resolver.
const QUERY_PORTS: [u16; 4] = [5300, 5301, 5302, 5303];

const SEGMENTS: [u8; 6] = [SYN, SYN | ACK, ACK, FIN | ACK, RST, RST | ACK];

/// Two ends that talk; the guest's is the slot's.
#[derive(Clone, Debug)]
struct Conversation {
    guest: IpAddr,
    peer: IpAddr,
    protocol: u8,
    guest_port: u16,
    peer_port: u16,
    guest_opens: bool,
    /// How many packets of its usual course are through.
    step: usize,
}

/// A source of packets that refer to each other.
pub struct Packets {
    random: SmallRng,
    conversations: VecDeque<Conversation>,
    /// Packets to come, as the rest of a fragmented one.
    pending: VecDeque<Probe>,
    mutated: f64,
    produced: usize,
}

impl Packets {
    /// With that share of broken ones, 0 to 1.
    #[must_use]
    pub fn new(random: SmallRng, mutated: f64) -> Self {
        Self {
            random,
            conversations: VecDeque::new(),
            pending: VecDeque::new(),
            mutated,
            produced: 0,
        }
    }

    /// How many there were so far.
    #[must_use]
    pub fn produced(&self) -> usize {
        self.produced
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        *of.choose(&mut self.random).expect("the lists are not empty")
    }

    fn chance(&mut self, share: f64) -> bool {
        self.random.random_bool(share)
    }

    /// A guest's address, nearly always.
    fn guest(&mut self, v4: bool) -> IpAddr {
        let all: &[&str] = if v4 { &V4 } else { &V6 };
        let all = if self.chance(0.95) { &all[..3] } else { all };
        address(self.one(all))
    }

    fn peer(&mut self, v4: bool) -> IpAddr {
        let all: &[&str] = if v4 { &V4[1..] } else { &V6[1..] };
        address(self.one(all))
    }

    /// Seen from the host, nearly always; else from a neighbour's port or the slot's own.
    fn sender(&mut self, src: IpAddr) -> Option<u16> {
        let honest = match src {
            IpAddr::V4(v4) if v4.octets()[0] == 10 => u16::from(v4.octets()[1]),
            IpAddr::V6(v6) if v6.segments()[..2] == [0xfd00, 0x10] => v6.segments()[2],
            _ => 0,
        };
        let honest = Some(honest).filter(|id| (1..=3).contains(id));
        if self.chance(0.9) { honest } else { self.one(&[None, Some(1), Some(2), Some(3)]) }
    }

    fn leaving(&mut self, ip: Vec<u8>) -> Probe {
        let mac = if self.chance(0.97) { GUEST_MAC } else { self.one(&[[2; 6], [0x33; 6]]) };
        Probe::Egress(ethernet(BRIDGE_MAC, mac, &ip))
    }

    fn entering(&mut self, src: IpAddr, ip: Vec<u8>) -> Probe {
        let sender = self.sender(src);
        Probe::Ingress(ethernet(GUEST_MAC, BRIDGE_MAC, &ip), sender)
    }

    fn between(&mut self, by_guest: bool, guest: IpAddr, peer: IpAddr, ip: Ip) -> Probe {
        if by_guest {
            let bytes = ip.bytes(guest, peer);
            self.leaving(bytes)
        } else {
            let bytes = ip.bytes(peer, guest);
            self.entering(peer, bytes)
        }
    }

    /// The next packet.
    #[must_use]
    pub fn produce(&mut self) -> Probe {
        self.produced += 1;
        let mut probe = match self.pending.pop_front() {
            Some(probe) if self.chance(0.9) => probe,
            _ => self.any(),
        };
        if self.random.random_bool(self.mutated) {
            mutate(&mut self.random, probe.frame_mut());
        }
        probe
    }

    fn any(&mut self) -> Probe {
        match self.random.random_range(0..100) {
            0..50 if !self.conversations.is_empty() => self.go_on(),
            0..68 => self.start(),
            68..74 => self.fragments(),
            74..82 => self.icmp_error(),
            82..85 => self.arp(),
            85..93 => self.upkeep(),
            93..95 => self.query(),
            95..96 => self.dhcp(),
            _ => self.odd(),
        }
    }

    fn start(&mut self) -> Probe {
        let v4 = self.chance(0.6);
        let guest_opens = self.chance(0.6);
        let guest = self.guest(v4);
        // Half of them to and from where they may get somewhere.
        let peer = match (self.chance(0.5), guest_opens, v4) {
            (false, ..) => self.peer(v4),
            (true, true, true) => address("203.0.113.9"),
            (true, true, false) => address("2001:db8:113::9"),
            (true, false, true) => address(self.one(&["10.1.0.1", "100.64.0.2", "10.2.0.2"])),
            (true, false, false) => address(self.one(&["fd00:10:1::1", "fd00:10:2::2"])),
        };
        let protocol = self.one(&[TCP, TCP, UDP, if v4 { ICMP } else { ICMPV6 }]);
        let (mut guest_port, peer_port) = (self.one(&PORTS), self.one(&PORTS));
        if peer_port == 53 {
            guest_port = self.one(&QUERY_PORTS);
        }
        let conversation =
            Conversation { guest, peer, protocol, guest_port, peer_port, guest_opens, step: 0 };
        if self.conversations.len() > 16 {
            self.conversations.pop_front();
        }
        self.conversations.push_back(conversation);
        let newest = self.conversations.len() - 1;
        self.say(newest)
    }

    fn go_on(&mut self) -> Probe {
        let index = self.random.random_range(0..self.conversations.len());
        self.say(index)
    }

    /// The packet that is next in a conversation, or one out of turn.
    fn say(&mut self, index: usize) -> Probe {
        /// True for the opener's, and its flags.
        const COURSE: [(bool, u8); 9] = [
            (true, SYN),
            (false, SYN | ACK),
            (true, ACK),
            (false, ACK),
            (true, ACK),
            (true, FIN | ACK),
            (false, ACK),
            (false, FIN | ACK),
            (true, ACK),
        ];
        let in_turn = self.chance(0.75);
        let conversation = &mut self.conversations[index];
        let (mut by_opener, mut flags) = COURSE[conversation.step % COURSE.len()];
        let step = conversation.step;
        if in_turn {
            conversation.step += 1;
        }
        let it = conversation.clone();
        if !in_turn {
            (by_opener, flags) = (self.chance(0.5), self.one(&SEGMENTS));
        }
        let by_guest = by_opener == it.guest_opens;
        let ports =
            if by_guest { (it.guest_port, it.peer_port) } else { (it.peer_port, it.guest_port) };
        let payload = match it.protocol {
            TCP => {
                if self.chance(0.03) {
                    flags = self.random.random();
                }
                tcp(ports, flags, if flags & SYN == 0 { step } else { 0 })
            }
            UDP => udp(ports, step * 9 % 300),
            protocol => {
                let asks = by_opener != self.chance(0.1);
                let kind = match (protocol == ICMP, asks) {
                    (true, true) => 8,
                    (true, false) => 0,
                    (false, true) => 128,
                    (false, false) => 129,
                };
                echo(kind, it.guest_port, self.one(&[0, 56, 248, 249, 600]))
            }
        };
        self.between(by_guest, it.guest, it.peer, Ip::new(it.protocol, payload))
    }

    /// A packet in parts, of which some are missing, twice, out of order or too long.
    fn fragments(&mut self) -> Probe {
        let v4 = self.chance(0.6);
        let (guest, peer) = (self.guest(v4), self.peer(v4));
        let by_guest = self.chance(0.6);
        let icmp = if v4 { ICMP } else { ICMPV6 };
        let protocol =
            self.one(&[UDP, UDP, UDP, UDP, UDP, UDP, TCP, TCP, icmp, icmp, IGMP, 47, 44]);
        let ports = (self.one(&QUERY_PORTS), self.one(&PORTS));
        let body = match protocol {
            TCP => tcp(ports, SYN, 60),
            UDP => udp(ports, 72),
            ICMP => echo(8, 7, 72),
            ICMPV6 => echo(128, 7, 72),
            _ => vec![0x22; 80],
        };
        let identification = self.random.random_range(0..50);
        let cuts = self.one(&[[24, 48], [32, 64], [16, 40], [8, 24], [20, 40]]);
        let ends = [(0, cuts[0]), (cuts[0], cuts[1]), (cuts[1], body.len())];
        let mut parts = Vec::new();
        for (start, end) in ends {
            let fragment = Some((start, end < body.len(), identification));
            let ip = Ip { fragment, ..Ip::new(protocol, body[start..end].to_vec()) };
            parts.push(self.between(by_guest, guest, peer, ip));
        }
        if self.chance(0.3) {
            let (from, to) = (self.random.random_range(0..3), self.random.random_range(0..3));
            parts[to] = parts[from].clone();
        }
        if self.chance(0.1) {
            parts.reverse();
        }
        let first = parts.remove(0);
        self.pending.extend(parts);
        first
    }

    /// An error about a packet of a conversation, or about another.
    fn icmp_error(&mut self) -> Probe {
        let by_guest = self.chance(0.5);
        let known = self.conversations.iter().rev().take(8).cloned().collect::<Vec<_>>();
        let Some(mut it) = known.choose(&mut self.random).cloned() else { return self.start() };
        let v4 = it.guest.is_ipv4();
        let (guest, peer) = (it.guest, it.peer);
        match self.random.random_range(0..10) {
            0 => it.peer_port ^= 1,
            1 => it.guest = self.guest(v4),
            2 => it.protocol = UDP,
            _ => {} // the very packet
        }
        let (src, dst, ports) = if by_guest {
            (it.peer, it.guest, (it.peer_port, it.guest_port))
        } else {
            (it.guest, it.peer, (it.guest_port, it.peer_port))
        };
        let quoted = match it.protocol {
            TCP => tcp(ports, ACK, 8),
            UDP => udp(ports, 8),
            _ => echo(if v4 { 8 } else { 128 }, it.guest_port, 8),
        };
        let mut quoted = Ip::new(it.protocol, quoted).bytes(src, dst);
        let length = self.one(&[28, 28, 48, 48, quoted.len(), quoted.len(), 27, 1400]);
        quoted.resize(length, 0);
        let kind = if v4 { self.one(&[3, 3, 11, 12, 5, 4]) } else { self.one(&[1, 2, 3, 4, 137]) };
        let message = [&[kind, 0, 0, 0, 0, 0, 5, 0], quoted.as_slice()].concat();
        // A router on the way reports too, and so does who has nothing to report.
        let other = if self.chance(0.15) { self.peer(v4) } else { peer };
        let protocol = if v4 { ICMP } else { ICMPV6 };
        self.between(by_guest, guest, other, Ip::new(protocol, message))
    }

    fn arp(&mut self) -> Probe {
        let sender = match self.peer(true) {
            IpAddr::V4(v4) if self.chance(0.4) => v4.octets(),
            _ => [10, 1, 0, 2],
        };
        let mac = if self.chance(0.8) { GUEST_MAC } else { BRIDGE_MAC };
        let frame = crate::packet::arp(1, mac, sender, [10, 1, 0, 1]);
        if self.chance(0.7) {
            Probe::Egress(frame)
        } else {
            let sender = self.one(&[None, None, Some(1), Some(2), Some(3)]);
            Probe::Ingress(frame, sender)
        }
    }

    /// Neighbour discovery, MLD and IGMP.
    fn upkeep(&mut self) -> Probe {
        let v4 = self.chance(0.25);
        let unspecified = address(if v4 { "0.0.0.0" } else { "::" });
        let group = address(if v4 { "224.0.0.22" } else { "ff02::16" });
        let guest = if self.chance(0.2) { unspecified } else { self.guest(v4) };
        let peer = if self.chance(0.6) { group } else { self.peer(v4) };
        let by_guest = self.chance(0.6);
        let ip = if v4 {
            let options = self.one(&[&[][..], &[0x94, 4, 0, 0], &[0x94, 4, 0, 0], &[1, 1, 1, 0]]);
            Ip { options: options.to_vec(), ..Ip::new(IGMP, vec![0x22; 8]) }
        } else {
            let kind = self.one(&[130, 131, 132, 133, 134, 135, 135, 136, 136, 137, 143]);
            let target = if self.chance(0.5) { self.guest(false) } else { self.peer(false) };
            let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
            if let (IpAddr::V6(target), 135..) = (target, kind) {
                message.extend(target.octets());
            }
            let hop_by_hop = matches!(kind, 130..=132 | 143) == self.chance(0.9);
            Ip { hop_by_hop, ..Ip::new(ICMPV6, message) }
        };
        if by_guest {
            self.between(true, guest, peer, ip)
        } else {
            // What enters comes from the peer, which is no group.
            let source = self.peer(v4);
            let source = if self.chance(0.2) { unspecified } else { source };
            let to = if self.chance(0.5) { group } else { guest };
            self.between(false, to, source, ip)
        }
    }

    fn query(&mut self) -> Probe {
        let v4 = self.chance(0.6);
        let (guest, peer) = (self.guest(v4), self.peer(v4));
        let ports = (self.one(&QUERY_PORTS), 53);
        let (protocol, payload) =
            if self.chance(0.8) { (UDP, udp(ports, 20)) } else { (TCP, tcp(ports, SYN, 0)) };
        self.between(true, guest, peer, Ip::new(protocol, payload))
    }

    fn dhcp(&mut self) -> Probe {
        let guest = self.one(&["0.0.0.0", "0.0.0.0", "10.1.0.2"]);
        let ip = Ip::new(UDP, udp((68, 67), 240));
        self.between(true, address(guest), address("255.255.255.255"), ip)
    }

    /// Protocols, extensions and tags that have no business here.
    fn odd(&mut self) -> Probe {
        let v4 = self.chance(0.4);
        let (guest, peer) = (self.guest(v4), self.peer(v4));
        let by_guest = self.chance(0.6);
        let protocol = self.one(&[0, 1, 4, 43, 44, 47, 50, 51, 58, 59, 60, 132]);
        let payload = vec![self.one(&[6, 17, 58, 60]), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let mut probe = self.between(by_guest, guest, peer, Ip::new(protocol, payload));
        let ether_type = self.one(&[None, None, None, Some(0x8100), Some(0x88a8), Some(0x88cc)]);
        if let Some(ether_type) = ether_type {
            let tagged = crate::packet::tagged(probe.frame(), ether_type, 0);
            *probe.frame_mut() = tagged;
        }
        probe
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}
