//! Bytes as a workload of format `llmservingsim`.
#![no_main]

#[path = "workload/checked.rs"]
mod checked;

use gemba::workload::Format;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| checked::read(Some(Format::LlmServingSim), bytes));
