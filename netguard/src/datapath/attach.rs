//! Programs on interfaces. What holds one there outlives the daemon, a pinned link or a filter; what an earlier
//! daemon left is taken over by replacing its program in one step.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd as _, AsRawFd as _},
};

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
    maps::{LinkKind, PortEntry, PortKind, read_name},
};

use super::{
    Error, Tc, device,
    error::AttachError,
    filter::{self, Side},
    pins::{PinDirectory, remove_pin},
};

/// Hooks in the order in which they are attached: answers find the way back before anything leaves by the fast path, a bridge
/// vouches before its ports ask for it, and asks only when its ports vouch, so that no packet of a running host is dropped in
/// between.
const ORDER: [Hook; 7] = [
    Hook::UplinkEgress,
    Hook::UplinkIngress,
    Hook::BridgeIngress,
    Hook::PortIngress,
    Hook::PortEgress,
    Hook::Xdp,
    Hook::BridgeEgress,
];

/// True if netguard has a program on that hook of that interface.
///
/// XDP only drops early what TC would drop too, so it is left off where it costs more than it saves (`cargo xtask bench
/// bulk`; the code is that of Linux 6.1 to 6.18). A veth copies each frame of a socket's into pages of XDP's own
/// (`veth_xdp_rcv_skb`), and its other end may send no GSO frames any more (`veth_fix_features`): a sixth of the TCP throughput
/// is left. A TAP runs it on GSO frames in generic mode, which copies them (`tun_get_user`), and drops no frame faster by it.
///
/// There is none on a bridge: the kernel then refuses XDP on every port that joins it later (EEXIST,
/// `dev_xdp_attach` in net/core/dev.c, Linux 5.9 to 6.18), and generic mode, the only one that a
/// bridge has, would copy every GSO frame to make it linear.
fn is_on(hook: Hook, port: &PortEntry) -> bool {
    let is = |kind: PortKind| port.kind == kind as u8;
    match hook {
        Hook::Xdp => is(PortKind::Port) && port.link == LinkKind::Other as u8,
        Hook::PortEgress | Hook::PortIngress => is(PortKind::Port),
        Hook::BridgeEgress | Hook::BridgeIngress => is(PortKind::Bridge),
        Hook::UplinkEgress | Hook::UplinkIngress => is(PortKind::FastUplink),
    }
}

/// What holds a program on an interface.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hold {
    /// A link, which its pin keeps.
    Link,
    /// A filter of a clsact qdisc, which keeps itself.
    Filter,
}

/// Who waits for programs to be attached.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Waits {
    /// There is time for it.
    Nobody,
    /// A slot is made, or a port has come.
    Somebody,
}

impl Hold {
    /// What holds a program that is on no hook yet, and what else if the kernel refuses that. A link of TC's makes the kernel wait for a grace
    /// period, each some 10 ms (`tcx_entry_sync` in include/net/tcx.h, Linux 6.6); a filter does not
    /// (`mini_qdisc_pair_swap` in net/sched/sch_generic.c), but any `tc qdisc del` removes it.
    fn choices(hook: Hook, tc: Tc, who: Waits) -> (Self, Option<Self>) {
        match (hook, tc, who) {
            // XDP has had links for longer than any kernel that netguard runs on.
            (Hook::Xdp, ..) | (_, Tc::Tcx, Waits::Nobody) => (Self::Link, None),
            (_, Tc::Tcx, Waits::Somebody) => (Self::Filter, Some(Self::Link)),
            (_, Tc::Clsact, _) => (Self::Filter, None),
        }
    }
}

/// The programs of one interface.
#[derive(Debug)]
pub struct Guard {
    /// The interface's name.
    pub interface: String,
    pub(super) ifindex: u32,
    /// Hooks that had no program of ours before.
    fresh: Vec<Hook>,
}

impl Guard {
    /// Takes the programs off an interface that is gone, or no slot's any more.
    pub(super) fn forget(&self, pins: &PinDirectory) {
        for hook in ORDER {
            self.release(pins, hook);
        }
    }

    /// Detaches what this process attached; what it replaced stays closed with the new program.
    pub(super) fn roll_back(self, pins: &PinDirectory) {
        for hook in &self.fresh {
            self.release(pins, *hook);
        }
    }

    /// Ends what holds a program, as well as it can: what stays guards more than was asked for, or holds a link
    /// without a device, and the next attach replaces it.
    fn release(&self, pins: &PinDirectory, hook: Hook) {
        let _ = remove_pin(&pins.link(&self.interface, hook));
        let _ = remove_filter(pins, self.ifindex, hook);
    }
}

/// Removes the filter of a hook, if the instance has filters at all.
fn remove_filter(pins: &PinDirectory, ifindex: u32, hook: Hook) -> io::Result<()> {
    if hook == Hook::Xdp || pins.namespace_of_filters().is_none() {
        return Ok(());
    }
    filter::detach(pins.instance(), ifindex, hook)
}

/// Attaches the programs of ports and bridges, each interface's all or none. Interfaces that refuse
/// theirs are returned with the reason.
pub(super) fn guard(
    ebpf: &mut Ebpf,
    pins: &PinDirectory,
    tc: Tc,
    who: Waits,
    interfaces: &[(u32, PortEntry)],
) -> (BTreeMap<u32, Guard>, BTreeMap<u32, Error>) {
    let mut guards = BTreeMap::new();
    let mut refused = BTreeMap::new();
    for hook in ORDER {
        for (ifindex, port) in interfaces {
            if !is_on(hook, port) || refused.contains_key(ifindex) {
                continue;
            }
            let interface = read_name(&port.name);
            let guard = guards.entry(*ifindex).or_insert_with(|| Guard {
                interface: interface.to_owned(),
                ifindex: *ifindex,
                fresh: Vec::new(),
            });
            let choices = Hold::choices(hook, tc, who);
            match attach(ebpf, pins, choices, *ifindex, interface, hook) {
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

/// The hooks of an interface that have a program of ours.
pub(super) fn hooks_of(port: &PortEntry) -> impl Iterator<Item = Hook> {
    ORDER.into_iter().filter(|hook| is_on(*hook, port))
}

enum Attached {
    Fresh,
    Replaced,
}

/// Attaches one program: in the place of an earlier one, whatever holds that, else by the first choice that the kernel takes.
fn attach(
    ebpf: &mut Ebpf,
    pins: &PinDirectory,
    choices: (Hold, Option<Hold>),
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
    let pinned = device::ifindex_of(&pin).map_err(|error| Error::pin("open", &pin, error))?;
    if pinned == Some(ifindex) {
        let old = PinnedLink::from_pin(&pin).map_err(|error| refused(error.into()))?;
        replace(program, old.into()).map_err(refused)?;
        return Ok(Attached::Replaced);
    }
    // A pin is of another interface that had this name: gone, renamed, in another namespace.
    remove_pin(&pin)?;
    let (best, other) = match choices {
        (Hold::Link, _) if pins.filter_on(ifindex, hook)?.is_some() => (Hold::Filter, None),
        choices => choices,
    };
    let mut put = |hold| match hold {
        Hold::Link => {
            let link = create(program, ifindex, interface, hook).map_err(refused)?;
            link.pin(&pin).map_err(|error| Error::pin("pin", &pin, error))?;
            Ok(Attached::Fresh)
        }
        Hold::Filter => {
            pins.remember_namespace()?;
            put_filter(program, pins, ifindex, hook).map_err(refused)
        }
    };
    match (put(best), other) {
        (Err(_), Some(other)) => put(other),
        (done, _) => done,
    }
}

fn put_filter(
    program: &Program,
    pins: &PinDirectory,
    ifindex: u32,
    hook: Hook,
) -> Result<Attached, AttachError> {
    let fd = program.fd()?.as_fd().as_raw_fd();
    let replaced = filter::attach(pins.instance(), ifindex, hook, fd)?;
    Ok(if replaced { Attached::Replaced } else { Attached::Fresh })
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

/// In the driver, or generically where the driver has no XDP.
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
    let side = match Side::of(hook) {
        Side::Ingress => TcAttachType::Ingress,
        Side::Egress => TcAttachType::Egress,
    };
    let first = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program.attach_with_options(interface, side, first)?;
    Ok(program.take_link(id)?.try_into()?)
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL))
}
