//! What lies at the addresses that no operator owns: the special-purpose registries.

use netguard_common::maps::Place;

/// Prefixes and what lies there, before the policy adds its own. The longest prefix wins; what no
/// prefix covers (most of IPv6's unassigned space) is dropped as an unknown destination.
///
/// Sources: the IANA special-purpose address registries (RFC 6890), with the documentation ranges
/// left out: nothing routes them and tests use them as the internet. Whoever runs another DNS-over-HTTPS
/// resolver than those listed is kept out by `egress = "pinned"` or `"listed"`, not by this table.
pub(super) const SPECIAL: &[(&str, Place)] = &[
    ("0.0.0.0/0", Place::Internet),
    ("0.0.0.0/8", Place::Private),        // this network, RFC 791
    ("10.0.0.0/8", Place::Private),       // RFC 1918
    ("100.64.0.0/10", Place::Private),    // shared address space, RFC 6598
    ("127.0.0.0/8", Place::Private),      // loopback, RFC 1122
    ("169.254.0.0/16", Place::LinkLocal), // RFC 3927
    ("172.16.0.0/12", Place::Private),    // RFC 1918
    ("192.0.0.0/24", Place::Private),     // protocol assignments, RFC 6890
    ("192.168.0.0/16", Place::Private),   // RFC 1918
    ("198.18.0.0/15", Place::Private),    // benchmarking, RFC 2544
    ("224.0.0.0/4", Place::Multicast),    // RFC 1112
    ("240.0.0.0/4", Place::Private),      // reserved, RFC 1112
    ("255.255.255.255/32", Place::Multicast),
    ("2000::/3", Place::Internet),      // global unicast, RFC 4291
    ("::/128", Place::Private),         // unspecified
    ("::1/128", Place::Private),        // loopback
    ("64:ff9b::/96", Place::Private),   // IPv4 inside, RFC 6052
    ("64:ff9b:1::/48", Place::Private), // IPv4 inside, RFC 8215
    ("2001::/32", Place::Private),      // Teredo, IPv4 inside, RFC 4380
    ("2002::/16", Place::Private),      // 6to4, IPv4 inside, RFC 3056
    ("fc00::/7", Place::Private),       // unique local, RFC 4193
    ("fe80::/10", Place::LinkLocal),    // RFC 4291
    ("ff00::/8", Place::Multicast),     // RFC 4291
    // Public resolvers that speak DNS over HTTPS, as their operators publish them.
    ("1.1.1.1/32", Place::Resolver), // Cloudflare, with its filtering variants
    ("1.0.0.1/32", Place::Resolver),
    ("1.1.1.2/32", Place::Resolver),
    ("1.0.0.2/32", Place::Resolver),
    ("1.1.1.3/32", Place::Resolver),
    ("1.0.0.3/32", Place::Resolver),
    ("104.16.248.249/32", Place::Resolver),
    ("104.16.249.249/32", Place::Resolver),
    ("162.159.36.1/32", Place::Resolver),
    ("162.159.46.1/32", Place::Resolver),
    ("2606:4700:4700::/112", Place::Resolver),
    ("8.8.8.8/32", Place::Resolver), // Google
    ("8.8.4.4/32", Place::Resolver),
    ("2001:4860:4860::8888/128", Place::Resolver),
    ("2001:4860:4860::8844/128", Place::Resolver),
    ("9.9.9.0/24", Place::Resolver), // Quad9
    ("149.112.112.0/24", Place::Resolver),
    ("2620:fe::/48", Place::Resolver),
    ("208.67.220.0/24", Place::Resolver), // OpenDNS
    ("208.67.222.0/24", Place::Resolver),
    ("146.112.41.0/24", Place::Resolver),
    ("2620:119:35::/48", Place::Resolver),
    ("2620:119:53::/48", Place::Resolver),
    ("94.140.14.0/24", Place::Resolver), // AdGuard
    ("94.140.15.0/24", Place::Resolver),
    ("2a10:50c0::/32", Place::Resolver),
    ("185.228.168.0/24", Place::Resolver), // CleanBrowsing
    ("185.228.169.0/24", Place::Resolver),
    ("76.76.2.0/24", Place::Resolver), // Control D
    ("76.76.10.0/24", Place::Resolver),
    ("194.242.2.0/24", Place::Resolver), // Mullvad
    ("2a07:e340::/48", Place::Resolver),
    ("45.90.28.0/22", Place::Resolver), // NextDNS
    ("2a07:a8c0::/29", Place::Resolver),
    ("185.222.222.222/32", Place::Resolver), // DNS.SB
    ("45.11.45.11/32", Place::Resolver),
    ("223.5.5.5/32", Place::Resolver), // AliDNS
    ("223.6.6.6/32", Place::Resolver),
    ("120.53.53.53/32", Place::Resolver), // DNSPod
    ("1.12.12.12/32", Place::Resolver),
    // Metadata services, by cloud.
    ("169.254.169.254/32", Place::Metadata), // AWS, Google, Azure, Oracle, DigitalOcean, Hetzner
    ("169.254.170.2/32", Place::Metadata),   // AWS ECS task credentials
    ("169.254.170.23/32", Place::Metadata),  // AWS EKS pod identity
    ("168.63.129.16/32", Place::Metadata),   // Azure's host agent
    ("100.100.100.200/32", Place::Metadata), // Alibaba
    ("192.0.0.192/32", Place::Metadata),     // Oracle, classic
    ("fd00:ec2::254/128", Place::Metadata),  // AWS over IPv6
    ("fd00:ec2::23/128", Place::Metadata),   // AWS EKS pod identity over IPv6
    ("fd20:ce::254/128", Place::Metadata),   // Google over IPv6
];
