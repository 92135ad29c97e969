//! The loaded programs for benchmarks: slot 1's port is `lo`, of the other slots only what is in the maps exists.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use netguard::{
    config::Config,
    datapath::{Datapath, PinDirectory, ensure_bpffs},
    instance::Instance,
    policy::{Facts, InterfaceFact, Plan},
};
use netguard_common::maps::LinkKind;

use crate::hosts::{enter_new_namespace, ip};

/// Loaded programs and their maps, in a network namespace of the calling thread; the pins go when this is dropped.
pub struct Programs {
    /// The datapath itself.
    pub datapath: Datapath,
    pins: PinDirectory,
    facts: Facts,
}

/// What each step took from a policy's text until no packet sees the one before.
#[derive(Clone, Copy, Debug)]
pub struct Steps {
    /// From the text to the policy.
    pub check: Duration,
    /// From the policy to the plan.
    pub compile: Duration,
    /// The plan's entries, where no packet looks.
    pub write: Duration,
    /// Until every packet that comes sees them.
    pub flip: Duration,
    /// All of these.
    pub whole: Duration,
    /// Until the next one has only a difference to write, the kernel's grace period in it.
    pub settle: Duration,
}

impl Programs {
    /// Loads them with a configuration in which slot 1 has the port `lo` and bridge `br-slot1`. So many slots, from 1 on,
    /// have a bridge and a port that the maps know.
    ///
    /// # Panics
    ///
    /// The configuration is none, or the kernel refuses the programs.
    #[must_use]
    pub fn load(toml: &str, slots_with_ports: u16) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        enter_new_namespace();
        ensure_bpffs(&Instance::host()).expect("bpffs");
        ip("link set lo up");
        let facts = facts(slots_with_ports);
        let instance = format!("bench-{}-{number}", std::process::id());
        let pins = PinDirectory::of(&instance.parse().expect("an instance name"));
        let plan = Plan::compile(&parse(toml).policy, &facts);
        let mut datapath = Datapath::load(pins.clone(), &plan).expect("it loads");
        let _ = datapath.apply(plan).expect("the maps take the plan");
        Self { datapath, pins, facts }
    }

    /// Where its maps are pinned.
    #[must_use]
    pub const fn pins(&self) -> &PinDirectory {
        &self.pins
    }

    /// What a plan is told of the host.
    #[must_use]
    pub const fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Puts another policy in force.
    ///
    /// # Panics
    ///
    /// It is none, or the kernel refuses it.
    pub fn reload(&mut self, toml: &str) -> Steps {
        let start = Instant::now();
        let config = parse(toml);
        let checked = start.elapsed();
        let plan = Arc::new(Plan::compile(&config.policy, &self.facts));
        let compiled = start.elapsed();
        self.datapath.prepare(&plan).expect("the maps take the plan");
        let written = start.elapsed();
        let _ = self.datapath.apply(plan).expect("the plan comes into force");
        let whole = start.elapsed();
        self.settle();
        let settle = start.elapsed() - whole;
        let (compile, write) = (compiled - checked, written - compiled);
        Steps { check: checked, compile, write, flip: whole - written, whole, settle }
    }

    /// Gives both sides of the maps the policy in force, as the daemon does when nothing waits for it.
    ///
    /// # Panics
    ///
    /// The kernel refuses it.
    pub fn settle(&mut self) {
        while !self.datapath.settle().expect("the maps take it again") {}
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        let _ = self.pins.remove();
    }
}

fn parse(toml: &str) -> Config {
    Config::parse(toml, Path::new("bench.toml")).expect("a good configuration")
}

fn facts(slots: u16) -> Facts {
    let interface = |index, name: String, controller| InterfaceFact {
        index,
        name,
        mac: [2, 0, 0, 0, 1, 1],
        controller,
        is_bridge: controller.is_none(),
        link: LinkKind::Other,
        isolated: false,
    };
    let of_slot = |id: u32| {
        let (port, index) =
            if id == 1 { ("lo".to_owned(), 1) } else { (format!("vm-slot{id}"), 10_000 + id) };
        let bridge = 20_000 + id;
        [interface(index, port, Some(bridge)), interface(bridge, format!("br-slot{id}"), None)]
    };
    Facts::new((1..=slots.into()).flat_map(of_slot).collect(), BTreeSet::new())
}
