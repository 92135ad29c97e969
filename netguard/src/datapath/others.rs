//! Programs on an interface that are not netguard's: which ones, and on which side of ours. Reads, changes nothing.

use std::collections::BTreeSet;

use super::{
    Error, device,
    filter::{self, Side},
};

/// What runs at one hook of an interface, in the order in which the kernel runs it, besides netguard's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OtherPrograms {
    /// Those that run before ours, or where there is none of ours.
    pub before: Vec<Other>,
    /// Those that run behind ours.
    pub behind: Vec<Other>,
}

/// A program of somebody else's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Other {
    /// `ingress` or `egress`, as TC has it.
    pub side: &'static str,
    /// The kernel's number of it; 0 for a filter that is no program.
    pub program: u32,
}

/// The programs of TC on an interface: links first, then filters. `own` are the numbers of netguard's.
///
/// # Errors
///
/// The kernel does not tell.
pub fn others_on(ifindex: u32, own: &BTreeSet<u32>) -> Result<OtherPrograms, Error> {
    let mut others = OtherPrograms::default();
    for (side, name) in [(Side::Ingress, "ingress"), (Side::Egress, "egress")] {
        // A kernel without tcx has none of them.
        let linked = device::programs(ifindex, side).unwrap_or_default();
        let filters = match filter::programs(ifindex, side) {
            Err(error) if filter::is_absence(&error) => Vec::new(),
            found => found.map_err(|error| Error::filters(name, error))?,
        };
        let all: Vec<u32> = linked.into_iter().chain(filters).collect();
        let ours = all.iter().position(|program| own.contains(program)).unwrap_or(all.len());
        for (at, program) in all.into_iter().enumerate() {
            if own.contains(&program) {
                continue;
            }
            let list = if at < ours { &mut others.before } else { &mut others.behind };
            list.push(Other { side: name, program });
        }
    }
    Ok(others)
}

/// A program by its number and the name that it was loaded with.
#[must_use]
pub fn program_name(id: u32) -> String {
    let mut all = aya::programs::loaded_programs().flatten();
    let name = all.find(|it| it.id() == id).and_then(|it| it.name_as_str().map(str::to_owned));
    match name.filter(|name| !name.is_empty()) {
        Some(name) => format!("program {id} ({name})"),
        None => format!("program {id}"),
    }
}
