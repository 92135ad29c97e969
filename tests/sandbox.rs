//! The sandbox: a process in it tries what it must not and does what it must. The kernel's answers and its audit log are the
//! witnesses; the same attempts without a sandbox are the control.

#[path = "sandbox/audit.rs"]
mod audit;

use std::{
    collections::BTreeMap,
    fs::{self, Permissions},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpListener,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            fs::PermissionsExt as _,
            net::{SocketAddr, UnixListener, UnixStream},
        },
    },
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use audit::Audit;
use netguard::sandbox::{Privileges, table};
use netguard_common::{DropReason, Hook, maps::DROPS};
use netguard_tests::{can_use_kernel, kernel::Kernel, packet::ip};
use nix::libc;
use tempfile::TempDir;

/// A process of `tests/sandbox`, ended when this is dropped.
struct Sandboxed {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Sandboxed {
    fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_netguard-sandboxed"));
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the helper starts");
        let output = BufReader::new(child.stdout.take().expect("its output"));
        let input = child.stdin.take();
        Self { child, input, output }
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its next line; empty at the end.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("text");
        line.trim_end().to_owned()
    }

    /// Reads lines until one begins so.
    fn until(&mut self, start: &str) -> String {
        loop {
            let line = self.line();
            assert!(!line.is_empty(), "it ended before it said {start:?}");
            if line.starts_with(start) {
                return line;
            }
        }
    }

    /// Everything else that it says; it must end well.
    fn rest(mut self) -> String {
        drop(self.input.take());
        let mut text = String::new();
        self.output.read_to_string(&mut text).expect("text");
        let status = self.child.wait().expect("its end");
        assert!(status.success(), "{status}\n{text}");
        text
    }
}

impl Drop for Sandboxed {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it has ended, where all went well
        let _ = self.child.wait();
    }
}

/// A process of somebody else.
struct Victim(Child);

impl Victim {
    fn start() -> Self {
        Self(Command::new("sleep").arg("600").spawn().expect("a process"))
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A directory where anybody may do anything, with a file `there` in it: no permissions refuse what the sandbox should.
fn open_directory() -> TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).expect("its owner");
    let file = directory.path().join("there");
    fs::write(&file, "text").expect("a file");
    fs::set_permissions(file, Permissions::from_mode(0o666)).expect("its owner");
    directory
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of ASCII")
}

/// Without a sandbox everything is done but these, which get as far as an answer of their own.
const UNCONFINED: [(&str, &str); 11] = [
    ("perf-event", "EFAULT"),
    ("mkdir", "EEXIST"),
    ("mount", "EFAULT"),
    ("exec", "EACCES"),
    ("exec-at", "EACCES"),
    ("setns", "EBADF"),
    ("fast-open", "EBADF"),
    ("capabilities", "EFAULT"),
    ("io-uring", "EFAULT"),
    ("keyring", "EOPNOTSUPP"),
    ("module", "EBADF"),
];

/// What is refused as by permissions; everything else is refused with EPERM.
const HIDDEN: [&str; 6] =
    ["open-read", "open-write", "open-new", "open-path", "open-by-structure", "access"];
/// What is refused as by a kernel that does not know it, and without a record: glibc asks so for each thread.
const UNKNOWN: &str = "fork-by-structure";

#[test]
fn what_a_worker_need_not_do_is_refused_and_audited() {
    if !can_use_kernel() {
        return;
    }
    let audit = Audit::open();
    let kernel = Kernel::new();
    let pin = kernel.pins().map(DROPS);
    let (victim, directory) = (Victim::start(), open_directory());
    let (pid, directory) = (victim.pid(), text(directory.path()));
    let run = |how| Sandboxed::start(&["attempts", how, &pid, text(&pin), directory]);

    let control = run("free").rest();
    let control: Vec<_> = control.lines().collect();
    for line in &control {
        let (name, outcome) = (line.split(' ').next().expect("a name"), line.rsplit(' ').next());
        let expected = UNCONFINED.iter().find(|(other, _)| *other == name);
        if outcome == Some("ENOSYS") {
            continue; // no kernel must have everything
        }
        assert_eq!(outcome, Some(expected.map_or("done", |it| it.1)), "unconfined: {line}");
    }

    let confined = run("confined");
    let number = confined.pid();
    let said = confined.rest();
    let (held, lines) = said.split_once('\n').expect("what took hold, and lines");
    let (mut attempts, mut calls) = (0, Vec::new());
    for line in lines.lines() {
        let [name, call, outcome] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("no attempt: {line}")
        };
        attempts += 1;
        if name == UNKNOWN {
            assert_eq!(outcome, "ENOSYS", "{line}");
            continue;
        }
        let expected = if HIDDEN.contains(&name) { "EACCES" } else { "EPERM" };
        assert_eq!(outcome, expected, "{line}");
        calls.push(call.parse::<i64>().expect("a number"));
    }
    assert_eq!(attempts, control.len(), "attempts are missing");
    // Each refusal is in the kernel's log, and nothing else of that process.
    match audit {
        Some(mut audit) => {
            assert!(held.ends_with(", audit of refusals"), "{held}");
            assert_eq!(audit.refused(number, calls.len()), calls);
        }
        None => eprintln!("refusals not looked for in the audit log: this kernel has none"),
    }
}

#[test]
fn what_a_worker_is_for_it_does_and_nothing_of_it_is_refused() {
    if !can_use_kernel() {
        return;
    }
    let audit = Audit::open();
    let mut kernel = Kernel::new();
    let pins = kernel.pins().map(DROPS);
    let directory = open_directory();
    let socket = directory.path().join("control.sock");
    let maps = pins.parent().expect("a directory");
    let mut worker = Sandboxed::start(&["duties", text(maps), text(&socket)]);
    for done in ["map", "thread", "timer", "signal", "listening"] {
        let _ = worker.until(done);
    }
    let mut caller = UnixStream::connect(&socket).expect("the inherited socket");
    caller.write_all(b"order").expect("a listener");
    let mut answer = String::new();
    caller.read_to_string(&mut answer).expect("an answer");
    assert_eq!(answer, "order");
    let _ = worker.until("waiting");
    kernel.leave(Hook::Xdp, &ip("10.1.0.2", "10.2.0.2").tcp_syn(40_000, 443));
    let seen = worker.until("drop ");
    assert_eq!(seen, format!("drop {}", DropReason::CrossSlot.name()));

    let number = worker.pid();
    let lines = worker.rest();
    for (name, over) in [("one.example", "udp"), ("two.example", "tcp")] {
        let is_it = |line: &str| line.contains(name) && line.contains(over);
        assert!(lines.lines().any(is_it), "no line for {name} over {over}:\n{lines}");
    }
    assert!(lines.contains("resolved"), "{lines}");
    if let Some(mut audit) = audit {
        // The last call of the process is one that is refused, so that there is an end to wait for.
        assert_eq!(audit.refused(number, 1), [libc::SYS_getpriority], "an honest call was refused");
    }
}

#[test]
fn files_that_may_be_read_can_be_read_and_nothing_else_of_them() {
    if !can_use_kernel() {
        return;
    }
    let directory = open_directory();
    let file = directory.path().join("there");
    let said = Sandboxed::start(&["readable", text(&file)]).rest();
    assert_eq!(said, "read done\nwrite EPERM\nelsewhere EACCES\n");
}

/// What a layer alone says, by name.
fn alone(arguments: &[&str]) -> BTreeMap<String, String> {
    let said = Sandboxed::start(&[&["layer"], arguments].concat()).rest();
    let pairs = said.lines().filter_map(|line| {
        Some((line.split(' ').next()?.to_owned(), line.rsplit(' ').next()?.to_owned()))
    });
    pairs.collect()
}

#[test]
fn each_layer_holds_without_the_others() {
    if !can_use_kernel() {
        return;
    }
    let (victim, directory) = (Victim::start(), open_directory());
    let file = directory.path().join("private");
    fs::write(&file, "text").expect("a file");
    fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("its owner");
    let expect = |layer: &[&str], expected: &[(&str, &str)]| {
        let said = alone(layer);
        for (name, outcome) in expected {
            assert_eq!(said.get(*name).map(String::as_str), Some(*outcome), "{layer:?}: {said:?}");
        }
    };
    let refused = [("uid-back", "EPERM"), ("kill", "EPERM"), ("socket-raw", "EPERM")];
    expect(&["identity", &victim.pid(), text(&file)], &refused);
    expect(&["identity", &victim.pid(), text(&file)], &[("open-private", "EACCES")]);

    if alone(&["memory"])["took-hold"] == "true" {
        let refused = ["map-writable-code", "make-code"].map(|name| (name, "EACCES"));
        expect(&["memory"], &refused);
    } else {
        eprintln!("memory not looked at: this kernel has no PR_SET_MDWE (6.3)");
    }

    let ports = [TcpListener::bind("127.0.0.1:0"), TcpListener::bind("127.0.0.1:0")];
    let ports = ports.map(|port| port.and_then(|port| port.local_addr()).expect("a port").port());
    let [allowed, refused] = ports.map(|port| port.to_string());
    let name = format!("netguard-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("a short name");
    let _listener = UnixListener::bind_addr(&address).expect("a listener");
    let access = ["access", &victim.pid(), text(&file), &allowed, &refused, &name];
    let abi: i32 = alone(&access)["abi"].parse().expect("a number");
    let mut together = Sandboxed::start(&["idle"]);
    let held = together.line();
    let landlock = if abi > 0 { format!("Landlock ABI {abi}") } else { "no Landlock".to_owned() };
    let memory = if alone(&["memory"])["took-hold"] == "true" { "MDWE" } else { "no MDWE" };
    assert!(held.starts_with(&format!("{landlock}, {memory}, seccomp, ")), "{held}");
    for (since, expected) in [
        (1, &[("open", "EACCES")][..]),
        (4, &[("connect-refused", "EACCES"), ("bind-refused", "EACCES")]),
        (4, &[("connect-allowed", "done"), ("bind-allowed", "done")]),
        (6, &[("kill", "EPERM"), ("abstract", "EPERM")]),
    ] {
        if abi < since {
            eprintln!("{expected:?} not looked at: this kernel's Landlock has ABI {abi}");
        } else {
            expect(&access, expected);
        }
    }
}

#[test]
fn the_table_of_privileges_shows_a_worker_with_none() {
    if !can_use_kernel() {
        return;
    }
    let mut worker = Sandboxed::start(&["idle"]);
    assert!(worker.line().contains("seccomp"), "it is not confined");
    let rows = [std::process::id(), worker.pid()].map(|pid| Privileges::of(pid).expect("a row"));
    println!("{}", table(&rows));
    let [own, confined] = rows;
    assert!(own.uid == 0 && !own.effective.is_empty() && !own.bounding.is_empty(), "{own:?}");
    let expected = Privileges {
        pid: worker.pid(),
        name: "netguard-sandbo".to_owned(),
        uid: 61_234,
        gid: 61_234,
        groups: 0,
        effective: Vec::new(),
        permitted: Vec::new(),
        bounding: Vec::new(),
        ambient: Vec::new(),
        no_new_privileges: true,
        filters: 3,
        no_new_code: None,
    };
    assert_eq!(confined, expected);
    let _ = worker.rest();
}
