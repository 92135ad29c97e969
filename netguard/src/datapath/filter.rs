//! TC programs as filters of a clsact qdisc (tc-bpf(8)), which stay until somebody removes them: on kernels without tcx, and
//! where somebody waits for an interface.
//!
//! The kernel is the only record: each filter's name says whose it is, and whether the qdisc is netguard's too.
//! `tc filter show` prints it: `netguard INSTANCE PROGRAM`, or `netguard INSTANCE PROGRAM +clsact`.

use std::{io, os::fd::RawFd};

use netguard_common::Hook;
use nix::net::if_::if_indextoname;
use rtnetlink::{
    packet_core::{NLM_F_CREATE, NLM_F_ECHO, NLM_F_EXCL, NlasIterator},
    packet_route::{
        RouteNetlinkMessage as Message,
        tc::{TcAttribute, TcBpfFlags, TcFilterBpfOption, TcHandle, TcHeader, TcMessage, TcOption},
    },
};

use super::error::AttachError;
use crate::netlink;

/// Ours come first: what another filter would let through, ours have already judged. Returning "unspecified"
/// they hand on to the filters of the next priority (`tcf_classify` in net/sched/cls_api.c).
const PRIORITY: u16 = 1;
const HANDLE: TcHandle = TcHandle { major: 0, minor: 1 };
const CLSACT: TcHandle = TcHandle { major: u16::MAX, minor: 0 };
const QDISC: &str = "clsact";
/// What a filter's name ends with if netguard made the qdisc.
const OWNS_QDISC: &str = "+clsact";

/// `struct tcmsg` and the attributes behind it (include/uapi/linux/rtnetlink.h, pkt_cls.h).
const HEADER: usize = 20;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_CHAIN: u16 = 11;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_ID: u16 = 11;

/// A filter of netguard's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filter {
    pub hook: Hook,
    pub ifindex: u32,
    /// The interface's name.
    pub interface: String,
    /// The kernel's number of the program.
    pub program_id: u32,
}

/// Where a filter is, and what it bears.
struct Found {
    side: Side,
    priority: u16,
    chain: u32,
    name: Name,
    program_id: u32,
}

/// On which side of an interface TC runs a program.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Ingress,
    Egress,
}

impl Side {
    pub(super) fn of(hook: Hook) -> Self {
        match hook {
            Hook::PortEgress | Hook::BridgeEgress | Hook::UplinkIngress | Hook::Xdp => {
                Self::Ingress
            }
            Hook::PortIngress | Hook::BridgeIngress | Hook::UplinkEgress => Self::Egress,
        }
    }

    fn parent(self) -> TcHandle {
        let minor = match self {
            Self::Ingress => TcHandle::MIN_INGRESS,
            Self::Egress => TcHandle::MIN_EGRESS,
        };
        TcHandle { major: u16::MAX, minor }
    }
}

/// Whose a filter is.
#[derive(Debug, PartialEq, Eq)]
enum Name {
    Ours { instance: String, hook: Hook, owns_qdisc: bool },
    Foreign,
}

impl Name {
    fn read(text: &str) -> Self {
        let words: Vec<_> = text.split(' ').collect();
        let (instance, program, owns_qdisc) = match words.as_slice() {
            ["netguard", instance, program] => (instance, program, false),
            ["netguard", instance, program, OWNS_QDISC] => (instance, program, true),
            _ => return Self::Foreign,
        };
        match Hook::ALL.into_iter().find(|hook| hook.program() == *program) {
            Some(hook) => Self::Ours { instance: (*instance).to_owned(), hook, owns_qdisc },
            None => Self::Foreign,
        }
    }

    fn write(instance: &str, hook: Hook, owns_qdisc: bool) -> String {
        let end = if owns_qdisc { format!(" {OWNS_QDISC}") } else { String::new() };
        format!("netguard {instance} {}{end}", hook.program())
    }

    fn is_of(&self, instance: &str) -> bool {
        matches!(self, Self::Ours { instance: found, .. } if found == instance)
    }

    fn owns_qdisc(&self) -> bool {
        matches!(self, Self::Ours { owns_qdisc: true, .. })
    }
}

/// Puts a program first into the interface's chain, in one step in place of an earlier one of the instance's. True
/// if there was one.
pub(super) fn attach(
    instance: &str,
    ifindex: u32,
    hook: Hook,
    program: RawFd,
) -> Result<bool, AttachError> {
    let side = Side::of(hook);
    let made = ensure_qdisc(ifindex)?;
    let there = if made { Vec::new() } else { filters_of(ifindex)? };
    let is_first = |it: &Found| it.side == side && it.chain == 0 && it.priority <= PRIORITY;
    if there.iter().any(|it| is_first(it) && !it.name.is_of(instance)) {
        return Err(AttachError::Taken { egress: side == Side::Egress });
    }
    let mut ours = there.iter().filter(|it| it.name.is_of(instance));
    let is_there = ours.clone().any(|it| it.side == side);
    let owns_qdisc = made || ours.any(|it| it.name.owns_qdisc());
    let options = [
        TcFilterBpfOption::ProgFd(program.cast_unsigned()),
        TcFilterBpfOption::ProgName(Name::write(instance, hook, owns_qdisc)),
        TcFilterBpfOption::Flags(TcBpfFlags::DirectAction),
    ];
    let message = filter(ifindex, side, options.map(TcOption::Bpf).to_vec());
    let exclusively = if is_there { 0 } else { NLM_F_EXCL };
    let attached = netlink::request(Message::NewTrafficFilter(message), NLM_F_CREATE | exclusively);
    if let Err(error) = attached {
        if made {
            // Nothing is in it; the first error is the one to tell.
            let _ = remove_qdisc(ifindex);
        }
        return Err(error.into());
    }
    Ok(is_there)
}

/// The number of the program that the instance's filter holds on that hook, if there is one.
pub(super) fn program(instance: &str, ifindex: u32, hook: Hook) -> io::Result<Option<u32>> {
    let there = match filters_on(ifindex, Side::of(hook)) {
        Err(error) if is_absence(&error) => return Ok(None),
        there => there?,
    };
    Ok(there.iter().find(|it| it.name.is_of(instance)).map(|it| it.program_id))
}

/// The numbers of the programs that filters hold on one side of an interface, in the order in which the kernel runs them; 0 for
/// a filter that is no program.
pub(super) fn programs(ifindex: u32, side: Side) -> io::Result<Vec<u32>> {
    let mut there = filters_on(ifindex, side)?;
    there.sort_by_key(|found| (found.chain, found.priority));
    Ok(there.into_iter().map(|found| found.program_id).collect())
}

/// Removes the instance's filter of a hook, and the qdisc if netguard made it and nothing else is in it. Fine if
/// there is no such filter or interface.
pub(super) fn detach(instance: &str, ifindex: u32, hook: Hook) -> io::Result<()> {
    let side = Side::of(hook);
    let there = match filters_of(ifindex) {
        Err(error) if is_absence(&error) => return Ok(()),
        there => there?,
    };
    let (ours, others): (Vec<_>, Vec<_>) =
        there.iter().partition(|it| it.side == side && it.name.is_of(instance));
    for found in &ours {
        let message = filter(ifindex, side, Vec::new());
        unless_absent(netlink::request(Message::DelTrafficFilter(message), 0))?;
        if others.is_empty() && found.name.owns_qdisc() {
            unless_absent(remove_qdisc(ifindex))?;
        }
    }
    Ok(())
}

/// The instance's filters in this thread's network namespace.
pub(super) fn all(instance: &str) -> io::Result<Vec<Filter>> {
    let mut filters = Vec::new();
    for answer in netlink::list(Message::GetQueueDiscipline(TcMessage::default()))? {
        let Some((header, kind, _)) = parts(&answer) else { continue };
        let ifindex = header.index.cast_unsigned();
        if kind != QDISC {
            continue;
        }
        let there = match filters_of(ifindex) {
            Err(error) if is_absence(&error) => continue, // gone meanwhile
            there => there?,
        };
        let Ok(interface) = if_indextoname(ifindex) else { continue };
        for found_at in there {
            if let Name::Ours { instance: found, hook, .. } = found_at.name
                && found == instance
            {
                let interface = interface.to_string_lossy().into_owned();
                let program_id = found_at.program_id;
                filters.push(Filter { hook, ifindex, interface, program_id });
            }
        }
    }
    Ok(filters)
}

/// Removes all of the instance's filters in this thread's network namespace.
pub(super) fn detach_all(instance: &str) -> io::Result<()> {
    all(instance)?.iter().try_for_each(|filter| detach(instance, filter.ifindex, filter.hook))
}

/// Makes sure that the interface has a clsact qdisc; true if it had none.
fn ensure_qdisc(ifindex: u32) -> Result<bool, AttachError> {
    // Without "echo" the kernel answers nobody (`qdisc_notify` in net/sched/sch_api.c).
    let found = netlink::request(Message::GetQueueDiscipline(qdisc(ifindex)), NLM_F_ECHO);
    match found {
        Err(error) if is_absence(&error) => {}
        found => {
            let kinds = found?;
            let kind = kinds.first().and_then(|answer| Some(parts(answer)?.1)).unwrap_or_default();
            // In one of the kind "ingress" both chains are the same.
            return if kind == QDISC { Ok(false) } else { Err(AttachError::NoClsact(kind)) };
        }
    }
    let mut message = qdisc(ifindex);
    message.attributes.push(TcAttribute::Kind(QDISC.to_owned()));
    netlink::request(Message::NewQueueDiscipline(message), NLM_F_CREATE | NLM_F_EXCL)?;
    Ok(true)
}

fn remove_qdisc(ifindex: u32) -> io::Result<()> {
    netlink::request(Message::DelQueueDiscipline(qdisc(ifindex)), 0).map(drop)
}

fn qdisc(ifindex: u32) -> TcMessage {
    let mut message = TcMessage::with_index(ifindex.cast_signed());
    message.header.parent = TcHandle::CLSACT;
    message.header.handle = CLSACT;
    message
}

fn filter(ifindex: u32, side: Side, options: Vec<TcOption>) -> TcMessage {
    let mut message = TcMessage::with_index(ifindex.cast_signed());
    message.header.parent = side.parent();
    message.header.handle = HANDLE;
    let every_protocol = (libc::ETH_P_ALL as u16).to_be();
    message.header.info = u32::from(PRIORITY) << 16 | u32::from(every_protocol);
    message.attributes.push(TcAttribute::Kind("bpf".to_owned()));
    if !options.is_empty() {
        message.attributes.push(TcAttribute::Options(options));
    }
    message
}

/// Every filter on both sides of an interface.
fn filters_of(ifindex: u32) -> io::Result<Vec<Found>> {
    let mut found = filters_on(ifindex, Side::Ingress)?;
    found.extend(filters_on(ifindex, Side::Egress)?);
    Ok(found)
}

fn filters_on(ifindex: u32, side: Side) -> io::Result<Vec<Found>> {
    let mut message = TcMessage::with_index(ifindex.cast_signed());
    message.header.parent = side.parent();
    let answers = netlink::list(Message::GetTrafficFilter(message))?;
    Ok(answers.iter().filter_map(|answer| read(answer, side)).collect())
}

/// Reads a filter; `None` for what only heads the filters of a priority.
fn read(answer: &[u8], side: Side) -> Option<Found> {
    let (header, _, attributes) = parts(answer)?;
    if header.handle == TcHandle::UNSPEC {
        return None;
    }
    let chain = attribute(attributes, TCA_CHAIN).and_then(|it| it.first_chunk().copied());
    let options = attribute(attributes, TCA_OPTIONS).unwrap_or_default();
    let program_id = attribute(&options, TCA_BPF_ID).and_then(|it| it.first_chunk().copied());
    let name = text(&attribute(&options, TCA_BPF_NAME).unwrap_or_default());
    // The number is no more than the kernel's own upper half of the word.
    let priority = (header.info >> 16) as u16;
    let chain = chain.map_or(0, u32::from_ne_bytes);
    let is_place = chain == 0 && priority == PRIORITY && header.handle == HANDLE;
    let name = if is_place { Name::read(&name) } else { Name::Foreign };
    let program_id = program_id.map_or(0, u32::from_ne_bytes);
    Some(Found { side, priority, chain, name, program_id })
}

/// The header of an answer, its kind and all its attributes.
fn parts(answer: &[u8]) -> Option<(TcHeader, String, &[u8])> {
    let header = TcHeader::parse(answer).ok()?;
    let attributes = answer.get(HEADER..)?;
    Some((header, text(&attribute(attributes, TCA_KIND)?), attributes))
}

fn attribute(attributes: &[u8], kind: u16) -> Option<Vec<u8>> {
    let mut found = NlasIterator::new(attributes).map_while(Result::ok);
    Some(found.find(|it| it.kind() == kind)?.value().to_vec())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.strip_suffix(b"\0").unwrap_or(bytes)).into_owned()
}

fn unless_absent<T>(done: io::Result<T>) -> io::Result<()> {
    match done {
        Err(error) if !is_absence(&error) => Err(error),
        _ => Ok(()),
    }
}

/// True if the kernel knows no such interface, filter or qdisc (any more); the last it calls an invalid handle.
pub(super) fn is_absence(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENOENT | libc::EINVAL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_whose_a_filter_is() {
        for (instance, owns_qdisc) in [("host", false), ("lab-ng", true)] {
            let name = Name::write(instance, Hook::PortEgress, owns_qdisc);
            let read = Name::read(&name);
            assert!(read.is_of(instance) && !read.is_of("other"), "{name}");
            assert_eq!(read.owns_qdisc(), owns_qdisc, "{name}");
        }
        for foreign in ["", "netguard", "netguard host", "netguard host cls_main", "a host ng_xdp"]
        {
            assert_eq!(Name::read(foreign), Name::Foreign, "{foreign}");
        }
    }
}
