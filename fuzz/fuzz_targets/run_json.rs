//! The header of a run folder: an empty run under it can be booked, and the books close.

#![no_main]

#[path = "ledger/closes.rs"]
mod closes;

use std::path::Path;

use gemba::event::{DeviceState, Fact, StateChange};
use gemba::trace::Header;
use gemba::unit::Nanos;
use gemba::waste::BooksOptions;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(header) = Header::parse(bytes, Path::new("run.json")) else { return };
    let idle = StateChange { device: 0, at: Nanos(0), state: DeviceState::Empty };
    closes::check(header, vec![Fact::State(idle)], &BooksOptions::default());
});
