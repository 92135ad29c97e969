//! What lies at the addresses that no operator owns: the special-purpose registries.

use netguard_common::maps::Place;

/// Prefixes and what lies there, before the policy adds its own. The longest prefix wins; what no
/// prefix covers (most of IPv6's unassigned space) is dropped as an unknown destination.
///
/// Sources: the IANA special-purpose address registries (RFC 6890), with the documentation ranges
/// left out: nothing routes them and tests use them as the internet.
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
