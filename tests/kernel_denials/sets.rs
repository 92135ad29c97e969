//! The sets of names that the programs look through: they come and go with policies, and stay as they are whoever else writes.

use std::collections::BTreeSet;

use aya::maps::{HashMap, Map, MapData};
use netguard::{
    config::Config,
    datapath::PinDirectory,
    policy::{Facts, Plan},
};
use netguard_common::{
    Hook,
    maps::{NAMES, slot_flags},
    names::NAME_SETS,
};
use netguard_tests::{
    binary::Ended,
    can_use_kernel,
    daemon::is_note,
    kernel::{Kernel, Outcome},
    lab::Lab,
    packet::ip,
    until,
};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use serde_json::Value;

use super::{
    SLOT,
    asked::{Asked, LISTED, wire},
    config,
};

#[test]
fn names_that_somebody_takes_out_of_the_map_are_put_back() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::with(&config(), "veth");
    let pins = PinDirectory::of(&lab.instance().parse().expect("an instance"));
    let map = MapData::from_pin(pins.map(NAMES)).and_then(Map::from_map_data).expect("the map");
    let mut map: HashMap<_, [u64; 2], u32> = HashMap::try_from(map).expect("a hash");
    let keys = |map: &HashMap<_, [u64; 2], u32>| {
        map.keys().collect::<Result<BTreeSet<_>, _>>().expect("its keys")
    };
    let whole = keys(&map);
    assert!(whole.len() > LISTED.len());
    let alarms = || {
        let told = |event: &&Value| is_note(event, "somebody has written into the map NAMES");
        lab.events().iter().filter(told).count()
    };
    let first = *whole.first().expect("a key");
    map.remove(&first).expect("it is there");
    until("it is told", || alarms() == 1);
    assert_eq!(keys(&map), whole);
    map.insert([1, 2], 1, 0).expect("there is room");
    until("it is told", || alarms() == 2);
    assert_eq!(keys(&map), whole);
    let kind = map.get(&first, 0).expect("it is there");
    map.insert(first, kind ^ 7, 0).expect("it is there");
    until("it is told", || alarms() == 3);
    assert_eq!(map.get(&first, 0).expect("it is there"), kind);
    let verified: Ended = lab.run(&["verify"]);
    let _ = verified.success();
}

#[test]
fn a_slot_of_more_sets_than_the_programs_look_through_is_the_resolvers() {
    let directory = tempfile::tempdir().expect("a directory");
    let plan = |lists: usize| {
        let lists: Vec<_> = (0..lists)
            .map(|number| {
                let list = directory.path().join(format!("list{number}"));
                std::fs::write(&list, format!("n{number}.example\n")).expect("the list");
                list
            })
            .collect();
        let text = SLOT.replace("categories = []", &format!("categories = []\nlists = {lists:?}"));
        let config = Config::parse(&text, &directory.path().join("netguard.toml"));
        Plan::compile(&config.expect("a good configuration").policy, &Facts::default())
    };
    let (most, too_many) = (plan(NAME_SETS - 1), plan(NAME_SETS));
    let denies = |plan: &Plan| plan.slots[&1].flags & slot_flags::DENIES != 0;
    assert!(denies(&most) && !denies(&too_many));
    assert!(most.slots[&1].names.iter().all(|set| most.names.contains_key(set)));
    assert!(too_many.names.is_empty());
}

#[test]
fn sets_of_names_come_and_go_and_leave_the_map_as_large_as_it_was() {
    if !can_use_kernel() {
        return;
    }
    let slot = SLOT.replace("id = 1", "id = 1\nlimits.queries_per_second = 0");
    let mut kernel = Kernel::on_tap(&slot);
    let mut random_numbers = SmallRng::seed_from_u64(7);
    let listed = |names: &[String]| slot.replace("[\"listed.example\"]", &format!("{names:?}"));
    let put = |kernel: &mut Kernel, name: &str| {
        let asked = Asked { name: wire(name), ..Asked::default() };
        let frame = ip("10.1.0.2", "8.8.8.8").udp(40000, 53, &asked.message());
        kernel.probe(Hook::PortEgress, &frame, 0).0
    };
    for _ in 0..20 {
        let names: Vec<_> =
            (0..50).map(|_| format!("n{}.example", random_numbers.random_range(0..100))).collect();
        kernel.apply(&listed(&names));
        for number in 0..100 {
            let name = format!("n{number}.example");
            let expected = if names.contains(&name) { Outcome::Redirect } else { Outcome::Answer };
            assert_eq!(put(&mut kernel, &name), expected, "{name}");
            assert_eq!(put(&mut kernel, &format!("x.{name}")), expected, "below {name}");
        }
        until("the other side has the same", || kernel.datapath().settle().expect("it can"));
        let plan = kernel.plan();
        let wanted: usize = plan.names.values().map(|suffixes| suffixes.len()).sum();
        let map = MapData::from_pin(kernel.pins().map(NAMES)).and_then(Map::from_map_data);
        let map: HashMap<_, [u64; 2], u32> =
            HashMap::try_from(map.expect("the map")).expect("a hash");
        assert_eq!(map.keys().count(), wanted);
    }
}
