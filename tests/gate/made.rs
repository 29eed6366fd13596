//! Runs for the gate, made on the modelled device: as long as they should be, to the nanosecond.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use gemba::backend::Backend;
use gemba::backend::modelled::{ManualClock, ModelledDevice, Timing};
use gemba::cost::{Storage, Techniques};
use gemba::engine::limits;
use gemba::event::{Ceilings, Dtype};
use gemba::model::{Family, Precision, Rope, Shape};
use gemba::schedule::{Options, Scheduling};
use gemba::session::{self, DeviceSource, Preparation, SessionOptions, World};
use gemba::trace::{DeviceHeader, Header, RunWriter};
use gemba::unit::{Bytes, Nanos};
use gemba::workload::{Class, Format, RequestSpec, Slo, Workload};

/// What a run is, where it is not like all others.
#[derive(Clone, Debug)]
pub struct Made {
    /// By how much everything takes longer, as a share.
    pub slower: f64,
    /// Requests that come.
    pub requests: u32,
    /// The step at which the device fails.
    pub fails_at_step: Option<u64>,
    /// Whether batches are static: shorter answers are then padded.
    pub padded: bool,
    /// A change of `run.json`.
    pub header: fn(&mut Header),
}

impl Default for Made {
    fn default() -> Self {
        Self { slower: 0.0, requests: 4, fails_at_step: None, padded: false, header: |_| () }
    }
}

fn shape() -> Shape {
    Shape {
        family: Family::Llama,
        layers: 2,
        hidden: 64,
        ffn: 128,
        heads: 2,
        kv_heads: 1,
        head_dim: 32,
        vocab: 200,
        context: 256,
        rope: Rope { theta: 1e4, scaling: None },
        norm_eps: 1e-5,
        qkv_bias: false,
        qk_norm: false,
        tied_embeddings: true,
        sliding_window: None,
    }
}

fn ceilings(slower: f64) -> Ceilings {
    let scaled = |rate: f64| (rate / (1.0 + slower)) as u64;
    Ceilings {
        read_bytes_per_s: scaled(1e9),
        copy_bytes_per_s: scaled(1e9),
        cache_bytes_per_s: scaled(1e11),
        ops_per_s: BTreeMap::from([(Dtype::F32, scaled(1e12))]),
        launch_floor_ns: Nanos(1_000),
    }
}

fn workload(requests: u32) -> Workload {
    Workload {
        name: "made".to_owned(),
        format: Format::Synthetic,
        sha256: "made".to_owned(),
        seed: 1,
        block_tokens: None,
        classes: vec![Class::named("any")],
        slo: Slo::default(),
        requests: (0..requests).map(|id| RequestSpec::new(Nanos::ZERO, 8 + id, 9 + id)).collect(),
        notes: Vec::new(),
        recorded_start_unix_nanos: None,
    }
}

impl Made {
    /// Makes the run in `folder`.
    pub fn at(&self, folder: &Path) -> PathBuf {
        let mut engine = Options::default();
        engine.batching.max_num_seqs = 4;
        if self.padded {
            engine.batching.scheduling = Scheduling::Static;
            engine.batching.chunked_prefill = false;
        }
        engine.memory.block_tokens = 4;
        engine.memory.kv_blocks = 64;
        engine.memory.max_sequence_tokens = 64;
        let storage = Storage {
            weights: Precision::F32.into(),
            kv: Precision::F32.into(),
            activation_bytes: 4,
            activation_dtype: Dtype::F32,
            block_tokens: 4,
            piece_tokens: None,
            quantized_rows: false,
            swiglu_rows: None,
            wide_rows: None,
            techniques: Techniques::ALL,
        };
        let timing = Timing {
            ceilings: ceilings(self.slower),
            fails_at_step: self.fails_at_step,
            ..Timing::default()
        };
        let clock = ManualClock::start();
        let preparation = Preparation { warm_up: false, observer_pairs: 0 };
        let options = SessionOptions { engine, preparation, ..SessionOptions::default() };
        let mut header = Header::begin();
        header.engine = serde_json::to_value(engine).unwrap();
        header.model.name = "shape:made".to_owned();
        header.model.sha256 = "0123456789abcdef".to_owned();
        header.workload.name = "made".to_owned();
        header.workload.sha256 = "fedcba9876543210".to_owned();
        let stop = Arc::new(AtomicBool::new(false));
        let mut writer = RunWriter::create(folder, &header, Arc::clone(&stop)).unwrap();
        let device_clock = clock.clone();
        let source = DeviceSource {
            load: Box::new(move || {
                let limits = limits(&engine);
                let device = ModelledDevice::new(shape(), storage, limits, timing, device_clock);
                Ok(Box::new(device) as Box<dyn Backend>)
            }),
            calibrate: None,
        };
        let world = World {
            clock: &clock,
            recorder: &mut writer,
            scratch: None,
            stop: &stop,
            progress: &mut |_| (),
        };
        let outcome =
            session::run(&options, &workload(self.requests), None, source, world).unwrap();
        (header.status, header.window) = (outcome.status, outcome.window);
        header.kv_bytes_per_token = outcome.kv_bytes_per_token;
        header.devices = vec![DeviceHeader {
            id: 0,
            kind: "modelled".to_owned(),
            name: "stage".to_owned(),
            // The same machine, whatever a run takes of it.
            memory_bytes: Bytes(1 << 30),
            ceilings: ceilings(0.0),
            calibration: Vec::new(),
        }];
        (self.header)(&mut header);
        writer.close(&header).unwrap();
        folder.to_path_buf()
    }
}
