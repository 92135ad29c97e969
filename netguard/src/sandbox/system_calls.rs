//! The system calls of the worker, each with the arguments that it needs. What is not here is refused.
//!
//! Numbers of commands and flags are `int` in the kernel, so their lower 32 bits are all there is to compare.

use std::collections::BTreeMap;

use libc::{c_int, c_long};
use seccompiler::{
    BackendError, SeccompCmpArgLen as Length, SeccompCmpOp as Is, SeccompCondition, SeccompRule,
};

use super::Confinement;

/// Calls by number; without rules whatever the arguments, else if one of the rules fits.
pub(super) type Calls = BTreeMap<i64, Vec<SeccompRule>>;
type Rules = Result<Vec<SeccompRule>, BackendError>;

/// Needed, and harmless with any argument: what they act on is named by a descriptor that the process has, or is the
/// process itself.
const ANY: &[c_long] = &[
    // Memory.
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    // Threads and signals of its own.
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    // Time and chance.
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_getrandom,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
    // Descriptors.
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_fstat,
    libc::SYS_ppoll,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    // Sockets that are there.
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_listen,
    libc::SYS_recvfrom,
    libc::SYS_recvmmsg,
    libc::SYS_recvmsg,
    libc::SYS_shutdown,
];

/// Commands of bpf(2) on maps whose descriptor the process has (linux/bpf.h, `enum bpf_cmd`). No map can be made or opened, no
/// program loaded, attached or run.
const BPF_COMMANDS: &[u32] = &[
    1,  // BPF_MAP_LOOKUP_ELEM
    2,  // BPF_MAP_UPDATE_ELEM
    3,  // BPF_MAP_DELETE_ELEM
    4,  // BPF_MAP_GET_NEXT_KEY
    15, // BPF_OBJ_GET_INFO_BY_FD
    21, // BPF_MAP_LOOKUP_AND_DELETE_ELEM
    24, // BPF_MAP_LOOKUP_BATCH
    25, // BPF_MAP_LOOKUP_AND_DELETE_BATCH
    26, // BPF_MAP_UPDATE_BATCH
    27, // BPF_MAP_DELETE_BATCH
];

/// Options of sockets, by level. No filter of BPF but the one that deals out datagrams among sockets of a port.
const SOCKET_OPTIONS: &[(c_int, &[c_int])] = &[
    (
        libc::SOL_SOCKET,
        &[
            libc::SO_ATTACH_REUSEPORT_CBPF,
            libc::SO_BINDTODEVICE,
            libc::SO_RCVBUF,
            libc::SO_REUSEADDR,
            libc::SO_REUSEPORT,
        ],
    ),
    (libc::IPPROTO_TCP, &[libc::TCP_NODELAY]),
    (libc::IPPROTO_IP, &[libc::IP_FREEBIND]),
    (libc::IPPROTO_IPV6, &[libc::IPV6_FREEBIND, libc::IPV6_V6ONLY]),
];

/// Calls that a library falls back from if the kernel does not have them. The flags of clone3 are in memory, where no filter
/// sees them; those of clone are not.
pub(super) fn unknown() -> Calls {
    [(libc::SYS_clone3, Vec::new())].into()
}

/// Calls that name files; they are refused as by permissions, because programs expect that of files.
pub(super) fn hidden(confinement: &Confinement) -> Calls {
    let reading = [libc::SYS_newfstatat, libc::SYS_openat, libc::SYS_statx];
    let hidden = [
        libc::SYS_faccessat,
        libc::SYS_faccessat2,
        libc::SYS_openat2,
        libc::SYS_readlinkat,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_access,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_lstat,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_open,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_readlink,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_stat,
    ];
    let reading = reading.into_iter().filter(|_| confinement.readable.is_empty());
    hidden.into_iter().chain(reading).map(|call| (call, Vec::new())).collect()
}

/// What the worker may call, as the process `own`.
pub(super) fn allowed(confinement: &Confinement, own: u32) -> Result<Calls, BackendError> {
    let mut calls: Calls = ANY.iter().map(|call| (*call, Vec::new())).collect();
    let no_code = || one_of([[masked(2, libc::PROT_EXEC, 0)?]]);
    let no_fast_open = |flags| one_of([[masked(flags, libc::MSG_FASTOPEN, 0)?]]);
    calls.extend([
        (libc::SYS_mmap, no_code()?),
        (libc::SYS_mprotect, no_code()?),
        (libc::SYS_clone, threads_only()?),
        (libc::SYS_tgkill, one_of([[equal(0, own)?]])?),
        (libc::SYS_prctl, commands(0, &[libc::PR_SET_NAME, libc::PR_GET_NAME, libc::PR_SET_VMA])?),
        (libc::SYS_prlimit64, limits_read()?),
        (libc::SYS_fcntl, descriptors()?),
        (libc::SYS_ioctl, one_of([[equal(1, libc::FIONBIO as u32)?]])?),
        (libc::SYS_socket, sockets()?),
        (libc::SYS_socketpair, socket_pairs()?),
        (libc::SYS_setsockopt, socket_options()?),
        // A connection that no connect(2) makes would pass by Landlock.
        (libc::SYS_sendto, no_fast_open(3)?),
        (libc::SYS_sendmsg, no_fast_open(2)?),
        (libc::SYS_sendmmsg, no_fast_open(3)?),
        (libc::SYS_bpf, one_of(each(BPF_COMMANDS, |command| equal(0, *command))?)?),
    ]);
    if !confinement.readable.is_empty() {
        // Which files, says Landlock.
        const CHANGING: c_int = libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC;
        calls.insert(libc::SYS_openat, one_of([[masked(2, CHANGING, libc::O_RDONLY)?]])?);
        let reading = [
            libc::SYS_getdents64,
            libc::SYS_lseek,
            libc::SYS_newfstatat,
            libc::SYS_pread64,
            libc::SYS_statx,
        ];
        calls.extend(reading.map(|call| (call, Vec::new())));
    }
    Ok(calls)
}

/// A thread shares all of its process and begins no namespace.
fn threads_only() -> Rules {
    const SHARED: c_int = libc::CLONE_VM
        | libc::CLONE_FS
        | libc::CLONE_FILES
        | libc::CLONE_SIGHAND
        | libc::CLONE_THREAD;
    const APART: c_int = libc::CLONE_NEWCGROUP
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWUTS
        | libc::CLONE_PIDFD
        | libc::CLONE_PTRACE
        | libc::CLONE_VFORK;
    one_of([[masked(0, SHARED | APART, SHARED)?]])
}

/// Its own limits, which it cannot change: glibc asks for the size of stacks.
fn limits_read() -> Rules {
    let unchanged = SeccompCondition::new(2, Length::Qword, Is::Eq, 0)?;
    one_of([[equal(0, 0)?, unchanged]])
}

fn descriptors() -> Rules {
    let known = [libc::F_DUPFD_CLOEXEC, libc::F_GETFD, libc::F_GETFL, libc::F_SETFD, libc::F_SETFL];
    commands(1, &known)
}

/// TCP and UDP: nothing raw, no netlink, no packets, no other protocols.
fn sockets() -> Rules {
    let mut rules = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        for (kind, protocol) in [
            (libc::SOCK_STREAM, 0),
            (libc::SOCK_STREAM, libc::IPPROTO_TCP),
            (libc::SOCK_DGRAM, 0),
            (libc::SOCK_DGRAM, libc::IPPROTO_UDP),
        ] {
            rules.push([equal(0, family as u32)?, of_kind(kind)?, equal(2, protocol as u32)?]);
        }
    }
    one_of(rules)
}

/// Streams, as tokio has for signals: a datagram socket could be sent on to any path that its user may write.
fn socket_pairs() -> Rules {
    one_of([[equal(0, libc::AF_UNIX as u32)?, of_kind(libc::SOCK_STREAM)?, equal(2, 0)?]])
}

fn socket_options() -> Rules {
    let mut rules = Vec::new();
    for (level, names) in SOCKET_OPTIONS {
        for name in *names {
            rules.push([equal(1, *level as u32)?, equal(2, *name as u32)?]);
        }
    }
    one_of(rules)
}

fn commands(argument: u8, numbers: &[c_int]) -> Rules {
    one_of(each(numbers, |number| equal(argument, *number as u32))?)
}

/// One rule with one condition for each of them.
fn each<T>(
    of: &[T],
    condition: impl Fn(&T) -> Result<SeccompCondition, BackendError>,
) -> Result<Vec<[SeccompCondition; 1]>, BackendError> {
    of.iter().map(|it| condition(it).map(|condition| [condition])).collect()
}

/// One of the rules must fit, with all of its conditions.
fn one_of<const N: usize>(rules: impl IntoIterator<Item = [SeccompCondition; N]>) -> Rules {
    rules.into_iter().map(|conditions| SeccompRule::new(conditions.into())).collect()
}

fn equal(argument: u8, value: u32) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, Length::Dword, Is::Eq, value.into())
}

fn masked(argument: u8, mask: c_int, value: c_int) -> Result<SeccompCondition, BackendError> {
    let (mask, value) = (u64::from(mask as u32), u64::from(value as u32));
    SeccompCondition::new(argument, Length::Dword, Is::MaskedEq(mask), value)
}

/// The second argument without the flags beside the kind (`SOCK_TYPE_MASK`, linux/net.h).
fn of_kind(kind: c_int) -> Result<SeccompCondition, BackendError> {
    masked(1, 0xf, kind)
}
