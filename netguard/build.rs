//! Builds the programs of `netguard-ebpf` for the kernel and leaves the object in `OUT_DIR`, from
//! where `datapath` embeds it.

use anyhow::{Context as _, Result};
use aya_build::{Package, Toolchain, build_ebpf};

fn main() -> Result<()> {
    // `cargo xtask` names a nightly whose LLVM is bpf-linker's.
    println!("cargo:rerun-if-env-changed=NETGUARD_BPF_TOOLCHAIN");
    let toolchain = std::env::var("NETGUARD_BPF_TOOLCHAIN");
    let toolchain = toolchain.as_deref().map_or(Toolchain::Nightly, Toolchain::Custom);
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    println!("cargo:rerun-if-changed={root}/netguard-common");
    let programs = Package {
        name: "netguard-ebpf",
        root_dir: concat!(env!("CARGO_MANIFEST_DIR"), "/../netguard-ebpf"),
        no_default_features: false,
        features: &[],
    };
    // aya-build repeats what the inner cargo says as warnings of the outer one: errors are enough.
    // SAFETY: a build script is one thread until here, and nothing else reads the environment.
    unsafe { std::env::set_var("CARGO_TERM_QUIET", "true") };
    build_ebpf([programs], toolchain)
        .context("cannot build the kernel programs; `cargo xtask build` installs what they need")
}
