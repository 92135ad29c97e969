//! The Debian package: release binary, units, default configuration, manual, completions and profiles, put together by dpkg-deb.
//! What stands in it is in `dist`.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    command::{output, root, run, step},
    profiles,
};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Files as they are: from `dist`, to the machine, with their mode.
const FILES: [(&str, &str, u32); 17] = [
    ("dist/netguard.service", "usr/lib/systemd/system/netguard.service", 0o644),
    ("dist/netguard-pins.service", "usr/lib/systemd/system/netguard-pins.service", 0o644),
    ("dist/netguard-worker.service", "usr/lib/systemd/system/netguard-worker.service", 0o644),
    ("dist/netguard-guard.service", "usr/lib/systemd/system/netguard-guard.service", 0o644),
    ("dist/netguard.sysusers", "usr/lib/sysusers.d/netguard.conf", 0o644),
    ("dist/netguard.toml", "etc/netguard/netguard.toml", 0o644),
    // What an unedited configuration is told by.
    ("dist/netguard.toml", "usr/share/netguard/netguard.toml", 0o644),
    ("dist/allowlist.toml", "usr/share/netguard/allowlist.toml", 0o644),
    ("dist/apparmor/usr.bin.netguard", "etc/apparmor.d/usr.bin.netguard", 0o644),
    (
        "dist/prometheus/netguard.rules.yml",
        "usr/share/netguard/prometheus/netguard.rules.yml",
        0o644,
    ),
    ("dist/grafana/netguard.json", "usr/share/netguard/grafana/netguard.json", 0o644),
    ("dist/examples/lockdown.toml", "usr/share/doc/netguard/examples/lockdown.toml", 0o644),
    ("dist/examples/microvms.toml", "usr/share/doc/netguard/examples/microvms.toml", 0o644),
    ("dist/examples/mixed.toml", "usr/share/doc/netguard/examples/mixed.toml", 0o644),
    ("dist/debian/copyright", "usr/share/doc/netguard/copyright", 0o644),
    ("README.md", "usr/share/doc/netguard/README.md", 0o644),
    ("CHANGELOG.md", "usr/share/doc/netguard/CHANGELOG.md", 0o644),
];
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "usr/share/bash-completion/completions/netguard"),
    ("zsh", "usr/share/zsh/vendor-completions/_netguard"),
    ("fish", "usr/share/fish/vendor_completions.d/netguard.fish"),
];

/// Puts the package together and returns its path. The release binary must be there.
pub fn build() -> Result<PathBuf> {
    let folder = root().join("target/deb");
    let stage = folder.join("stage");
    step("putting the Debian package together");
    match fs::remove_dir_all(&stage) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    for (from, to, mode) in FILES {
        let text = fs::read(root().join(from)).with_context(|| format!("cannot read {from}"))?;
        put(&stage.join(to), &text, mode)?;
    }
    let binary = stage.join("usr/bin/netguard");
    let built = root().join("target/release/netguard");
    put(&binary, &fs::read(&built).context("no release binary")?, 0o755)?;
    run(Command::new("strip").arg("--strip-unneeded").arg(&binary))?;
    describe(&built, &stage)?;
    profiles::compile(&stage.join("usr/share/selinux/packages/netguard"))?;
    put(
        &stage.join("usr/share/doc/netguard/changelog"),
        &fs::read(root().join("dist/debian/changelog"))?,
        0o644,
    )?;
    compress(&stage.join("usr/share/doc/netguard"), &["changelog", "CHANGELOG.md"])?;
    control(&stage, &binary)?;
    let package = folder.join(format!("netguard_{VERSION}_{}.deb", architecture()?));
    run(Command::new("dpkg-deb")
        .args(["--build", "--root-owner-group", "-Zxz"])
        .arg(&stage)
        .arg(&package))?;
    Ok(package)
}

fn put(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let failed = || format!("cannot write {}", path.display());
    let mut above = path.parent();
    fs::create_dir_all(above.context("a file without a folder")?).with_context(failed)?;
    // Whatever this user's umask is.
    while let Some(folder) = above.filter(|folder| !folder.ends_with("target/deb")) {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).with_context(failed)?;
        above = folder.parent();
    }
    fs::write(path, bytes).with_context(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).with_context(failed)
}

/// What the binary says of itself: manual and completions.
fn describe(binary: &Path, stage: &Path) -> Result<()> {
    let pages = stage.join("usr/share/man/man1");
    put(&pages.join("netguard.1"), b"", 0o644)?;
    run(Command::new(binary).arg("man").arg(&pages))?;
    let names = fs::read_dir(&pages)?.map(|entry| Ok(entry?.file_name().into_string()));
    let names: Vec<_> = names.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
    compress(&pages, &names.iter().map(String::as_str).collect::<Vec<_>>())?;
    for (shell, to) in COMPLETIONS {
        let text = output(Command::new(binary).args(["completions", shell]));
        put(&stage.join(to), text.context("no completions")?.as_bytes(), 0o644)?;
    }
    Ok(())
}

/// The same bytes each time: no name, no time.
fn compress(folder: &Path, names: &[&str]) -> Result<()> {
    run(Command::new("gzip").args(["-9", "--no-name", "--force"]).args(names).current_dir(folder))
}

fn control(stage: &Path, binary: &Path) -> Result<()> {
    let read = |name: &str| fs::read_to_string(root().join("dist/debian").join(name));
    let changelog = read("changelog")?;
    ensure!(
        changelog.starts_with(&format!("netguard ({VERSION}) ")),
        "dist/debian/changelog does not begin with version {VERSION}"
    );
    let control = read("control")?
        .replace("{version}", VERSION)
        .replace("{architecture}", &architecture()?)
        .replace("{size}", &size(stage)?)
        .replace("{libc}", &libc(binary)?);
    let folder = stage.join("DEBIAN");
    put(&folder.join("control"), control.as_bytes(), 0o644)?;
    put(&folder.join("conffiles"), read("conffiles")?.as_bytes(), 0o644)?;
    for script in SCRIPTS {
        put(&folder.join(script), read(script)?.as_bytes(), 0o755)?;
    }
    let sums = output(
        Command::new("sh")
            .current_dir(stage)
            .args(["-c", "find usr etc -type f -print0 | sort -z | xargs -0 md5sum"]),
    );
    put(&folder.join("md5sums"), sums.context("no sums")?.as_bytes(), 0o644)
}

fn architecture() -> Result<String> {
    let printed = output(Command::new("dpkg").arg("--print-architecture"));
    Ok(printed.context("no dpkg: a Debian package is built on Debian")?.trim().to_owned())
}

/// In KiB, as dpkg counts it.
fn size(stage: &Path) -> Result<String> {
    let printed = output(Command::new("du").args(["-sk", "--apparent-size"]).arg(stage));
    let printed = printed.context("no size")?;
    Ok(printed.split_whitespace().next().unwrap_or_default().to_owned())
}

/// The oldest C library that has every symbol the binary asks for: its version stands in their names.
fn libc(binary: &Path) -> Result<String> {
    let bytes = fs::read(binary)?;
    let text = String::from_utf8_lossy(&bytes);
    let versions = text.split("GLIBC_2.").skip(1).filter_map(|rest| {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u32>().ok()
    });
    Ok(format!("2.{}", versions.max().context("the binary asks for no C library")?))
}
