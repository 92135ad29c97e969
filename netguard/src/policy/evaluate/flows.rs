//! What the model remembers: connections, exchanges of datagrams and pings, and packets of which a
//! first fragment has passed. No clock and no room that could run out.

use std::{collections::HashMap, net::IpAddr};

use netguard_common::{Direction, DropReason, SlotId};

use super::packet::{ACK, FIN, Fragment, Icmp, Packet, Ports, RST, SYN, Transport};

/// Whose flow: seen from the slot, whatever way its packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    slot: SlotId,
    guest: IpAddr,
    peer: IpAddr,
    protocol: u8,
    guest_port: u16,
    peer_port: u16,
}

impl Key {
    fn new(slot: SlotId, direction: Direction, packet: &Packet) -> Option<Self> {
        let ports = match &packet.transport {
            Transport::Tcp { src, dst, .. } | Transport::Udp { src, dst } => Ports::Of(*src, *dst),
            Transport::Icmp(Icmp { identifier, .. }) => {
                Ports::Echo { identifier: *identifier, is_request: packet.is_echo_request() }
            }
            Transport::Igmp | Transport::Unread => return None,
        };
        Some(Self::between(slot, direction, packet.protocol, (packet.src, packet.dst), ports))
    }

    fn between(
        slot: SlotId,
        direction: Direction,
        protocol: u8,
        (src, dst): (IpAddr, IpAddr),
        ports: Ports,
    ) -> Self {
        let leaves = direction == Direction::Egress;
        let (guest, peer) = if leaves { (src, dst) } else { (dst, src) };
        let (guest_port, peer_port) = match ports {
            Ports::Of(src, dst) if leaves => (src, dst),
            Ports::Of(src, dst) => (dst, src),
            Ports::Echo { identifier, is_request } => (identifier, (is_request == leaves).into()),
        };
        Self { slot, guest, peer, protocol, guest_port, peer_port }
    }
}

/// How far a TCP connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    SynSent,
    SynReceived,
    Established,
    Closed,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Flow {
    Tcp {
        opener: Direction,
        state: State,
        /// Whether the opener's and the other's side has sent FIN.
        finished: [bool; 2],
    },
    Udp,
    Echo {
        opener: Direction,
    },
}

impl Flow {
    /// What the packet would open.
    ///
    /// # Errors
    ///
    /// It can open nothing, and why.
    pub(super) fn opened_by(opener: Direction, packet: &Packet) -> Result<Self, DropReason> {
        match &packet.transport {
            Transport::Tcp { flags: SYN, .. } => {
                Ok(Self::Tcp { opener, state: State::SynSent, finished: [false; 2] })
            }
            Transport::Tcp { .. } => Err(DropReason::TcpState),
            Transport::Udp { .. } => Ok(Self::Udp),
            Transport::Icmp(_) if packet.is_echo_request() => Ok(Self::Echo { opener }),
            Transport::Icmp(_) if packet.is_icmp_error() => Err(DropReason::IcmpError),
            Transport::Icmp(_) => Err(DropReason::IcmpType),
            Transport::Igmp => Err(DropReason::Protocol),
            Transport::Unread => Err(DropReason::Fragment),
        }
    }
}

/// What the flows say of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It belongs to what was opened.
    Belongs,
    /// It contradicts the connection that it names.
    Contradicts,
    /// No flow speaks for it: may it open one?
    Unknown,
}

/// Which packet a fragment is of.
type FragmentKey = (SlotId, Direction, IpAddr, IpAddr, u8, u32);

#[derive(Debug, Default)]
pub(super) struct Flows {
    flows: HashMap<Key, Flow>,
    /// Where the next fragment must start.
    fragments: HashMap<FragmentKey, usize>,
}

impl Flows {
    /// Asks whether the packet belongs to a flow, and moves that flow on if it does.
    pub(super) fn ask(&mut self, slot: SlotId, direction: Direction, packet: &Packet) -> Answer {
        if packet.is_icmp_error() {
            return self.ask_quote(slot, direction, packet);
        }
        let flow = Key::new(slot, direction, packet).and_then(|key| self.flows.get_mut(&key));
        match (flow, &packet.transport) {
            (Some(Flow::Tcp { opener, state, finished }), Transport::Tcp { flags, .. }) => {
                advance(state, finished, *opener == direction, *flags)
            }
            (Some(Flow::Udp), Transport::Udp { .. }) => Answer::Belongs,
            (Some(Flow::Echo { opener }), Transport::Icmp(_)) => {
                let by_opener = *opener == direction;
                let fits =
                    if by_opener { packet.is_echo_request() } else { packet.is_echo_reply() };
                if fits { Answer::Belongs } else { Answer::Unknown }
            }
            _ => Answer::Unknown,
        }
    }

    /// An error goes the other way than the packet that it quotes, to whoever sent that
    /// (RFC 1122 section 3.2.2, RFC 4443 section 2.4): to anybody else it could carry anything.
    fn ask_quote(&self, slot: SlotId, direction: Direction, packet: &Packet) -> Answer {
        let Some(Icmp { quote: Some(quote), .. }) = packet.icmp() else { return Answer::Unknown };
        let quoted_direction = match direction {
            Direction::Egress => Direction::Ingress,
            Direction::Ingress => Direction::Egress,
        };
        let ends = (quote.src, quote.dst);
        let key = Key::between(slot, quoted_direction, quote.protocol, ends, quote.ports);
        let belongs = quote.src == packet.dst && self.flows.contains_key(&key);
        if belongs { Answer::Belongs } else { Answer::Unknown }
    }

    /// Remembers what a packet has opened; it takes the place of what had the same name.
    pub(super) fn insert(
        &mut self,
        slot: SlotId,
        direction: Direction,
        packet: &Packet,
        flow: Flow,
    ) {
        if let Some(key) = Key::new(slot, direction, packet) {
            self.flows.insert(key, flow);
        }
    }

    /// Remembers a first fragment that has passed.
    pub(super) fn passed(&mut self, slot: SlotId, direction: Direction, packet: &Packet) {
        if let Some(Fragment { offset: 0, identification, .. }) = packet.fragment {
            let key = fragment_key(slot, direction, packet, identification);
            self.fragments.insert(key, packet.payload);
        }
    }

    /// True for the fragment that comes next.
    pub(super) fn continues(
        &mut self,
        slot: SlotId,
        direction: Direction,
        packet: &Packet,
    ) -> bool {
        let Some(Fragment { offset, more, identification }) = packet.fragment else { return false };
        let key = fragment_key(slot, direction, packet, identification);
        let end = offset + packet.payload;
        if self.fragments.get(&key) != Some(&offset) {
            return false;
        }
        if more {
            self.fragments.insert(key, end);
        } else {
            self.fragments.remove(&key);
        }
        true
    }
}

fn fragment_key(slot: SlotId, direction: Direction, packet: &Packet, id: u32) -> FragmentKey {
    (slot, direction, packet.src, packet.dst, packet.protocol, id)
}

/// One segment of a known connection. `flags` is a combination that the parser lets through.
fn advance(state: &mut State, finished: &mut [bool; 2], by_opener: bool, flags: u8) -> Answer {
    let has = |flag| flags & flag != 0;
    let fits = match (*state, by_opener) {
        (State::SynSent, true) => flags == SYN || has(RST),
        (State::SynSent, false) => flags == (SYN | ACK) || flags == ACK || has(RST),
        (State::SynReceived, true) => flags != (SYN | ACK),
        (State::SynReceived | State::Established, false) | (State::Closed, _) => flags != SYN,
        (State::Established, true) => true,
    };
    if !fits {
        let reopens = *state == State::Closed;
        return if reopens { Answer::Unknown } else { Answer::Contradicts };
    }
    *state = match *state {
        _ if has(RST) => State::Closed,
        State::SynSent if flags == (SYN | ACK) => State::SynReceived,
        State::SynReceived if by_opener && has(ACK) => State::Established,
        same => same,
    };
    if *state != State::SynSent && has(FIN) {
        finished[usize::from(!by_opener)] = true;
    }
    if *finished == [true; 2] {
        *state = State::Closed;
    }
    Answer::Belongs
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIN_ACK: u8 = FIN | ACK;
    const SYN_ACK: u8 = SYN | ACK;

    /// Who sends (`>` the opener, `<` the other), the flags, and what becomes of it.
    type Step = (char, u8, Answer);

    fn check(name: &str, steps: &[Step]) {
        let (mut state, mut finished) = (State::SynSent, [false; 2]);
        for (index, (side, flags, expected)) in steps.iter().enumerate() {
            let found = advance(&mut state, &mut finished, *side == '>', *flags);
            assert_eq!(found, *expected, "{name}, step {index}");
        }
    }

    #[test]
    fn a_connection_goes_its_way_and_no_other() {
        use Answer::{Belongs, Contradicts, Unknown};
        let open: &[Step] = &[('<', SYN_ACK, Belongs), ('>', ACK, Belongs)];
        let after = |more: &[Step]| [open, more].concat();
        check("handshake", open);
        check("repeated SYN", &[('>', SYN, Belongs), ('<', ACK, Belongs), ('<', SYN_ACK, Belongs)]);
        check("data before the answer", &[('>', ACK, Contradicts), ('>', FIN_ACK, Contradicts)]);
        check("simultaneous open", &[('<', SYN, Contradicts)]);
        check("no answer by FIN", &[('<', FIN_ACK, Contradicts)]);
        check("refused", &[('<', RST | ACK, Belongs), ('>', SYN, Unknown), ('>', ACK, Belongs)]);
        check("a SYN from the other", &after(&[('<', SYN, Contradicts), ('<', ACK, Belongs)]));
        check("a SYN from the opener", &after(&[('>', SYN, Belongs), ('<', ACK, Belongs)]));
        check(
            "closed by both",
            &after(&[
                ('>', FIN_ACK, Belongs),
                ('<', ACK, Belongs),
                ('<', SYN, Contradicts),
                ('<', FIN_ACK, Belongs),
                ('>', ACK, Belongs),
                ('<', SYN, Unknown),
                ('>', SYN, Unknown),
            ]),
        );
    }
}
