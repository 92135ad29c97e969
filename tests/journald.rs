//! Fields in the journal: a daemon whose output goes to a journald that is none, in a mount namespace of its own.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    net::UdpSocket,
    os::unix::net::UnixDatagram,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use netguard_tests::{
    binary::{self},
    can_use_kernel, daemon,
    lab::{Background, Lab},
    until,
};

/// The fields of the next message; none while there is none.
fn next(journald: &UnixDatagram) -> Option<BTreeMap<String, String>> {
    let mut message = vec![0; 64 << 10];
    let length = journald.recv(&mut message).ok()?;
    let text = std::str::from_utf8(&message[..length]).expect("text");
    let fields = text.lines().filter_map(|line| line.split_once('='));
    Some(fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

/// Waits for a message that has that field.
fn with(journald: &UnixDatagram, name: &str, value: &str) -> BTreeMap<String, String> {
    let mut found = None;
    until(&format!("{name}={value} is told"), || {
        found = next(journald).filter(|it| it.get(name).is_some_and(|it| it == value));
        found.is_some()
    });
    found.expect("it is there")
}

/// Starts the lab's daemon with its output where journald's stream is, so the daemon thinks.
fn start(lab: &Lab, sockets: &Path, log: &Path) -> Background {
    let script = format!(
        "set -e; mkdir -p /run/systemd; mount -t tmpfs none /run/systemd; mkdir /run/systemd/journal\n\
         mount --bind {} /run/systemd/journal\n\
         JOURNAL_STREAM=$(stat -L -c %d:%i /proc/$$/fd/1); export JOURNAL_STREAM\n\
         exec {} run --lab {} --log text {}",
        sockets.display(),
        binary::path().display(),
        lab.name(),
        lab.tc_options().join(" "),
    );
    let log = File::create(log).expect("a log");
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script]).stdin(Stdio::null());
    let child = command.stdout(log.try_clone().expect("the log")).stderr(log).spawn();
    Background::from(child.expect("it starts"))
}

#[test]
fn drops_and_events_have_fields_and_queries_have_lines() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::up("veth");
    daemon::kill(&lab, "TERM");
    let folder = tempfile::tempdir().expect("a folder");
    let journald = UnixDatagram::bind(folder.path().join("socket")).expect("a socket");
    journald.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
    let log = folder.path().join("log");
    let _daemon = start(&lab, folder.path(), &log);

    let started = with(&journald, "EVENT", "started");
    assert_eq!((&*started["CODE"], &*started["PRIORITY"]), ("541017", "5"), "{started:?}");
    assert!(started["MESSAGE"].contains(" note  guarding 5 slots"), "{started:?}");
    assert!(!started.contains_key("SLOT") && started["SYSLOG_IDENTIFIER"] == "netguard");

    let _ = lab.run(&["lock", "slot2"]).success();
    let locked = with(&journald, "EVENT", "lock");
    assert_eq!((&*locked["CODE"], &*locked["SLOT"]), ("541007", "slot2"), "{locked:?}");

    let _ = lab.exec("slot1", "dig +short github.com @8.8.8.8").success();
    // From the worker, whose sandbox has no way to journald but the one that it came with.
    lab.within("slot1", || {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        socket.send_to(b"x", ("169.254.169.254", 9)).expect("its own system takes it");
    });
    let dropped = with(&journald, "REASON", "metadata");
    assert_eq!((&*dropped["CODE"], &*dropped["SLOT"]), ("540019", "slot1"), "{dropped:?}");
    assert_eq!((&*dropped["DIRECTION"], &*dropped["PRIORITY"]), ("egress", "6"), "{dropped:?}");
    assert!(dropped["MESSAGE"].contains(" drop  slot1    egress  metadata "), "{dropped:?}");

    let lines = || fs::read_to_string(&log).expect("the log");
    until("the query is in the log", || lines().contains(" dns   slot1    allow by github.com"));
    let lines = lines();
    assert!(!lines.contains(" note  ") && !lines.contains(" drop  "), "{lines}");
    daemon::kill(&lab, "TERM");
}
