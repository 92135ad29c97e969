//! A root file system for a guest that runs this machine's own programs: each with its libraries at the path that
//! it has here, Python with its standard library, and the kernel's modules.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use super::Machine;
use crate::binary::Ended;

/// What the tests and netguard call, and what a shell needs besides.
const PROGRAMS: [&str; 24] = [
    "sh", "env", "cat", "ls", "kill", "sleep", "timeout", "setpriv", "ip", "ss", "bridge", "tc",
    "nft", "bpftool", "ping", "dig", "kdig", "curl", "openssl", "nc", "mount", "mkdir", "md5sum",
    "id",
];
/// Files that programs read, where they are there.
const FILES: [&str; 7] = [
    "/etc/nsswitch.conf",
    "/etc/hosts",
    "/etc/services",
    "/etc/protocols",
    "/etc/gai.conf",
    "/etc/ssl/openssl.cnf",
    "/etc/passwd",
];
/// Directories of modules that a network needs.
const MODULES: [&str; 5] = ["net", "lib", "crypto", "arch", "drivers/net"];

/// The root file system, as long as it is being filled.
pub struct System {
    directory: TempDir,
    /// Where programs are.
    path: BTreeSet<PathBuf>,
    copied: BTreeSet<PathBuf>,
}

impl System {
    /// With what tests call.
    ///
    /// # Panics
    ///
    /// One of the programs is missing here.
    #[must_use]
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut system = Self { directory, path: BTreeSet::new(), copied: BTreeSet::new() };
        for link in ["bin", "sbin", "lib", "lib64"] {
            // Where they are links to those below /usr (relative ones), they are so in the guest.
            if let Ok(target) = fs::read_link(Path::new("/").join(link)) {
                fs::create_dir_all(system.inside(&target)).expect("a directory");
                symlink(target, system.inside(Path::new(link))).expect("a link");
            }
        }
        for empty in ["dev", "proc", "sys", "run", "tmp", "etc", "sbin"] {
            fs::create_dir_all(system.inside(Path::new(empty))).expect("a directory");
        }
        system.write("/etc/resolv.conf", "");
        for program in PROGRAMS {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let found = std::env::split_paths(&path).map(|it| it.join(program));
            let found = found.into_iter().find(|it| it.is_file());
            system.add_program(&found.unwrap_or_else(|| panic!("no {program} here")));
        }
        for file in FILES.map(Path::new) {
            if file.exists() {
                system.copy(file);
            }
        }
        system.add_python();
        system
    }

    /// Adds a program, or another file of code, with its libraries.
    pub fn add_program(&mut self, program: &Path) {
        self.copy(program);
        self.path.extend(program.parent().map(Path::to_owned));
        self.add_libraries(program);
    }

    /// Adds a program with its libraries, at another path than it has here.
    ///
    /// # Panics
    ///
    /// It cannot be read.
    pub fn add_program_as(&mut self, program: &Path, to: &str) {
        let to = self.inside(Path::new(to));
        fs::create_dir_all(to.parent().expect("an absolute path")).expect("a directory");
        fs::copy(program, to).expect("the program");
        self.add_libraries(program);
    }

    /// Adds a file or a directory with all below it.
    ///
    /// # Panics
    ///
    /// It cannot be read.
    pub fn copy(&mut self, path: &Path) {
        let to = self.inside(path);
        if path.is_dir() {
            for entry in fs::read_dir(path).expect("a directory").flatten() {
                if !SUPERFLUOUS.contains(&entry.file_name().to_str().unwrap_or_default()) {
                    self.copy(&entry.path());
                }
            }
        } else if self.copied.insert(path.to_owned()) {
            fs::create_dir_all(to.parent().expect("an absolute path")).expect("a directory");
            fs::copy(path, &to).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
    }

    /// Adds a file of that text.
    ///
    /// # Panics
    ///
    /// It cannot be written.
    pub fn write(&mut self, path: &str, text: &str) {
        fs::write(self.inside(Path::new(path)), text).expect("a file");
    }

    /// Adds the kernel's modules and what loads them when the kernel asks for them.
    ///
    /// # Panics
    ///
    /// They cannot be read.
    pub fn add_modules(&mut self, machine: &Machine) {
        let Some(modules) = &machine.modules else { return };
        let release = modules.file_name().expect("the kernel's release");
        let to = self.inside(&Path::new("/lib/modules").join(release));
        for part in MODULES {
            let _ = Ended::of(Command::new("mkdir").arg("-p").arg(to.join("kernel").join(part)))
                .success();
            let from = modules.join("kernel").join(part).join(".");
            let copy = ["-rL".as_ref(), from.as_os_str(), to.join("kernel").join(part).as_os_str()]
                .map(OsStr::to_owned);
            let _ = Ended::of(Command::new("cp").args(copy)).success();
        }
        for list in ["modules.builtin", "modules.order"] {
            let _ = fs::copy(modules.join(list), to.join(list));
        }
        let busybox = machine.busybox();
        let root = self.directory.path();
        let listed = Command::new(&busybox).args(["depmod", "-b"]).arg(root).arg(release).output();
        assert!(listed.is_ok_and(|it| it.status.success()), "depmod");
        fs::copy(&busybox, self.inside(Path::new("/sbin/modprobe"))).expect("busybox");
    }

    /// Where programs are, for `PATH`.
    #[must_use]
    pub fn path(&self) -> String {
        let path: Vec<_> = self.path.iter().map(|it| it.to_string_lossy()).collect();
        path.join(":")
    }

    /// Writes an ext4 image with room to write, and returns its path, in a directory of its own.
    ///
    /// # Panics
    ///
    /// `mkfs.ext4` fails.
    #[must_use]
    pub fn image(&self) -> (TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("a directory");
        let image = directory.path().join("root.ext4");
        let mut command = Command::new("/sbin/mkfs.ext4");
        command.args(["-q", "-O", "^has_journal", "-d"]).arg(self.directory.path());
        let _ = Ended::of(command.arg(&image).arg("2G")).success();
        (directory, image)
    }

    /// The interpreter that `python3` is here, its standard library, and the libraries of its modules.
    fn add_python(&mut self) {
        let script =
            "import sys, sysconfig; print(sys.executable); print(sysconfig.get_path('stdlib'))";
        let found = Ended::of(Command::new("python3").args(["-c", script]));
        let mut lines = found.success().lines().map(PathBuf::from);
        let (executable, library) =
            (lines.next().expect("python"), lines.next().expect("its library"));
        self.add_program(&executable);
        self.copy(&library);
        for entry in fs::read_dir(library.join("lib-dynload")).into_iter().flatten().flatten() {
            self.add_libraries(&entry.path());
        }
    }

    fn add_libraries(&mut self, program: &Path) {
        // "libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x...)", "/lib64/ld-linux... (0x...)"; of static ones nothing.
        let listed = Ended::of(Command::new("ldd").arg(program));
        for library in listed.stdout.split_whitespace().filter(|word| word.starts_with('/')) {
            self.copy(Path::new(library));
        }
    }

    fn inside(&self, path: &Path) -> PathBuf {
        self.directory.path().join(path.strip_prefix("/").unwrap_or(path))
    }
}

impl Default for System {
    fn default() -> Self {
        Self::new()
    }
}

/// Parts of Python that no test imports.
const SUPERFLUOUS: [&str; 9] = [
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idlelib",
    "tkinter",
    "ensurepip",
    "lib2to3",
    "distutils",
];
