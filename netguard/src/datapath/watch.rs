//! The watch: whether the kernel still holds what was put there. Who has the rights can take programs off interfaces and write
//! into maps; nothing keeps them from it, but it is noticed, told, and put right.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::{Duration, Instant},
};

use netguard_common::{
    Hook,
    maps::{PortEntry, PortKind, read_name},
};
use nix::net::if_::if_indextoname;

use super::{
    Datapath, Error,
    attach::{self, When, hooks_of},
    device,
    filter::Side,
};

/// Maps are looked at again after at least that time.
const LOOK_AGAIN: Duration = Duration::from_millis(900);
/// And after so many times as long as the last look has taken.
const LOOK_SHARE: u32 = 50;

/// Something that is not as it was put there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    what: What,
    /// Why it could not be put right; nothing if it was.
    failed: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
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
    /// True if it is as it was put there again.
    #[must_use]
    pub fn is_mended(&self) -> bool {
        self.failed.is_none() && !matches!(self.what, What::Behind { .. })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let done = match &self.what {
            What::Absent { hook, interface } => {
                write!(f, "{} was taken off {interface}", hook.program())?;
                "put back"
            }
            What::Replaced { hook, interface, by } => {
                let program = hook.program();
                write!(f, "program {by} is on {interface} in the place of {program}")?;
                "put back"
            }
            What::Behind { hook, interface, of } => {
                let program = hook.program();
                return write!(
                    f,
                    "program {of} runs before {program} on {interface}, and what it lets through is not judged: \
                     take it off (bpftool net), or let it run behind"
                );
            }
            What::Written(map) => {
                write!(f, "somebody has written into the map {map}")?;
                "written anew"
            }
        };
        match &self.failed {
            None => write!(f, ": {done}"),
            Some(why) => write!(f, ", and it cannot be {done}: {why}"),
        }
    }
}

impl Datapath {
    /// Looks at every program and, when that is due, at every entry of the policy maps. What is not as it was put there
    /// is put right. Returns what was found.
    ///
    /// # Errors
    ///
    /// The kernel does not tell.
    pub fn inspect(&mut self) -> Result<Vec<Finding>, Error> {
        let mut findings = self.inspect_programs()?;
        if self.look_at_maps <= Instant::now() {
            let began = Instant::now();
            if let Some(map) = self.sides.find_foreign()? {
                let failed = self.sides.restore().err().map(|error| error.to_string());
                findings.push(Finding { what: What::Written(map), failed });
            }
            self.look_at_maps = Instant::now() + LOOK_AGAIN.max(began.elapsed() * LOOK_SHARE);
        }
        Ok(findings)
    }

    fn inspect_programs(&mut self) -> Result<Vec<Finding>, Error> {
        let mut found = Vec::new();
        let mut wrong = BTreeMap::new();
        let plan = std::sync::Arc::clone(self.sides.plan());
        let ids = self.program_ids()?;
        let filters = self.filters()?;
        for (ifindex, port) in
            plan.ports.iter().filter(|(index, _)| self.guards.contains_key(index))
        {
            let interface = read_name(&port.name);
            let kind =
                if port.kind == PortKind::Bridge as u8 { PortKind::Bridge } else { PortKind::Port };
            for hook in hooks_of(kind) {
                let pin = self.pins.link(interface, hook);
                let link = device::held_by(&pin).map_err(|it| Error::pin("open", &pin, it))?;
                let link = link.filter(|link| link.ifindex == *ifindex).map(|it| it.program_id);
                let filter = filters.get(&(*ifindex, hook)).copied();
                let held = link.or(filter);
                let own = ids.get(&hook).copied();
                let (hook, interface) = (hook, interface.to_owned());
                let what = match held {
                    None => What::Absent { hook, interface },
                    Some(by) if Some(by) != own => What::Replaced { hook, interface, by },
                    Some(_) => match before(*ifindex, hook, link) {
                        Some(of) => What::Behind { hook, interface, of },
                        None => continue,
                    },
                };
                // An interface that is gone is told as an event, and not here.
                if if_indextoname(*ifindex).is_ok() {
                    if !matches!(what, What::Behind { .. }) {
                        wrong.insert(*ifindex, *port);
                    }
                    found.push((*ifindex, what));
                }
            }
        }
        let refused = self.put_back(&wrong);
        let findings = found
            .into_iter()
            .map(|(ifindex, what)| Finding { what, failed: refused.get(&ifindex).cloned() });
        Ok(findings.collect())
    }

    /// Attaches what is missing, and says what cannot be attached.
    fn put_back(&mut self, wrong: &BTreeMap<u32, PortEntry>) -> BTreeMap<u32, String> {
        if wrong.is_empty() {
            return BTreeMap::new();
        }
        let wrong: Vec<_> = wrong.iter().map(|(index, port)| (*index, *port)).collect();
        let (guards, refused) =
            attach::guard(&mut self.ebpf, &self.pins, self.tc, When::Running, &wrong);
        self.guards.extend(guards);
        refused.into_iter().map(|(index, error)| (index, error.to_string())).collect()
    }

    fn program_ids(&self) -> Result<BTreeMap<Hook, u32>, Error> {
        let id = |hook: Hook| {
            let program = self.ebpf.program(hook.program()).ok_or(Error::Object(hook.program()))?;
            let info = program.info().map_err(|source| Error::Program {
                name: hook.program(),
                source: Box::new(source),
            })?;
            Ok((hook, info.id()))
        };
        let hooks: BTreeSet<_> = Hook::ALL.into_iter().collect();
        hooks.into_iter().map(id).collect()
    }

    /// The instance's filters, by interface and hook: which programs they are.
    fn filters(&self) -> Result<BTreeMap<(u32, Hook), u32>, Error> {
        let filters = self.pins.filters()?;
        Ok(filters.into_iter().map(|it| ((it.ifindex, it.hook), it.program_id)).collect())
    }
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
