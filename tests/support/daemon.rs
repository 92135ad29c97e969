//! A lab's daemon ended and started again, as systemd does it.

use std::{fs::File, path::Path, process::Stdio};

use serde_json::Value;

use crate::{
    binary::netguard,
    lab::{Background, Lab},
    until,
};

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
    let directory = format!("/run/netguard/{}", lab.instance());
    let log = File::options()
        .create(true)
        .append(true)
        .open(Path::new(&directory).join("daemon.log"))
        .expect("the daemon's log");
    let child = netguard(&["run", "--lab", lab.name(), "--log", "json"])
        .args(options)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("the log"))
        .stderr(log)
        .spawn()
        .expect("the daemon starts");
    let mut daemon = Background::from(child);
    until("the daemon guards", || {
        assert!(daemon.child().try_wait().expect("the daemon").is_none(), "it ended");
        ready() > before
    });
    daemon
}

/// True if the event is a note that contains the words.
#[must_use]
pub fn is_note(event: &Value, words: &str) -> bool {
    event["event"] == "note"
        && event["message"].as_str().is_some_and(|message| message.contains(words))
}
