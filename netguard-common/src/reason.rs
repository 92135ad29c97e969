//! The registry of forensic codes: the one place where a reason to drop a packet, and an event of netguard's own, gets its
//! number, its name, its code, its sentence and the requirement that it comes from. `docs/codes.md` is made of it.
//!
//! Numbers are written into counters, records and other people's alert rules: a number is never
//! reused and never changes its meaning. The code is 540000 + number of a reason, 541000 + number of an event.

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

macro_rules! registry {
    (
        $(#[doc = $what:literal])+
        $registry:ident from $base:literal;
        $($(#[doc = $sentence:literal])+ $variant:ident = $number:literal, $name:literal, $seed:literal;)+
    ) => {
        $(#[doc = $what])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum $registry {
            $($(#[doc = $sentence])+ $variant = $number,)+
        }

        impl $registry {
            /// All of them, by number.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// Reads the number that a counter, a record or a message holds.
            #[must_use]
            pub const fn from_raw(raw: u8) -> Option<Self> {
                match raw {
                    $($number => Some(Self::$variant),)+
                    _ => None,
                }
            }

            /// The forensic code: one number for each, in the 54xxxx (network) range.
            #[must_use]
            pub const fn code(self) -> u32 {
                $base + self as u32
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

            /// One sentence for the operator: what the packet did, or what happened.
            #[must_use]
            pub const fn sentence(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($sentence),+).trim_ascii(),)+
                }
            }

            /// Where it comes from that this is told: a standard, a control, an issue of the project.
            #[must_use]
            pub const fn seed(self) -> &'static str {
                match self {
                    $(Self::$variant => $seed,)+
                }
            }
        }
    };
}

registry! {
    /// Why a packet was dropped.
    DropReason from 540_000;

    /// From one runtime to another, and not through the gate.
    CrossRuntime = 1, "cross-runtime", "ISO 27001 8.22";
    /// The frame ends before a header that it claims to carry.
    Truncated = 2, "truncated", "RFC 791 3.1, RFC 8200 3";
    /// The frame carries a VLAN tag (802.1Q, 802.1ad, priority or stacked).
    VlanTag = 3, "vlan-tag", "IEEE 802.1Q";
    /// The frame is neither ARP nor IPv4 nor IPv6.
    EtherType = 4, "ether-type", "NIST SC-7(5)";
    /// The interface has a program but no slot.
    UnknownPort = 5, "unknown-port", "NIST SC-7(5)";
    /// The packet came through a port that no program guards.
    UnguardedPort = 6, "unguarded-port", "NIST SC-7(18)";
    /// The source address is not one of the slot's own.
    SpoofedSource = 7, "spoofed-source", "RFC 2827";
    /// The ARP packet claims an address or a MAC that is not the sender's.
    ArpSpoof = 8, "arp-spoof", "RFC 826";
    /// A version, length or offset field contradicts the frame.
    BadHeader = 9, "bad-header", "RFC 791 3.1, RFC 8200 3";
    /// The IPv4 header carries options.
    IpOptions = 10, "ip-options", "RFC 7126";
    /// The IPv6 packet carries extension headers.
    Ipv6Extension = 11, "ipv6-extension", "RFC 9288";
    /// The packet is a fragment whose first part did not pass, or that overlaps, is tiny or out of order.
    Fragment = 12, "fragment", "RFC 1858, RFC 3128, RFC 5722";
    /// The transport protocol is not TCP, UDP or ICMP.
    Protocol = 13, "protocol", "NIST SC-7(5)";
    /// The ICMP type may not cross a slot's border.
    IcmpType = 14, "icmp-type", "RFC 4890";
    /// TCP port 853: DNS over TLS (RFC 7858) would pass by the resolver.
    DnsOverTls = 15, "dns-over-tls", "RFC 7858";
    /// UDP port 853: DNS over QUIC (RFC 9250) would pass by the resolver.
    DnsOverQuic = 16, "dns-over-quic", "RFC 9250";
    /// From one slot to another.
    CrossSlot = 17, "cross-slot", "ISO 27001 8.22";
    /// To the host itself, which offers a slot DNS and ping only, or to where the host has no route.
    Host = 18, "host", "NIST SC-7";
    /// To a cloud metadata service.
    Metadata = 19, "metadata", "CWE-918";
    /// To a private, shared, loopback or reserved address.
    PrivateDestination = 20, "private-destination", "RFC 6890";
    /// To a link-local address.
    LinkLocal = 21, "link-local", "RFC 3927, RFC 4291 2.5.6";
    /// To a multicast or broadcast address.
    Multicast = 22, "multicast", "RFC 5771, RFC 4291 2.7";
    /// To the management network, which opens connections but receives none.
    Management = 23, "management", "ISO 27001 8.22";
    /// To or from an address that the policy does not know.
    UnknownAddress = 24, "unknown-address", "NIST SC-7(5)";
    /// The slot has no resolver for this address family.
    NoResolver = 25, "no-resolver", "issue 4";
    /// The slot has too many DNS queries in flight.
    DnsFlowsFull = 26, "dns-flows-full", "NIST SC-5";
    /// The resolver answers what this slot did not ask.
    DnsUnsolicited = 27, "dns-unsolicited", "RFC 5452";
    /// A kernel helper failed, so the packet could not be handled safely.
    Internal = 28, "internal", "NIST SC-7(18)";
    /// The neighbour discovery message claims an address that is not the sender's.
    NdSpoof = 29, "nd-spoof", "RFC 3756";
    /// Into a slot, from an address whose owner may open no connections to it.
    Unsolicited = 30, "unsolicited", "NIST SC-7(5)";
    /// The slot is in lockdown: it has no network.
    Lockdown = 31, "lockdown", "ISO 27001 5.26";
    /// The source MAC is a group's or not the slot's own.
    SpoofedMac = 32, "spoofed-mac", "RFC 7039";
    /// The slot's egress rules do not allow the destination.
    EgressDenied = 33, "egress-denied", "NIST SC-7(5)";
    /// The TCP flags are a combination that no connection has.
    TcpFlags = 34, "tcp-flags", "RFC 9293 3.1";
    /// The TCP segment belongs to no connection that was opened with a handshake.
    TcpState = 35, "tcp-state", "RFC 9293 3.3.2";
    /// The slot's share of tracked flows is full.
    FlowsFull = 36, "flows-full", "NIST SC-5";
    /// The slot opens flows faster than its limit.
    FlowRate = 37, "flow-rate", "NIST SC-5";
    /// The slot sends packets faster than its limit.
    PacketRate = 38, "packet-rate", "NIST SC-5";
    /// The slot sends bytes faster than its limit.
    ByteRate = 39, "byte-rate", "NIST SC-5";
    /// The slot sends ICMP faster than its limit.
    IcmpRate = 40, "icmp-rate", "NIST SC-5";
    /// The ICMP message is longer than the slot's limit: it could be a tunnel.
    IcmpSize = 41, "icmp-size", "NIST SC-7(10)";
    /// The ICMP error quotes no packet of a tracked flow.
    IcmpError = 42, "icmp-error", "RFC 5927";
    /// A DHCP server's packet: not a guest's to send.
    RogueDhcp = 43, "rogue-dhcp", "RFC 7610";
    /// A router advertisement: not a guest's to send.
    RogueRa = 44, "rogue-ra", "RFC 6105";
    /// To a known DNS-over-HTTPS resolver, which would pass by netguard's own.
    DnsOverHttps = 45, "dns-over-https", "RFC 8484";
    /// From one workload to another of a runtime that isolates its own.
    Isolated = 46, "isolated", "ISO 27001 8.22";
    /// To an address that no DNS answer gave the slot.
    NotPinned = 47, "not-pinned", "issue 4";
}

registry! {
    /// What happened to netguard itself.
    EventKind from 541_000;

    /// Another policy of the configuration is in force.
    PolicyApplied = 1, "policy-applied", "NIST CM-3";
    /// A reload was refused; what was in force stays.
    ReloadRefused = 2, "reload-refused", "NIST SI-10";
    /// Nobody has confirmed the latest reload: the policy before it is in force again.
    RolledBack = 3, "rolled-back", "NIST CM-3";
    /// A program was taken off an interface, replaced there, or another one runs before it.
    DetachAlarm = 4, "detach-alarm", "NIST SI-7";
    /// Somebody has written into a map of the policy.
    MapAlarm = 5, "map-alarm", "NIST SI-7";
    /// Another worker has come in the place of one that had ended.
    WorkerRestarted = 6, "worker-restarted", "NIST SC-24";
    /// A slot's network was taken away.
    Lock = 7, "lock", "ISO 27001 5.26";
    /// A locked slot has its network back.
    Unlock = 8, "unlock", "ISO 27001 5.26";
    /// A slot was made at run time.
    SlotMade = 9, "slot-made", "ISO 27001 8.22";
    /// A slot that was made at run time was removed.
    SlotRemoved = 10, "slot-removed", "ISO 27001 8.22";
    /// A name or prefix was allowed to a slot at run time.
    AllowOrdered = 11, "allow-ordered", "NIST AC-4";
    /// A name or prefix was denied to a slot at run time.
    DenyOrdered = 12, "deny-ordered", "NIST AC-4";
    /// What was said of a name or prefix at run time was taken back.
    ForgetOrdered = 13, "forget-ordered", "NIST AC-4";
    /// Interfaces have their programs.
    InterfaceGuarded = 14, "interface-guarded", "NIST SC-7";
    /// Interfaces that had programs are gone.
    InterfaceGone = 15, "interface-gone", "NIST SC-7";
    /// An interface cannot have its programs.
    CannotGuard = 16, "cannot-guard", "NIST SC-7(18)";
    /// netguard guards.
    Started = 17, "started", "ISO 27001 8.15";
    /// netguard was asked to stop; the programs stay.
    Stopped = 18, "stopped", "ISO 27001 8.15";
    /// A reload that waited for its confirmation has it.
    Confirmed = 19, "confirmed", "NIST CM-3";
    /// The worker has ended: another one comes, and what is in force stays in force.
    WorkerEnded = 20, "worker-ended", "NIST SC-24";
    /// No worker comes up, or one does not answer.
    WorkerAbsent = 21, "worker-absent", "NIST SC-24";
    /// Something of the policy is not in force, or not remembered.
    NotInForce = 22, "not-in-force", "NIST SC-7(18)";
    /// What is loaded could not be looked at.
    WatchFailed = 23, "watch-failed", "NIST SI-7";
    /// A slot has taken over what another one was.
    SlotTakenOver = 24, "slot-taken-over", "ISO 27001 8.22";
    /// netguard has made bridges or TAPs.
    LinksMade = 25, "links-made", "issue 5";
    /// netguard has removed bridges or TAPs of its own.
    LinksRemoved = 26, "links-removed", "issue 5";
    /// A setting of the host does not fit the policy.
    Warning = 27, "warning", "NIST SC-7";
    /// A slot asks more of the resolver than it may.
    OverLimit = 28, "over-limit", "NIST SC-5";
    /// An upstream resolver begins to fail, or answers again.
    Upstream = 29, "upstream", "issue 4";
    /// Lines of the log were lost: whoever reads it is too slow.
    LinesLost = 30, "lines-lost", "NIST AU-5";
}
