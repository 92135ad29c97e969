//! Tells bpf-linker what every kernel that netguard runs on can do, and LLVM does not assume: reads of packet memory
//! at any address. Without it each field of a header is read byte by byte. Machines without efficient unaligned
//! access refuse such reads, and none of those is a target. 32-bit arithmetic (`alu32`) is left off: it made the
//! programs a quarter longer (LLVM 22).

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg=--cpu-features=+allows-misaligned-mem-access");
}
