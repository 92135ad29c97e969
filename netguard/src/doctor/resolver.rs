//! Who listens where netguard's resolver does: port 53 of a slot's gateway. Systemd-resolved's 127.0.0.53 is not there.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
};

use super::{Check, Finding, Severity};
use crate::policy::Policy;

/// A socket that waits for somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listener {
    pub(super) protocol: &'static str,
    pub(super) address: SocketAddr,
    /// The process that has it, by number and name, where that can be seen.
    pub(super) owner: Option<(u32, String)>,
}

const TABLES: [(&str, &str); 4] =
    [("udp", "udp"), ("udp", "udp6"), ("tcp", "tcp"), ("tcp", "tcp6")];
/// `TCP_LISTEN` of include/net/tcp_states.h, and what a UDP socket without a peer has.
const LISTENING: [&str; 2] = ["0A", "07"];
/// netguard's processes: their names.
const OWN: &str = "netguard";

/// Everything that listens on a port in this thread's network namespace.
pub(super) fn listeners(port: u16) -> Vec<Listener> {
    let mut found = Vec::new();
    for (protocol, table) in TABLES {
        let text = fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap_or_default();
        let lines = text.lines().skip(1).filter_map(read).filter(|(it, _)| it.port() == port);
        found.extend(lines.map(|(address, inode)| (protocol, address, inode)));
    }
    let inodes: Vec<u64> = found.iter().map(|(_, _, inode)| *inode).collect();
    let owners = owners(&inodes);
    let listener = |(protocol, address, inode)| {
        let owner = owners.iter().find(|(of, _)| *of == inode).map(|(_, owner)| owner.clone());
        Listener { protocol, address, owner }
    };
    found.into_iter().map(listener).collect()
}

/// One line of a table: the local address, and the socket's inode.
fn read(line: &str) -> Option<(SocketAddr, u64)> {
    let words: Vec<_> = line.split_whitespace().collect();
    let [_, local, _, state, _, _, _, _, _, inode, ..] = words.as_slice() else { return None };
    let (address, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    LISTENING.contains(state).then_some(())?;
    Some((SocketAddr::new(read_address(address)?, port), inode.parse().ok()?))
}

/// Words of memory in this machine's order (`get_tcp4_sock` in net/ipv4/tcp_ipv4.c).
fn read_address(text: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(text.get(at * 8..at * 8 + 8)?, 16).ok();
    match text.len() {
        8 => Some(IpAddr::from(word(0)?.to_ne_bytes())),
        32 => {
            let mut bytes = [0; 16];
            for (at, chunk) in bytes.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                *chunk = word(at)?.to_ne_bytes();
            }
            Some(IpAddr::from(bytes).to_canonical())
        }
        _ => None,
    }
}

/// The processes that have those sockets. One that may not be looked into is none.
fn owners(inodes: &[u64]) -> Vec<(u64, (u32, String))> {
    let mut owners = Vec::new();
    if inodes.is_empty() {
        return owners;
    }
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|it| it.parse::<u32>().ok()) else {
            continue;
        };
        for descriptor in fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten() {
            let Ok(target) = fs::read_link(descriptor.path()) else { continue };
            let target = target.to_string_lossy();
            let inode = target.strip_prefix("socket:[").and_then(|it| it.strip_suffix(']'));
            let Some(inode) = inode.and_then(|it| it.parse().ok()) else { continue };
            if inodes.contains(&inode) {
                let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
                owners.push((inode, (pid, name.trim().to_owned())));
            }
        }
    }
    owners
}

/// Those that stand in the resolver's way.
pub(super) fn check(policy: &Policy, listeners: &[Listener]) -> Vec<Finding> {
    let port = policy.dns.port;
    let mut found: Vec<Finding> = Vec::new();
    for Listener { protocol, address, owner } in listeners {
        let ip = address.ip();
        let subnets =
            || policy.slots.iter().flat_map(|slot| slot.subnets.iter().map(move |it| (slot, it)));
        let slot = subnets().find(|(_, subnet)| subnet.gateway == ip).map(|(slot, _)| slot);
        let is_in_the_way = slot.is_some() || ip.is_unspecified();
        let is_own = owner.as_ref().is_some_and(|(_, name)| name.starts_with(OWN));
        if address.port() != port || !is_in_the_way || is_own {
            continue;
        }
        let (who, end) = match owner {
            Some((pid, name)) => (format!("{name} (process {pid})"), format!("stop {name}")),
            None => ("something".to_owned(), format!("find it (ss -lnp sport = {port}), stop it")),
        };
        let whose =
            slot.map(|slot| format!(", the gateway of slot {}", slot.name)).unwrap_or_default();
        found.push(Finding {
            check: Check::ResolverPort,
            severity: Severity::Broken,
            what: format!("{who} listens on {protocol} {address}{whose}"),
            why: "netguard's resolver cannot bind there, or queries of slots are answered by that program".to_owned(),
            fix: format!("{end}, or have it listen on 127.0.0.1 only"),
        });
    }
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::{
        super::samples::{found, policy},
        *,
    };

    #[test]
    fn lines_of_the_tables_are_read() {
        let udp = "  12: 0100010A:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000   101        0 25001 2 0 0";
        assert_eq!(read(udp), Some(("10.1.0.1:53".parse().unwrap(), 25001)));
        let tcp6 = " 1: 00000000000000000000000000000000:0035 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 7 1";
        assert_eq!(read(tcp6), Some(("[::]:53".parse().unwrap(), 7)));
        let connected = tcp6.replace(" 0A ", " 01 ");
        assert_eq!(read(&connected), None);
        assert_eq!(read("  sl  local_address"), None);
    }

    #[test]
    fn who_is_in_the_way_and_who_is_not() {
        let with = |address: &str, owner: Option<&str>| {
            let owner = owner.map(|name| (12, name.to_owned()));
            let address = address.parse().unwrap();
            check(&policy(), &[Listener { protocol: "udp", address, owner }])
        };
        assert_eq!(with("127.0.0.53:53", Some("systemd-resolve")), []);
        assert_eq!(with("10.1.0.1:53", Some("netguard")), []);
        assert_eq!(with("10.1.0.1:5353", Some("dnsmasq")), []);
        let at_gateway = with("10.1.0.1:53", Some("dnsmasq"));
        assert_eq!(found(&at_gateway), [("broken", "resolver-port")]);
        assert_eq!(
            at_gateway[0].what,
            "dnsmasq (process 12) listens on udp 10.1.0.1:53, the gateway of slot slot1"
        );
        assert_eq!(found(&with("0.0.0.0:53", None)), [("broken", "resolver-port")]);
        assert_eq!(found(&with("[::]:53", None)), [("broken", "resolver-port")]);
        assert_eq!(found(&with("[fd00:10:1::1]:53", None)), [("broken", "resolver-port")]);
    }

    #[test]
    fn a_socket_of_this_process_is_found_with_its_owner() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let listeners = listeners(port);
        let pid = std::process::id();
        assert!(
            listeners.iter().any(|it| it.owner.as_ref().is_some_and(|(owner, _)| *owner == pid)),
            "{listeners:?}"
        );
    }
}
