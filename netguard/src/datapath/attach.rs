//! Programs on interfaces. Each link is pinned; a link that an earlier daemon left is taken over by
//! replacing its program in one step.

use std::{collections::BTreeMap, io};

use aya::{
    Ebpf,
    programs::{
        LinkOrder, Program, ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode,
        links::{FdLink, PinnedLink},
        tc::{SchedClassifierLink, TcAttachOptions},
        xdp::XdpLink,
    },
};
use netguard_common::{
    Hook,
    maps::{PortEntry, PortKind, read_name},
};

use super::{
    Error, device,
    error::AttachError,
    pins::{PinDirectory, remove_pin},
};

/// Hooks in the order in which they are attached, those of ports and those of bridges: a bridge
/// vouches before its ports ask for it, and asks only when its ports vouch, so that no packet of a
/// running host is dropped in between.
///
/// There is no XDP on a bridge: the kernel then refuses XDP on every port that joins it later (EEXIST,
/// `dev_xdp_attach` in net/core/dev.c, Linux 5.9 to 6.18), and generic mode, the only one that a
/// bridge has, would copy every GSO frame to make it linear.
const ORDER: [(Hook, bool); 5] = [
    (Hook::BridgeIngress, true),
    (Hook::PortIngress, false),
    (Hook::PortEgress, false),
    (Hook::Xdp, false),
    (Hook::BridgeEgress, true),
];

/// The programs of one interface, held by their pins.
#[derive(Debug)]
pub struct Guard {
    /// The interface's name.
    pub interface: String,
    /// Hooks that had no program of ours before.
    fresh: Vec<Hook>,
}

impl Guard {
    /// Removes the pins of an interface that is gone.
    pub(super) fn forget(&self, pins: &PinDirectory) {
        for (hook, _) in ORDER {
            // A pin that stays holds a link without a device: the next attach replaces it.
            let _ = remove_pin(&pins.link(&self.interface, hook));
        }
    }

    /// Detaches what this process attached; what it replaced stays closed with the new program.
    pub(super) fn roll_back(self, pins: &PinDirectory) {
        for hook in self.fresh {
            let _ = remove_pin(&pins.link(&self.interface, hook));
        }
    }
}

/// Attaches the programs of ports and bridges, each interface's all or none. Interfaces that refuse
/// theirs are returned with the reason.
pub(super) fn guard(
    ebpf: &mut Ebpf,
    pins: &PinDirectory,
    interfaces: &[(u32, PortEntry)],
) -> (BTreeMap<u32, Guard>, BTreeMap<u32, Error>) {
    let mut guards = BTreeMap::new();
    let mut refused = BTreeMap::new();
    for (hook, on_bridges) in ORDER {
        for (ifindex, port) in interfaces {
            let kind = if on_bridges { PortKind::Bridge } else { PortKind::Port };
            if port.kind != kind as u8 || refused.contains_key(ifindex) {
                continue;
            }
            let interface = read_name(&port.name);
            let guard = guards
                .entry(*ifindex)
                .or_insert_with(|| Guard { interface: interface.to_owned(), fresh: Vec::new() });
            match attach(ebpf, pins, *ifindex, interface, hook) {
                Ok(Attached::Fresh) => guard.fresh.push(hook),
                Ok(Attached::Replaced) => {}
                Err(error) => {
                    if let Some(guard) = guards.remove(ifindex) {
                        guard.roll_back(pins);
                    }
                    refused.insert(*ifindex, error);
                }
            }
        }
    }
    (guards, refused)
}

enum Attached {
    Fresh,
    Replaced,
}

fn attach(
    ebpf: &mut Ebpf,
    pins: &PinDirectory,
    ifindex: u32,
    interface: &str,
    hook: Hook,
) -> Result<Attached, Error> {
    let name = hook.program();
    let refused = |source| Error::Attach {
        program: name,
        interface: interface.to_owned(),
        source: Box::new(source),
    };
    let pin = pins.link(interface, hook);
    let program = ebpf.program_mut(name).ok_or(Error::Object(name))?;
    match device::ifindex_of(&pin).map_err(|error| Error::pin("open", &pin, error))? {
        Some(found) if found == ifindex => {
            let old = PinnedLink::from_pin(&pin).map_err(|error| refused(error.into()))?;
            replace(program, old.into()).map_err(refused)?;
            return Ok(Attached::Replaced);
        }
        // The pin is of another interface that had this name: gone, renamed, in another namespace.
        Some(_) => remove_pin(&pin)?,
        None => {}
    }
    let link = create(program, ifindex, interface, hook).map_err(refused)?;
    link.pin(&pin).map_err(|error| Error::pin("pin", &pin, error))?;
    Ok(Attached::Fresh)
}

/// Swaps the program under a link; packets meet the old one or the new one.
fn replace(program: &mut Program, old: FdLink) -> Result<(), AttachError> {
    match program {
        Program::Xdp(program) => {
            let id = program.attach_to_link(XdpLink::try_from(old)?)?;
            // The pin holds the link; this process need not.
            drop(program.take_link(id)?);
        }
        Program::SchedClassifier(program) => {
            let id = program.attach_to_link(SchedClassifierLink::try_from(old)?)?;
            drop(program.take_link(id)?);
        }
        _ => return Err(ProgramError::UnexpectedProgramType.into()),
    }
    Ok(())
}

fn create(
    program: &mut Program,
    ifindex: u32,
    interface: &str,
    hook: Hook,
) -> Result<FdLink, AttachError> {
    match program {
        Program::Xdp(program) => create_xdp(program, ifindex),
        Program::SchedClassifier(program) => create_tc(program, interface, hook),
        _ => Err(ProgramError::UnexpectedProgramType.into()),
    }
}

/// In the driver (veth, TAP), or generically where the driver has no XDP.
fn create_xdp(program: &mut Xdp, ifindex: u32) -> Result<FdLink, AttachError> {
    let id = match program.attach_to_if_index(ifindex, XdpMode::Driver) {
        Err(ProgramError::SyscallError(error)) if is_unsupported(&error.io_error) => {
            program.attach_to_if_index(ifindex, XdpMode::Skb)?
        }
        attached => attached?,
    };
    Ok(program.take_link(id)?.try_into()?)
}

/// First in the chain: what another program would let through, ours has already judged.
fn create_tc(
    program: &mut SchedClassifier,
    interface: &str,
    hook: Hook,
) -> Result<FdLink, AttachError> {
    let side = match hook {
        Hook::PortEgress | Hook::BridgeEgress | Hook::Xdp => TcAttachType::Ingress,
        Hook::PortIngress | Hook::BridgeIngress => TcAttachType::Egress,
    };
    let first = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program.attach_with_options(interface, side, first)?;
    Ok(program.take_link(id)?.try_into()?)
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL))
}
