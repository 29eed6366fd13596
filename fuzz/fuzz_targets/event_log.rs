//! An event log, torn and lying ones included: whatever is read is read again from the frames
//! that were whole.

#![no_main]

use std::path::Path;

use gemba::trace::LogReader;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(mut log) = LogReader::new(bytes, Path::new("events.log")) else { return };
    let mut facts = Vec::new();
    while let Ok(true) = log.next_frame(&mut facts) {}
    for fact in &facts {
        let bytes = postcard::to_stdvec(fact).expect("what was read can be written");
        assert_eq!(postcard::from_bytes(&bytes).as_ref(), Ok(fact));
    }
});
