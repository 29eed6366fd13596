//! An author's own map from causes to wastes.

#![no_main]

use gemba::waste::MudaMap;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = MudaMap::parse(text);
    }
});
