//! What can go wrong between netguard and the kernel, with the way out in every message.

use std::{io, path::PathBuf};

use aya::{
    EbpfError,
    maps::MapError,
    programs::{ProgramError, links::LinkError},
};

/// A refusal of the kernel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel has something else than was put there.
    #[error("read back, it is not in force: {0}")]
    NotInForce(String),
    /// A program answers no dry run.
    #[error(
        "the loaded program {0} answers no questions: another version of netguard has loaded it; restart netguard"
    )]
    NoDryRun(&'static str),
    /// The process may not load programs.
    #[error(
        "not permitted to use the kernel's BPF programs and maps; run netguard as root or with CAP_BPF, CAP_NET_ADMIN \
         and CAP_PERFMON"
    )]
    Permission,
    /// The kernel lacks what netguard stands on.
    #[error("kernel {found} is too old: netguard needs Linux {}.{} or later", .needed.0, .needed.1)]
    KernelTooOld {
        /// What `uname -r` says.
        found: String,
        /// The oldest that would do.
        needed: (u32, u32),
    },
    /// Pins need a BPF file system.
    #[error("no BPF file system at {path}; mount it: mount -t bpf bpf {path}")]
    NoBpffs {
        /// Where it was looked for.
        path: PathBuf,
        /// Why mounting it failed, if that was tried.
        #[source]
        source: io::Error,
    },
    /// A pin could not be made, opened or removed.
    #[error("cannot {action} {path}")]
    Pin {
        /// What was tried.
        action: &'static str,
        /// The pin.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The programs could not be loaded.
    #[error("cannot load the kernel programs")]
    Load(#[source] Box<EbpfError>),
    /// One program was refused.
    #[error("the kernel refuses the program {name}")]
    Program {
        /// The program.
        name: &'static str,
        /// The verifier's words.
        #[source]
        source: Box<ProgramError>,
    },
    /// A program could not be attached.
    #[error("cannot attach {program} to {interface}: {source}")]
    Attach {
        /// The program.
        program: &'static str,
        /// The interface.
        interface: String,
        /// The kernel's answer.
        source: Box<AttachError>,
    },
    /// Filters could not be listed or removed.
    #[error("cannot find or remove the TC filters in the network namespace {namespace}")]
    Filters {
        /// As the kernel names it.
        namespace: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A map refused an operation.
    #[error("cannot use the map {name}")]
    Map {
        /// The map.
        name: &'static str,
        /// The kernel's answer.
        #[source]
        source: Box<MapError>,
    },
    /// The kernel refused what says when its programs have ended.
    #[error(
        "the kernel does not tell when programs have ended, so no other policy can take this one's place"
    )]
    Grace(#[source] io::Error),
    /// A policy is too large for a map.
    #[error(
        "the policy needs {wanted} entries of the map {name}, which has room for {room}; merge rules or ports"
    )]
    Room {
        /// The map.
        name: &'static str,
        /// How many the policy needs.
        wanted: usize,
        /// How many one policy may have.
        room: usize,
    },
    /// A policy has so many slots, or flows, that it needs other tables than those that were made at the start.
    #[error(
        "the policy needs tables of slots or flows of another size than this start has made; start netguard anew"
    )]
    Resized,
    /// The embedded object is not the one that this code was written for.
    #[error("the embedded kernel object lacks {0}: rebuild netguard")]
    Object(&'static str),
}

/// Why a program is not on its interface.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The kernel refused the program there.
    #[error("{}", root_cause(.0))]
    Program(#[from] ProgramError),
    /// The kernel made no link that could be pinned.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The kernel did not take a filter.
    #[error("{0}")]
    Filter(#[from] io::Error),
    /// Another filter would come before ours.
    #[error(
        "another filter is first there; give it a priority of 2 or more (tc filter show {})",
        if *.egress { "egress" } else { "ingress" }
    )]
    Taken {
        /// On which of the qdisc's sides.
        egress: bool,
    },
    /// There is another qdisc in clsact's place.
    #[error("its qdisc is {0:?} and must be clsact (tc qdisc show)")]
    NoClsact(String),
}

/// The kernel's own words; aya's name the system call but not what it said.
fn root_cause(error: &ProgramError) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

impl Error {
    pub(super) fn load(source: EbpfError) -> Self {
        if is_permission(&source, false) { Self::Permission } else { Self::Load(Box::new(source)) }
    }

    pub(super) fn program(name: &'static str, source: ProgramError) -> Self {
        if is_permission(&source, false) {
            Self::Permission
        } else {
            Self::Program { name, source: Box::new(source) }
        }
    }

    pub(super) fn map(name: &'static str, source: MapError) -> Self {
        if is_permission(&source, true) {
            Self::Permission
        } else {
            Self::Map { name, source: Box::new(source) }
        }
    }

    pub(super) fn filters(namespace: impl Into<String>, source: io::Error) -> Self {
        if is_permission(&source, true) {
            return Self::Permission;
        }
        Self::Filters { namespace: namespace.into(), source }
    }

    pub(super) fn pin(
        action: &'static str,
        path: impl Into<PathBuf>,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        if is_permission(&source, true) {
            return Self::Permission;
        }
        Self::Pin { action, path: path.into(), source: Box::new(source) }
    }
}

/// True if the system refused for want of rights. The verifier's refusal is EACCES too, so that one
/// counts only where no program is loaded.
fn is_permission(error: &(dyn std::error::Error + 'static), also_access: bool) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            let code = io.raw_os_error();
            return code == Some(libc::EPERM) || (also_access && code == Some(libc::EACCES));
        }
        cause = error.source();
    }
    false
}
