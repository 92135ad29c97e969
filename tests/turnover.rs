//! A day of answers whose time is over, gone by in seconds: the resolver's cache, table of pins and budgets over the
//! kernel's own map, on a clock of the test's. Nothing of it may pile up: not pins, here or in the kernel, not
//! cached bytes, not memory.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use netguard::datapath::PinWriter;
use netguard_common::SlotId;
use netguard_dns::{
    Answer, Asked, Budget, Cache, DomainName, GRACE, Kept, Moment, Pins, Ports, QueryLimits,
    WireName,
};
use netguard_tests::{
    can_use_kernel,
    kernel::{Kernel, SLOTS},
    lab::resident,
};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

const HOURS: u64 = 24;
const SECONDS_PER_HOUR: u64 = 3600;
/// Names that are asked for. Their answers together are about twice what the cache holds.
const NAMES: u32 = 2000;
const CACHE_BYTES: u64 = 512 << 10;
/// What a slot asks in a second, at most.
const QUERIES: u32 = 4;
const TTL_MAX: u64 = 300;
const SLOT_IDS: [SlotId; 2] = [1, 2];

/// The parts of a resolver, and what it does with a query, on a clock that is not the machine's.
struct Resolver {
    cache: Cache,
    pins: Pins,
    budgets: [Budget; SLOT_IDS.len()],
    limits: QueryLimits,
    random: SmallRng,
    cached: u64,
    fresh: u64,
}

impl Resolver {
    /// One query of that slot for any name.
    fn query(&mut self, slot: usize, now: Moment) {
        let (id, budget) = (SLOT_IDS[slot], &self.budgets[slot]);
        let number = self.random.random_range(0..NAMES);
        // Forty names below each domain.
        let text = format!("host-{number}.domain-{}.example.com", number / 40);
        let name = WireName::from(&text.parse::<DomainName>().expect("a name"));
        let asked = Asked {
            name: name.lower(),
            record_type: 1,
            dnssec_ok: false,
            checking_disabled: false,
        };
        let kept = if let Some(kept) = self.cache.get(&asked, now) {
            self.cached += 1;
            kept
        } else {
            budget.take_name(&text, &self.limits, now).expect("within its limits");
            let kept = Kept::new(Arc::new(answer(&mut self.random)), now);
            budget.take_bytes(&text, kept.answer.message.len(), now);
            self.cache.insert(asked.to_question(), kept.clone());
            self.fresh += 1;
            kept
        };
        let addresses = &kept.answer.addresses;
        let pinned = self.pins.pin(id, &text, addresses, &Ports::ANY, kept.until.max(now), now);
        pinned.expect("there is room");
    }
}

/// Some addresses out of many, for some seconds.
fn answer(random: &mut SmallRng) -> Answer {
    let count = random.random_range(1..=4_usize);
    let address = |low: u16| IpAddr::from([198, 18, (low >> 8) as u8, low as u8]);
    let addresses: BTreeSet<_> = (0..count).map(|_| address(random.random())).collect();
    Answer {
        message: vec![0; 48 + 16 * addresses.len()].into(),
        ttl_offsets: (0..addresses.len() as u16).map(|it| 40 + 16 * it).collect(),
        life: Duration::from_secs(random.random_range(1..=TTL_MAX)),
        rcode: 0,
        authentic: false,
        addresses: addresses.into_iter().collect(),
        upstream: None,
        blocked: None,
    }
}

#[test]
fn a_day_of_turnover_leaks_no_memory_and_no_pins() {
    /// What the allocator may keep for itself, and what the cache's table may still grow by.
    const SLACK_KIB: u64 = 4 << 10;
    if !can_use_kernel() {
        return;
    }
    let kernel = Kernel::with(&SLOTS.replace("subnet =", "egress = \"pinned\"\nsubnet ="));
    let map = || PinWriter::open(kernel.pins()).expect("the map of pins");
    let reader = map();
    let mut resolver = Resolver {
        cache: Cache::new(CACHE_BYTES),
        pins: Pins::new(Box::new(map()), SLOT_IDS, 4096),
        budgets: Default::default(),
        limits: QueryLimits { queries_per_second: 1000, ..QueryLimits::default() },
        random: SmallRng::seed_from_u64(1),
        cached: 0,
        fresh: 0,
    };
    let mut now = Moment::from_ns(1_000_000_000_000);
    let mut early = 0;
    for hour in 1..=HOURS {
        for _ in 0..SECONDS_PER_HOUR {
            for slot in 0..SLOT_IDS.len() {
                for _ in 0..resolver.random.random_range(0..=QUERIES) {
                    resolver.query(slot, now);
                }
            }
            now = now.after(Duration::from_secs(1));
            resolver.pins.expire(now); // as the daemon does
        }
        let live: BTreeSet<_> =
            resolver.pins.list(now).iter().map(|pin| (pin.slot, pin.address)).collect();
        let held = reader.entries().expect("the entries");
        let held: BTreeSet<(SlotId, IpAddr)> =
            held.iter().map(|(key, _)| (key.slot_id, key.address.into())).collect();
        assert_eq!(held, live, "after {hour} hours");
        let bytes = resolver.cache.bytes();
        assert!(bytes <= CACHE_BYTES, "the cache has {bytes} bytes after {hour} hours");
        if [1, 2, HOURS].contains(&hour) {
            let (pins, kib) = (live.len(), resident(std::process::id()));
            eprintln!(
                "hour {hour:>2}: {pins} pins, {bytes} bytes in the cache, {kib} KiB resident"
            );
        }
        if hour == 2 {
            early = resident(std::process::id());
            assert!(live.len() > 500, "{} pins are no turnover", live.len());
            assert!(bytes > CACHE_BYTES / 2, "{bytes} bytes do not fill the cache");
        }
    }
    let late = resident(std::process::id());
    let Resolver { cached, fresh, .. } = resolver;
    eprintln!("{fresh} fresh answers, {cached} from the cache");
    assert!(cached > 0 && fresh > 100_000, "{cached} and {fresh}");
    assert!(late < early + SLACK_KIB, "{early} KiB in hour 2, {late} KiB in hour {HOURS}");
    // When everything is over, nothing is left.
    now = now.after(Duration::from_secs(TTL_MAX) + GRACE);
    resolver.pins.expire(now);
    assert_eq!(resolver.pins.list(now), []);
    assert_eq!(reader.entries().expect("the entries"), []);
}
