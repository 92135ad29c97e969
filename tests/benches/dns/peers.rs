//! Unbound, dnsdist and dnsmasq, as Debian ships them and set up for netguard's job. xtask has unpacked them into
//! `target/peers`; nothing of them is installed.

use std::{
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use super::{names::target, upstream::UPSTREAM};

/// A peer of netguard's.
pub struct Peer {
    /// As its makers write it, in lower case.
    pub name: &'static str,
    /// Where its package has it.
    program: &'static str,
    version: &'static str,
    /// In front of the configuration's path.
    arguments: &'static [&'static str],
    template: &'static str,
}

/// All of them.
pub const PEERS: [Peer; 3] = [
    Peer {
        name: "unbound",
        program: "usr/sbin/unbound",
        version: "-V",
        arguments: &["-d", "-c"],
        template: include_str!("unbound.conf"),
    },
    Peer {
        name: "dnsdist",
        program: "usr/bin/dnsdist",
        version: "--version",
        arguments: &["--supervised", "--disable-syslog", "-C"],
        template: include_str!("dnsdist.conf"),
    },
    Peer {
        name: "dnsmasq",
        program: "usr/sbin/dnsmasq",
        version: "--version",
        arguments: &["-C"],
        template: include_str!("dnsmasq.conf"),
    },
];

/// What a peer's configuration is made for.
pub struct Setup<'a> {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it forwards and caches.
    pub policy: &'a [String],
    /// Where it logs queries, if it does.
    pub log: Option<&'a Path>,
}

impl Peer {
    /// A command that starts it in the foreground; the configuration is written into the folder.
    pub fn command(&self, setup: &Setup, folder: &Path) -> Result<Command> {
        let file = folder.join(format!("{}-{}.conf", self.name, setup.address.port()));
        fs::write(&file, fill_in(self.template, setup))?;
        let mut command = self.program()?;
        command.args(self.arguments).arg(file);
        Ok(command)
    }

    /// The first line of what it says of itself, without the copyright.
    pub fn version(&self) -> Result<String> {
        let output = self.program()?.arg(self.version).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let words: Vec<_> = text.split_whitespace().collect();
        let number = words.iter().find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
        Ok(format!("{} {}", self.name, number.context("no version")?))
    }

    fn program(&self) -> Result<Command> {
        let root = target().join("peers/packages");
        let program = root.join(self.program);
        ensure!(program.exists(), "{} is missing: run `cargo xtask bench dns`", program.display());
        let libraries: PathBuf = root.join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH));
        let mut command = Command::new(program);
        command.env("LD_LIBRARY_PATH", libraries);
        Ok(command)
    }
}

/// The template with everything between @ filled in.
fn fill_in(template: &str, setup: &Setup) -> String {
    let upstream: SocketAddr = UPSTREAM.parse().expect("an address");
    let (ip, port) = (setup.address.ip().to_string(), setup.address.port().to_string());
    let (upstream_ip, upstream_port) = (upstream.ip().to_string(), upstream.port().to_string());
    let log = setup.log.map(|log| log.display().to_string());
    let mut filled = String::new();
    for line in template.lines() {
        let line = match (line.strip_prefix("@log"), &log) {
            (Some(_), None) => continue,
            (Some(rest), Some(log)) => rest.trim_start().replace("@LOG@", log),
            (None, _) => line.to_owned(),
        };
        let line = line.replace("@IP@", &ip).replace("@PORT@", &port);
        let line = line.replace("@UPSTREAM_IP@", &upstream_ip);
        let line = line.replace("@UPSTREAM_PORT@", &upstream_port);
        if line.contains("@NAME@") {
            for name in setup.policy {
                let _ = writeln!(filled, "{}", line.replace("@NAME@", name));
            }
        } else {
            let _ = writeln!(filled, "{line}");
        }
    }
    filled
}
