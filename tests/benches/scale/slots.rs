//! Slots.

use std::path::Path;

use netguard::config::Config;
use netguard_common::{Hook, MAX_SLOT_ID};
use netguard_tests::{
    packet::ip,
    programs::Programs,
    report::{Bound, Report, Row},
};

use super::{
    FROM_HOST, GUEST, WEB, in_a_row, median, memory,
    memory::MB,
    policy::policy,
    table::{Table, column},
};

const SLOTS: [u16; 4] = [1, 16, 256, MAX_SLOT_ID];

pub fn table(report: &mut Report) -> Table {
    let columns = vec![
        column("verdict, ns", 0),
        column("entering, ns", 0),
        column("policy applied, ms", 2),
        column("maps, MB", 1),
    ];
    let mut table = Table::new("Slots", columns);
    for slots in SLOTS {
        let mut programs = Programs::load(&policy(slots, 443), slots);
        let go = |hook, frame: &[u8], mark| {
            let _ = programs.datapath.probe(hook, frame, mark).expect("the program runs");
        };
        go(Hook::PortEgress, &ip(GUEST, WEB).tcp_syn(40_000, 443), 0);
        go(Hook::PortIngress, &ip(WEB, GUEST).tcp_flags(443, 40_000, 0x12), FROM_HOST);
        let data = ip(GUEST, WEB).tcp_ack(40_000, 443, &[0; 64]);
        go(Hook::PortEgress, &data, 0);
        let verdict = in_a_row(&programs, Hook::PortEgress, &data, 0);
        let reply = ip(WEB, GUEST).tcp_ack(443, 40_000, &[0; 64]);
        let entering = in_a_row(&programs, Hook::PortIngress, &reply, FROM_HOST);
        programs.settle();
        let mut port = 443;
        let applied = median(|| {
            port += 1;
            programs.reload(&policy(slots, port)).whole.as_secs_f64() * 1e3
        });
        table.add(slots.into(), [verdict, entering, applied, memory::of_maps(None) / MB]);
    }
    let growth = table.growth(0).unwrap_or_default();
    let what = "verdict at 4,096 slots, in times of that at one";
    report.add(Row::new(what, "x", growth).bound(Bound::Below(3.0)));
    table.breaks = broken();
    table
}

/// One more than there may be.
fn broken() -> String {
    let refused = Config::parse(&policy(MAX_SLOT_ID + 1, 443), Path::new("netguard.toml"));
    let message = refused.err().map(|problems| problems.to_string()).unwrap_or_default();
    let first = message.lines().next().unwrap_or("nothing: one more is taken").to_owned();
    format!("slot {}, which the configuration does not take: `{first}`.", MAX_SLOT_ID + 1)
}
