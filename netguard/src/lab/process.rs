//! The lab's background processes: started until they are ready, ended with everything else that
//! runs inside the lab's namespaces.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::unix::{fs::MetadataExt as _, net::UnixDatagram, process::CommandExt as _},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{Error, namespace};

/// How long a process may take to become ready, and how long a killed one may take to go. The bound is for failures: one that
/// ends is noticed at once, and one in a guest whose processor is a program takes long.
const PATIENCE: Duration = Duration::from_secs(120);

/// Starts this binary again in the background and waits until it says that it is ready, in the
/// words that it would use to systemd (sd_notify).
pub(super) fn start(what: &'static str, arguments: &[&str], log: &Path) -> Result<(), Error> {
    let failed = |action: &str| Error::system(format!("{action} the lab's {what}"));
    let socket_path = log.with_extension("notify");
    let _ = fs::remove_file(&socket_path);
    let socket = UnixDatagram::bind(&socket_path).map_err(failed("hear from"))?;
    socket.set_read_timeout(Some(Duration::from_millis(100))).map_err(failed("hear from"))?;
    let output =
        File::options().create(true).append(true).open(log).map_err(failed("open the log of"))?;
    let errors = output.try_clone().map_err(failed("open the log of"))?;
    let program = std::env::current_exe().map_err(failed("find the program of"))?;
    let mut child = Command::new(program)
        .args(arguments)
        .env("NOTIFY_SOCKET", &socket_path)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .process_group(0) // Ctrl-C in the terminal is not meant for it
        .spawn()
        .map_err(failed("start"))?;

    let deadline = Instant::now() + PATIENCE;
    let mut message = [0; 1024];
    let ready = loop {
        match socket.recv(&mut message) {
            Ok(length) if message[..length].starts_with(b"READY=1") => break true,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let ended = child.try_wait().map_err(failed("watch"))?.is_some();
                if ended || Instant::now() > deadline {
                    break false;
                }
            }
            Err(error) => return Err(failed("hear from")(error)),
        }
    };
    let _ = fs::remove_file(&socket_path);
    if ready {
        return Ok(());
    }
    let _ = child.kill();
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    let tail = lines[lines.len().saturating_sub(10)..].join("\n");
    Err(Error::NotReady { what, tail })
}

/// Kills every process that has a thread in one of the namespaces, except this one, and waits until
/// they are gone.
pub(super) fn end_all_in(namespaces: &[String]) -> Result<(), Error> {
    let mut wanted: BTreeSet<_> =
        namespaces.iter().filter_map(|name| identity(&namespace::path(name))).collect();
    // Never the machine's own, whatever a file under /run/netns may point to.
    if let Some(own) = identity(Path::new("/proc/1/ns/net")) {
        wanted.remove(&own);
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut alive = inside(&wanted);
        alive.retain(|pid| *pid != std::process::id());
        if alive.is_empty() {
            return Ok(());
        }
        for pid in &alive {
            let Ok(raw) = i32::try_from(*pid) else {
                continue;
            };
            match kill(Pid::from_raw(raw), Signal::SIGKILL) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => {
                    return Err(Error::system(format!("end process {pid}"))(error.into()));
                }
            }
        }
        if Instant::now() > deadline {
            let message = format!("processes {alive:?} do not end");
            return Err(Error::Program { program: "kill", message });
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// True if a process has a thread in the namespace.
pub(super) fn any_in(namespace: &str) -> bool {
    let wanted = identity(&namespace::path(namespace)).into_iter().collect();
    !inside(&wanted).is_empty()
}

/// The processes with a thread in one of the namespaces; zombies have none.
fn inside(namespaces: &BTreeSet<(u64, u64)>) -> Vec<u32> {
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| {
        let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
            return false;
        };
        threads.flatten().any(|thread| {
            identity(&thread.path().join("ns/net")).is_some_and(|it| namespaces.contains(&it))
        })
    })
    .collect()
}

/// What a namespace is known by, whichever file leads to it.
fn identity(file: &Path) -> Option<(u64, u64)> {
    let metadata = fs::metadata(file).ok()?;
    Some((metadata.dev(), metadata.ino()))
}
