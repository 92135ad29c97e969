//! What is done to netguard and to its ports: killed, started anew, reloaded, robbed.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Seek as _},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use netguard::datapath::{self, PinDirectory};
use netguard_common::Hook;
use netguard_tests::{
    binary::{Ended, netguard},
    daemon,
    lab::{Background, Lab},
    until_within,
};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use super::{ROBBED, UNPLUGGED, config};

/// How long what is done may take until it is in force. Both processors are busy with packets, and the kernel's own work (its
/// grace periods, without which no interface comes or goes) has been seen to wait for a minute.
const IN_FORCE: Duration = Duration::from_secs(300);

/// The notes of the daemon's log, read once each: beside them are the records of millions of drops.
struct Notes {
    log: BufReader<File>,
    notes: Vec<String>,
}

impl Notes {
    fn of(lab: &Lab) -> Self {
        let log = format!("/run/netguard/{}/daemon.log", lab.instance());
        Self { log: BufReader::new(File::open(log).expect("the log")), notes: Vec::new() }
    }

    fn count(&mut self, words: &str) -> usize {
        let mut line = String::new();
        while self.log.read_line(&mut line).expect("the log") > 0 {
            if !line.ends_with('\n') {
                // The rest of it comes yet.
                let back = i64::try_from(line.len()).expect("a line");
                self.log.seek_relative(-back).expect("the log");
                break;
            }
            // Those of events: drops have codes from 540001 on.
            if line.contains("\"code\":541") {
                self.notes.push(line.clone());
            }
            line.clear();
        }
        self.notes.iter().filter(|note| note.contains(words)).count()
    }

    /// What is no event: errors.
    fn last_errors(&mut self) -> Vec<String> {
        let mut log = String::new();
        self.log.rewind().and_then(|()| self.log.read_to_string(&mut log)).expect("the log");
        log.lines().filter(|line| !line.starts_with('{')).map(str::to_owned).collect()
    }

    fn wait(&mut self, words: &str, more_than: usize) {
        let began = Instant::now();
        while self.count(words) <= more_than {
            if began.elapsed() > IN_FORCE {
                let errors = self.last_errors();
                let last = &self.notes[self.notes.len().saturating_sub(20)..];
                panic!("no {words:?}: {last:#?} {errors:?}");
            }
            thread::yield_now();
        }
    }
}

/// What is done to netguard and to its ports, and when a slot was without what it needs.
pub struct Mischief<'a> {
    lab: &'a Lab,
    in_kernel: bool,
    random: SmallRng,
    notes: Notes,
    daemon: Option<Background>,
    turn: u8,
    /// What was done how often.
    pub done: BTreeMap<&'static str, u32>,
    /// When what was done.
    pub log: Vec<(&'static str, Instant, Instant)>,
    /// By slot: from when to when.
    pub down: Vec<(u8, Instant, Instant)>,
}

impl<'a> Mischief<'a> {
    pub fn new(lab: &'a Lab, in_kernel: bool, seed: u64) -> Self {
        Self {
            lab,
            in_kernel,
            random: SmallRng::seed_from_u64(seed),
            notes: Notes::of(lab),
            daemon: None,
            turn: 0,
            done: BTreeMap::new(),
            log: Vec::new(),
            down: Vec::new(),
        }
    }

    /// One of it, at random.
    pub fn next(&mut self) {
        let from = Instant::now();
        let what = match self.random.random_range(0..6) {
            0 => self.restart("KILL"),
            1 => self.restart("TERM"),
            2 => self.kill_worker(),
            3 => self.reload(),
            4 => self.replug(),
            _ => self.detach(),
        };
        *self.done.entry(what).or_default() += 1;
        if from.elapsed() > Duration::from_secs(4) {
            eprintln!(
                "{what} took {:?}: {:?}",
                from.elapsed(),
                &self.notes.notes[self.notes.notes.len().saturating_sub(12)..]
            );
        }
        self.log.push((what, from, Instant::now()));
    }

    fn restart(&mut self, signal: &'static str) -> &'static str {
        let pid = self.pid().to_string();
        let guards = self.notes.count(" names allowed");
        let _ =
            Ended::of(Command::new("kill").args([&format!("-{signal}"), pid.as_str()])).success();
        until_within(IN_FORCE, "the daemon has ended", || self.lab.daemon_pid().is_none());
        let mut daemon = daemon::spawn(self.lab, &[]);
        until_within(IN_FORCE, "the daemon guards", || {
            let ended = daemon.child().try_wait().expect("the daemon");
            assert!(ended.is_none(), "it ended: {ended:?} {:?}", self.notes.last_errors());
            self.notes.count(" names allowed") > guards
        });
        self.daemon = Some(daemon);
        if signal == "KILL" { "killed and started" } else { "ended and started" }
    }

    fn pid(&mut self) -> u64 {
        let pid = self.lab.daemon_pid();
        pid.unwrap_or_else(|| panic!("no daemon runs: {:?}", self.notes.last_errors()))
    }

    fn kill_worker(&mut self) -> &'static str {
        let pid = self.pid();
        // From whichever of its threads it was started, and nothing else that the monitor may have started.
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("its threads").flatten();
        let children =
            tasks.filter_map(|it| std::fs::read_to_string(it.path().join("children")).ok());
        let children = children.collect::<Vec<_>>().join(" ");
        for child in children.split_whitespace() {
            let name = std::fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
            if name.trim() == "netguard-worker" {
                let _ = Ended::of(Command::new("kill").args(["-KILL", child]));
            }
        }
        "worker killed"
    }

    fn reload(&mut self) -> &'static str {
        self.turn = self.turn.wrapping_add(1);
        self.lab.reconfigure(&config(self.turn, self.in_kernel));
        // A worker that has just been killed takes what it was asked with it.
        until_within(IN_FORCE, "it is reloaded", || {
            Ended::of(&mut netguard(&["reload", "--instance", &self.lab.instance()])).code == 0
        });
        "reloaded"
    }

    fn replug(&mut self) -> &'static str {
        let guarded = self.notes.count("guarding vm-slot3");
        let from = Instant::now();
        let namespace = format!("{}-slot3", self.lab.name());
        let script = format!(
            "ip link del vm-slot3 &&
             ip link add vm-slot3 type veth peer name eth0 address 02:6e:67:00:03:02 netns {namespace} &&
             ip link set vm-slot3 master br-slot3 up"
        );
        let _ = self.lab.shell("hv", &script).success();
        let script = "ip addr add 10.3.0.2/24 dev eth0 && ip link set eth0 up &&
                      ip route add default via 10.3.0.1";
        let _ = self.lab.shell("slot3", script).success();
        self.notes.wait("guarding vm-slot3", guarded);
        self.down.push((UNPLUGGED, from, Instant::now()));
        "port deleted and made again"
    }

    fn detach(&mut self) -> &'static str {
        let hooks = [Hook::PortEgress, Hook::PortIngress, Hook::BridgeEgress, Hook::BridgeIngress];
        let hook = hooks[self.random.random_range(0..hooks.len())];
        let on_bridge = matches!(hook, Hook::BridgeEgress | Hook::BridgeIngress);
        let interface = if on_bridge { "br-slot2" } else { "vm-slot2" };
        let instance = self.lab.instance().parse().expect("an instance");
        let pin = PinDirectory::of(&instance).link(interface, hook);
        let alarms = self.notes.count("ALARM");
        let from = Instant::now();
        datapath::detach_pinned(&pin).expect("the kernel detaches it");
        self.notes.wait("ALARM", alarms);
        self.down.push((ROBBED, from, Instant::now()));
        "program detached by hand"
    }
}
