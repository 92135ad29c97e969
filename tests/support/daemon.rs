//! A lab's daemon ended and started again, as systemd does it; and one with a configuration of its own.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::{
    binary::{self, Ended, netguard},
    lab::{Background, Lab},
    until,
};

/// The monitor of the lab's daemon and its worker.
///
/// # Panics
///
/// One of them does not run.
#[must_use]
pub fn processes(lab: &Lab) -> (u32, u32) {
    let monitor = lab.daemon_pid().expect("a daemon");
    let tasks = fs::read_dir(format!("/proc/{monitor}/task")).expect("its threads").flatten();
    let children = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let children: Vec<u32> = children
        .flat_map(|them| {
            them.split_whitespace().filter_map(|it| it.parse().ok()).collect::<Vec<_>>()
        })
        .collect();
    let [worker] = children[..] else { panic!("one child, not {children:?}") };
    (u32::try_from(monitor).expect("a process"), worker)
}

/// Ends the lab's daemon by a signal (`TERM`) and waits until it is gone.
///
/// # Panics
///
/// There is none, or it stays.
pub fn kill(lab: &Lab, signal: &str) {
    let pid = lab.daemon_pid().expect("a daemon");
    let _ = lab.exec("hv", &format!("kill -{signal} {pid}")).success();
    until("the daemon has ended", || lab.daemon_pid().is_none());
}

/// Starts a daemon, and returns when it guards.
///
/// # Panics
///
/// It does not come up.
#[must_use]
pub fn start(lab: &Lab) -> Background {
    start_with(lab, &lab.tc_options())
}

/// The same with further options of `netguard run`.
///
/// # Panics
///
/// It does not come up.
#[must_use]
pub fn start_with(lab: &Lab, options: &[&str]) -> Background {
    let ready = || {
        let events = lab.events();
        events.iter().filter(|event| is_note(event, " names allowed")).count()
    };
    let before = ready();
    let mut daemon = spawn(lab, options);
    until("the daemon guards", || {
        assert!(daemon.child().try_wait().expect("the daemon").is_none(), "it ended");
        ready() > before
    });
    daemon
}

/// Starts a daemon with further options of `netguard run`, whose log goes behind that of the one before.
///
/// # Panics
///
/// It does not start.
#[must_use]
pub fn spawn(lab: &Lab, options: &[&str]) -> Background {
    let log = Path::new("/run/netguard").join(lab.instance()).join("daemon.log");
    let log = File::options().create(true).append(true).open(log).expect("the daemon's log");
    let child = netguard(&["run", "--lab", lab.name(), "--log", "json"])
        .args(options)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("the log"))
        .stderr(log)
        .spawn()
        .expect("the daemon starts");
    Background::from(child)
}

/// Whom a worker must be, user and group by number: the user that the package makes, else nobody.
///
/// # Panics
///
/// There is neither.
#[must_use]
pub fn worker_user() -> (String, String) {
    let number = |option: &str, user: &str| {
        let ended = Ended::of(Command::new("id").args([option, user]));
        (ended.code == 0).then(|| ended.stdout.trim().to_owned())
    };
    let of = |user: &str| Some((number("-u", user)?, number("-g", user)?));
    of("netguard").or_else(|| of("nobody")).expect("a user")
}

/// Starts a process that is nothing but that user as the worker of an instance, on the lab's hypervisor: as a service manager does.
///
/// # Panics
///
/// It does not start.
#[must_use]
pub fn start_worker(
    lab: &Lab,
    instance: &str,
    (user, group): (&str, &str),
    log: &Path,
) -> Background {
    let path = binary::path();
    let path = path.to_str().expect("a path");
    let [user, group] = [format!("--reuid={user}"), format!("--regid={group}")];
    let identity = ["setpriv", &user, &group, "--clear-groups", "--bounding-set=-all"];
    let rest = ["--inh-caps=-all", "--no-new-privs", path, "worker", "--instance", instance];
    let mut command = lab.command("hv", &[&identity[..], &rest].concat());
    let log = File::options().append(true).open(log).expect("the daemon's log");
    Background::from(command.stdin(Stdio::null()).stdout(log).spawn().expect("it starts"))
}

/// True if the event is netguard's own and contains the words.
#[must_use]
pub fn is_note(event: &Value, words: &str) -> bool {
    event["message"].as_str().is_some_and(|message| message.contains(words))
}

/// A daemon on the hypervisor of a lab that nothing guards, with a configuration and an instance of its own. What it has left goes
/// when this is dropped, but for its links, which go with the lab.
pub struct Own {
    instance: String,
    _directory: tempfile::TempDir,
    daemon: Background,
}

impl Own {
    /// Starts it, and returns when it guards.
    ///
    /// # Panics
    ///
    /// It does not come up.
    #[must_use]
    pub fn start(lab: &Lab, prefix: &str, config: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let (file, log) = (directory.path().join("netguard.toml"), directory.path().join("log"));
        fs::write(&file, config).expect("the configuration");
        let instance = format!("{prefix}-{}", lab.name());
        let script = format!(
            "exec {} run --instance {instance} --config {} >{} 2>&1",
            binary::path().display(),
            file.display(),
            log.display()
        );
        let daemon = lab.start("hv", &script);
        let mut own = Self { instance, _directory: directory, daemon };
        until("the daemon guards", || {
            let said = fs::read_to_string(&log).unwrap_or_default();
            assert!(own.daemon.child().try_wait().expect("the daemon").is_none(), "{said}");
            said.contains(" names allowed")
        });
        own
    }

    /// Where it takes orders.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        Path::new("/run/netguard").join(&self.instance).join("control.sock")
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        for place in ["/var/lib/netguard", "/run/netguard", "/sys/fs/bpf/netguard"] {
            let _ = fs::remove_dir_all(Path::new(place).join(&self.instance));
        }
    }
}
