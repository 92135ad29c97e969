//! Who dropped a packet, by the kernel's reason and, where that says nothing, by the function that let it go.

/// Who dropped it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// A program at XDP or TC: netguard's, which tells more itself, or one beside it.
    Netguard,
    /// A rule of the host's firewall.
    Netfilter,
    /// The routing tables and what belongs to them.
    Routing,
    /// The search for a MAC.
    Neighbour,
    /// The bridge.
    Bridge,
    /// A socket, or that there is none.
    Socket,
    /// A driver or a queue.
    Device,
    /// Some other part.
    Kernel,
}

/// How names of reasons begin.
const REASONS: [(&str, Who); 26] = [
    ("TC_INGRESS", Who::Netguard),
    ("TC_EGRESS", Who::Netguard),
    ("XDP", Who::Netguard),
    ("NETFILTER_DROP", Who::Netfilter),
    ("IP_RPFILTER", Who::Routing),
    ("IP_INNOROUTES", Who::Routing),
    ("IP_OUTNOROUTES", Who::Routing),
    ("IP_INADDRERRORS", Who::Routing),
    ("IP_LOCAL_SOURCE", Who::Routing),
    ("IP_INVALID", Who::Routing),
    ("IP_LOCALNET", Who::Routing),
    ("PKT_TOO_BIG", Who::Routing),
    ("NEIGH_", Who::Neighbour),
    ("BRIDGE_", Who::Bridge),
    ("LOCAL_MAC", Who::Bridge),
    ("MAC_", Who::Bridge),
    ("NO_SOCKET", Who::Socket),
    ("SOCKET_", Who::Socket),
    ("TCP_", Who::Socket),
    ("UDP_", Who::Socket),
    ("IP_NOPROTO", Who::Socket),
    ("QDISC_", Who::Device),
    ("FULL_RING", Who::Device),
    ("TAP_", Who::Device),
    ("DEV_", Who::Device),
    ("CPU_BACKLOG", Who::Device),
];

/// How names of functions begin, for what has no reason of its own.
const SYMBOLS: [(&str, Who); 22] = [
    ("veth_xdp_", Who::Netguard),
    ("tun_xdp_", Who::Netguard),
    ("do_xdp_generic", Who::Netguard),
    ("nf_", Who::Netfilter),
    ("nft_", Who::Netfilter),
    ("ipt_", Who::Netfilter),
    ("br_nf_", Who::Netfilter),
    ("ip_forward", Who::Routing),
    ("ip6_forward", Who::Routing),
    ("ip_rcv", Who::Routing),
    ("ip6_rcv", Who::Routing),
    ("ip_error", Who::Routing),
    ("ip6_pkt_", Who::Routing),
    ("ip_route", Who::Routing),
    ("neigh_", Who::Neighbour),
    ("arp_", Who::Neighbour),
    ("ndisc_", Who::Neighbour),
    ("br_", Who::Bridge),
    ("tcp_", Who::Socket),
    ("udp", Who::Socket),
    ("tun_", Who::Device),
    ("veth_", Who::Device),
];

/// What the kernel says where nobody says more.
const NOT_SPECIFIED: &str = "NOT_SPECIFIED";

impl Who {
    pub(super) fn of(reason: &str, symbol: Option<&str>) -> Self {
        let by = |list: &[(&str, Self)], name: &str| {
            list.iter().find(|(start, _)| name.starts_with(start)).map(|(_, who)| *who)
        };
        let by_symbol = || symbol.and_then(|symbol| by(&SYMBOLS, symbol));
        match reason {
            NOT_SPECIFIED => by_symbol(),
            named => by(&REASONS, named),
        }
        .unwrap_or(Self::Kernel)
    }

    /// The word in output.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Netguard => "netguard",
            Self::Netfilter => "netfilter",
            Self::Routing => "routing",
            Self::Neighbour => "neighbour",
            Self::Bridge => "bridge",
            Self::Socket => "socket",
            Self::Device => "device",
            Self::Kernel => "kernel",
        }
    }

    /// What to look at.
    pub(super) const fn hint(self, reason: &str) -> &'static str {
        match self {
            Self::Netguard => {
                "a program at XDP or TC: netguard drops says why, if it was netguard's"
            }
            Self::Netfilter => "a rule of the host's firewall",
            Self::Routing => {
                if matches!(reason.as_bytes(), b"IP_RPFILTER") {
                    "rp_filter: the way back is another one"
                } else {
                    "ip route get ADDRESS says where the host would send it"
                }
            }
            Self::Neighbour => "nobody answers for that address: ip neigh",
            Self::Bridge => "the bridge: bridge link, and how long packets may be there",
            Self::Socket => "it was the host's own to take, and no socket wanted it",
            Self::Device => "a driver or queue that is full or down: ip -s link",
            Self::Kernel => "the function says more",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_say_who_and_functions_where_they_do_not() {
        for (reason, symbol, who) in [
            ("TC_INGRESS", Some("sch_handle_ingress"), Who::Netguard),
            ("NETFILTER_DROP", Some("nf_hook_slow"), Who::Netfilter),
            ("IP_RPFILTER", None, Who::Routing),
            ("IP_INVALID_SOURCE", None, Who::Routing),
            ("NEIGH_FAILED", None, Who::Neighbour),
            ("NO_SOCKET", Some("icmp_rcv"), Who::Socket),
            ("NOT_SPECIFIED", Some("veth_xdp_rcv_skb"), Who::Netguard),
            ("NOT_SPECIFIED", Some("br_handle_frame"), Who::Bridge),
            ("NOT_SPECIFIED", Some("ip6_forward"), Who::Routing),
            ("NOT_SPECIFIED", None, Who::Kernel),
            ("NOMEM", Some("br_forward"), Who::Kernel),
            ("3 of subsystem 2", None, Who::Kernel),
        ] {
            assert_eq!(Who::of(reason, symbol), who, "{reason} {symbol:?}");
        }
        assert!(Who::Routing.hint("IP_RPFILTER").contains("rp_filter"));
    }
}
