//! A guest's bytes.
#![no_main]

#[path = "../checks/guest_query.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::check(bytes));
