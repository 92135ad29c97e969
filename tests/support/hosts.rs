//! Small networks made by hand: the calling thread's own namespace plays the host, named ones play
//! what is around it.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use nix::sched::{CloneFlags, unshare};

use crate::{binary::Ended, lab::Background};

/// Moves the calling thread, and what it starts from now on, into a new network namespace, which
/// goes with the last of them.
///
/// # Panics
///
/// The kernel refuses.
pub fn enter_new_namespace() {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace of its own");
}

/// Makes a router of the calling thread's namespace.
///
/// # Panics
///
/// The kernel refuses.
pub fn forward() {
    for key in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        fs::write(format!("/proc/sys/net/{key}"), "1").expect("the namespace's own setting");
    }
}

/// Runs a batch of `ip` commands in the calling thread's namespace.
///
/// # Panics
///
/// One of them fails.
pub fn ip(batch: &str) {
    feed(Command::new("ip").args(["-batch", "-"]), batch);
}

/// Gives a command its input and waits for its success.
///
/// # Panics
///
/// It fails.
pub fn feed(command: &mut Command, input: &str) {
    let mut child = command.stdin(Stdio::piped()).spawn().expect("the command starts");
    child.stdin.take().expect("its input").write_all(input.as_bytes()).expect("it reads");
    assert!(child.wait().expect("it ends").success(), "{command:?} refuses {input}");
}

/// A shell script in the calling thread's namespace.
#[must_use]
pub fn shell(script: &str) -> Ended {
    Ended::of(Command::new("sh").args(["-c", script]))
}

/// Named namespaces, each with a name of its own on this machine, gone when this is dropped.
pub struct Hosts {
    prefix: String,
    names: Vec<&'static str>,
}

impl Hosts {
    /// Makes them.
    ///
    /// # Panics
    ///
    /// The kernel refuses.
    #[must_use]
    pub fn new(names: &[&'static str]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("ngh{}x{number}", std::process::id());
        let hosts = Self { prefix, names: names.to_vec() };
        for name in names {
            ip(&format!("netns add {}", hosts.name(name)));
            hosts.ip(name, "link set lo up");
        }
        hosts
    }

    /// The namespace's name, as `ip netns` knows it.
    #[must_use]
    pub fn name(&self, host: &str) -> String {
        format!("{}-{host}", self.prefix)
    }

    /// Runs a batch of `ip` commands on a host.
    ///
    /// # Panics
    ///
    /// One of them fails.
    pub fn ip(&self, host: &str, batch: &str) {
        feed(Command::new("ip").args(["-netns", &self.name(host), "-batch", "-"]), batch);
    }

    /// A shell script on a host.
    #[must_use]
    pub fn shell(&self, host: &str, script: &str) -> Ended {
        Ended::of(self.command(host).args(["sh", "-c", script]))
    }

    /// A Python script on a host; its arguments are `sys.argv[1:]`.
    #[must_use]
    pub fn python(&self, host: &str, script: &str, arguments: &[&str]) -> Ended {
        Ended::of(self.command(host).args(["python3", "-c", script]).args(arguments))
    }

    /// A Python script on a host that goes on in the background. This returns when the script has
    /// printed its first line.
    ///
    /// # Panics
    ///
    /// It ends without one.
    #[must_use]
    pub fn serve(&self, host: &str, script: &str) -> Background {
        start_python(self.command(host).args(["python3", "-c", script]))
    }

    fn command(&self, host: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name(host)]);
        command
    }
}

/// A Python script in the calling thread's namespace that goes on in the background. This returns
/// when the script has printed its first line.
///
/// # Panics
///
/// It ends without one.
#[must_use]
pub fn serve(script: &str) -> Background {
    start_python(Command::new("python3").args(["-c", script]))
}

fn start_python(command: &mut Command) -> Background {
    let mut child: Child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("python3 is installed");
    let output = child.stdout.take().expect("its output");
    let background = Background::from(child);
    let mut line = String::new();
    let length = BufReader::new(output).read_line(&mut line).expect("its first line");
    assert!(length > 0, "the script ended before it was ready");
    background
}

impl Drop for Hosts {
    fn drop(&mut self) {
        // Also after a panic: a failed test leaves nothing behind.
        for name in &self.names {
            let _ = Ended::of(Command::new("ip").args(["netns", "del", &self.name(name)]));
        }
    }
}
