//! What code that a guest has taken over would try. Each attempt works without a sandbox, or fails in a way of its own.

use std::{
    ffi::CString,
    os::fd::{AsRawFd as _, OwnedFd},
    ptr,
};

use nix::{errno::Errno, libc};

use crate::bpf;

/// A name, the system call, and how it is made.
pub type Attempt = (&'static str, i64, Box<dyn Fn() -> Result<i64, Errno>>);

/// Makes a system call with arguments that the caller answers for.
macro_rules! call {
    ($number:expr $(, $argument:expr)*) => {
        // SAFETY: each attempt passes numbers, or pointers to what lives in the closure that makes it.
        Errno::result(unsafe { libc::syscall($number $(, $argument)*) })
    };
}

/// Everything, prepared while files can still be opened.
pub fn all(victim: &str, pin: &str, directory: &str) -> Vec<Attempt> {
    let victim: libc::pid_t = victim.parse().expect("a process");
    let path = |name: &str| CString::new(format!("{directory}/{name}")).expect("no zero");
    let mut attempts = programs(pin);
    attempts.extend(files(path("there"), path("new")));
    attempts.extend(processes(victim));
    attempts.extend(sockets());
    attempts.extend(memory());
    attempts.extend(rights());
    attempts.extend(doors());
    attempts
}

/// Makes them, and prints name, call and errno of each.
pub fn make(attempts: &[Attempt]) {
    for (name, call, attempt) in attempts {
        let outcome = attempt().map_or_else(|errno| format!("{errno:?}"), |_| "done".to_owned());
        println!("{name} {call} {outcome}");
    }
}

fn attempt(
    name: &'static str,
    call: i64,
    attempt: impl Fn() -> Result<i64, Errno> + 'static,
) -> Attempt {
    (name, call, Box::new(attempt))
}

fn programs(pin: &str) -> Vec<Attempt> {
    let (pin, call) = (pin.to_owned(), libc::SYS_bpf);
    let map: OwnedFd = bpf::make_map().expect("root may make a map");
    let freeze = move || {
        let mut attributes = bpf::Attributes::default();
        attributes.0[0] = map.as_raw_fd() as u64;
        bpf::call(bpf::MAP_FREEZE, &attributes)
    };
    vec![
        attempt("bpf-load-program", call, bpf::load_program),
        attempt("bpf-make-map", call, || bpf::make_map().map(|_| 0)),
        attempt("bpf-open-pin", call, move || bpf::open_pin(&pin)),
        attempt("bpf-next-id", call, || {
            bpf::call(bpf::MAP_GET_NEXT_ID, &bpf::Attributes::default())
        }),
        attempt("bpf-freeze-map", call, freeze),
        attempt("perf-event", libc::SYS_perf_event_open, || {
            call!(libc::SYS_perf_event_open, ptr::null::<u8>(), 0, -1, -1, 0)
        }),
        attempt("socket-filter", libc::SYS_setsockopt, || {
            let socket = call!(libc::SYS_socket, libc::AF_INET, libc::SOCK_DGRAM, 0)?;
            let mut step = libc::sock_filter { code: 6, jt: 0, jf: 0, k: 0 };
            let program = libc::sock_fprog { len: 1, filter: &raw mut step };
            let (level, option) = (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER);
            let size = size_of::<libc::sock_fprog>();
            call!(libc::SYS_setsockopt, socket, level, option, &raw const program, size)
        }),
    ]
}

fn files(there: CString, new: CString) -> Vec<Attempt> {
    let here = libc::AT_FDCWD;
    let open = move |path: CString, flags: i32| {
        move || call!(libc::SYS_openat, here, path.as_ptr(), flags, 0o666)
    };
    let call = libc::SYS_openat;
    let on = move |name: &'static str, call: i64, path: CString, a: i32, b: i32| {
        attempt(name, call, move || call!(call, here, path.as_ptr(), a, b, 0))
    };
    vec![
        attempt("open-read", call, open(there.clone(), libc::O_RDONLY)),
        attempt("open-write", call, open(there.clone(), libc::O_WRONLY)),
        attempt("open-new", call, open(new.clone(), libc::O_WRONLY | libc::O_CREAT)),
        attempt("open-path", call, open(there.clone(), libc::O_PATH)),
        attempt("open-by-structure", libc::SYS_openat2, {
            let there = there.clone();
            move || {
                // SAFETY: a C structure of numbers, of which zero is a value: to open for reading.
                let how: libc::open_how = unsafe { std::mem::zeroed() };
                let size = size_of::<libc::open_how>();
                call!(libc::SYS_openat2, here, there.as_ptr(), &raw const how, size)
            }
        }),
        on("access", libc::SYS_faccessat, there.clone(), libc::R_OK, 0),
        on("chown", libc::SYS_fchownat, there.clone(), 0, 0),
        on("chmod", libc::SYS_fchmodat, there.clone(), 0o666, 0),
        on("mkdir", libc::SYS_mkdirat, CString::new("/").expect("no zero"), 0o777, 0),
        on("unlink", libc::SYS_unlinkat, new, 0, 0),
        attempt("mount", libc::SYS_mount, || {
            let none = ptr::null::<u8>();
            call!(libc::SYS_mount, none, none, none, 0, none)
        }),
        attempt("memory-file", libc::SYS_memfd_create, || {
            call!(libc::SYS_memfd_create, c"code".as_ptr(), 0)
        }),
    ]
}

fn processes(victim: libc::pid_t) -> Vec<Attempt> {
    // A child that is there all the same must not go on as this process.
    let fork = |number: i64, flags: i32| {
        move || {
            let child = call!(number, flags | libc::SIGCHLD, 0, 0, 0, 0)?;
            if child == 0 {
                // SAFETY: ends the process and touches nothing of it.
                unsafe { libc::_exit(0) };
            }
            Ok(child)
        }
    };
    vec![
        attempt("exec", libc::SYS_execve, || {
            let none = [ptr::null::<u8>()];
            call!(libc::SYS_execve, c"/dev/null".as_ptr(), none.as_ptr(), none.as_ptr())
        }),
        attempt("exec-at", libc::SYS_execveat, || {
            let none = [ptr::null::<u8>()];
            let (path, none) = (c"/dev/null".as_ptr(), none.as_ptr());
            call!(libc::SYS_execveat, libc::AT_FDCWD, path, none, none, 0)
        }),
        attempt("fork", libc::SYS_clone, fork(libc::SYS_clone, 0)),
        attempt("fork-new-user", libc::SYS_clone, fork(libc::SYS_clone, libc::CLONE_NEWUSER)),
        attempt("fork-by-structure", libc::SYS_clone3, || {
            let mut how = [0_u64; 8];
            how[4] = libc::SIGCHLD as u64;
            let child = call!(libc::SYS_clone3, &raw const how, size_of_val(&how))?;
            if child == 0 {
                // SAFETY: ends the process and touches nothing of it.
                unsafe { libc::_exit(0) };
            }
            Ok(child)
        }),
        attempt("unshare", libc::SYS_unshare, || call!(libc::SYS_unshare, libc::CLONE_NEWNET)),
        attempt("setns", libc::SYS_setns, || call!(libc::SYS_setns, -1, libc::CLONE_NEWNET)),
        attempt("ptrace", libc::SYS_ptrace, move || {
            call!(libc::SYS_ptrace, libc::PTRACE_SEIZE, victim, 0, 0)
        }),
        attempt("read-memory", libc::SYS_process_vm_readv, move || {
            call!(libc::SYS_process_vm_readv, victim, 0, 0, 0, 0, 0_usize)
        }),
        attempt("write-memory", libc::SYS_process_vm_writev, move || {
            call!(libc::SYS_process_vm_writev, victim, 0, 0, 0, 0, 0_usize)
        }),
        attempt("kill", libc::SYS_kill, move || call!(libc::SYS_kill, victim, 0)),
        attempt("kill-thread", libc::SYS_tgkill, move || {
            call!(libc::SYS_tgkill, victim, victim, 0)
        }),
        attempt("pidfd", libc::SYS_pidfd_open, move || call!(libc::SYS_pidfd_open, victim, 0)),
    ]
}

fn sockets() -> Vec<Attempt> {
    let socket = |family: i32, kind: i32, protocol: i32| {
        move || call!(libc::SYS_socket, family, kind, protocol)
    };
    let (inet, inet6, raw) = (libc::AF_INET, libc::AF_INET6, libc::SOCK_RAW);
    let call = libc::SYS_socket;
    vec![
        attempt("socket-raw", call, socket(inet, raw, libc::IPPROTO_TCP)),
        attempt("socket-raw6", call, socket(inet6, raw | libc::SOCK_CLOEXEC, libc::IPPROTO_UDP)),
        attempt("socket-netlink", call, socket(libc::AF_NETLINK, libc::SOCK_DGRAM, 0)),
        attempt("socket-packet", call, socket(libc::AF_PACKET, libc::SOCK_DGRAM, 0)),
        attempt("socket-unix", call, socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)),
        attempt("socket-udplite", call, socket(inet, libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE)),
        attempt("socket-pair-datagrams", libc::SYS_socketpair, || {
            let mut pair = [0_i32; 2];
            let (family, kind) = (libc::AF_UNIX, libc::SOCK_DGRAM);
            call!(libc::SYS_socketpair, family, kind, 0, &raw mut pair)
        }),
        attempt("fast-open", libc::SYS_sendto, || {
            let (address, size) = (ptr::null::<u8>(), 0);
            call!(libc::SYS_sendto, -1, address, 0, libc::MSG_FASTOPEN, address, size)
        }),
    ]
}

pub fn memory() -> Vec<Attempt> {
    const PAGE: usize = 4096;
    let map = |protection: i32| {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        call!(libc::SYS_mmap, 0, PAGE, protection, flags, -1, 0_usize)
    };
    let (read, write, run) = (libc::PROT_READ, libc::PROT_WRITE, libc::PROT_EXEC);
    vec![
        attempt("map-writable-code", libc::SYS_mmap, move || map(read | write | run)),
        attempt("map-code", libc::SYS_mmap, move || map(read | run)),
        attempt("make-code", libc::SYS_mprotect, move || {
            let page = map(read | write)?;
            call!(libc::SYS_mprotect, page, PAGE, read | run)
        }),
        attempt("make-code-by-key", libc::SYS_pkey_mprotect, move || {
            let page = map(read | write)?;
            call!(libc::SYS_pkey_mprotect, page, PAGE, read | run, -1)
        }),
        attempt("read-implies-exec", libc::SYS_personality, || {
            call!(libc::SYS_personality, libc::READ_IMPLIES_EXEC)
        }),
        attempt("user-faults", libc::SYS_userfaultfd, || call!(libc::SYS_userfaultfd, 0)),
    ]
}

fn rights() -> Vec<Attempt> {
    vec![
        attempt("limits", libc::SYS_prlimit64, || {
            let limit = libc::rlimit { rlim_cur: 64, rlim_max: 64 };
            let none = ptr::null::<u8>();
            call!(libc::SYS_prlimit64, 0, libc::RLIMIT_NOFILE, &raw const limit, none)
        }),
        attempt("dumpable", libc::SYS_prctl, || {
            call!(libc::SYS_prctl, libc::PR_SET_DUMPABLE, 1, 0, 0, 0)
        }),
        attempt("capabilities", libc::SYS_capset, || {
            call!(libc::SYS_capset, ptr::null::<u8>(), ptr::null::<u8>())
        }),
        attempt("groups", libc::SYS_setgroups, || call!(libc::SYS_setgroups, 0, 0)),
        attempt("gid-back", libc::SYS_setresgid, || call!(libc::SYS_setresgid, 0, 0, 0)),
        attempt("uid-back", libc::SYS_setresuid, || call!(libc::SYS_setresuid, 0, 0, 0)),
    ]
}

/// Calls with a record of holes in the kernel. What they get is nothing that works, but the kernel would look at it.
fn doors() -> Vec<Attempt> {
    vec![
        attempt("io-uring", libc::SYS_io_uring_setup, || {
            call!(libc::SYS_io_uring_setup, 1, ptr::null::<u8>())
        }),
        attempt("keyring", libc::SYS_keyctl, || call!(libc::SYS_keyctl, 9999)),
        attempt("module", libc::SYS_finit_module, || {
            call!(libc::SYS_finit_module, -1, c"".as_ptr(), 0)
        }),
        attempt("pipe-ioctl", libc::SYS_ioctl, || {
            let mut waiting = 0_i32;
            call!(libc::SYS_ioctl, 0, libc::FIONREAD, &raw mut waiting)
        }),
    ]
}
