//! `netguard guard`: closed before the daemon, adopted by it, and nothing beside one.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::Stdio,
};

use netguard_tests::{
    binary::{self, Ended, netguard},
    can_use_kernel,
    lab::{Background, Lab},
    until,
};
use tempfile::TempDir;

/// An unguarded lab, and an instance of the test's own for its hypervisor.
struct Host {
    lab: Lab,
    directory: TempDir,
}

impl Host {
    fn new() -> Self {
        Self::of(Lab::unguarded("veth"))
    }

    fn of(lab: Lab) -> Self {
        Self { lab, directory: tempfile::tempdir().expect("a directory") }
    }

    fn instance(&self) -> String {
        format!("guard-{}", self.lab.name())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn configure(&self, text: &str) {
        fs::write(self.file("netguard.toml"), text).expect("a file");
    }

    fn guard(&self) -> Ended {
        let (program, file) = (binary::path(), self.file("netguard.toml"));
        let instance = self.instance();
        let arguments = format!("guard --config {} --instance {instance}", file.display());
        self.lab.exec("hv", &format!("{} {arguments}", program.display()))
    }

    /// Starts the daemon as its unit does, and returns when it guards.
    fn run(&self) -> Background {
        let (program, file, log) =
            (binary::path(), self.file("netguard.toml"), self.file("daemon.log"));
        let out = File::create(&log).expect("the log");
        let (program, file) = (program.to_string_lossy(), file.to_string_lossy());
        let instance = self.instance();
        let words = [&program, "run", "--wait", "--config", &file, "--instance", &instance];
        let child = self
            .lab
            .command("hv", &[words.as_slice(), &self.lab.tc_options()].concat())
            .stdin(Stdio::null())
            .stderr(out.try_clone().expect("the log"))
            .stdout(out)
            .spawn()
            .expect("the daemon starts");
        let mut daemon = Background::from(child);
        until("the daemon guards", || {
            assert!(daemon.child().try_wait().expect("the daemon").is_none(), "{}", self.log());
            self.log().contains(" names allowed")
        });
        daemon
    }

    fn log(&self) -> String {
        fs::read_to_string(self.file("daemon.log")).unwrap_or_default()
    }

    fn reaches(&self, from: &str, address: &str, patience: &str) -> bool {
        self.lab.exec(from, &format!("ping -c 1 -W {patience} {address}")).code == 0
    }

    fn shell(&self, script: &str) -> String {
        self.lab.shell("hv", script).success().to_owned()
    }

    /// The kernel's numbers of the pinned links: a link that is taken over keeps its own.
    fn links(&self) -> Vec<String> {
        let pins = format!("/sys/fs/bpf/netguard/{}/links", self.instance());
        let shown = self.shell(&format!(
            "for l in {pins}/*; do [ -e $l ] || continue; bpftool link show pinned $l; done"
        ));
        shown.lines().filter_map(|line| Some(line.split_once(": ")?.0.to_owned())).collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // A test that failed may have pinned nothing.
        let _ = Ended::of(&mut netguard(&["unload", "--instance", &self.instance()]));
    }
}

/// The lab's configuration for slots whose links others have made.
fn config() -> String {
    netguard::lab::CONFIG
        .replace("manage_links = true", "manage_links = false")
        .replace("egress = \"pinned\"", "egress = \"open\"")
}

#[test]
fn everything_is_closed_until_a_daemon_takes_the_same_links_over() {
    if !can_use_kernel() {
        return;
    }
    let host = Host::new();
    host.configure(&config());
    assert!(host.reaches("slot1", "203.0.113.10", "5"), "nothing guards the lab yet");
    let closed = host.guard();
    let words =
        "closed until a daemon takes over: br-slot1 br-slot2 br-slot3 br-slot4 br-slot5 vm-slot1";
    assert!(closed.success().contains(words), "{closed:?}");
    for (from, address) in [
        ("slot1", "203.0.113.10"),
        ("slot1", "10.2.0.2"),
        ("slot1", "10.1.0.1"),
        ("hv", "10.1.0.2"),
        ("slot5", "fd00:10:5::1"),
    ] {
        assert!(!host.reaches(from, address, "0.3"), "{from} reaches {address}");
    }
    let dig = host.lab.exec("slot1", "dig +time=1 +tries=1 github.com @10.1.0.1");
    assert_ne!(dig.code, 0, "{dig:?}");
    let status = Ended::of(&mut netguard(&["status", "--instance", &host.instance()]));
    assert!(status.success().contains("no daemon"), "{status:?}");
    assert!(status.success().contains(" lockdown "), "{status:?}");
    let links = host.links();
    assert!(links.len() >= 10, "{links:?}");

    let again = host.guard();
    assert!(again.success().contains("is pinned and enforces: nothing to do"), "{again:?}");
    assert_eq!(host.links(), links);

    let _daemon = host.run();
    assert!(host.reaches("slot1", "203.0.113.10", "5"), "{}", host.log());
    assert!(host.reaches("slot1", "10.1.0.1", "5"), "its gateway");
    assert!(!host.reaches("slot1", "10.2.0.2", "0.3"), "the policy closes that");
    let after = host.links();
    let is_taken = links.iter().all(|link| after.contains(link));
    assert!(is_taken, "the daemon has taken the links over: {links:?}, {after:?}");
    assert_eq!(after.len(), links.len() + 2, "the uplink has programs now that something leaves");
}

#[test]
fn beside_a_daemon_it_changes_nothing() {
    if !can_use_kernel() {
        return;
    }
    let host = Host::new();
    host.configure(&config());
    let _daemon = host.run();
    let links = host.links();
    let guard = host.guard();
    assert!(guard.success().contains("netguard runs as instance"), "{guard:?}");
    assert_eq!(host.links(), links);
    assert!(host.reaches("slot1", "203.0.113.10", "5"), "still open");
}

#[test]
fn what_filters_guard_is_not_open() {
    if !can_use_kernel() {
        return;
    }
    let host = Host::of(Lab::without_tcx("veth"));
    host.configure(&config());
    let mut daemon = host.run();
    let pid = daemon.child().id();
    let _ = host.shell(&format!("kill -TERM {pid}"));
    assert!(daemon.child().wait().expect("the daemon ends").success(), "{}", host.log());
    let words = format!("instance {} is pinned and enforces: nothing to do\n", host.instance());
    assert_eq!(host.guard().success(), words);
    // One that was made anew has none.
    let _ = host.shell("ip link del br-slot2 && ip link add br-slot2 type bridge");
    let told = format!("{words}not guarded until a daemon starts: br-slot2\n");
    assert_eq!(host.guard().success(), told);
}

#[test]
fn a_file_that_cannot_be_true_is_told_and_closes_nothing_else() {
    if !can_use_kernel() {
        return;
    }
    let host = Host::new();
    host.configure("[dns]\nupstreams = [\"1.1.1.1\"]\n[[slot]]\nname = 5\n");
    let bad = host.guard();
    assert_eq!(bad.code, 2, "{bad:?}");
    assert!(bad.stderr.contains("netguard.toml:4:8: must be text in quotes"), "{bad:?}");
    let one = "[dns]\nupstreams = [\"1.1.1.1\"]\n[[slot]]\nname = \"slot1\"\nid = 1\nport = \"vm-slot1\"\n\
               subnet = \"10.1.0.0/24\"\nbridge = ";
    // The host's uplink would be closed.
    host.configure(&format!("{one}\"eth0\"\n"));
    let wrong = host.guard();
    assert_eq!(wrong.code, 2, "{wrong:?}");
    assert!(wrong.stderr.contains("eth0 is no bridge"), "{wrong:?}");
    host.configure(&format!("{one}\"br-later\"\n"));
    let _ = host.shell("ip link set vm-slot1 nomaster");
    let absent = host.guard();
    let words = "not there yet, so guarded only by a daemon: br-later vm-slot1\n";
    assert_eq!(absent.success(), words);
    let pins = format!("/sys/fs/bpf/netguard/{}", host.instance());
    assert!(!std::path::Path::new(&pins).exists(), "nothing is left: {pins}");

    // Guarded when it appears, with its address after it.
    let _daemon = host.run();
    assert!(host.log().contains("; waiting for br-later vm-slot1"), "{}", host.log());
    let _ = host.shell("ip link set br-slot1 down && ip link set br-slot1 name br-later up");
    let _ = host.shell("ip link set vm-slot1 master br-later");
    until("the bridge is guarded", || {
        ["br-later", "vm-slot1"].iter().all(|it| host.log().contains(&format!("guarding {it}")))
    });
    let _ = host.shell("ip addr replace 10.1.0.1/24 dev br-later");
    assert!(!host.reaches("slot1", "10.2.0.2", "0.3"));
    until("its gateway answers", || {
        let dig = "dig +short +time=1 +tries=1 github.com @10.1.0.1";
        host.lab.exec("slot1", dig).stdout.trim() == "203.0.113.10"
    });
}

#[test]
fn links_that_netguard_makes_are_closed_from_their_first_moment() {
    if !can_use_kernel() {
        return;
    }
    let host = Host::new();
    let managed = "[dns]\nupstreams = [\"1.1.1.1\"]\n[[slot]]\nname = \"own\"\nid = 9\nsubnet = \"10.99.0.0/24\"\n\
                   manage_links = true\n";
    host.configure(managed);
    let closed = host.guard();
    assert!(closed.success().contains("made br-own vm-own"), "{closed:?}");
    assert!(closed.success().contains("takes over: br-own vm-own"), "{closed:?}");
    let links = host.links();
    let _daemon = host.run();
    assert_eq!(host.links(), links);
    assert!(!host.log().contains("made "), "adopted: {}", host.log());
}
