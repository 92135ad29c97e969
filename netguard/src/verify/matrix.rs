//! Who reaches whom: each slot's packets to every other slot and every kind of place, and theirs to it, put to the loaded programs
//! and to the oracle. The two must say the same of each.

use std::{
    collections::BTreeMap,
    fmt,
    net::IpAddr,
    num::NonZero,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use netguard_common::{
    DropReason, Hook, NO_SLOT, SlotId,
    maps::{Place, PortKind},
    vouched_by,
};

use super::{Case, Error};
use crate::{
    datapath::{self, Asked, PinnedProgram},
    explain::{ANY_MAC, Carried, Packet},
    policy::{Evaluator, Protocol, Slot, Subnet, Verdict},
};

/// How often a question is asked again whose answer differs: the policy may have changed in between, and where the
/// kernel does not hold softirqs off during a test run (Linux 6.6 does) a packet that comes in the middle of it disturbs it.
const TRIES: u32 = 3;
/// Nobody reads more of the same.
const HOLES_MAX: usize = 100;
/// The sender's port or identifier: what no connection has, because no connection is opened from below 1024.
const SENDER: u16 = 1;

/// Places that are no slot, each by addresses of both families: the first that the policy takes for such a place counts.
const PLACES: [(&str, Place, &[&str]); 4] = [
    ("metadata", Place::Metadata, &["169.254.169.254", "fd00:ec2::254"]),
    (
        "private",
        Place::Private,
        &["192.168.254.253", "172.31.254.253", "10.254.254.253", "fdfe:fefe::253"],
    ),
    (
        "internet",
        Place::Internet,
        &["192.0.2.253", "198.51.100.253", "203.0.113.253", "93.184.215.14", "2001:db8:fefe::253"],
    ),
    ("management", Place::Management, &[]),
];
const DNS: [&str; 2] = ["8.8.8.8", "2001:4860:4860::8888"];

/// What a slot may do towards one column.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell(BTreeMap<String, u64>);

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (answer, times)) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            f.write_str(answer)?;
            if *times > 1 {
                write!(f, " x{times}")?;
            }
        }
        Ok(())
    }
}

/// What a slot may do.
#[derive(Clone, Debug)]
pub struct Row {
    /// The slot.
    pub slot: String,
    /// By column.
    pub cells: BTreeMap<usize, Cell>,
}

/// All the answers.
#[derive(Debug, Default)]
pub(super) struct Answers {
    pub(super) columns: Vec<String>,
    pub(super) rows: Vec<Row>,
    pub(super) holes: Vec<String>,
    pub(super) notes: Vec<String>,
    pub(super) questions: u64,
}

/// A packet that is put to both.
struct Question {
    column: usize,
    hook: Hook,
    packet: Packet,
    mark: u32,
    sender: Option<SlotId>,
}

/// The programs and the oracle, for one thread.
struct Asker<'a> {
    case: &'a Case<'a>,
    oracle: Evaluator<'a>,
    leaving: PinnedProgram,
    entering: PinnedProgram,
    on_bridge: PinnedProgram,
    /// One address of each slot in each family.
    addresses: &'a [(usize, [Option<IpAddr>; 2])],
    columns: &'a [String],
}

/// Asks about all slots, or the one that is named.
pub(super) fn ask(case: &Case<'_>) -> Result<Answers, Error> {
    let names = case.policy.runtimes.iter().map(|runtime| runtime.name.clone());
    let places = PLACES.map(|(name, ..)| name);
    let others = ["host", "gate", "dns", "dot", "from outside", "unguarded"];
    let columns: Vec<String> =
        names.chain(places.into_iter().chain(others).map(str::to_owned)).collect();
    let slots = case.policy.slots.iter();
    let addresses: Vec<_> = slots
        .map(|slot| (slot.runtime, [true, false].map(|v4| slot.subnet(v4).map(guest))))
        .collect();
    let asked: Vec<&Slot> =
        case.policy.slots.iter().filter(|slot| case.is_asked(slot.id)).collect();
    let next = AtomicUsize::new(0);
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(asked.len());
    let work = || -> Result<Vec<(usize, Answers)>, datapath::Error> {
        let mut asker = Asker {
            case,
            oracle: Evaluator::new(case.policy, case.facts),
            leaving: case.in_force.program(Hook::PortEgress)?,
            entering: case.in_force.program(Hook::PortIngress)?,
            on_bridge: case.in_force.program(Hook::BridgeEgress)?,
            addresses: &addresses,
            columns: &columns,
        };
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(slot) = asked.get(index) else { return Ok(done) };
            done.push((index, asker.row(slot)?));
        }
    };
    let mut parts = Vec::new();
    thread::scope(|scope| -> Result<(), datapath::Error> {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            match thread.join() {
                Ok(part) => parts.extend(part?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(())
    })?;
    parts.sort_by_key(|(index, _)| *index);
    let mut answers = Answers { columns, ..Answers::default() };
    for (_, part) in parts {
        answers.rows.extend(part.rows);
        answers.holes.extend(part.holes);
        answers.notes.extend(part.notes);
        answers.questions += part.questions;
    }
    let more = answers.holes.len().saturating_sub(HOLES_MAX);
    if more > 0 {
        answers.holes.truncate(HOLES_MAX);
        answers.holes.push(format!("and {more} more of such answers"));
    }
    Ok(answers)
}

/// An address that a workload of the subnet can have.
fn guest(subnet: &Subnet) -> IpAddr {
    let mut hosts = subnet.prefix.hosts().filter(|host| *host != subnet.gateway);
    // A subnet's first address is the routers' in IPv6 (RFC 4291 section 2.6.1).
    hosts.find(|host| *host != subnet.prefix.network()).unwrap_or(subnet.gateway)
}

impl Asker<'_> {
    fn row(&mut self, slot: &Slot) -> Result<Answers, datapath::Error> {
        let mut answers = Answers::default();
        let mut row = Row { slot: slot.name.clone(), cells: BTreeMap::new() };
        let is_port = |kind: PortKind, id| {
            move |(_, port): &(&u32, &netguard_common::maps::PortEntry)| {
                port.kind == kind as u8 && port.slot_id == id
            }
        };
        let mut ports = self.case.plan.ports.iter();
        let Some((ifindex, _)) = ports.find(is_port(PortKind::Port, slot.id)) else {
            let name = &slot.name;
            answers
                .notes
                .push(format!("slot {name} has no port on its bridge: it is not asked about"));
            answers.rows.push(row);
            return Ok(answers);
        };
        let bridge = self.case.facts.interface(&slot.bridge).map(|bridge| bridge.index);
        for question in self.questions(slot) {
            let ifindex = match question.hook {
                Hook::BridgeEgress => bridge.unwrap_or(*ifindex),
                _ => *ifindex,
            };
            let Ok(frame) = question.packet.build() else { continue };
            let (asked, differs) = match self.put(slot, &question, &frame, ifindex) {
                // Whoever has loaded it, nobody knows what it lets through.
                Err(error @ datapath::Error::NoDryRun(_)) => {
                    answers.holes.push(format!("slot {}: {error}", slot.name));
                    break;
                }
                put => put?,
            };
            answers.questions += 1;
            let cell = row.cells.entry(question.column).or_default();
            *cell.0.entry(name(asked).to_owned()).or_default() += 1;
            if let Some(verdict) = differs {
                let way = if question.hook == Hook::PortEgress { "from" } else { "into" };
                answers.holes.push(format!(
                    "{way} slot {}, {} ({}): the programs say {}, the policy says {}",
                    slot.name,
                    question.packet,
                    self.columns.get(question.column).map_or("", String::as_str),
                    name(asked),
                    name(verdict),
                ));
            }
        }
        answers.rows.push(row);
        Ok(answers)
    }

    /// The programs' answer, and the oracle's where it is another.
    fn put(
        &mut self,
        slot: &Slot,
        question: &Question,
        frame: &[u8],
        ifindex: u32,
    ) -> Result<(Asked, Option<Asked>), datapath::Error> {
        let mut tries = 0;
        loop {
            tries += 1;
            let program = match question.hook {
                Hook::PortEgress => &self.leaving,
                Hook::BridgeEgress => &self.on_bridge,
                _ => &self.entering,
            };
            let asked = program.ask(frame, ifindex, question.mark)?;
            let wanted = self.wanted(slot, question, frame, asked);
            if asked == wanted || is_about_resources(asked) {
                return Ok((asked, None));
            }
            if tries == TRIES {
                return Ok((asked, Some(wanted)));
            }
        }
    }

    fn wanted(&mut self, slot: &Slot, question: &Question, frame: &[u8], asked: Asked) -> Asked {
        if question.mark == 0 && question.hook != Hook::PortEgress {
            return Asked::Drop(DropReason::UnguardedPort);
        }
        // The oracle has no routing tables: where the host has no way, nothing passes.
        let local = asked == Asked::Drop(DropReason::Host);
        let verdict = if question.hook == Hook::PortEgress {
            self.oracle.egress(slot, frame, &|_, _| local)
        } else {
            self.oracle.ingress(slot, frame, question.sender, false)
        };
        self.oracle.forget();
        match verdict {
            Verdict::Pass => Asked::Pass,
            Verdict::Redirect => Asked::Redirect,
            Verdict::Drop(reason) => Asked::Drop(reason),
        }
    }

    fn questions(&self, slot: &Slot) -> Vec<Question> {
        let runtimes = self.case.policy.runtimes.len();
        let column = |name: &str| {
            self.columns
                .iter()
                .skip(runtimes)
                .position(|it| it == name)
                .map_or(0, |it| it + runtimes)
        };
        let to_mac = self.case.facts.interface(&slot.bridge).map_or([0; 6], |bridge| bridge.mac);
        let from_mac = slot.mac.unwrap_or(ANY_MAC);
        let mut questions = Vec::new();
        for (family, v4) in [true, false].into_iter().enumerate() {
            let Some(subnet) = slot.subnet(v4) else { continue };
            let own = guest(subnet);
            let leave = |column, dst, carried| Question {
                column,
                hook: Hook::PortEgress,
                packet: Packet { from_mac, to_mac, src: own, dst, carried },
                mark: 0,
                sender: None,
            };
            let enter = |column, src, carried, sender: Option<SlotId>| Question {
                column,
                hook: Hook::PortIngress,
                packet: Packet { from_mac: to_mac, to_mac: from_mac, src, dst: own, carried },
                mark: vouched_by(sender.unwrap_or(NO_SLOT)),
                sender,
            };
            let web = Carried::Tcp(SENDER, 80);
            let others = self.case.policy.slots.iter().zip(self.addresses);
            for (other, (runtime, addresses)) in others.filter(|(it, _)| it.id != slot.id) {
                let Some(address) = addresses[family] else { continue };
                questions.push(leave(*runtime, address, web));
                let sender = (other.bridge == slot.bridge).then_some(other.id);
                questions.push(enter(*runtime, address, web, sender));
            }
            let host = self.case.facts.addresses().iter().map(|(_, address)| *address);
            let is_host =
                |it: &IpAddr| it.is_ipv4() == v4 && self.oracle.place(*it) == Some(Place::Host);
            for address in host.filter(is_host).take(1).chain([subnet.gateway]) {
                questions.push(leave(column("host"), address, Carried::Tcp(SENDER, 22)));
            }
            for (name, place, addresses) in PLACES {
                let management = self.case.policy.host.management.iter();
                let management = management.filter(|_| place == Place::Management);
                let management = management.filter_map(|net| net.hosts().next());
                let listed = addresses.iter().filter_map(|it| it.parse::<IpAddr>().ok());
                let mut fits = listed
                    .chain(management)
                    .filter(|it| it.is_ipv4() == v4 && self.oracle.place(*it) == Some(place));
                let Some(address) = fits.next() else { continue };
                questions.push(leave(column(name), address, Carried::Tcp(SENDER, 443)));
                questions.push(enter(column("from outside"), address, web, None));
            }
            if let Some(gate) = &self.case.policy.gate {
                let carried = gate.services.first().map_or(web, |service| {
                    let port = *service.ports.start();
                    match service.protocol {
                        Protocol::Tcp => Carried::Tcp(SENDER, port),
                        Protocol::Udp => Carried::Udp(SENDER, port),
                        Protocol::Icmp => Carried::Ping(SENDER),
                    }
                });
                let addresses =
                    gate.addresses.iter().filter(|it| it.is_ipv4() == v4 && **it != own);
                questions.extend(addresses.map(|it| leave(column("gate"), *it, carried)));
            }
            if let Some(Ok(resolver)) = DNS.get(family).map(|it| it.parse()) {
                questions.push(leave(column("dns"), resolver, Carried::Udp(SENDER, 53)));
                questions.push(leave(column("dot"), resolver, Carried::Tcp(SENDER, 853)));
                questions.push(leave(column("dot"), resolver, Carried::Udp(SENDER, 853)));
            }
            let unguarded = enter(column("unguarded"), subnet.gateway, web, None);
            questions.push(Question { mark: 0, ..unguarded });
            let unguarded = leave(column("unguarded"), subnet.gateway, web);
            questions.push(Question { hook: Hook::BridgeEgress, ..unguarded });
        }
        questions
    }
}

/// What the oracle has no notion of: a packet that is one too many now is dropped, and nothing is open.
fn is_about_resources(asked: Asked) -> bool {
    matches!(asked, Asked::Drop(reason) if reason.is_about_resources())
}

const fn name(asked: Asked) -> &'static str {
    match asked {
        Asked::Pass => "pass",
        Asked::Redirect => "redirect",
        Asked::Answer => "answer",
        Asked::Drop(reason) => reason.name(),
    }
}
