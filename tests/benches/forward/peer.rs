//! The rules of a host that guards the lab's five slots without netguard.

/// The input of `nft -f -`, for a host with that uplink.
pub fn rules(uplink: &str) -> String {
    let pairs = (1..=5).flat_map(|from| (1..=5).map(move |to| (from, to)));
    let pairs = pairs.filter(|(from, to)| from != to).map(|(from, to)| {
        format!("iifname \"br-slot{from}\" oifname \"br-slot{to}\" counter drop\n")
    });
    include_str!("nftables.nft")
        .replace("PAIRS", &pairs.collect::<String>())
        .replace("UPLINK", uplink)
}
