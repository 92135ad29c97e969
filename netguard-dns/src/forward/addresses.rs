//! Addresses in answers, and those that no public name may lead to (DNS rebinding).

use std::net::{IpAddr, Ipv6Addr};

use hickory_proto::rr::{
    RData, Record,
    rdata::svcb::{SVCB, SvcParamValue},
};

/// The addresses that a record gives: of A and AAAA, and the hints of HTTPS and SVCB (RFC 9460 section 7.3).
pub(super) fn of(record: &Record) -> Vec<IpAddr> {
    match &record.data {
        RData::A(a) => vec![a.0.into()],
        RData::AAAA(aaaa) => vec![aaaa.0.into()],
        RData::HTTPS(https) => hints(&https.0),
        RData::SVCB(svcb) => hints(svcb),
        _ => Vec::new(), // other types give names at most, which have to be asked for
    }
}

fn hints(svcb: &SVCB) -> Vec<IpAddr> {
    let hints = svcb.svc_params.iter().flat_map(|(_, value)| match value {
        SvcParamValue::Ipv4Hint(hints) => hints.0.iter().map(|a| a.0.into()).collect(),
        SvcParamValue::Ipv6Hint(hints) => hints.0.iter().map(|aaaa| aaaa.0.into()).collect(),
        _ => Vec::new(),
    });
    hints.collect()
}

/// The first address that a public name may not lead to.
pub(super) fn rebinding(
    addresses: &[IpAddr],
    is_public: &dyn Fn(IpAddr) -> bool,
) -> Option<IpAddr> {
    let is_refused = |address: &IpAddr| match *address {
        IpAddr::V6(v6) if embeds_ipv4(v6) => true,
        address => !is_public(address),
    };
    addresses.iter().copied().find(is_refused)
}

/// An IPv6 address that a translator or a tunnel turns into an IPv4 address, which no IPv6 policy has seen.
fn embeds_ipv4(address: Ipv6Addr) -> bool {
    match address.segments() {
        // Mapped (RFC 4291 section 2.5.5.2), and compatible (section 2.5.5.1) with `::` and `::1`.
        [0, 0, 0, 0, 0, 0 | 0xffff, _, _] => true,
        // NAT64 (RFC 6052 section 2.1, RFC 8215).
        [0x64, 0xff9b, 0, 0, 0, 0, _, _] | [0x64, 0xff9b, 1, ..] => true,
        // 6to4 (RFC 3056 section 2) and Teredo (RFC 4380 section 2.6).
        [0x2002, ..] | [0x2001, 0, ..] => true,
        // ISATAP, with the universal bit or without (RFC 5214 section 6.1).
        [_, _, _, _, 0 | 0x200, 0x5efe, _, _] => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_embed_ipv4_are_never_public() {
        let everything = |_| true;
        let refused = |address: &str| rebinding(&[address.parse().unwrap()], &everything).is_some();
        for address in [
            "::ffff:203.0.113.1",
            "::203.0.113.1",
            "::",
            "::1",
            "64:ff9b::203.0.113.1",
            "64:ff9b:1::1",
            "64:ff9b:1:ffff:ffff:ffff:ffff:ffff",
            "2002:cb00:7101::1",
            "2001::1",
            "2001:0:ffff::1",
            "2001:db8::5efe:10.0.0.1",
            "2001:db8::200:5efe:10.0.0.1",
        ] {
            assert!(refused(address), "{address}");
        }
        for address in [
            "203.0.113.1",
            "2001:db8::1",
            "2001:1::1",
            "64:ff9b::1:203.0.113.1",
            "64:ff9b:2::1",
            "64:ff9c::1",
            "2003::1",
            "::1:0:0:1",
            "::fffe:203.0.113.1",
            "2001:db8::100:5efe:10.0.0.1",
            "2001:db8::5eff:10.0.0.1",
        ] {
            assert!(!refused(address), "{address}");
        }
    }

    #[test]
    fn the_policy_decides_on_the_rest_and_one_address_is_enough() {
        let addresses: [IpAddr; 3] =
            ["203.0.113.1", "10.0.0.1", "2001:db8::1"].map(|a| a.parse().unwrap());
        let public = |address: IpAddr| address != addresses[1];
        assert_eq!(rebinding(&addresses, &public), Some(addresses[1]));
        assert_eq!(rebinding(&[addresses[0], addresses[2]], &public), None);
        assert_eq!(rebinding(&[], &public), None);
    }
}
