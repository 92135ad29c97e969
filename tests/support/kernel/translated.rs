//! What leaves by the fast path, held against what it was.

use std::net::IpAddr;

use netguard::datapath::Probed;
use netguard_common::fast_path_of;

use super::TC_REDIRECT;

/// True if the frame leaves by the fast path, as slot 1's.
pub(super) fn is_on_fast_path(probed: &Probed) -> bool {
    (probed.action, probed.mark) == (TC_REDIRECT, fast_path_of(1))
}

/// Fails unless a frame that has left by the fast path is what it was but for its source, its port and its time to live, and its
/// checksums cover that as they covered what was there.
pub(super) fn assert_translated(before: &[u8], after: &[u8]) {
    const ETHERNET: usize = 14;
    assert_eq!(before.len(), after.len());
    let is_v4 = before[12..14] == [8, 0];
    // Header, source, destination, protocol and time to live, within the IP header.
    let (header, src, dst, protocol, life) =
        if is_v4 { (20, 12..16, 16..20, 9, 8) } else { (40, 8..24, 24..40, 6, 7) };
    let [old, new] = [before, after].map(|frame| &frame[ETHERNET..]);
    assert_eq!(new[dst.clone()], old[dst], "another destination");
    assert_eq!(new[life], old[life] - 1);
    let outside = if is_v4 { OUTSIDE[0] } else { OUTSIDE[1] };
    let outside: IpAddr = outside.parse().expect("an address");
    match outside {
        IpAddr::V4(v4) => assert_eq!(new[src.clone()], v4.octets()),
        IpAddr::V6(v6) => assert_eq!(new[src.clone()], v6.octets()),
    }
    let sum = |bytes: &[u8]| {
        let word = |it: &[u8]| u64::from(it[0]) << 8 | u64::from(it.get(1).copied().unwrap_or(0));
        bytes.chunks(2).map(word).sum::<u64>() % 0xffff
    };
    if is_v4 {
        // As right as it was: a packet of which it is wrong is its receiver's to drop.
        assert_eq!(sum(&new[..header]), sum(&old[..header]), "the header's checksum");
    }
    let is_later_fragment = is_v4 && (old[6] & 0x1f, old[7]) != (0, 0);
    let (transport, has_sum) = match (old[protocol], is_later_fragment) {
        (6, false) => (header, true),
        (17, false) => (header, old[header + 6..header + 8] != [0, 0]),
        _ => (header, false), // ICMP, whose sum covers no IPv4 address, and fragments
    };
    if has_sum {
        let covered = |ip: &[u8]| (sum(&ip[src.clone()]) + sum(&ip[transport..])) % 0xffff;
        assert_eq!(covered(new), covered(old), "the transport's checksum");
    }
}

/// The host's addresses on its uplink.
pub(super) const OUTSIDE: [&str; 2] = ["198.51.100.1", "2001:db8:ffff::2"];
