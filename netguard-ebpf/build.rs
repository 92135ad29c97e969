//! Tells bpf-linker what every kernel that netguard runs on can do, and LLVM does not assume: 32-bit arithmetic
//! (`alu32`, Linux 5.1) and reads of packet memory at any address. Without the second each header is read byte by
//! byte; with it, a verdict on a hot flow takes about a tenth less time (`cargo xtask bench decide`).
//! Misaligned reads are refused on machines without efficient unaligned access, none of which is a target.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg=--cpu-features=+allows-misaligned-mem-access");
}
