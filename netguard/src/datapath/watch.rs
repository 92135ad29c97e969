//! The watch: whether the kernel still holds what was put there. Who has the rights can take programs off interfaces and write
//! into maps; nothing keeps them from it, but it is noticed, told, and put right.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::{Duration, Instant},
};

use aya::Ebpf;
use netguard_common::{
    EventKind, Hook, SlotId,
    maps::{self as layout, PortEntry, read_name},
};
use nix::{
    net::if_::if_indextoname,
    time::{ClockId, clock_gettime},
};

use super::{
    Datapath, Error, PinDirectory,
    attach::{self, Waits, hooks_of},
    device,
    filter::Side,
    maps::Foreign,
};

/// It is looked again after at least that time.
const LOOK_AGAIN: Duration = Duration::from_millis(900);
/// And after so many times as long as the last look has worked: a host that has no time for it is looked at all the same.
const LOOK_SHARE: u32 = 50;
/// Maps are read at one in so many looks: that takes longer than to ask for programs.
const MAPS_SHARE: u32 = 2;

/// Something that is not as it was put there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    what: What,
    /// Why it could not be put right; nothing if it was.
    failed: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A program is not on its hook.
    Absent { hook: Hook, interface: String },
    /// Another one is there.
    Replaced { hook: Hook, interface: String, by: u32 },
    /// Another one is run before it.
    Behind { hook: Hook, interface: String, of: u32 },
    /// A map holds what was not written there.
    Written(&'static str),
}

impl Finding {
    /// The kind of alarm.
    #[must_use]
    pub fn kind(&self) -> EventKind {
        match self.what {
            What::Absent { .. } | What::Replaced { .. } | What::Behind { .. } => {
                EventKind::DetachAlarm
            }
            What::Written(_) => EventKind::MapAlarm,
        }
    }

    /// The interface that it is about; none if it is about a map.
    #[must_use]
    pub fn interface(&self) -> Option<&str> {
        match &self.what {
            What::Absent { interface, .. }
            | What::Replaced { interface, .. }
            | What::Behind { interface, .. } => Some(interface),
            What::Written(_) => None,
        }
    }

    /// True if it is as it was put there again.
    #[must_use]
    pub fn is_mended(&self) -> bool {
        self.failed.is_none() && !matches!(self.what, What::Behind { .. })
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent { hook, interface } => {
                write!(f, "{} was taken off {interface}", hook.program())
            }
            Self::Replaced { hook, interface, by } => {
                let program = hook.program();
                write!(f, "program {by} is on {interface} in the place of {program}")
            }
            Self::Behind { hook, interface, of } => {
                let program = hook.program();
                write!(
                    f,
                    "program {of} runs before {program} on {interface}, and what it lets through is not judged: \
                     take it off (bpftool net), or let it run behind"
                )
            }
            Self::Written(map) => write!(f, "somebody has written into the map {map}"),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.what)?;
        let done = match &self.what {
            What::Absent { .. } | What::Replaced { .. } => "put back",
            What::Behind { .. } => return Ok(()),
            What::Written(_) => "written anew",
        };
        match &self.failed {
            None => write!(f, ": {done}"),
            Some(why) => write!(f, ", and it cannot be {done}: {why}"),
        }
    }
}

impl Datapath {
    /// Looks at every program, and each second time at every entry of the policy maps, if that is due. What is not as it was put there is put
    /// right. Returns what was found.
    ///
    /// # Errors
    ///
    /// The kernel does not tell.
    pub fn inspect(&mut self) -> Option<Result<Vec<Finding>, Error>> {
        if self.look_again > Instant::now() {
            return None;
        }
        let began = worked();
        let found = self.inspect_all();
        let took = worked().saturating_sub(began);
        self.look_again = Instant::now() + LOOK_AGAIN.max(took * LOOK_SHARE);
        Some(found)
    }

    fn inspect_all(&mut self) -> Result<Vec<Finding>, Error> {
        let all = self.guards.keys().copied().collect();
        let mut findings = self.inspect_interfaces(&all)?;
        self.looks = self.looks.wrapping_add(1);
        if self.looks.is_multiple_of(MAPS_SHARE)
            && let Some(Foreign { map, .. }) = self.sides.find_foreign()?
        {
            let failed = self.sides.restore().err().map(|error| error.to_string());
            findings.push(Finding { what: What::Written(map), failed });
        }
        Ok(findings)
    }

    /// Looks at the programs of some interfaces, by number, as [`Self::inspect`] does at all.
    ///
    /// # Errors
    ///
    /// The kernel does not tell.
    pub fn inspect_interfaces(
        &mut self,
        interfaces: &BTreeSet<u32>,
    ) -> Result<Vec<Finding>, Error> {
        let mut found = Vec::new();
        let mut wrong = BTreeMap::new();
        let plan = std::sync::Arc::clone(self.sides.plan());
        for ifindex in interfaces.iter().filter(|index| self.guards.contains_key(index)) {
            let Some(port) = plan.ports.get(ifindex) else { continue };
            // One question where two files would have to be opened: nearly always all is well.
            if hooks_of(port).all(|hook| is_first(*ifindex, hook, &self.ids)) {
                continue;
            }
            for what in look_at(&self.pins, *ifindex, port, &self.ids)? {
                if !matches!(what, What::Behind { .. }) {
                    wrong.insert(*ifindex, *port);
                }
                found.push((*ifindex, what));
            }
        }
        let refused = self.put_back(&wrong);
        let findings = found
            .into_iter()
            .map(|(ifindex, what)| Finding { what, failed: refused.get(&ifindex).cloned() });
        Ok(findings.collect())
    }

    /// Reads back from the kernel what it has of a slot: its entry, and the programs on its interfaces, whose names are
    /// returned.
    ///
    /// # Errors
    ///
    /// The kernel does not tell, or has something else.
    pub fn read_back(&self, slot: SlotId) -> Result<Vec<String>, Error> {
        let plan = self.sides.plan();
        if self.sides.slot(slot)? != plan.slots.get(&slot).copied() {
            return Err(Error::NotInForce(format!("slot {slot} in {}", layout::SLOTS)));
        }
        let mut interfaces = Vec::new();
        for (ifindex, port) in plan.ports.iter().filter(|(_, port)| port.slot_id == slot) {
            if let Some(what) = look_at(&self.pins, *ifindex, port, &self.ids)?.into_iter().next() {
                return Err(Error::NotInForce(Finding { what, failed: None }.to_string()));
            }
            interfaces.push(read_name(&port.name).to_owned());
        }
        Ok(interfaces)
    }

    /// Attaches what is missing, held as it was, and says what cannot be attached.
    fn put_back(&mut self, wrong: &BTreeMap<u32, PortEntry>) -> BTreeMap<u32, String> {
        let had_links = |(_, port): &(u32, PortEntry)| {
            let has_pin = |hook| self.pins.link(read_name(&port.name), hook).exists();
            Hook::ALL.into_iter().any(|hook| hook != Hook::Xdp && has_pin(hook))
        };
        let wrong = wrong.iter().map(|(index, port)| (*index, *port));
        let (links, filters): (Vec<_>, Vec<_>) = wrong.partition(had_links);
        let mut refusals = BTreeMap::new();
        for (who, wrong) in [(Waits::Nobody, links), (Waits::Somebody, filters)] {
            let (guards, refused) = attach::guard(&mut self.ebpf, &self.pins, self.tc, who, &wrong);
            self.guards.extend(guards);
            refusals.extend(refused.into_iter().map(|(index, error)| (index, error.to_string())));
        }
        refusals
    }
}

/// The kernel's numbers of what was loaded.
pub(super) fn program_ids(ebpf: &Ebpf) -> Result<BTreeMap<Hook, u32>, Error> {
    let id = |hook: Hook| {
        let program = ebpf.program(hook.program()).ok_or(Error::Object(hook.program()))?;
        let info = program
            .info()
            .map_err(|source| Error::Program { name: hook.program(), source: Box::new(source) })?;
        Ok((hook, info.id()))
    };
    Hook::ALL.into_iter().map(id).collect()
}

/// How long this thread has worked.
fn worked() -> Duration {
    // A kernel without that clock has no BPF either.
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// True if TC runs our program there before any other, by a link: so all is well with it.
fn is_first(ifindex: u32, hook: Hook, ids: &BTreeMap<Hook, u32>) -> bool {
    let first = || device::first_program(ifindex, Side::of(hook)).ok().flatten();
    hook != Hook::Xdp && ids.get(&hook).is_some_and(|own| first() == Some(*own))
}

/// What is wrong with the programs of an interface. One that is gone is told as an event, and not here.
pub(super) fn look_at(
    pins: &PinDirectory,
    ifindex: u32,
    port: &PortEntry,
    ids: &BTreeMap<Hook, u32>,
) -> Result<Vec<What>, Error> {
    let interface = read_name(&port.name);
    let mut wrong = Vec::new();
    for hook in hooks_of(port) {
        let pin = pins.link(interface, hook);
        let link = device::held_by(&pin).map_err(|error| Error::pin("open", &pin, error))?;
        let link = link.filter(|link| link.ifindex == ifindex).map(|link| link.program_id);
        let held = match link {
            None => pins.filter_on(ifindex, hook)?,
            link => link,
        };
        let own = ids.get(&hook).copied();
        let interface = interface.to_owned();
        wrong.extend(match held {
            None => Some(What::Absent { hook, interface }),
            Some(by) if Some(by) != own => Some(What::Replaced { hook, interface, by }),
            Some(_) => before(ifindex, hook, link).map(|of| What::Behind { hook, interface, of }),
        });
    }
    if !wrong.is_empty() && if_indextoname(ifindex).is_err() {
        wrong.clear();
    }
    Ok(wrong)
}

/// The program that TC runs before ours, if there is one: links come before filters, and those have their own order, see
/// `filter::attach`.
fn before(ifindex: u32, hook: Hook, link: Option<u32>) -> Option<u32> {
    if hook == Hook::Xdp {
        return None;
    }
    // A kernel that does not tell has no links, or has told of ours itself.
    let first = device::first_program(ifindex, Side::of(hook)).ok()??;
    Some(first).filter(|first| Some(*first) != link)
}
