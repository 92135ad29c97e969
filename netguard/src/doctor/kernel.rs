//! The kernel and the machine: what netguard stands on. Read in the namespace that this process was started in: some settings
//! are in no other.

use std::{fs, path::Path, process::Command};

use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::{Check, Finding, Severity};
use crate::{
    datapath::{self, Tc},
    links,
};

/// Facts about the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Why the release would not do.
    pub(super) too_old: Option<String>,
    /// What the kernel was built with, if it tells.
    pub(super) config: Option<String>,
    pub(super) jit: Option<String>,
    pub(super) unprivileged: Option<String>,
    pub(super) has_bpffs: bool,
    pub(super) has_tcx: bool,
    pub(super) has_btf: bool,
    pub(super) is_synchronized: bool,
}

/// Options without which netguard does not work, and what for.
const NEEDED: [(&str, &str); 8] = [
    ("CONFIG_BPF_SYSCALL", "programs cannot be loaded"),
    ("CONFIG_BPF_JIT", "programs are interpreted, or refused"),
    ("CONFIG_NET_CLS_ACT", "programs have no place at TC"),
    ("CONFIG_NET_SCH_INGRESS", "there is no clsact"),
    ("CONFIG_NET_CLS_BPF", "TC takes no programs as filters, which ports that come need"),
    ("CONFIG_BRIDGE", "slots have no bridges"),
    ("CONFIG_NF_TABLES", "masquerading and protect need it"),
    ("CONFIG_NFT_MASQ", "masquerading needs it"),
];
pub(super) const BTF: &str = "/sys/kernel/btf/vmlinux";
const BPFFS: &str = "/sys/fs/bpf";

impl Machine {
    /// Reads them.
    #[must_use]
    pub fn read() -> Self {
        Self {
            too_old: datapath::check_kernel().err().map(|error| error.to_string()),
            config: config(),
            jit: links::setting("net.core.bpf_jit_enable"),
            unprivileged: links::setting("kernel.unprivileged_bpf_disabled"),
            has_bpffs: statfs(BPFFS).is_ok_and(|it| it.filesystem_type() == BPF_FS_MAGIC),
            has_tcx: Tc::of_kernel() == Tc::Tcx,
            has_btf: Path::new(BTF).exists(),
            is_synchronized: is_synchronized(),
        }
    }
}

/// What the kernel was built with, as it or the distribution keeps it.
fn config() -> Option<String> {
    let release = datapath::kernel_release();
    let file = [format!("/boot/config-{release}"), format!("/lib/modules/{release}/config")];
    let text = file.iter().find_map(|file| fs::read_to_string(file).ok());
    text.or_else(|| {
        let output = Command::new("gzip").args(["-dc", "/proc/config.gz"]).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    })
}

/// True if the kernel believes its clock (adjtimex(2)).
fn is_synchronized() -> bool {
    // SAFETY: the structure is numbers, for which zeros are fine; with no modes the kernel only writes to it.
    let state = unsafe {
        let mut clock: libc::timex = std::mem::zeroed();
        libc::adjtimex(&raw mut clock)
    };
    state != libc::TIME_ERROR
}

/// What is missing.
pub(super) fn check(machine: &Machine) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut put = |check, severity, what: &str, why: &str, fix: &str| {
        let (what, why, fix) = (what.to_owned(), why.to_owned(), fix.to_owned());
        found.push(Finding { check, severity, what, why, fix });
    };
    if let Some(why) = &machine.too_old {
        put(
            Check::KernelRelease,
            Severity::Broken,
            why,
            "its verifier does not take the programs",
            "install a newer kernel; netguard check --kernel tells whether it will do",
        );
    }
    for (option, why) in NEEDED {
        let has = |text: &String| {
            text.lines().any(|line| {
                let value = line.strip_prefix(option).and_then(|rest| rest.strip_prefix('='));
                matches!(value, Some("y" | "m"))
            })
        };
        if machine.config.as_ref().is_some_and(|text| !has(text)) {
            put(
                Check::KernelConfig,
                Severity::Broken,
                &format!("this kernel was built without {option}"),
                why,
                "install a kernel of the distribution, or build one with it",
            );
        }
    }
    if machine.jit.as_deref() == Some("0") {
        put(
            Check::BpfJit,
            Severity::Weak,
            "net.core.bpf_jit_enable is 0",
            "each instruction of the programs is interpreted, for every packet",
            "sysctl -w net.core.bpf_jit_enable=1",
        );
    }
    if machine.unprivileged.as_deref() == Some("0") {
        put(
            Check::UnprivilegedBpf,
            Severity::Weak,
            "kernel.unprivileged_bpf_disabled is 0",
            "any user may load programs, and so probe the kernel by its verifier and by speculation",
            "sysctl -w kernel.unprivileged_bpf_disabled=1",
        );
    }
    if !machine.has_bpffs {
        put(
            Check::Bpffs,
            Severity::Note,
            "no BPF file system is mounted at /sys/fs/bpf",
            "pins need one; a daemon that is root mounts it, another one cannot",
            "mount -t bpf bpf /sys/fs/bpf",
        );
    }
    if !machine.has_tcx {
        put(
            Check::Tcx,
            Severity::Note,
            "this kernel has no links of TC (tcx, Linux 6.6)",
            "programs are filters of clsact, and whoever removes the qdisc removes them until the daemon notices, within a second",
            "use Linux 6.6 or later",
        );
    }
    if !machine.has_btf {
        put(
            Check::Btf,
            Severity::Note,
            "/sys/kernel/btf/vmlinux is missing",
            "netguard doctor --watch does not know where the kernel keeps a packet's fields",
            "use a kernel with CONFIG_DEBUG_INFO_BTF",
        );
    }
    if !machine.is_synchronized {
        put(
            Check::Clock,
            Severity::Note,
            "the clock is not synchronized",
            "certificates of upstreams over TLS may look expired, and times in logs are off",
            "timedatectl set-ntp true, or install chrony",
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{super::samples::found, *};

    fn good() -> Machine {
        let config = NEEDED.iter().map(|(option, _)| format!("{option}=y\n")).collect();
        Machine {
            too_old: None,
            config: Some(config),
            jit: Some("1".into()),
            unprivileged: Some("2".into()),
            has_bpffs: true,
            has_tcx: true,
            has_btf: true,
            is_synchronized: true,
        }
    }

    #[test]
    fn each_thing_that_is_missing_is_named() {
        assert_eq!(check(&good()), []);
        let without = |change: fn(&mut Machine)| {
            let mut machine = good();
            change(&mut machine);
            check(&machine)
        };
        for (findings, expected) in [
            (without(|it| it.too_old = Some("old".into())), ("broken", "kernel-release")),
            (without(|it| it.jit = Some("0".into())), ("weak", "bpf-jit")),
            (without(|it| it.unprivileged = Some("0".into())), ("weak", "unprivileged-bpf")),
            (without(|it| it.has_bpffs = false), ("note", "bpffs")),
            (without(|it| it.has_tcx = false), ("note", "tcx")),
            (without(|it| it.has_btf = false), ("note", "btf")),
            (without(|it| it.is_synchronized = false), ("note", "clock")),
        ] {
            assert_eq!(found(&findings), [expected]);
        }
        let built = without(|it| {
            it.config = it
                .config
                .take()
                .map(|text| text.replace("CONFIG_NFT_MASQ=y", "# CONFIG_NFT_MASQ is not set"));
        });
        assert_eq!(found(&built), [("broken", "kernel-config")]);
        assert!(built[0].what.ends_with("without CONFIG_NFT_MASQ"));
        // A name that begins like another one is another one.
        let longer = without(|it| {
            it.config = it
                .config
                .take()
                .map(|text| text.replace("CONFIG_BRIDGE=", "CONFIG_BRIDGE_NETFILTER="));
        });
        assert_eq!(found(&longer), [("broken", "kernel-config")]);
        assert_eq!(without(|it| it.config = None), [], "it does not tell");
    }
}
