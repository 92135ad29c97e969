//! The policy as a table: what each runtime may open towards whom. The cells are answers of
//! [`Openings`] about sample packets, so they say what a packet would meet. Prints no colours and no
//! JSON; that is the caller's.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    ops::Range,
};

use ipnet::IpNet;
use netguard_common::{Direction, DropReason, maps::Place};

use super::{
    Facts, HostServices, Policy, Protocol, Rule, Service, Slot, Unnamed,
    evaluate::{Openings, Traffic},
};

/// What a runtime or slot may open towards one destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    /// Everything, less that many denials.
    Open(usize),
    /// What DNS answers gave, with that many rules besides, less that many denials.
    Pinned(usize, usize),
    /// That many rules.
    Listed(usize),
    /// These services of the gate, and nothing else.
    Gate(Vec<Service>),
    /// Everything, but only from the gate's address, which lies in the slot.
    AsGate,
    /// On the host: DNS and ping of the gateway, these services, and these of the gate.
    Host(Vec<Service>, Vec<Service>),
    /// Nothing, and the reason.
    Dropped(DropReason),
    /// Nothing, because its workloads are kept apart.
    Isolated,
    /// Nothing at all.
    Lockdown,
    /// Its slots differ: see their rows.
    Differs,
    /// There is no such destination.
    Nothing,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |services: &[Service]| {
            services.iter().map(Service::to_string).collect::<Vec<_>>().join(", ")
        };
        match self {
            Self::Open(0) => f.write_str("open"),
            Self::Open(denied) => write!(f, "open, {denied} denied"),
            Self::Pinned(allowed, denied) => {
                f.write_str("pinned")?;
                if *allowed > 0 {
                    write!(f, ", {allowed} allowed")?;
                }
                if *denied > 0 { write!(f, ", {denied} denied") } else { Ok(()) }
            }
            Self::Listed(1) => f.write_str("listed (1 rule)"),
            Self::Listed(rules) => write!(f, "listed ({rules} rules)"),
            Self::Gate(services) => write!(f, "gate {}", list(services)),
            Self::AsGate => f.write_str("as gate"),
            Self::Host(services, gate) => {
                f.write_str("dns, ping")?;
                if !services.is_empty() {
                    write!(f, ", {}", list(services))?;
                }
                if gate.is_empty() { Ok(()) } else { write!(f, ", gate {}", list(gate)) }
            }
            Self::Dropped(reason) => write!(f, "dropped {}", reason.code()),
            Self::Isolated => f.write_str("isolated"),
            Self::Lockdown => f.write_str("lockdown"),
            Self::Differs => f.write_str("differs"),
            Self::Nothing => f.write_str("-"),
        }
    }
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The runtime's name.
    pub runtime: String,
    /// The slots that it speaks for: all of the runtime's, or one where they differ.
    pub slots: Vec<String>,
    /// True for the row of one slot, below its runtime's.
    pub is_slot: bool,
    /// As many as [`Matrix::columns`].
    pub cells: Vec<Cell>,
}

/// What each runtime may open towards whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// The destinations: every runtime, then [`Self::PLACES`].
    pub columns: Vec<String>,
    /// Runtimes in the order of the file; those without slots have no row.
    pub rows: Vec<Row>,
}

impl Matrix {
    /// The destinations that are no runtime.
    pub const PLACES: [&str; 5] = ["host", "internet", "private", "metadata", "management"];

    /// Asks the policy. What the host has for addresses beyond the gateways is not asked for.
    #[must_use]
    pub fn new(policy: &Policy) -> Self {
        let asker = Asker { policy, openings: Openings::new(policy, &Facts::default()) };
        let names = policy.runtimes.iter().map(|runtime| runtime.name.clone());
        let columns = names.chain(Self::PLACES.map(str::to_owned)).collect();
        let mut rows = Vec::new();
        for (index, runtime) in policy.runtimes.iter().enumerate() {
            let of_slots: Vec<_> = policy
                .slots
                .iter()
                .filter(|slot| slot.runtime == index)
                .map(|slot| (slot, asker.cells(slot)))
                .collect();
            let Some((_, first)) = of_slots.first() else { continue };
            let common = (0..first.len()).map(|column| {
                let mut cells = of_slots.iter().filter_map(|(_, cells)| cells.get(column));
                let first = cells.next().unwrap_or(&Cell::Nothing);
                if cells.all(|cell| cell == first) { first.clone() } else { Cell::Differs }
            });
            let row = Row {
                runtime: runtime.name.clone(),
                slots: of_slots.iter().map(|(slot, _)| slot.name.clone()).collect(),
                is_slot: false,
                cells: common.collect(),
            };
            let differs = row.cells.contains(&Cell::Differs);
            rows.push(row);
            for (slot, cells) in of_slots.into_iter().filter(|_| differs) {
                let (runtime, slots) = (runtime.name.clone(), vec![slot.name.clone()]);
                rows.push(Row { runtime, slots, is_slot: true, cells });
            }
        }
        Self { columns, rows }
    }

    /// Two aligned tables, runtimes and places, because one would be too wide.
    #[must_use]
    pub fn text(&self) -> String {
        let runtimes = self.columns.len().saturating_sub(Self::PLACES.len());
        let between = self.table("from \\ to", 0..runtimes);
        let beyond = self.table("from \\ to", runtimes..self.columns.len());
        format!("{between}\n{beyond}")
    }

    fn table(&self, corner: &str, columns: Range<usize>) -> String {
        let mut lines = vec![vec![corner.to_owned()]];
        lines[0].extend(self.columns.get(columns.clone()).unwrap_or_default().iter().cloned());
        for row in &self.rows {
            let name = match row.slots.as_slice() {
                [slot] if row.is_slot => format!("  {slot}"),
                _ => row.runtime.clone(),
            };
            let cells = row.cells.get(columns.clone()).unwrap_or_default();
            lines.push([name].into_iter().chain(cells.iter().map(Cell::to_string)).collect());
        }
        let width = |column: usize| {
            let cells = lines.iter().filter_map(|line| line.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..=columns.len()).map(width).collect();
        lines.iter().fold(String::new(), |text, line| {
            let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            text + cells.collect::<Vec<_>>().join("  ").trim_end() + "\n"
        })
    }
}

struct Asker<'a> {
    policy: &'a Policy,
    openings: Openings<'a>,
}

impl Asker<'_> {
    /// A packet that no rule about a service is likely to mean.
    const ANY: Traffic = Traffic { protocol: Some(Protocol::Udp), port: 1, is_echo_request: false };

    fn cells(&self, slot: &Slot) -> Vec<Cell> {
        let runtimes = (0..self.policy.runtimes.len()).map(|index| self.runtime(slot, index));
        let places = [
            self.host(slot),
            self.internet(slot),
            self.private(slot),
            self.plain(slot, "169.254.169.254".parse().ok()),
            self.plain(slot, self.policy.host.management.first().map(IpNet::network)),
        ];
        runtimes.chain(places).collect()
    }

    fn ask(&self, slot: &Slot, dst: IpAddr, traffic: &Traffic) -> Result<(), DropReason> {
        let src = self.source(slot, dst);
        self.openings.may_open(slot, Direction::Egress, src, dst, traffic)
    }

    /// No rule looks at the source but the gate's, and nobody is the gate without an address.
    fn source(&self, slot: &Slot, dst: IpAddr) -> IpAddr {
        self.guest(slot, dst.is_ipv4()).unwrap_or(Ipv4Addr::UNSPECIFIED.into())
    }

    /// Out of the one slot and into the other.
    fn cross(
        &self,
        (slot, src): (&Slot, IpAddr),
        (target, dst): (&Slot, IpAddr),
        traffic: &Traffic,
    ) -> Result<(), DropReason> {
        self.openings.may_open(slot, Direction::Egress, src, dst, traffic)?;
        self.openings.may_open(target, Direction::Ingress, dst, src, traffic)
    }

    /// The gate's addresses among a slot's workloads.
    fn gates_in(&self, slot: &Slot) -> impl Iterator<Item = IpAddr> {
        let gates = self.policy.gate.iter().flat_map(|gate| &gate.addresses).copied();
        gates.filter(|gate| {
            let subnet = slot.subnet(gate.is_ipv4());
            subnet.is_some_and(|it| it.prefix.contains(gate) && it.gateway != *gate)
        })
    }

    /// An address of the slot that is nothing but a workload's.
    fn guest(&self, slot: &Slot, v4: bool) -> Option<IpAddr> {
        let subnet = slot.subnet(v4)?;
        let network = subnet.prefix.network();
        let mut hosts = subnet.prefix.hosts().filter(|it| *it != network).take(256);
        hosts.find(|it| self.openings.place(*it) == Some(Place::Slot))
    }

    fn of_reason(reason: DropReason) -> Cell {
        match reason {
            DropReason::Lockdown => Cell::Lockdown,
            DropReason::Isolated => Cell::Isolated,
            reason => Cell::Dropped(reason),
        }
    }

    /// Worst first: a runtime is as open as every one of its slots is.
    fn runtime(&self, slot: &Slot, index: usize) -> Cell {
        let mut answers = Vec::new();
        let mut as_gate = false;
        let mut services: Vec<Service> = Vec::new();
        for target in self.policy.slots.iter().filter(|other| other.runtime == index) {
            for v4 in [true, false].into_iter().filter(|v4| slot.subnet(*v4).is_some()) {
                let Some(dst) = self.guest(target, v4) else { continue };
                let src = self.source(slot, dst);
                answers.push(self.cross((slot, src), (target, dst), &Self::ANY));
                as_gate |= self
                    .gates_in(slot)
                    .filter(|gate| gate.is_ipv4() == v4)
                    .any(|gate| self.cross((slot, gate), (target, dst), &Self::ANY).is_ok());
            }
            for dst in self.gates_in(target).filter(|it| slot.subnet(it.is_ipv4()).is_some()) {
                let src = self.source(slot, dst);
                let opens =
                    |it: &Service| self.cross((slot, src), (target, dst), &Traffic::of(it)).is_ok();
                let offered = self.policy.gate.iter().flat_map(|gate| &gate.services);
                services.extend(offered.filter(|it| opens(it)).cloned());
            }
        }
        services.sort_by_key(|it| (it.protocol, *it.ports.start(), *it.ports.end()));
        services.dedup();
        match (answers.iter().find_map(|answer| answer.err()), answers.is_empty()) {
            _ if slot.lockdown => Cell::Lockdown,
            (None, true) => Cell::Nothing,
            (None, false) => Cell::Open(0),
            (Some(_), _) if !services.is_empty() => Cell::Gate(services),
            (Some(_), _) if as_gate => Cell::AsGate,
            // Of one runtime: what keeps its workloads apart.
            (Some(DropReason::CrossSlot | DropReason::Isolated), _) => Cell::Isolated,
            (Some(reason), _) => Self::of_reason(reason),
        }
    }

    fn host(&self, slot: &Slot) -> Cell {
        let Some(gateway) = slot.subnets.first().map(|subnet| subnet.gateway) else {
            return Cell::Nothing;
        };
        if let Err(reason) = self.ask(slot, gateway, &Traffic::PING) {
            return Self::of_reason(reason);
        }
        match &slot.host_services {
            HostServices::All => Cell::Open(0),
            HostServices::Listed(services) => {
                let opens = |it: &&Service| self.ask(slot, gateway, &Traffic::of(it)).is_ok();
                let services = services.iter().filter(opens).cloned().collect();
                Cell::Host(services, self.gate_on_host(slot))
            }
        }
    }

    /// The gate's services that the slot may open on the host itself.
    fn gate_on_host(&self, slot: &Slot) -> Vec<Service> {
        let Some(gate) = &self.policy.gate else { return Vec::new() };
        let held = |gate: IpAddr| {
            self.policy.slots.iter().any(|it| self.gates_in(it).any(|it| it == gate))
        };
        let addresses: Vec<_> = gate
            .addresses
            .iter()
            .filter(|gate| !held(**gate) && slot.subnet(gate.is_ipv4()).is_some())
            .collect();
        let opens = |service: &&Service| {
            addresses.iter().any(|dst| self.ask(slot, **dst, &Traffic::of(service)).is_ok())
        };
        gate.services.iter().filter(opens).cloned().collect()
    }

    /// What is open of itself counts its denials; what is not, the rules that allow something; what is pinned, both.
    fn internet(&self, slot: &Slot) -> Cell {
        let pinned = || {
            let allowed = self.effective(slot, &[Place::Internet, Place::Resolver]);
            Cell::Pinned(allowed, slot.egress.deny.len())
        };
        match (self.unnamed(slot).map(|dst| self.ask(slot, dst, &Self::ANY)), slot.lockdown) {
            (_, true) => Cell::Lockdown,
            (Some(Ok(())), false) => Cell::Open(slot.egress.deny.len()),
            (Some(Err(DropReason::NotPinned)), false) => pinned(),
            (Some(Err(reason)), false) => {
                match self.effective(slot, &[Place::Internet, Place::Resolver]) {
                    0 => Self::of_reason(reason),
                    rules => Cell::Listed(rules),
                }
            }
            // Rules name every sample: then they are what there is to say.
            (None, false) => match slot.egress.unnamed {
                Unnamed::Open => Cell::Open(slot.egress.deny.len()),
                Unnamed::Pinned => pinned(),
                Unnamed::Closed => {
                    Cell::Listed(self.effective(slot, &[Place::Internet, Place::Resolver]))
                }
            },
        }
    }

    /// An address in the internet that no rule of the slot names.
    fn unnamed(&self, slot: &Slot) -> Option<IpAddr> {
        let samples = [[192, 0, 2, 1], [198, 51, 100, 1], [203, 0, 113, 1], [20, 30, 40, 50]];
        samples.map(IpAddr::from).into_iter().find(|sample| {
            let mut rules = slot.egress.allow.iter().chain(&slot.egress.deny);
            self.openings.place(*sample) == Some(Place::Internet)
                && !rules.any(|rule| rule.prefix.contains(sample))
        })
    }

    fn private(&self, slot: &Slot) -> Cell {
        match self.effective(slot, &[Place::Private]) {
            0 if slot.lockdown => Cell::Lockdown,
            0 => Cell::Dropped(DropReason::PrivateDestination),
            rules => Cell::Listed(rules),
        }
    }

    /// How many rules let something through to such a place, by their own first address and service.
    fn effective(&self, slot: &Slot, places: &[Place]) -> usize {
        let opens = |rule: &&Rule| {
            let dst = rule.prefix.network();
            // The whole of a family is named by an address of its internet.
            let dst = match (rule.prefix.prefix_len(), dst.is_ipv4()) {
                (0, true) => IpAddr::from([203, 0, 113, 1]),
                (0, false) => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]),
                _ => dst,
            };
            let traffic = rule.services.first().map_or(Self::ANY, Traffic::of);
            self.openings.place(dst).is_some_and(|place| places.contains(&place))
                && self.ask(slot, dst, &traffic).is_ok()
        };
        slot.egress.allow.iter().filter(opens).count()
    }

    /// A destination for which no rule is asked.
    fn plain(&self, slot: &Slot, dst: Option<IpAddr>) -> Cell {
        let Some(dst) = dst else { return Cell::Nothing };
        match self.ask(slot, dst, &Self::ANY) {
            Ok(()) => Cell::Open(0),
            Err(reason) => Self::of_reason(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::evaluate::tests::policy;

    #[test]
    fn it_says_what_the_oracle_says() {
        let mut policy = policy();
        policy.slots[1].metadata = true;
        policy.slots[0].host_services =
            HostServices::Listed(vec!["tcp/4317".parse().expect("a service")]);
        policy.slots[1].host_services = policy.slots[0].host_services.clone();
        policy.slots[2].egress.unnamed = Unnamed::Closed;
        policy.slots[2].egress.allow = ["203.0.113.0/24 tcp", "192.168.1.0/24", "10.0.0.0/7"]
            .map(|rule| rule.parse().expect("a rule"))
            .to_vec();
        let expected = [
            "from \\ to  agents   builds",
            "agents     open     gate tcp/443",
            "  slot1    open     gate tcp/443",
            "  slot2    open     gate tcp/443",
            "builds     as gate  isolated",
            "",
            "from \\ to  host                 internet         private          metadata        management",
            "agents     dns, ping, tcp/4317  open             dropped 540020   differs         dropped 540023",
            "  slot1    dns, ping, tcp/4317  open             dropped 540020   dropped 540019  dropped 540023",
            "  slot2    dns, ping, tcp/4317  open             dropped 540020   open            dropped 540023",
            "builds     dns, ping            listed (1 rule)  listed (1 rule)  dropped 540019  dropped 540023",
            "",
        ];
        assert_eq!(Matrix::new(&policy).text(), expected.join("\n"));
    }

    #[test]
    fn what_is_pinned_says_so_with_its_rules() {
        let mut policy = policy();
        policy.slots[2].egress.unnamed = Unnamed::Pinned;
        let cell = |policy: &Policy| {
            let matrix = Matrix::new(policy);
            let row = matrix.rows.iter().find(|row| row.runtime == "builds").expect("its row");
            row.cells[3].to_string()
        };
        assert_eq!(cell(&policy), "pinned");
        policy.slots[2].egress.allow = vec!["203.0.113.0/24 tcp".parse().expect("a rule")];
        policy.slots[2].egress.deny = vec!["::/0".parse().expect("a rule")];
        assert_eq!(cell(&policy), "pinned, 1 allowed, 1 denied");
        policy.slots[2].egress.allow.push("0.0.0.0/0 tcp/80".parse().expect("a rule"));
        assert_eq!(cell(&policy), "pinned, 2 allowed, 1 denied", "where rules name all of it");
    }

    #[test]
    fn lockdown_is_one_word() {
        let mut policy = policy();
        policy.slots[2].lockdown = true;
        policy.gate = None;
        policy.runtimes[0].isolate = true;
        let matrix = Matrix::new(&policy);
        let words: Vec<Vec<String>> = matrix
            .rows
            .iter()
            .map(|row| row.cells[..2].iter().map(Cell::to_string).collect())
            .collect();
        assert_eq!(words, [["isolated", "dropped 540001"], ["lockdown", "lockdown"]]);
        assert!(matrix.rows[1].cells.iter().all(|cell| *cell == Cell::Lockdown));
    }
}
