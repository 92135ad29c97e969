//! A virtual machine that boots Debian's cloud kernel straight into a script: QEMU without KVM, an
//! initramfs with busybox, and the serial console to hear what the script says.
//!
//! `cargo xtask setup` unpacks the Debian packages; nothing of them is installed.

mod archive;
mod console;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use archive::Archive;
pub use console::Console;

use crate::{binary::Ended, lab::Background, skip};

/// The drivers of a virtio network card, each behind what it needs.
const NETWORK_DRIVERS: [&str; 8] = [
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci",
    "net/core/failover",
    "drivers/net/net_failover",
    "drivers/net/virtio_net",
];

/// QEMU, busybox and a kernel, as their packages were unpacked.
pub struct Machine {
    packages: PathBuf,
    release: String,
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
        Some(Self { packages, release: release? })
    }

    /// A guest that will run a script in busybox's shell.
    #[must_use]
    pub fn guest(&self, script: &str) -> Guest<'_> {
        let mut files = Archive::default();
        files.add("/init", include_bytes!("init.sh"));
        files.add("/bin/busybox", &read(&self.packages.join("bin/busybox")));
        files.add("/script", script.as_bytes());
        Guest { machine: self, files }
    }
}

/// A guest before it boots.
pub struct Guest<'a> {
    machine: &'a Machine,
    files: Archive,
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
    pub fn with_network_drivers(mut self) -> Self {
        let Machine { packages, release } = self.machine;
        let modules = packages.join("lib/modules").join(release).join("kernel");
        for (order, driver) in NETWORK_DRIVERS.iter().enumerate() {
            let module = read(&modules.join(format!("{driver}.ko")));
            self.files.add(&format!("/modules/{order}.ko"), &module);
        }
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
        let Machine { packages, release } = self.machine;
        let directory = tempfile::tempdir().expect("a directory");
        let initramfs = directory.path().join("initramfs");
        fs::write(&initramfs, self.files.finish()).expect("a file");

        let unpacked = |path: &str| packages.join(path).to_string_lossy().into_owned();
        let own = unpacked("usr/bin/qemu-system-x86_64");
        // Where QEMU was installed before, xtask has not unpacked another.
        let is_own = Path::new(&own).exists();
        let qemu = if is_own { own } else { "qemu-system-x86_64".to_owned() };
        let (firmware, seabios) = (unpacked("usr/share/qemu"), unpacked("usr/share/seabios"));
        let kernel = unpacked(&format!("boot/vmlinuz-{release}"));
        let initramfs = initramfs.to_string_lossy();
        let mut words = vec![qemu.as_str()];
        if is_own {
            words.extend(["-L", &firmware, "-L", &seabios]);
        }
        // A dev build of netguard takes 70 MB, packed and unpacked, and the root file system may have half of all.
        words.extend(["-accel", "tcg", "-M", "q35", "-cpu", "max", "-m", "512", "-no-reboot"]);
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
        Console::until_done(hear)
    }
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
