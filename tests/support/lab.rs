//! A lab for one test: its own name, its own namespaces, gone when the test is.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use netguard::{datapath::PinDirectory, lab::enter};
use nix::sched::{CloneFlags, setns};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    binary::{Ended, netguard},
    can_use_kernel, until,
};

/// A running lab.
pub struct Lab {
    name: String,
    /// Holds the configuration, where that is the test's own; the lab reads it again.
    directory: Option<TempDir>,
    /// How its daemons keep TC programs on interfaces: as the kernel does it best, or `clsact`.
    tc: Option<String>,
}

/// Packets by direction and outcome.
pub type Packets = BTreeMap<(String, String), u64>;

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

    /// Builds a guarded lab from one of `dist/examples`, by its name: `mixed`.
    #[must_use]
    pub fn of(example: &str, ports: &str) -> Self {
        let file = format!("{}/../dist/examples/{example}.toml", env!("CARGO_MANIFEST_DIR"));
        assert!(Path::new(&file).exists(), "{file} is missing");
        Self::built(&["up", "--ports", ports, "--log", "json", "--config", &file])
    }

    /// Builds a guarded lab from a configuration of the test's own.
    #[must_use]
    pub fn with(config: &str, ports: &str) -> Self {
        Self::with_options(config, &["--ports", ports, "--log", "json"])
    }

    fn with_options(config: &str, options: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("netguard.toml");
        fs::write(&file, config).expect("the configuration");
        let file = file.to_str().expect("its path");
        let mut lab = Self::built(&[&["up", "--config", file], options].concat());
        lab.directory = Some(directory);
        lab
    }

    /// The same with a log for people.
    #[must_use]
    pub fn with_text_log(config: &str, ports: &str) -> Self {
        Self::with_options(config, &["--ports", ports])
    }

    /// Builds a lab of a configuration of the test's own that nothing guards.
    #[must_use]
    pub fn unguarded_with(config: &str, ports: &str) -> Self {
        Self::with_options(config, &["--ports", ports, "--unguarded"])
    }

    /// Builds a guarded lab like that of [`Self::up`] whose slots need no pins.
    ///
    /// # Panics
    ///
    /// Slots of the lab's own configuration need none either.
    #[must_use]
    pub fn open(ports: &str) -> Self {
        let (pinned, open) = ("egress = \"pinned\"", "egress = \"open\"");
        assert!(netguard::lab::CONFIG.contains(pinned));
        Self::with(&netguard::lab::CONFIG.replace(pinned, open), ports)
    }

    /// The same without the fast path.
    #[must_use]
    pub fn slow(ports: &str) -> Self {
        let config = netguard::lab::CONFIG.replace("egress = \"pinned\"", "egress = \"open\"");
        Self::with(&format!("{config}\n[datapath]\nfast_path = false\n"), ports)
    }

    /// Builds a lab that nothing guards, and whose daemons will do as on a kernel without tcx.
    #[must_use]
    pub fn without_tcx(ports: &str) -> Self {
        let mut lab = Self::unguarded(ports);
        lab.tc = Some("clsact".to_owned());
        lab
    }

    fn built(arguments: &[&str]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("t{}x{number}", std::process::id());
        let lab = Self { name, directory: None, tc: std::env::var("NETGUARD_TEST_TC").ok() };
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

    /// Where a map of that instance is pinned.
    #[must_use]
    pub fn map(&self, name: &str) -> String {
        let instance = self.instance().parse().expect("an instance");
        PinDirectory::of(&instance).map(name).display().to_string()
    }

    /// Writes another configuration where the lab's own is, for the next daemon. The hosts stay as they were built.
    ///
    /// # Panics
    ///
    /// The lab was not made by [`Self::with`].
    pub fn reconfigure(&self, config: &str) {
        let directory = self.directory.as_ref().expect("a configuration of its own");
        fs::write(directory.path().join("netguard.toml"), config).expect("the configuration");
    }

    /// The options of its daemons. `NETGUARD_TEST_TC=clsact` has all tests run as on a kernel without tcx.
    #[must_use]
    pub fn tc_options(&self) -> Vec<&str> {
        self.tc.as_ref().map_or(Vec::new(), |tc| vec!["--tc", tc])
    }

    /// `netguard lab` with arguments.
    #[must_use]
    pub fn call(&self, arguments: &[&str]) -> Ended {
        let mut command = netguard(&[&["lab", "--name", &self.name], arguments].concat());
        if arguments.first() == Some(&"up") {
            command.args(self.tc_options());
        }
        Ended::of(&mut command)
    }

    /// `netguard` with arguments, about this lab's instance.
    #[must_use]
    pub fn run(&self, arguments: &[&str]) -> Ended {
        Ended::of(&mut netguard(&[arguments, &["--instance", &self.instance()]].concat()))
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

    /// Does work of the calling thread's own on a host of the lab. The thread is back where it was before this
    /// returns: who removes a lab ends every process that has a thread in it.
    ///
    /// # Panics
    ///
    /// There is no such host, or the work panics.
    pub fn within<T>(&self, host: &str, work: impl FnOnce() -> T) -> T {
        struct Back(File);
        impl Drop for Back {
            fn drop(&mut self) {
                setns(&self.0, CloneFlags::CLONE_NEWNET).expect("the namespace that it came from");
            }
        }
        let _back = Back(File::open("/proc/thread-self/ns/net").expect("the thread's namespace"));
        enter(&format!("{}-{host}", self.name)).expect("a host of the lab");
        work()
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
        let ended = self.run(&["status", "--json"]);
        serde_json::from_str(ended.success()).expect("status prints JSON")
    }

    /// How many packets of a slot were counted so: `egress`, `cross-slot`.
    #[must_use]
    pub fn packets(&self, slot: &str, direction: &str, outcome: &str) -> u64 {
        let key = (direction.to_owned(), outcome.to_owned());
        self.counters(slot).get(&key).copied().unwrap_or(0)
    }

    /// How many packets of a slot were counted, by direction and outcome.
    #[must_use]
    pub fn counters(&self, slot: &str) -> Packets {
        let status = self.status();
        let slots = status["slots"].as_array().expect("slots");
        let slot = slots.iter().find(|it| it["name"] == slot).expect("the slot");
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let counters = slot["counters"].as_array().expect("counters").iter();
        counters
            .map(|it| {
                let key = (text(&it["direction"]), text(&it["outcome"]));
                (key, it["packets"].as_u64().expect("a number"))
            })
            .collect()
    }

    /// The MAC of an interface.
    #[must_use]
    pub fn mac(&self, host: &str, interface: &str) -> [u8; 6] {
        let ended = self.exec(host, &format!("ip -j link show {interface}"));
        let links: Value = serde_json::from_str(ended.success()).expect("ip prints JSON");
        let text = links[0]["address"].as_str().expect("an address").to_owned();
        let bytes: Vec<_> =
            text.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("a byte")).collect();
        bytes.try_into().expect("six bytes")
    }

    /// How many packets a counter of the host's own rules has seen: `host-closed`.
    #[must_use]
    pub fn host_packets(&self, counter: &str) -> u64 {
        let table = format!("netguard-{}", self.instance());
        let ended = self.exec("hv", &format!("nft -j list counter inet {table} {counter}"));
        let listed: Value = serde_json::from_str(ended.success()).expect("nft prints JSON");
        let objects = listed["nftables"].as_array().expect("objects").iter();
        let packets = objects.filter_map(|object| object["counter"]["packets"].as_u64());
        packets.sum()
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

    /// The monitor and its worker.
    ///
    /// # Panics
    ///
    /// They do not run, or the monitor has other children.
    #[must_use]
    pub fn processes(&self) -> (u32, u32) {
        let monitor = self.daemon_pid().expect("a daemon");
        let tasks = fs::read_dir(format!("/proc/{monitor}/task")).expect("its threads").flatten();
        let children =
            tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
        let children: Vec<u32> = children
            .flat_map(|them| {
                them.split_whitespace().filter_map(|it| it.parse().ok()).collect::<Vec<_>>()
            })
            .collect();
        let [worker] = children[..] else { panic!("one child, not {children:?}") };
        (u32::try_from(monitor).expect("a process"), worker)
    }
}

/// What a process has in memory, in KiB (proc_pid_status(5)).
///
/// # Panics
///
/// There is no such process.
#[must_use]
pub fn resident(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Runs a test in a guarded lab with veth ports, and in one with TAP ports.
pub fn on_both_port_kinds(test: impl Fn(&Lab)) {
    on_both(Lab::up, test);
}

/// The same in labs whose slots reach the internet by any address, whoever told it.
pub fn on_both_port_kinds_open(test: impl Fn(&Lab)) {
    on_both(Lab::open, test);
}

/// The same in labs of the test's own configuration.
pub fn on_both_port_kinds_with(config: &str, test: impl Fn(&Lab)) {
    on_both(|ports| Lab::with(config, ports), test);
}

fn on_both(build: impl Fn(&str) -> Lab, test: impl Fn(&Lab)) {
    if !can_use_kernel() {
        return;
    }
    for ports in ["veth", "tap"] {
        eprintln!("{ports} ports");
        test(&build(ports));
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
