//! What the tests share: packets built field by field, random ones, the loaded programs without a wire, small
//! networks made by hand, a lab of their own for each test that needs one, a virtual machine, and what benchmarks print.

pub mod answer;
pub mod binary;
pub mod client;
pub mod clients;
pub mod control;
pub mod costs;
pub mod daemon;
pub mod datagrams;
pub mod guest;
pub mod hosts;
pub mod kernel;
pub mod lab;
pub mod lines;
pub mod packet;
pub mod programs;
pub mod random;
pub mod raw;
pub mod report;
pub mod servers;
pub mod spread;
pub mod wire;

use std::time::{Duration, Instant};

/// True if the test may use the kernel; it is skipped without root.
#[must_use]
pub fn can_use_kernel() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    skip("this test needs root: run it with `cargo xtask test`");
    false
}

/// Prints why a test is skipped, and fails where a skip is not allowed (CI sets
/// `NETGUARD_NO_SKIP=1`).
fn skip(why: &str) {
    assert!(std::env::var_os("NETGUARD_NO_SKIP").is_none(), "{why}");
    eprintln!("skipped: {why}");
}

/// Waits until something is so; the test fails if it is not so within a minute, or within as many seconds as
/// `NETGUARD_TEST_PATIENCE` says. The bound is for failures: nothing that works takes long, but in a guest whose
/// processor is a program.
///
/// # Panics
///
/// It did not come about.
pub fn until(what: &str, is_so: impl FnMut() -> bool) {
    let patience = std::env::var("NETGUARD_TEST_PATIENCE").ok().and_then(|it| it.parse().ok());
    until_within(Duration::from_secs(patience.unwrap_or(60)), what, is_so);
}

/// The same with a bound of the test's own.
///
/// # Panics
///
/// It did not come about.
pub fn until_within(patience: Duration, what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !is_so() {
        assert!(Instant::now() < deadline, "it did not come about that {what}");
        std::thread::yield_now();
    }
}
