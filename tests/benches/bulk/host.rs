//! A hypervisor with a guest in slot 1 that uses its network, and the internet that it reaches.

use std::{cell::Cell, process::Command, time::Instant};

use netguard_tests::{
    datagrams::{AT_ONCE, Datagrams},
    hosts::feed,
    lab::{Background, Lab},
    servers::Servers,
};
use nix::sched::sched_yield;

use super::{
    connections::{self, Listener},
    iperf3::{self, Way},
    peer,
};

/// Where every datagram is dropped as soon as it arrives.
pub const ELSEWHERE: &str = "203.0.113.66";
/// In slot 2.
pub const NEIGHBOUR: &str = "10.2.0.2";
const UPLINK: &str = "eth0";
const DISCARD: u16 = 9;
const DATAGRAMS: u64 = 100_000;

/// A lab that the peer guards.
pub fn with_nftables(ports: &str) -> Lab {
    let lab = Lab::unguarded(ports);
    lab.within("hv", || feed(Command::new("nft").args(["-f", "-"]), &peer::rules(UPLINK)));
    lab
}

/// A lab, and what listens in its internet.
pub struct Host {
    iperf3: iperf3::Client,
    _server: Background,
    listener: Listener,
    /// How often connections were measured: each time they go to another address, so that none meets what is left of an earlier one.
    times: Cell<u8>,
    /// The last to go: nobody has a thread in it by then.
    lab: Lab,
}

impl Host {
    /// With netguard.
    pub fn guarded(ports: &str, iperf3: &Servers) -> Self {
        Self::new(Lab::open(ports), iperf3)
    }

    /// With nftables.
    pub fn of_peer(ports: &str, iperf3: &Servers) -> Self {
        Self::new(with_nftables(ports), iperf3)
    }

    fn new(lab: Lab, iperf3: &Servers) -> Self {
        let sink = "table netdev sink { chain ends { type filter hook ingress device \"eth0\" priority 0; \
                    ip daddr 203.0.113.66 udp dport 9 drop; }; }";
        lab.within("net", || feed(Command::new("nft").args(["-f", "-"]), sink));
        let iperf3 = iperf3::Client::of(iperf3);
        let server = iperf3.serve(&lab);
        let listener = Listener::in_internet(&lab);
        // The way out is known before anything is measured.
        let _ = lab.exec("slot1", &format!("ping -c 1 -W 5 {ELSEWHERE}")).success();
        Self { iperf3, _server: server, listener, times: Cell::new(0), lab }
    }

    /// Gigabits a second of one TCP connection.
    pub fn tcp(&self, way: Way) -> f64 {
        self.iperf3.measure(&self.lab, ELSEWHERE, way)
    }

    /// Thousands of datagrams a second that arrive in the internet; of those that must not, that are sent.
    pub fn datagrams(&self, address: &str, payload: usize) -> f64 {
        let before = self.arrived();
        let (sent, time) = self.lab.within("slot1", || {
            let mut datagrams = Datagrams::to(address, DISCARD, payload);
            let began = Instant::now();
            let mut sent = 0;
            while sent < DATAGRAMS {
                sent += datagrams.send();
                // Whoever carries frames from a TAP needs the processor too.
                sched_yield().expect("it yields");
            }
            (sent, began.elapsed())
        });
        let arrived = self.arrived() - before;
        let is_dropped = address == NEIGHBOUR;
        assert!(!is_dropped || arrived < 100, "{arrived} packets arrived");
        assert!(is_dropped || arrived > u64::from(AT_ONCE), "{arrived} packets arrived");
        let counted = if is_dropped { sent } else { arrived };
        counted as f64 / time.as_secs_f64() / 1e3
    }

    /// Thousands of connections a second, each opened and closed.
    pub fn connections(&self) -> f64 {
        let times = self.times.replace(self.times.get() + 1);
        let address = format!("203.0.113.{}", 100 + times);
        let rate = self.lab.within("slot1", || connections::rate(&address));
        let waited = self.listener.clear();
        assert_eq!(waited, connections::CONNECTIONS as usize, "connections that were opened");
        rate
    }

    /// How many packets the internet has got.
    fn arrived(&self) -> u64 {
        let links = self.lab.exec("net", "ip -j -s link show eth0");
        let links: serde_json::Value = serde_json::from_str(links.success()).expect("JSON");
        links[0]["stats64"]["rx"]["packets"].as_u64().expect("a number")
    }
}
