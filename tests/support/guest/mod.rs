//! A virtual machine that boots Debian's cloud kernel straight into a script: QEMU without KVM, an
//! initramfs with busybox, and the serial console to hear what the script says.
//!
//! `cargo xtask setup` unpacks the Debian packages; nothing of them is installed. `NETGUARD_VM_KERNEL` names another
//! kernel's image, and `NETGUARD_VM_MODULES` its directory of modules, if the image does not have all that a test needs.

mod archive;
mod console;
mod system;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use archive::Archive;
pub use console::Console;
pub use system::System;

use crate::{binary::Ended, lab::Background, skip};

/// The drivers of virtio devices, each behind what it needs.
const VIRTIO_DRIVERS: [&str; 5] = [
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci",
];
/// Those of a network card besides.
const NETWORK_DRIVERS: [&str; 3] =
    ["net/core/failover", "drivers/net/net_failover", "drivers/net/virtio_net"];
/// And that of a disk.
const DISK_DRIVERS: [&str; 1] = ["drivers/block/virtio_blk"];

/// How long a guest may take from power-on to power-off. The bound is for failures.
const PATIENCE: Duration = Duration::from_secs(120);

/// QEMU and busybox, as their packages were unpacked, and a kernel.
pub struct Machine {
    packages: PathBuf,
    kernel: PathBuf,
    /// The directory of the kernel's modules, `/lib/modules/RELEASE`; without one it has built in what it has.
    modules: Option<PathBuf>,
}

impl Machine {
    /// What xtask has unpacked. Without it the test prints why it is skipped, and fails where a
    /// skip is not allowed.
    #[must_use]
    pub fn find() -> Option<Self> {
        let packages = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/vm/packages");
        let releases = fs::read_dir(packages.join("lib/modules")).ok().into_iter().flatten();
        let release = releases.flatten().next().and_then(|it| it.file_name().into_string().ok());
        if release.is_none() {
            skip("this test boots a guest: run `cargo xtask setup` on Debian for x86-64");
        }
        let release = release?;
        let named = |name: &str| std::env::var_os(name).map(PathBuf::from);
        if let Some(kernel) = named("NETGUARD_VM_KERNEL") {
            return Some(Self { packages, kernel, modules: named("NETGUARD_VM_MODULES") });
        }
        let kernel = packages.join(format!("boot/vmlinuz-{release}"));
        let modules = Some(packages.join("lib/modules").join(release));
        Some(Self { packages, kernel, modules })
    }

    fn busybox(&self) -> PathBuf {
        self.packages.join("bin/busybox")
    }

    /// A guest that will run a script in busybox's shell.
    #[must_use]
    pub fn guest(&self, script: &str) -> Guest<'_> {
        let mut files = Archive::default();
        files.add("/init", include_bytes!("init.sh"));
        files.add("/bin/busybox", &read(&self.busybox()));
        files.add("/script", script.as_bytes());
        Guest { machine: self, files, patience: PATIENCE, memory: "512" }
    }
}

/// A guest before it boots.
pub struct Guest<'a> {
    machine: &'a Machine,
    files: Archive,
    patience: Duration,
    /// In MiB.
    memory: &'static str,
}

impl Guest<'_> {
    /// Gives it a program of this machine and the libraries that it loads.
    #[must_use]
    pub fn with_program(mut self, program: &Path) -> Self {
        let name = program.file_name().expect("a program has a name").to_string_lossy();
        self.files.add(&format!("/bin/{name}"), &read(program));
        // "libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x...)", "/lib64/ld-linux... (0x...)"
        let listed = Ended::of(Command::new("ldd").arg(program));
        for library in listed.success().split_whitespace().filter(|word| word.starts_with('/')) {
            self.files.add(library, &read(Path::new(library)));
        }
        self
    }

    /// Gives it the drivers of a virtio network card.
    #[must_use]
    pub fn with_network_drivers(self) -> Self {
        self.with_drivers(&NETWORK_DRIVERS)
    }

    /// Gives it the drivers of a virtio disk.
    #[must_use]
    pub fn with_disk_drivers(self) -> Self {
        self.with_drivers(&DISK_DRIVERS)
    }

    /// What the kernel has no module for is built in.
    fn with_drivers(mut self, drivers: &[&str]) -> Self {
        let Some(modules) = &self.machine.modules else { return self };
        for (order, driver) in VIRTIO_DRIVERS.iter().chain(drivers).enumerate() {
            let module = modules.join("kernel").join(format!("{driver}.ko"));
            if module.exists() {
                self.files.add(&format!("/modules/{order}.ko"), &read(&module));
            }
        }
        self
    }

    /// Gives it a machine for many minutes of work.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self.memory = "1536";
        self
    }

    /// Boots it, with further devices, and waits for its end. `start` makes the command of QEMU's
    /// words, so that it can run in a namespace.
    ///
    /// # Panics
    ///
    /// The guest does not come to the end of its script in time.
    #[must_use]
    pub fn boot(self, start: impl FnOnce(&[&str]) -> Command, devices: &[&str]) -> Console {
        let Machine { packages, kernel, modules: _ } = self.machine;
        let directory = tempfile::tempdir().expect("a directory");
        let initramfs = directory.path().join("initramfs");
        fs::write(&initramfs, self.files.finish()).expect("a file");

        let unpacked = |path: &str| packages.join(path).to_string_lossy().into_owned();
        let own = unpacked("usr/bin/qemu-system-x86_64");
        // Where QEMU was installed before, xtask has not unpacked another.
        let is_own = Path::new(&own).exists();
        let qemu = if is_own { own } else { "qemu-system-x86_64".to_owned() };
        let (firmware, seabios) = (unpacked("usr/share/qemu"), unpacked("usr/share/seabios"));
        let kernel = kernel.to_string_lossy();
        let initramfs = initramfs.to_string_lossy();
        let mut words = vec![qemu.as_str()];
        if is_own {
            words.extend(["-L", &firmware, "-L", &seabios]);
        }
        // A dev build of netguard takes 70 MB, packed and unpacked, and the root file system may have half of all.
        words.extend(["-accel", "tcg,thread=multi", "-smp", "2", "-m", self.memory]);
        words.extend(["-M", "q35", "-cpu", "max", "-no-reboot"]);
        words.extend(["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio"]);
        words.extend(["-kernel", &kernel, "-initrd", &initramfs]);
        words.extend(["-append", "console=ttyS0 quiet panic=1"]);
        words.extend(devices);

        let libraries =
            ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map(unpacked).join(":");
        let (hear, say) = std::io::pipe().expect("a pipe");
        let mut command = start(&words);
        command.env("LD_LIBRARY_PATH", libraries).stdin(Stdio::null());
        command.stdout(say.try_clone().expect("its other end twice")).stderr(say);
        // Ends with this function, whatever happens in it.
        let _qemu = Background::from(command.spawn().expect("QEMU starts"));
        drop(command); // and with it our copies of the pipe's end
        Console::until_done(hear, self.patience)
    }
}

/// A command in the namespaces of the test, for [`Guest::boot`].
///
/// # Panics
///
/// There is no word.
#[must_use]
pub fn on_this_host(words: &[&str]) -> Command {
    let (program, arguments) = words.split_first().expect("a program");
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
