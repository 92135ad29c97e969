//! The loaded programs without a wire: frames go in by BPF_PROG_TEST_RUN, verdicts, counters and
//! records come out.
//!
//! Each fixture lives in a network namespace of its own, where `lo` plays the slot's port.

mod counted;
mod pins;
mod translated;

use std::{
    mem::offset_of,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use netguard::{
    config::Config,
    datapath::{
        Datapath, DropCounters, DropStream, Opened, PinDirectory, PinWriter, Probed, ensure_bpffs,
        processors,
    },
    instance::Instance,
    policy::{Facts, InterfaceFact, Plan},
};
pub use netguard_common::vouched_by;
use netguard_common::{
    DENIAL, DropReason, Hook, NO_SLOT,
    flow::{Bucket, Head, WAYS},
    maps::{FLOWS, LinkKind, OUTCOME_ANSWER, OUTCOME_PASS, OUTCOME_REDIRECT, would_drop},
};
use nix::time::{ClockId, clock_gettime};
use serde_json::Value;

use translated::{OUTSIDE, assert_translated, is_on_fast_path};

use crate::{
    hosts::{enter_new_namespace, feed, forward, ip, shell},
    packet::BRIDGE_MAC,
};

/// What became of a frame, by the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Counted as passed.
    Pass,
    /// Counted as redirected to the resolver.
    Redirect,
    /// Counted as a query that was denied, and turned into its answer.
    Answer,
    /// Counted and recorded as dropped.
    Drop(DropReason),
    /// Neither counted nor dropped: left to the next program.
    Continue,
}

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
/// TC_ACT_UNSPEC and TCX_NEXT: on to whoever is next.
const TC_NEXT: u32 = u32::MAX;
const TC_SHOT: u32 = 2;
const TC_REDIRECT: u32 = 7;
/// The mark of a frame that slot 1's port has let through.
pub const FROM_SLOT1: u32 = vouched_by(1);
/// The mark of a frame that the host sends.
pub const FROM_HOST: u32 = vouched_by(NO_SLOT);

/// The slots of the verdict tests: slot 1 on `lo`, and a neighbour.
pub const SLOTS: &str = r#"
[host]
management = ["100.64.0.0/10"]

[dns]
upstreams = ["1.1.1.1"]
names = ["github.com"]

[[slot]]
name = "slot1"
id = 1
bridge = "br-slot1"
port = "lo"
subnet = "10.1.0.0/24"
subnet6 = "fd00:10:1::/64"

[[slot]]
name = "slot2"
id = 2
bridge = "br-slot2"
port = "vm-slot2"
subnet = "10.2.0.0/24"
subnet6 = "fd00:10:2::/64"
"#;

/// Loaded programs and their maps; the pins go when this is dropped.
pub struct Kernel {
    datapath: Datapath,
    drops: DropStream,
    pinned: PinWriter,
    counters: DropCounters,
    pins: PinDirectory,
    config: Config,
    facts: Facts,
    /// How many frames have left by the fast path, of those that [`Self::verdict_egress`] was asked about.
    pub translated: usize,
    /// How many frames were put to it since its counters were forgotten.
    probed: u32,
}

impl Kernel {
    /// Loads the programs with [`SLOTS`], in a new network namespace of the calling thread.
    #[must_use]
    pub fn new() -> Self {
        Self::with(SLOTS)
    }

    /// Loads the programs with a configuration in which some slot's port or bridge is `lo`.
    #[must_use]
    pub fn with(toml: &str) -> Self {
        Self::on(toml, [0; 6], LinkKind::Other)
    }

    /// The same on a host whose uplink the fast path takes, with known neighbours.
    #[must_use]
    pub fn fast(toml: &str) -> Self {
        let kernel = Self::on(toml, [2, 0, 0, 0, 9, 9], LinkKind::Other);
        ip("neigh add 198.51.100.254 lladdr 02:00:00:00:09:01 dev uplink0 nud permanent
            neigh add 2001:db8:ffff::1 lladdr 02:00:00:00:09:01 dev uplink0 nud permanent
        ");
        kernel
    }

    /// The same on a host whose `lo` is said to be a TAP, so that the XDP program answers by itself.
    #[must_use]
    pub fn on_tap(toml: &str) -> Self {
        Self::on(toml, [0; 6], LinkKind::Tap)
    }

    fn on(toml: &str, uplink_mac: [u8; 6], link_of_port: LinkKind) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        enter_new_namespace();
        ensure_bpffs(&Instance::host()).expect("bpffs");
        let config = Config::parse(toml, Path::new("test.toml")).expect("a good configuration");
        let (bridge, uplink) = host();
        let interface = |index, name: &str, mac, controller| InterfaceFact {
            index,
            name: name.to_owned(),
            mac,
            controller,
            is_bridge: controller.is_none(),
            link: if name == "lo" { link_of_port } else { LinkKind::Other },
            isolated: false,
        };
        let facts = Facts::new(
            vec![
                interface(1, "lo", [0; 6], Some(bridge)),
                interface(bridge, "br-slot1", BRIDGE_MAC, None),
                interface(uplink, "uplink0", uplink_mac, None),
            ],
            OUTSIDE.map(|address| (uplink, address.parse().expect("an address"))).into(),
        );
        let plan = Plan::compile(&config.policy, &facts);
        let instance = format!("test-{}-{number}", std::process::id());
        let pins = PinDirectory::of(&instance.parse().expect("an instance name"));
        let mut datapath =
            Datapath::load(pins.clone(), &plan).expect("the verifier accepts the programs");
        let (pinned, drops, counters) = shared(&datapath);
        let changes = datapath.apply(plan).expect("the maps take the plan");
        assert!(changes.failed.is_empty(), "{changes:?}");
        let (translated, probed) = (0_usize, 0);
        Self { datapath, drops, pinned, counters, pins, config, facts, translated, probed }
    }

    /// The configuration that the programs were loaded with.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where its maps are pinned.
    #[must_use]
    pub fn pins(&self) -> &PinDirectory {
        &self.pins
    }

    /// The programs are loaded anew, as by another daemon, and take over what the first has left.
    ///
    /// # Panics
    ///
    /// The kernel refuses them.
    pub fn restart(&mut self) {
        let plan = Plan::compile(&self.config.policy, &self.facts);
        let mut datapath = Datapath::load(self.pins.clone(), &plan).expect("the programs");
        (self.pinned, self.drops, self.counters) = shared(&datapath);
        let changes = datapath.apply(plan).expect("the maps take the plan");
        assert!(changes.failed.is_empty(), "{changes:?}");
        self.datapath = datapath;
    }

    /// What the plan was told of the host.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Gives the programs another policy, as a reload would: flows and counters stay.
    pub fn apply(&mut self, toml: &str) {
        self.config = Config::parse(toml, Path::new("test.toml")).expect("a good configuration");
        let plan = self.plan();
        if !self.datapath.holds(&plan) {
            return self.restart();
        }
        let _ = self.datapath.apply(plan).expect("the maps take the plan");
    }

    /// What the policy becomes in the maps.
    #[must_use]
    pub fn plan(&self) -> Plan {
        Plan::compile(&self.config.policy, &self.facts)
    }

    /// The datapath itself.
    pub fn datapath(&mut self) -> &mut Datapath {
        &mut self.datapath
    }

    /// Puts a frame to a program; the mark says whether a program of ours has seen it before.
    #[must_use]
    pub fn probe(&mut self, hook: Hook, frame: &[u8], mark: u32) -> (Outcome, Probed) {
        self.leave_room_for_records();
        let before = self.counted();
        let probed = self.datapath.probe(hook, frame, mark).expect("the program runs");
        let counted = self.counted();
        let changed: Vec<_> = counted
            .iter()
            // What is audited is counted among those that passed too.
            .filter(|(outcome, _)| would_drop(*outcome).is_none())
            .filter_map(|(outcome, packets)| {
                let old = before.iter().find(|(other, _)| other == outcome).map_or(0, |it| it.1);
                (*packets != old).then_some((*outcome, packets - old))
            })
            .collect();
        let records = self.records_of_drops();
        let (pass, drop) =
            if hook == Hook::Xdp { (XDP_PASS, XDP_DROP) } else { (TC_NEXT, TC_SHOT) };
        let outcome = match changed.as_slice() {
            [] => Outcome::Continue,
            [(OUTCOME_PASS, 1)] => Outcome::Pass,
            [(OUTCOME_REDIRECT, 1)] => Outcome::Redirect,
            [(OUTCOME_ANSWER, 1)] => Outcome::Answer,
            [(reason, 1)] => Outcome::Drop(DropReason::from_raw(*reason).expect("a known reason")),
            more => panic!("one packet was counted as {more:?}"),
        };
        if let Outcome::Drop(reason) = outcome {
            assert!(probed.action == drop || is_told(&probed), "a drop must be a drop");
            let [record] = records.as_slice() else {
                panic!("{} records of one drop", records.len())
            };
            assert_eq!(record.reason(), Some(reason));
            assert_eq!(record.hook, hook as u8);
            assert_eq!(record.frame_length as usize, frame.len());
            assert_eq!(record.captured(), &frame[..frame.len().min(128)]);
        } else {
            let back = if hook == Hook::Xdp { XDP_TX } else { TC_REDIRECT };
            let on = if outcome == Outcome::Answer { back } else { pass };
            let passes = probed.action == on || is_on_fast_path(&probed);
            assert!(passes, "what is not dropped must pass, or go back");
            assert_eq!(records.len(), 0, "only drops are recorded");
        }
        (outcome, probed)
    }

    /// Puts a frame to a program and leaves its record, if there is one, to another reader of the ring buffer.
    pub fn leave(&mut self, hook: Hook, frame: &[u8]) {
        let _ = self.datapath.probe(hook, frame, 0).expect("the program runs");
    }

    /// What the egress programs say of a frame: the drop stage and the verdict stage must agree.
    #[must_use]
    pub fn egress(&mut self, frame: &[u8]) -> Outcome {
        let (early, _) = self.probe(Hook::Xdp, frame, 0);
        let (late, probed) = self.probe(Hook::PortEgress, frame, 0);
        match late {
            Outcome::Drop(reason) => {
                assert_agree(early, reason);
                assert_eq!(probed.mark, 0, "a dropped frame was vouched for");
            }
            _ => {
                assert_eq!(early, Outcome::Continue, "XDP and TC disagree");
                let is_vouched_for = probed.mark == FROM_SLOT1 || is_on_fast_path(&probed);
                assert!(is_vouched_for, "a frame that passes must be vouched for");
            }
        }
        late
    }

    /// What the ingress program says of a frame that the bridge vouches for.
    #[must_use]
    pub fn ingress(&mut self, frame: &[u8]) -> Outcome {
        self.probe(Hook::PortIngress, frame, FROM_HOST).0
    }

    /// The same as [`Self::egress`] from the actions, marks and records alone: fast, for many frames.
    #[must_use]
    pub fn verdict_egress(&mut self, frame: &[u8]) -> Outcome {
        let early = self.verdict(Hook::Xdp, frame, 0).0;
        let (late, probed) = self.verdict(Hook::PortEgress, frame, 0);
        match late {
            Outcome::Drop(reason) => {
                assert_agree(early, reason);
                assert_eq!(probed.mark, 0, "a dropped frame was vouched for");
                late
            }
            _ => {
                assert_eq!(early, Outcome::Continue, "XDP and TC disagree");
                if is_on_fast_path(&probed) {
                    self.translated += 1;
                    assert_translated(frame, &probed.frame);
                    return Outcome::Pass;
                }
                assert_eq!(probed.mark, FROM_SLOT1, "a frame that passes must be vouched for");
                // Only the redirect writes to a frame.
                if probed.frame == frame { Outcome::Pass } else { Outcome::Redirect }
            }
        }
    }

    /// The same as [`Self::probe`] of the ingress program from its action and records alone.
    #[must_use]
    pub fn verdict_ingress(&mut self, frame: &[u8], mark: u32) -> Outcome {
        match self.verdict(Hook::PortIngress, frame, mark).0 {
            Outcome::Continue => Outcome::Pass,
            outcome => outcome,
        }
    }

    /// What one program says of a frame, from its action and records alone.
    ///
    /// # Panics
    ///
    /// The program does not run, or its action and its records disagree.
    pub fn verdict(&mut self, hook: Hook, frame: &[u8], mark: u32) -> (Outcome, Probed) {
        self.leave_room_for_records();
        let probed = self.datapath.probe(hook, frame, mark).expect("the program runs");
        let records = self.records_of_drops();
        let drop = if hook == Hook::Xdp { XDP_DROP } else { TC_SHOT };
        let reason = match records.as_slice() {
            [] => None,
            [record] => Some(record.reason().expect("a known reason")),
            more => panic!("{} records of one frame", more.len()),
        };
        assert_eq!(probed.action == drop, reason.is_some(), "drops are recorded, and only drops");
        (reason.map_or(Outcome::Continue, Outcome::Drop), probed)
    }

    /// Lets every tracked flow have been silent for so long. Does nothing and returns false if this machine
    /// has not been up for as long as that.
    ///
    /// # Panics
    ///
    /// `bpftool` cannot read or write the table of flows.
    #[must_use]
    pub fn age_flows(&self, silent: Duration) -> bool {
        let Some(seen) = now_ns().checked_sub(nanoseconds(silent)) else { return false };
        self.rewrite_seen(|_| seen);
        true
    }

    /// Lets every tracked flow have been silent for so much longer than it was. Does nothing and returns false as above.
    ///
    /// # Panics
    ///
    /// As above.
    #[must_use]
    pub fn age_flows_more(&self, silent: Duration) -> bool {
        let silent = nanoseconds(silent);
        let is_up = now_ns() > 3 * silent;
        if is_up {
            self.rewrite_seen(|seen| seen.saturating_sub(silent));
        }
        is_up
    }

    /// Writes when every tracked flow was seen.
    fn rewrite_seen(&self, seen: impl Fn(u64) -> u64) {
        const SEEN: usize = offset_of!(Bucket, heads) + offset_of!(Head, seen_ns);
        let pin = self.pins.map(FLOWS);
        let dump = shell(&format!("bpftool -j map dump pinned {}", pin.display()));
        let entries: Vec<Value> = serde_json::from_str(dump.success()).expect("JSON");
        let hex = |bytes: &Value| -> Vec<String> {
            let bytes = bytes.as_array().expect("bytes").iter();
            bytes.map(|byte| byte.as_str().expect("a byte")[2..].to_owned()).collect()
        };
        let mut batch = String::new();
        for entry in entries {
            let (key, mut value) = (hex(&entry["key"]), hex(&entry["value"]));
            if value.iter().all(|byte| byte == "00") {
                continue;
            }
            for way in 0..WAYS as usize {
                let at = SEEN + way * size_of::<Head>();
                let bytes = &mut value[at..at + size_of::<u64>()];
                let digits: String = bytes.iter().rev().map(String::as_str).collect();
                let was = u64::from_str_radix(&digits, 16).expect("a number");
                for (byte, new) in bytes.iter_mut().zip(seen(was).to_le_bytes()) {
                    *byte = format!("{new:02x}");
                }
            }
            let (key, value) = (key.join(" "), value.join(" "));
            batch +=
                &format!("map update pinned {} key hex {key} value hex {value}\n", pin.display());
        }
        feed(Command::new("bpftool").args(["batch", "file", "-"]).stdout(Stdio::null()), &batch);
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).expect("a short time")
}

/// True if the frame was dropped and has become the answer to itself, on its way back.
#[must_use]
pub fn is_told(probed: &Probed) -> bool {
    (probed.action, probed.mark) == (TC_REDIRECT, DENIAL)
}

/// The kernel's clock, in nanoseconds.
///
/// # Panics
///
/// There is no clock.
#[must_use]
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("the clock");
    u64::try_from(Duration::from(now).as_nanos()).expect("a time since the start")
}

/// XDP leaves to TC what needs state to be changed, the host's routing, or a limit.
fn assert_agree(early: Outcome, late: DropReason) {
    use DropReason as R;
    let at_tc_only = matches!(
        late,
        R::Host
            | R::Fragment
            | R::NoResolver
            | R::DnsFlowsFull
            | R::FlowsFull
            | R::FlowRate
            | R::PacketRate
            | R::ByteRate
            | R::IcmpRate
    );
    let agree = early == Outcome::Drop(late) || (at_tc_only && early == Outcome::Continue);
    assert!(agree, "XDP says {early:?}, TC {late:?}");
}

/// Gives the namespace what a host has besides its ports: the slot's bridge, an uplink, routes and
/// forwarding, because the programs ask the host's own routing. Returns the numbers of the two.
fn host() -> (u32, u32) {
    let batch = "link add br-slot1 address 02:00:00:00:01:01 type bridge
        addr add 10.1.0.1/24 dev br-slot1
        addr add fd00:10:1::1/64 dev br-slot1 nodad
        link set br-slot1 up
        link add uplink0 type bridge
        addr add 198.51.100.1/24 dev uplink0
        addr add 2001:db8:ffff::2/64 dev uplink0 nodad
        link set uplink0 up
        route add default via 198.51.100.254
        route add default via 2001:db8:ffff::1
    ";
    ip(batch);
    forward();
    let number = |name| nix::net::if_::if_nametoindex(name).expect("the interface");
    (number("br-slot1"), number("uplink0"))
}

impl Default for Kernel {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        // Also after a panic: a failed test leaves nothing behind.
        let _ = self.pins.remove();
    }
}

fn shared(datapath: &Datapath) -> (PinWriter, DropStream, DropCounters) {
    let opened = datapath.shared().and_then(|shared| shared.open(processors()));
    let Opened { pins, drops, counters, .. } = opened.expect("the maps that it shares");
    (pins, drops, counters)
}
