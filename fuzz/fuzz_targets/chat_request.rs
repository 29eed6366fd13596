//! Bodies of requests: each is a request, or an error in the interface's shape.

#![no_main]

use gemba::serve::api::{Ask, Form};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for form in [Form::Chat, Form::Text] {
        if let Err(error) = Ask::read(form, data) {
            assert!((400..500).contains(&error.status));
            assert!(error.body()["error"]["message"].is_string());
        }
    }
});
