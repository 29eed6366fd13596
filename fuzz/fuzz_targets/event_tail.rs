//! An event log that comes in pieces, torn and lying ones included, into live books: nothing
//! panics, and what was read is what a reader of the whole log reads.

#![no_main]

use std::path::Path;

use gemba::event::Ceilings;
use gemba::trace::{DeviceHeader, Header, LogReader, LogTail};
use gemba::unit::{Bytes, Nanos};
use gemba::waste::BooksOptions;
use gemba::waste::live::LiveBooks;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let path = Path::new("events.log");
    let mut tail = LogTail::new(bytes, path);
    let mut facts = Vec::new();
    let followed = loop {
        match tail.poll(&mut facts) {
            Ok(false) => break true,
            Ok(true) => {}
            Err(_) => break false,
        }
    };
    if followed && let Ok(mut log) = LogReader::new(bytes, path) {
        let mut whole = Vec::new();
        while let Ok(true) = log.next_frame(&mut whole) {}
        assert_eq!(facts, whole);
    }
    let mut header = Header::begin();
    header.devices = vec![DeviceHeader {
        id: 0,
        kind: "cpu".to_owned(),
        name: String::new(),
        memory_bytes: Bytes(1 << 30),
        ceilings: Ceilings::default(),
        calibration: Vec::new(),
    }];
    let mut books = LiveBooks::new(&header, &BooksOptions::default(), Nanos(1_000_000));
    books.extend(facts);
    let end = books.now();
    books.close(end);
    std::hint::black_box(books.sums());
});
