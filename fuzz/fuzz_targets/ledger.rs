//! Any facts, in any order, of any size: either they are refused, or every book closes. The first
//! byte chooses how kernels are costed, the rest is a run of facts as a frame of a log holds it.

#![no_main]

#[path = "ledger/closes.rs"]
mod closes;

use std::collections::BTreeMap;

use gemba::event::{Calibration, Ceilings, Driver, Dtype, Fact};
use gemba::trace::{DeviceHeader, EnergyModel, Header, Observer, Price, Slo, Window};
use gemba::unit::{Bytes, Nanos};
use gemba::waste::{BooksOptions, Costing};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((&choice, mut rest)) = bytes.split_first() else { return };
    let mut facts = Vec::new();
    while let Ok((fact, tail)) = postcard::take_from_bytes::<Fact>(rest) {
        facts.push(fact);
        rest = tail;
    }
    let costing = if choice & 1 == 0 { Costing::UsefulFirst } else { Costing::Proportional };
    let options = BooksOptions { costing, ..BooksOptions::default() };
    closes::check(header(u16::from(choice >> 1) % 3), facts, &options);
});

fn header(devices: u16) -> Header {
    let mut header = Header::begin();
    header.window = Window { start_ns: Nanos(100), end_ns: Nanos(50_000_000) };
    header.reference_batch = 4;
    header.slo = Slo { ttft_ns: Some(Nanos(300_000)), ..Slo::default() };
    header.price = Some(Price { picodollars_per_device_hour: 2_000_000_000_000 });
    header.energy = Some(EnergyModel { idle_mw: 70_000, busy_mw: 300_000 });
    header.observer = Some(Observer { pairs: 3, ns_per_launch: 20, ..Observer::default() });
    header.devices = (0..devices)
        .map(|id| DeviceHeader {
            id,
            kind: "cpu".to_owned(),
            name: "fuzz".to_owned(),
            memory_bytes: Bytes(1 << 34),
            ceilings: Ceilings {
                read_bytes_per_s: 1_000_000_000,
                copy_bytes_per_s: 1_000_000_000,
                cache_bytes_per_s: 4_000_000_000,
                ops_per_s: BTreeMap::from([(Dtype::Q8_0, 7_000_000_000)]),
                launch_floor_ns: Nanos(30),
            },
            calibration: vec![Calibration {
                kernel: "qkv".to_owned(),
                driver: Driver::Rows,
                points: vec![(1, 10_000), (4, 12_000), (16, 60_000)],
            }],
        })
        .collect();
    header
}
