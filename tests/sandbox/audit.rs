//! The kernel's audit log, read as it is written (audit's multicast group): no daemon must run, and nothing is changed.

use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::{
    socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv,
        setsockopt, socket, sockopt,
    },
    time::{TimeVal, TimeValLike as _},
};

/// Records from the moment on when it was opened.
pub struct Audit(OwnedFd);

impl Audit {
    /// None if this kernel has no audit, or does not tell. It tells nobody in a network namespace of his own.
    pub fn open() -> Option<Self> {
        /// `AUDIT_NLGRP_READLOG` (linux/audit.h), as a mask.
        const READ_LOG: u32 = 1;
        let command_line = std::fs::read_to_string("/proc/cmdline").ok()?;
        if command_line.split_whitespace().any(|word| word == "audit=0" || word == "audit=off") {
            return None;
        }
        let (family, kind) = (AddressFamily::Netlink, SockType::Raw);
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(family, kind, flags, SockProtocol::NetlinkAudit).ok()?;
        setsockopt(&socket, sockopt::RcvBufForce, &(4 << 20)).ok()?;
        // For failures: what is logged comes at once.
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(20)).ok()?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, READ_LOG)).ok()?;
        Some(Self(socket))
    }

    /// The system calls that a filter refused to that process: as many as are expected, and then all that came meanwhile.
    pub fn refused(&mut self, pid: u32, expected: usize) -> Vec<i64> {
        /// `AUDIT_SECCOMP` (linux/audit.h).
        const SECCOMP: u16 = 1326;
        /// Header of netlink: length, type, flags, sequence, sender.
        const HEADER: usize = 16;
        let mut calls = Vec::new();
        let mut buffer = vec![0; 9000];
        loop {
            // The kernel writes the log a moment after it refuses.
            let flags =
                if calls.len() < expected { MsgFlags::empty() } else { MsgFlags::MSG_DONTWAIT };
            let Ok(length) = recv(self.0.as_raw_fd(), &mut buffer, flags) else { return calls };
            let kind = u16::from_ne_bytes([buffer[4], buffer[5]]);
            let text = String::from_utf8_lossy(&buffer[HEADER..length]);
            let field = |key: &str| {
                let mut words = text.split_whitespace();
                words.find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
            };
            if kind == SECCOMP && field("pid") == Some(&pid.to_string()) {
                calls.push(field("syscall").and_then(|it| it.parse().ok()).expect("a number"));
            }
        }
    }
}
