//! Bytes as a workload of whatever format they seem to be.
#![no_main]

#[path = "workload/checked.rs"]
mod checked;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| checked::read(None, bytes));
