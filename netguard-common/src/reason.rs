//! The registry of drop reasons: the one place where a reason gets its number, its name, its
//! forensic code and its sentence.
//!
//! Numbers are written into counters, records and other people's alert rules: a number is never
//! reused and never changes its meaning. The forensic code is 540000 + number.

impl DropReason {
    /// True if no rule but room or a rate decided: the same packet may pass a moment later, and nothing is open because of it.
    #[must_use]
    pub const fn is_about_resources(self) -> bool {
        matches!(
            self,
            Self::FlowsFull
                | Self::DnsFlowsFull
                | Self::FlowRate
                | Self::PacketRate
                | Self::ByteRate
                | Self::IcmpRate
                | Self::Internal
        )
    }

    /// True if the policy denies what is well-formed and the slot's own: a slot that wants to know is told, see
    /// [`crate::maps::slot_flags::REJECT`].
    #[must_use]
    #[inline(always)]
    pub const fn is_of_policy(self) -> bool {
        matches!(
            self,
            Self::DnsOverTls
                | Self::DnsOverQuic
                | Self::DnsOverHttps
                | Self::CrossRuntime
                | Self::CrossSlot
                | Self::Isolated
                | Self::Host
                | Self::Metadata
                | Self::PrivateDestination
                | Self::LinkLocal
                | Self::Management
                | Self::UnknownAddress
                | Self::EgressDenied
                | Self::NotPinned
        )
    }
}

macro_rules! drop_reasons {
    ($($(#[doc = $sentence:literal])+ $variant:ident = $number:literal, $name:literal;)+) => {
        /// Why a packet was dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[doc = $sentence])+ $variant = $number,)+
        }

        impl DropReason {
            /// Every reason, by number.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// Reads the number that a counter or record holds.
            #[must_use]
            pub const fn from_raw(raw: u8) -> Option<Self> {
                match raw {
                    $($number => Some(Self::$variant),)+
                    _ => None,
                }
            }

            /// The name that logs, tables and JSON print.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// The name under which packets are counted that passed, and would have been dropped so.
            #[must_use]
            pub const fn would_name(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!("would-drop-", $name),)+
                }
            }

            /// One sentence for the operator: what the packet did.
            #[must_use]
            pub const fn sentence(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($sentence),+).trim_ascii(),)+
                }
            }
        }
    };
}

impl DropReason {
    /// The forensic code: one number per reason in the 54xxxx (network) range.
    #[must_use]
    pub const fn code(self) -> u32 {
        540_000 + self as u32
    }
}

drop_reasons! {
    /// From one runtime to another, and not through the gate.
    CrossRuntime = 1, "cross-runtime";
    /// The frame ends before a header that it claims to carry.
    Truncated = 2, "truncated";
    /// The frame carries a VLAN tag (802.1Q, 802.1ad, priority or stacked).
    VlanTag = 3, "vlan-tag";
    /// The frame is neither ARP nor IPv4 nor IPv6.
    EtherType = 4, "ether-type";
    /// The interface has a program but no slot.
    UnknownPort = 5, "unknown-port";
    /// The packet came through a port that no program guards.
    UnguardedPort = 6, "unguarded-port";
    /// The source address is not one of the slot's own.
    SpoofedSource = 7, "spoofed-source";
    /// The ARP packet claims an address or a MAC that is not the sender's.
    ArpSpoof = 8, "arp-spoof";
    /// A version, length or offset field contradicts the frame.
    BadHeader = 9, "bad-header";
    /// The IPv4 header carries options.
    IpOptions = 10, "ip-options";
    /// The IPv6 packet carries extension headers.
    Ipv6Extension = 11, "ipv6-extension";
    /// The packet is a fragment whose first part did not pass, or that overlaps, is tiny or out of order.
    Fragment = 12, "fragment";
    /// The transport protocol is not TCP, UDP or ICMP.
    Protocol = 13, "protocol";
    /// The ICMP type may not cross a slot's border.
    IcmpType = 14, "icmp-type";
    /// TCP port 853: DNS over TLS (RFC 7858) would pass by the resolver.
    DnsOverTls = 15, "dns-over-tls";
    /// UDP port 853: DNS over QUIC (RFC 9250) would pass by the resolver.
    DnsOverQuic = 16, "dns-over-quic";
    /// From one slot to another.
    CrossSlot = 17, "cross-slot";
    /// To the host itself, which offers a slot DNS and ping only, or to where the host has no route.
    Host = 18, "host";
    /// To a cloud metadata service.
    Metadata = 19, "metadata";
    /// To a private, shared, loopback or reserved address.
    PrivateDestination = 20, "private-destination";
    /// To a link-local address.
    LinkLocal = 21, "link-local";
    /// To a multicast or broadcast address.
    Multicast = 22, "multicast";
    /// To the management network, which opens connections but receives none.
    Management = 23, "management";
    /// To or from an address that the policy does not know.
    UnknownAddress = 24, "unknown-address";
    /// The slot has no resolver for this address family.
    NoResolver = 25, "no-resolver";
    /// The slot has too many DNS queries in flight.
    DnsFlowsFull = 26, "dns-flows-full";
    /// The resolver answers what this slot did not ask.
    DnsUnsolicited = 27, "dns-unsolicited";
    /// A kernel helper failed, so the packet could not be handled safely.
    Internal = 28, "internal";
    /// The neighbour discovery message claims an address that is not the sender's.
    NdSpoof = 29, "nd-spoof";
    /// Into a slot, from an address whose owner may open no connections to it.
    Unsolicited = 30, "unsolicited";
    /// The slot is in lockdown: it has no network.
    Lockdown = 31, "lockdown";
    /// The source MAC is a group's or not the slot's own.
    SpoofedMac = 32, "spoofed-mac";
    /// The slot's egress rules do not allow the destination.
    EgressDenied = 33, "egress-denied";
    /// The TCP flags are a combination that no connection has.
    TcpFlags = 34, "tcp-flags";
    /// The TCP segment belongs to no connection that was opened with a handshake.
    TcpState = 35, "tcp-state";
    /// The slot's share of tracked flows is full.
    FlowsFull = 36, "flows-full";
    /// The slot opens flows faster than its limit.
    FlowRate = 37, "flow-rate";
    /// The slot sends packets faster than its limit.
    PacketRate = 38, "packet-rate";
    /// The slot sends bytes faster than its limit.
    ByteRate = 39, "byte-rate";
    /// The slot sends ICMP faster than its limit.
    IcmpRate = 40, "icmp-rate";
    /// The ICMP message is longer than the slot's limit: it could be a tunnel.
    IcmpSize = 41, "icmp-size";
    /// The ICMP error quotes no packet of a tracked flow.
    IcmpError = 42, "icmp-error";
    /// A DHCP server's packet: not a guest's to send.
    RogueDhcp = 43, "rogue-dhcp";
    /// A router advertisement: not a guest's to send.
    RogueRa = 44, "rogue-ra";
    /// To a known DNS-over-HTTPS resolver, which would pass by netguard's own.
    DnsOverHttps = 45, "dns-over-https";
    /// From one workload to another of a runtime that isolates its own.
    Isolated = 46, "isolated";
    /// To an address that no DNS answer gave the slot.
    NotPinned = 47, "not-pinned";
}
