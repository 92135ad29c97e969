//! One form for IPv4 and IPv6 addresses: 16 bytes in network order, IPv4 as `::ffff:a.b.c.d`
//! (RFC 4291 section 2.5.5.2), so that everything behind the parser has one path for both.

/// An IPv4 or IPv6 address, IPv4 in its IPv4-mapped form. Aligned, so that the programs compare it in two
/// words and not byte by byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(C, align(8))]
pub struct Address(pub [u8; 16]);

impl Address {
    /// `::`, which also stands for "no address" in map values.
    pub const UNSPECIFIED: Self = Self([0; 16]);

    /// The mapped form of an IPv4 address given in network order.
    #[must_use]
    #[inline(always)]
    pub const fn v4(octets: [u8; 4]) -> Self {
        let [a, b, c, d] = octets;
        Self::from_words([0, u64::from_ne_bytes([0, 0, 0xff, 0xff, a, b, c, d])])
    }

    /// The bytes as two words in memory order: how the programs write and compare addresses, because BPF has
    /// no instruction for 16 bytes.
    #[must_use]
    #[inline(always)]
    pub const fn words(self) -> [u64; 2] {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = self.0;
        [u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes([i, j, k, l, m, n, o, p])]
    }

    /// The address of two words in memory order.
    #[must_use]
    #[inline(always)]
    pub const fn from_words(words: [u64; 2]) -> Self {
        let [a, b, c, d, e, f, g, h] = words[0].to_ne_bytes();
        let [i, j, k, l, m, n, o, p] = words[1].to_ne_bytes();
        Self([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p])
    }

    /// The last four bytes: the IPv4 address, if this is one.
    #[must_use]
    #[inline(always)]
    pub const fn v4_octets(self) -> [u8; 4] {
        let [.., a, b, c, d] = self.0;
        [a, b, c, d]
    }

    /// True for an IPv4-mapped address.
    #[must_use]
    #[inline(always)]
    pub const fn is_v4(self) -> bool {
        const PREFIX: u64 = u64::from_ne_bytes([0, 0, 0xff, 0xff, 0, 0, 0, 0]);
        const MASK: u64 = u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
        let [high, low] = self.words();
        high == 0 && low & MASK == PREFIX
    }

    /// True for fe80::/10 (RFC 4291 section 2.5.6).
    #[must_use]
    #[inline(always)]
    pub const fn is_v6_link_local(self) -> bool {
        self.0[0] == 0xfe && self.0[1] & 0xc0 == 0x80
    }

    /// True for 224.0.0.0/4 (RFC 1112 section 4) and ff00::/8 (RFC 4291 section 2.7).
    #[must_use]
    #[inline(always)]
    pub const fn is_multicast(self) -> bool {
        (self.is_v4() && self.0[12] & 0xf0 == 0xe0) || self.0[0] == 0xff
    }

    /// True for the unspecified address of either family.
    #[must_use]
    #[inline(always)]
    pub const fn is_unspecified(self) -> bool {
        const UNSPECIFIED_V4: u64 = Address::v4([0; 4]).words()[1];
        matches!(self.words(), [0, 0 | UNSPECIFIED_V4])
    }
}

impl From<core::net::IpAddr> for Address {
    fn from(address: core::net::IpAddr) -> Self {
        match address {
            core::net::IpAddr::V4(v4) => Self::v4(v4.octets()),
            core::net::IpAddr::V6(v6) => Self(v6.octets()),
        }
    }
}

impl From<Address> for core::net::IpAddr {
    fn from(address: Address) -> Self {
        if address.is_v4() {
            Self::V4(address.v4_octets().into())
        } else {
            Self::V6(address.0.into())
        }
    }
}
