//! An upstream's bytes.
#![no_main]

#[path = "../checks/upstream_answer.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::check(bytes));
