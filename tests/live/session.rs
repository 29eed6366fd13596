//! A session on the modelled device.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use gemba::backend::modelled::{ManualClock, ModelledDevice, Timing, small_shape};
use gemba::backend::{Backend, DeviceError};
use gemba::cost::{Storage, Techniques};
use gemba::engine::limits;
use gemba::event::{Ceilings, Dtype, Fact};
use gemba::model::Precision;
use gemba::session::{self, DeviceSource, SessionOptions, World};
use gemba::trace::{DeviceHeader, Header};
use gemba::unit::{Bytes, Nanos};
use gemba::workload::{self, Format, RequestSpec, Workload};

fn ceilings() -> Ceilings {
    Ceilings {
        read_bytes_per_s: 1_000_000_000,
        copy_bytes_per_s: 1_000_000_000,
        cache_bytes_per_s: 10_000_000_000,
        ops_per_s: BTreeMap::from([(Dtype::F32, 10_000_000_000)]),
        launch_floor_ns: Nanos(1_000),
    }
}

pub fn workload(requests: Vec<RequestSpec>) -> Workload {
    Workload {
        name: "test".to_owned(),
        format: Format::Synthetic,
        sha256: String::new(),
        seed: 1,
        block_tokens: None,
        classes: vec![workload::Class::named("any")],
        slo: workload::Slo::default(),
        requests,
        notes: Vec::new(),
        recorded_start_unix_nanos: None,
    }
}

/// Runs a session. Gives the header of its folder and its facts.
pub fn run(options: &SessionOptions, workload: &Workload) -> (Header, Vec<Fact>) {
    run_on(|_| (), options, workload)
}

/// The same on another device.
pub fn run_on(
    change: impl FnOnce(&mut Timing),
    options: &SessionOptions,
    workload: &Workload,
) -> (Header, Vec<Fact>) {
    let clock = ManualClock::start();
    let engine = options.engine;
    let storage = Storage {
        weights: Precision::F32.into(),
        kv: Precision::F32.into(),
        activation_bytes: 4,
        activation_dtype: Dtype::F32,
        block_tokens: engine.memory.block_tokens,
        piece_tokens: None,
        quantized_rows: false,
        swiglu_rows: None,
        wide_rows: None,
        techniques: Techniques::ALL,
    };
    let mut timing = Timing {
        ceilings: ceilings(),
        host_per_step: Nanos(20_000),
        launch_gap: Nanos(1_000),
        ..Timing::default()
    };
    change(&mut timing);
    let device_clock = clock.clone();
    let load = move || -> Result<Box<dyn Backend>, DeviceError> {
        device_clock.advance(Nanos(5_000_000));
        let clock = device_clock.clone();
        Ok(Box::new(ModelledDevice::new(small_shape(), storage, limits(&engine), timing, clock)))
    };
    let mut facts = Vec::new();
    let stop = AtomicBool::new(false);
    let world = World {
        clock: &clock,
        recorder: &mut facts,
        scratch: None,
        stop: &stop,
        progress: &mut |_| (),
    };
    let source = DeviceSource { load: Box::new(load), calibrate: None };
    let outcome = session::run(options, workload, None, source, world).unwrap();
    let mut header = Header::begin();
    header.status = outcome.status;
    header.window = outcome.window;
    header.reference_batch = engine.batching.max_num_seqs;
    header.kv_bytes_per_token = outcome.kv_bytes_per_token;
    header.model.name = "shape:test".to_owned();
    header.workload.name = workload.name.clone();
    header.devices = vec![DeviceHeader {
        id: 0,
        kind: "modelled".to_owned(),
        name: "test device".to_owned(),
        memory_bytes: Bytes(1 << 24),
        ceilings: ceilings(),
        calibration: Vec::new(),
    }];
    (header, facts)
}

pub fn options() -> SessionOptions {
    let mut options = SessionOptions::default();
    options.engine.batching.max_num_seqs = 4;
    options
}
