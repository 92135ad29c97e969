//! The registry of checks: what is looked at, by names that tools can rely on. `docs/doctor.md` has it as a table.

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Check {
    /// Routes.
    Route,
    /// Addresses.
    Address,
    /// Networks in other programs' files.
    Network,
    /// `forwarding`
    Forwarding,
    /// `route_localnet`
    RouteLocalnet,
    /// `rp_filter`
    RpFilter,
    /// `bridge-nf-call-*`
    BridgeNetfilter,
    /// `accept_ra`
    AcceptRa,
    /// `proxy_arp`, `proxy_ndp`
    Proxy,
    /// `accept_redirects`, `send_redirects`
    Redirects,
    /// Programs in front of netguard's.
    ProgramBefore,
    /// Programs behind netguard's, and on uplinks.
    ProgramBehind,
    /// XDP that is not in the driver, or where it does not belong.
    Xdp,
    /// Chains that drop what they do not know.
    FirewallClosed,
    /// Rules that name what is netguard's.
    FirewallRule,
    /// Rules that take queries away.
    FirewallDns,
    /// Rules that do not see what they are meant for.
    FirewallPassed,
    /// Addresses that are translated twice.
    FirewallNat,
    /// Rules that cannot be seen.
    FirewallUnseen,
    /// Port 53.
    ResolverPort,
    /// How long packets may be.
    Mtu,
    /// The spanning tree protocol.
    Stp,
    /// Multicast snooping.
    Snooping,
    /// TAPs without offloads.
    Tap,
    /// The kernel's release.
    KernelRelease,
    /// What the kernel was built with.
    KernelConfig,
    /// The compiler of programs.
    BpfJit,
    /// Who may load programs.
    UnprivilegedBpf,
    /// The file system of pins.
    Bpffs,
    /// Links of TC.
    Tcx,
    /// What `--watch` stands on.
    Btf,
    /// The clock.
    Clock,
}

impl Check {
    /// All of them, in the order of the document.
    pub const ALL: [Self; 32] = [
        Self::Route,
        Self::Address,
        Self::Network,
        Self::Forwarding,
        Self::RouteLocalnet,
        Self::RpFilter,
        Self::BridgeNetfilter,
        Self::AcceptRa,
        Self::Proxy,
        Self::Redirects,
        Self::ProgramBefore,
        Self::ProgramBehind,
        Self::Xdp,
        Self::FirewallClosed,
        Self::FirewallRule,
        Self::FirewallDns,
        Self::FirewallPassed,
        Self::FirewallNat,
        Self::FirewallUnseen,
        Self::ResolverPort,
        Self::Mtu,
        Self::Stp,
        Self::Snooping,
        Self::Tap,
        Self::KernelRelease,
        Self::KernelConfig,
        Self::BpfJit,
        Self::UnprivilegedBpf,
        Self::Bpffs,
        Self::Tcx,
        Self::Btf,
        Self::Clock,
    ];

    /// The name in output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Route => "route",
            Self::Address => "address",
            Self::Network => "network",
            Self::Forwarding => "forwarding",
            Self::RouteLocalnet => "route-localnet",
            Self::RpFilter => "rp-filter",
            Self::BridgeNetfilter => "bridge-netfilter",
            Self::AcceptRa => "accept-ra",
            Self::Proxy => "proxy",
            Self::Redirects => "redirects",
            Self::ProgramBefore => "program-before",
            Self::ProgramBehind => "program-behind",
            Self::Xdp => "xdp",
            Self::FirewallClosed => "firewall-closed",
            Self::FirewallRule => "firewall-rule",
            Self::FirewallDns => "firewall-dns",
            Self::FirewallPassed => "firewall-passed",
            Self::FirewallNat => "firewall-nat",
            Self::FirewallUnseen => "firewall-unseen",
            Self::ResolverPort => "resolver-port",
            Self::Mtu => "mtu",
            Self::Stp => "stp",
            Self::Snooping => "snooping",
            Self::Tap => "tap",
            Self::KernelRelease => "kernel-release",
            Self::KernelConfig => "kernel-config",
            Self::BpfJit => "bpf-jit",
            Self::UnprivilegedBpf => "unprivileged-bpf",
            Self::Bpffs => "bpffs",
            Self::Tcx => "tcx",
            Self::Btf => "btf",
            Self::Clock => "clock",
        }
    }

    /// What it finds, and how bad that is, as the document has it.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Route => {
                "broken: a route leads a slot's addresses, or a part of them, elsewhere than to its bridge; weak: a wider one in \
                 a table of its own may; note: a wider one lies behind the slot"
            }
            Self::Address => {
                "broken: an interface besides the slot's bridge has an address of the slot's subnet"
            }
            Self::Network => {
                "weak: a network of docker's, podman's, CNI's or k3s's files covers a slot's subnet"
            }
            Self::Forwarding => {
                "broken: the host, or a bridge or uplink, forwards nothing; note: an uplink hears no router while it forwards"
            }
            Self::RouteLocalnet => {
                "weak: packets from a slot's bridge or an uplink may be routed to 127.0.0.0/8"
            }
            Self::RpFilter => {
                "weak: an uplink is strict about the way back, and there are several ways out"
            }
            Self::BridgeNetfilter => {
                "weak: rules of iptables see what bridges carry; note: they would, and there are none"
            }
            Self::AcceptRa => {
                "note: a bridge takes router advertisements, which netguard drops from slots"
            }
            Self::Proxy => {
                "weak: the host answers on a slot's bridge for addresses that are not its own"
            }
            Self::Redirects => {
                "note: a slot's bridge takes ICMP redirects, which netguard drops from slots, or a shared one sends them"
            }
            Self::ProgramBefore => {
                "weak: a program on a guarded interface sees packets before netguard's, and may let them by"
            }
            Self::ProgramBehind => {
                "note: a program behind netguard's, or on an uplink, may drop what netguard lets pass"
            }
            Self::Xdp => {
                "weak: netguard's XDP runs in generic mode; weak: a slot's bridge has XDP, so that no port that comes can have it"
            }
            Self::FirewallClosed => {
                "broken: a chain of another firewall drops what it does not know, and knows nothing of a slot"
            }
            Self::FirewallRule => {
                "weak: a rule of another firewall drops packets of a slot by name"
            }
            Self::FirewallDns => {
                "broken: a rule of another firewall sends the slots' queries elsewhere"
            }
            Self::FirewallPassed => {
                "weak: a rule of another firewall drops forwarded packets, and those of slots go past it by the fast path"
            }
            Self::FirewallNat => "note: a slot's addresses are translated twice",
            Self::FirewallUnseen => {
                "note: there are rules of iptables-legacy, which nft does not list; note: nft is missing"
            }
            Self::ResolverPort => {
                "broken: another program listens where netguard's resolver does, on a gateway or on every address"
            }
            Self::Mtu => {
                "weak: a port and its bridge differ in how long packets may be; note: a bridge and an uplink do"
            }
            Self::Stp => "note: a slot's bridge runs the spanning tree protocol",
            Self::Snooping => {
                "weak: a slot's bridge asks who listens to which group, and netguard lets no slot answer"
            }
            Self::Tap => "note: a slot's TAP has no header for offloads",
            Self::KernelRelease => "broken: the kernel is older than any that netguard runs on",
            Self::KernelConfig => {
                "broken: the kernel was built without something that netguard stands on"
            }
            Self::BpfJit => "weak: programs are interpreted",
            Self::UnprivilegedBpf => "weak: every user may load programs",
            Self::Bpffs => "note: no file system for pins is mounted yet",
            Self::Tcx => "note: the kernel has no links of TC, so that `tc qdisc del` opens a slot",
            Self::Btf => {
                "note: the kernel does not describe itself, so that `--watch` cannot read packets"
            }
            Self::Clock => "note: the clock is not synchronized",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_every_check_and_no_other() {
        let document = include_str!("../../../docs/doctor.md");
        let rows: Vec<_> = Check::ALL
            .into_iter()
            .map(|check| format!("| `{}` | {} |", check.name(), check.sentence()))
            .collect();
        for row in &rows {
            assert!(document.contains(row), "docs/doctor.md lacks\n{row}");
        }
        let (_, table) = document.split_once("| check | what it finds |").unwrap();
        let table = table.split("\n\n").next().unwrap();
        assert_eq!(table.lines().filter(|line| line.starts_with("| `")).count(), rows.len());
    }
}
