//! A lab for one test: its own name, its own namespaces, gone when the test is.

use std::{
    fs,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use serde_json::Value;

use crate::{
    binary::{Ended, netguard},
    until,
};

/// A running lab.
pub struct Lab {
    name: String,
}

impl Lab {
    /// Builds a guarded lab whose daemon logs JSON.
    #[must_use]
    pub fn up(ports: &str) -> Self {
        Self::built(&["up", "--ports", ports, "--log", "json"])
    }

    /// Builds a lab that nothing guards.
    #[must_use]
    pub fn unguarded(ports: &str) -> Self {
        Self::built(&["up", "--ports", ports, "--unguarded"])
    }

    fn built(arguments: &[&str]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let lab = Self { name: format!("t{}x{number}", std::process::id()) };
        let _ = lab.call(arguments).success();
        lab
    }

    /// The lab's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The instance that guards it.
    #[must_use]
    pub fn instance(&self) -> String {
        format!("lab-{}", self.name)
    }

    /// `netguard lab` with arguments.
    #[must_use]
    pub fn call(&self, arguments: &[&str]) -> Ended {
        Ended::of(&mut netguard(&[&["lab", "--name", &self.name], arguments].concat()))
    }

    /// A command on a host of the lab, its words split at spaces.
    #[must_use]
    pub fn exec(&self, host: &str, command: &str) -> Ended {
        Ended::of(&mut self.command(host, &command.split(' ').collect::<Vec<_>>()))
    }

    /// A shell script on a host of the lab.
    #[must_use]
    pub fn shell(&self, host: &str, script: &str) -> Ended {
        Ended::of(&mut self.command(host, &["sh", "-c", script]))
    }

    /// A Python script on a host of the lab; its arguments are `sys.argv[1:]`.
    #[must_use]
    pub fn python(&self, host: &str, script: &str, arguments: &[&str]) -> Ended {
        let words = [&["python3", "-c", script], arguments].concat();
        Ended::of(&mut self.command(host, &words))
    }

    /// A shell script on a host of the lab that goes on in the background. Let it `exec`, so that
    /// what ends is what was started.
    #[must_use]
    pub fn start(&self, host: &str, script: &str) -> Background {
        let child = self
            .command(host, &["sh", "-c", script])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the command starts");
        Background(child)
    }

    /// A command on a host of the lab, not yet started; its process becomes the command.
    #[must_use]
    pub fn command(&self, host: &str, words: &[&str]) -> Command {
        netguard(&[&["lab", "--name", &self.name, "exec", host, "--"], words].concat())
    }

    /// Waits until something listens on a TCP port of a host.
    pub fn listening(&self, host: &str, port: u16) {
        until(&format!("something listens on {port} of {host}"), || {
            !self.exec(host, &format!("ss -Hltn sport = {port}")).success().is_empty()
        });
    }

    /// `netguard status --json` of the lab.
    #[must_use]
    pub fn status(&self) -> Value {
        let ended = Ended::of(&mut netguard(&["status", "--json", "--instance", &self.instance()]));
        serde_json::from_str(ended.success()).expect("status prints JSON")
    }

    /// How many packets of a slot were counted so: `egress`, `cross-slot`.
    #[must_use]
    pub fn packets(&self, slot: &str, direction: &str, outcome: &str) -> u64 {
        let status = self.status();
        let slots = status["slots"].as_array().expect("slots");
        let slot = slots.iter().find(|it| it["name"] == slot).expect("the slot");
        slot["counters"]
            .as_array()
            .expect("counters")
            .iter()
            .filter(|it| it["direction"] == direction && it["outcome"] == outcome)
            .map(|it| it["packets"].as_u64().expect("a number"))
            .sum()
    }

    /// The events in the daemon's log so far.
    #[must_use]
    pub fn events(&self) -> Vec<Value> {
        // A lab that nothing guards has no such log.
        let log = fs::read_to_string(format!("/run/netguard/lab-{}/daemon.log", self.name))
            .unwrap_or_default();
        log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits until an event of the daemon's log fits, and returns it.
    #[must_use]
    pub fn event(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let mut found = None;
        until(&format!("the log has a {what}"), || {
            found = self.events().into_iter().find(&fits);
            found.is_some()
        });
        found.expect("it was found")
    }

    /// What reached the lab's internet so far.
    #[must_use]
    pub fn internet(&self) -> Vec<Value> {
        let log = fs::read_to_string(format!("/run/netguard/lab-{}/internet.log", self.name))
            .expect("the internet's log");
        let entries = log.lines().filter_map(|line| line.split_once(' ')?.1.parse().ok());
        entries.collect()
    }

    /// The process that guards the lab.
    #[must_use]
    pub fn daemon_pid(&self) -> Option<u64> {
        self.status()["daemon_pid"].as_u64()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let ended = self.call(&["down"]);
        if !std::thread::panicking() {
            let _ = ended.success();
        }
    }
}

/// A process of the test's own that ends with the test.
pub struct Background(Child);

impl From<Child> for Background {
    fn from(child: Child) -> Self {
        Self(child)
    }
}

impl Background {
    /// The process.
    #[must_use]
    pub fn child(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
