//! The Debian package where it belongs: installed into a clean Debian 12 that boots with systemd, in namespaces of its own, so that no
//! packet leaves them. What is typed there and what comes back is `docs/debian-12.md`.

mod debian;
mod steps;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use self::steps::Step;
use crate::command::{is_root, output, root, run, step};

const BOOT: &str = include_str!("boot.sh");
/// How long a boot may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// Installs the package there, tries it, and returns what `docs/debian-12.md` says of it.
pub fn run_with(package: &Path) -> Result<String> {
    ensure!(is_root(), "the trial makes namespaces and mounts: run this as root");
    let debian = debian::unpack()?;
    step("booting Debian 12 in namespaces of its own");
    let mut machine = Machine::boot(&debian)?;
    let name = package.file_name().context("a package")?.to_string_lossy().into_owned();
    let copied = File::open(package).context("cannot read the package")?;
    let copy = machine.command(&format!("cat > /root/{name}")).stdin(copied).status()?;
    ensure!(copy.success(), "the package cannot be copied");
    let mut text = steps::INTRODUCTION.to_owned();
    for part in steps::parts(&name) {
        step(part.title);
        if part.boots {
            machine.boot_again()?;
        }
        text.push_str(&format!("\n## {}\n\n{}\n", part.title, part.prose));
        for try_ in &part.steps {
            let printed = machine.try_step(try_)?;
            if !try_.is_hidden {
                text.push_str(&format!("\n```text\n# {}\n{printed}```\n", try_.command));
            }
        }
    }
    Ok(text)
}

/// A Debian that runs; gone when this is.
struct Machine {
    child: Option<Child>,
    debian: PathBuf,
    work: PathBuf,
    cgroup: PathBuf,
}

impl Machine {
    fn boot(debian: &Path) -> Result<Self> {
        let name = format!("netguard-trial-{}", std::process::id());
        let cgroups = output(Command::new("findmnt").args(["-n", "-t", "cgroup2", "-o", "TARGET"]));
        let cgroups = cgroups.context("no cgroup2 is mounted")?;
        let cgroup = Path::new(cgroups.lines().next().unwrap_or_default()).join(&name);
        let work = root().join("target/trial").join(&name);
        let mut machine = Self { child: None, debian: debian.to_owned(), work, cgroup };
        machine.start()?;
        Ok(machine)
    }

    /// Another boot of the same machine, as after a loss of power.
    fn boot_again(&mut self) -> Result<()> {
        self.end();
        self.start()
    }

    fn start(&mut self) -> Result<()> {
        for folder in [&self.cgroup, &self.work] {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot create {}", folder.display()))?;
        }
        let log = File::create(root().join("target/trial/boot.log"))?;
        // It joins its cgroup first, so that this is the root of its own namespace of them.
        let enter = "echo $$ > \"$1/cgroup.procs\" && shift && exec \"$@\"";
        let mut command = Command::new("sh");
        command.args(["-c", enter, "sh"]).arg(&self.cgroup);
        command.args(["unshare", "--mount", "--uts", "--ipc", "--net", "--cgroup", "--pid"]);
        command.args(["--propagation=private", "--fork", "--kill-child", "sh", "-c", BOOT, "boot"]);
        command.arg(&self.debian).arg(&self.work).stdin(Stdio::null());
        self.child = Some(command.stdout(log.try_clone()?).stderr(log).spawn()?);
        let deadline = Instant::now() + PATIENCE;
        while !self.is_up() {
            ensure!(Instant::now() < deadline, "it does not boot: see target/trial/boot.log");
            thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    fn end(&mut self) {
        // With the first process of a namespace goes every other.
        if let Some(first) = self.first() {
            let _ = run(Command::new("kill").args(["-KILL", &first]));
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
        // systemd has made cgroups below its own.
        let find = ["-depth", "-type", "d", "-delete"];
        let _ = Command::new("find").arg(&self.cgroup).args(find).status();
    }

    /// The first process of its namespace, as this machine knows it.
    fn first(&self) -> Option<String> {
        let parent = self.child.as_ref()?.id().to_string();
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
        children.split_whitespace().next().map(str::to_owned)
    }

    fn is_up(&self) -> bool {
        let Some(first) = self.first() else { return false };
        let name = fs::read_to_string(format!("/proc/{first}/comm")).unwrap_or_default();
        name.trim() == "systemd"
            && output(&mut self.command("systemctl is-system-running --wait || true"))
                .is_some_and(|state| ["running", "degraded"].contains(&state.trim()))
    }

    fn command(&self, script: &str) -> Command {
        let mut command = Command::new("nsenter");
        let first = self.first().unwrap_or_default();
        command.args(["--all", "--root", "--target", &first]);
        command.args(["env", "-i", "PATH=/usr/sbin:/usr/bin", "HOME=/root", "COLUMNS=110"]);
        command.args(["LC_ALL=C.UTF-8", "SYSTEMD_COLORS=0", "SYSTEMD_PAGER=cat"]);
        command.args([
            "DEBIAN_FRONTEND=noninteractive",
            "sh",
            "-c",
            &format!("cd /root\n{script}"),
        ]);
        command
    }

    /// What a step prints, if that is what it must.
    fn try_step(&self, step: &Step) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let printed = self.run(step.command)?;
            let Some(words) = step.shows.iter().find(|words| !printed.contains(**words)) else {
                return Ok(printed);
            };
            let goes_on = step.is_awaited && Instant::now() < deadline;
            ensure!(goes_on, "{}: no {words:?} in\n{printed}", step.command);
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// What a script prints, however it ends.
    fn run(&self, script: &str) -> Result<String> {
        let done = self.command(&format!("exec 2>&1\n{script}")).stdin(Stdio::null()).output()?;
        let text = String::from_utf8_lossy(&done.stdout);
        let lines: Vec<_> = text.lines().map(str::trim_end).collect();
        Ok(lines.iter().map(|line| format!("{line}\n")).collect())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.end();
        let _ = fs::remove_dir_all(&self.work);
    }
}
