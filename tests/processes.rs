//! The daemon's two processes: which holds what privileges, and what becomes of each when the other one dies.

use std::{path::Path, process::Command};

use netguard::sandbox::{Privileges, table};
use netguard_tests::{
    binary::{Ended, netguard},
    can_use_kernel,
    daemon::{self, is_note},
    lab::{Background, Lab},
    until,
};

fn kill(pid: u32) {
    let pid = pid.to_string();
    let _ = Ended::of(Command::new("kill").args(["-KILL", &pid])).success();
}

fn resolves(lab: &Lab) -> bool {
    let query = lab.exec("slot1", "dig +short +time=5 +tries=1 github.com @8.8.8.8");
    query.code == 0 && query.stdout == "203.0.113.10\n"
}

#[test]
fn the_monitor_holds_what_it_needs_and_the_worker_nothing() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::up("veth");
    assert!(resolves(&lab));
    let (monitor, worker) = lab.processes();
    let before = Privileges::of(std::process::id()).expect("this process");
    let monitor = Privileges::of(monitor).expect("the monitor");
    let worker = Privileges::of(worker).expect("the worker");
    eprintln!("whoever starts it, then the daemon's two processes\n{}", {
        table(&[before, monitor.clone(), worker.clone()])
    });
    let names: Vec<_> = monitor.effective.iter().map(ToString::to_string).collect();
    let wanted = ["CHOWN", "KILL", "SETGID", "SETUID", "SETPCAP", "NET_BIND_SERVICE", "NET_ADMIN"];
    let wanted = wanted.iter().chain(&["PERFMON", "BPF"]).map(|name| format!("CAP_{name}"));
    let mut wanted: Vec<_> = wanted.collect();
    wanted.sort();
    let mut found = names.clone();
    found.sort();
    assert_eq!(found, wanted);
    assert_eq!(monitor.permitted, monitor.effective);
    assert_eq!(monitor.bounding, monitor.effective);
    assert_eq!(worker.name, "netguard-worker");
    assert!(worker.uid != 0 && worker.gid != 0 && worker.groups == 0, "{worker:?}");
    let sets = [&worker.effective, &worker.permitted, &worker.bounding, &worker.ambient];
    assert!(sets.iter().all(|set| set.is_empty()), "{worker:?}");
    assert!(worker.no_new_privileges && worker.filters >= 3, "{worker:?}");
}

#[test]
fn a_worker_that_dies_is_replaced_and_what_was_asked_meanwhile_is_answered() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::up("veth");
    assert!(resolves(&lab));
    let (monitor, worker) = lab.processes();
    kill(worker);
    // It waits in the socket until the next worker takes it.
    assert!(resolves(&lab));
    let is_told = |event: &serde_json::Value| is_note(event, "the worker was killed by signal 9");
    until("it is told", || lab.events().iter().any(is_told));
    let (same, other) = lab.processes();
    assert_eq!(same, monitor);
    assert_ne!(other, worker);
    let instance = lab.instance();
    let list = ["slot", "list", "--instance", &instance];
    let list = Ended::of(&mut netguard(&list));
    assert_eq!(list.success().lines().count(), 6, "the control socket is served again");
}

#[test]
fn a_worker_does_not_outlive_its_monitor() {
    if !can_use_kernel() {
        return;
    }
    for signal in ["KILL", "TERM"] {
        let lab = Lab::up("veth");
        let (_, worker) = lab.processes();
        daemon::kill(&lab, signal);
        until("the worker has ended", || Privileges::of(worker).is_err());
        let _daemon = daemon::start(&lab);
        assert!(resolves(&lab));
    }
}

/// A worker of the lab's daemon, as a service manager starts one.
fn come_as(lab: &Lab, (user, group): (&str, &str)) -> Background {
    let log = Path::new("/run/netguard").join(lab.instance()).join("daemon.log");
    daemon::start_worker(lab, &lab.instance(), (user, group), &log)
}

/// As under systemd: the worker is nobody's child that the monitor knows, and comes by itself.
#[test]
fn a_worker_that_comes_to_the_door_serves_and_another_one_takes_its_place() {
    if !can_use_kernel() {
        return;
    }
    let (user, group) = daemon::worker_user();
    let lab = Lab::up("veth");
    daemon::kill(&lab, "TERM");
    // Before the door is open: it waits.
    let mut first = come_as(&lab, (&user, &group));
    let _daemon = daemon::start_with(&lab, &["--await-worker"]);
    assert!(resolves(&lab));
    let pid = first.child().id();
    let worker = Privileges::of(pid).expect("the worker");
    assert_eq!((worker.uid.to_string(), worker.gid.to_string()), (user.clone(), group.clone()));
    let sets = [&worker.effective, &worker.permitted, &worker.bounding, &worker.ambient];
    assert!(sets.iter().all(|set| set.is_empty()), "{worker:?}");
    assert!(worker.no_new_privileges && worker.filters >= 3, "{worker:?}");

    kill(pid);
    let is_told = |event: &serde_json::Value| is_note(event, "the worker has hung up");
    until("it is told", || lab.events().iter().any(is_told));
    let mut second = come_as(&lab, (&user, &group));
    assert!(resolves(&lab), "the next one has its sockets");

    daemon::kill(&lab, "KILL");
    until("the worker has ended", || second.child().try_wait().expect("the worker").is_some());
}

#[test]
fn nobody_else_is_taken_for_a_worker() {
    if !can_use_kernel() {
        return;
    }
    let (user, group) = daemon::worker_user();
    let lab = Lab::up("veth");
    daemon::kill(&lab, "TERM");
    // Its group may come to the door, and is sent away there.
    let mut stranger = come_as(&lab, ("12345", &group));
    std::thread::scope(|scope| {
        let daemon = scope.spawn(|| daemon::start_with(&lab, &["--await-worker"]));
        until("the stranger is sent away", || {
            stranger.child().try_wait().expect("the stranger").is_some()
        });
        let _worker = come_as(&lab, (&user, &group));
        let _daemon = daemon.join().expect("it guards");
        assert!(resolves(&lab));
    });
}
