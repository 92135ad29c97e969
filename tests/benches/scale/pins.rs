//! Pinned addresses.

use std::{net::Ipv4Addr, time::Instant};

use netguard::datapath::PinWriter;
use netguard_common::{
    Address,
    maps::PINS_MAX,
    pin::{PIN_LANES, PIN_NAME_LENGTH, PinEntry, PinKey, PinLane},
};
use netguard_dns::PinMap as _;
use netguard_tests::{packet::ip, programs::Programs, report::Report};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use super::{
    GUEST, memory,
    memory::MB,
    one_by_one,
    table::{Table, column},
};

const PINS: [u32; 4] = [1, 1000, 100_000, 1_000_000];
const POLICY: &str = "[dns]\nupstreams = [\"9.9.9.9\"]\n[[slot]]\nname = \"slot1\"\nid = 1\nport = \"lo\"\nsubnet = \"10.0.1.0/24\"\n\
                      egress = \"pinned\"\nhost_services = \"all\"\n";

pub fn table(_: &mut Report) -> Table {
    let columns = vec![
        column("verdict on a packet that a random pin lets open a flow, ns", 0),
        column("pinned, a call of bpf(2), ns", 0),
        column("pins, MB", 2),
        column("bytes per pin", 0),
    ];
    let mut table = Table::new("Pins", columns);
    for pins in PINS {
        let programs = Programs::load(POLICY, 1);
        let writer = PinWriter::open(programs.pins()).expect("the map of pins");
        let empty = memory::of_maps(None);
        let began = Instant::now();
        for number in 0..pins {
            pin(&writer, number).expect("the kernel takes a pin");
        }
        let pinned = began.elapsed().as_nanos() as f64 / f64::from(pins);
        let taken = memory::of_maps(None) - empty;
        let mut random = SmallRng::seed_from_u64(1);
        let opening = one_by_one(&programs, || {
            let web = address(random.random_range(0..pins)).to_string();
            ip(GUEST, &web).udp(random.random_range(1024..u16::MAX), 443, &[0; 18])
        });
        table.add(pins as usize, [opening, pinned, taken / MB, taken / f64::from(pins)]);
        if pins == PINS[PINS.len() - 1] {
            table.breaks = broken(&writer, pins);
        }
    }
    table
}

/// As many as there is room for.
fn broken(writer: &PinWriter, pins: u32) -> String {
    let refused = (pins..=PINS_MAX)
        .find_map(|number| pin(writer, number).err().map(|error| (number, error.to_string())));
    let (number, error) = refused.unwrap_or((PINS_MAX, "nothing".to_owned()));
    format!(
        "4,096 pins of one slot, which is its share; with as many slots, pin {} of all: `{error}`. Such an answer is SERVFAIL and opens \
         nothing.",
        number + 1
    )
}

fn pin(writer: &PinWriter, number: u32) -> std::io::Result<()> {
    let key = PinKey::new(1, Address::from(std::net::IpAddr::from(address(number))));
    let mut lanes = [PinLane::default(); PIN_LANES];
    lanes[0] = PinLane { expires_ns: u64::MAX, first_port: 0, last_port: u16::MAX, _reserved: 0 };
    writer.put(&key, &PinEntry { key, lanes, since_ns: 0, name: [0; PIN_NAME_LENGTH + 1] })
}

/// Of public networks.
fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(60, 0, 0, 0)) + number)
}
