//! Whether the gate keeps its promise on a real clock: gates of equals, and gates of a candidate
//! that really takes 3 % longer, each with `policy.toml` beside this and `gemba gate --pair`.
//!
//! `cargo bench --bench gate -- prove GATES FILE.csv [MOST]` runs gates of both kinds in turns
//! until the file holds GATES of each, or MOST have been run now; it goes on where it stopped.
//! `… -- report FILE.csv` prints what came of them and fails if the promise is not kept.
//! `… -- run [--slower SHARE] FOLDER` is what the gates run: a small model on one of the machine's
//! cores, all requests there from the beginning, so that the device is never idle. The planted
//! slowdown is real time: after each step the device waits for that share of the time since the
//! step before.

#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark says what it found"
)]

mod proof;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use gemba::backend::cpu::{Cpu, Options as CpuOptions};
use gemba::backend::{Backend, Description, DeviceError, Limits, Op, Sampled, Span, StepInputs};
use gemba::cost::Storage;
use gemba::engine::limits;
use gemba::event::{Ceilings, Clock, Dtype, WallClock};
use gemba::model::{Family, Model, Precision, Rope, Shape};
use gemba::schedule::Options;
use gemba::session::{self, DeviceSource, Preparation, SessionOptions, World};
use gemba::trace::{DeviceHeader, Header, ModelHeader, RunWriter, Status, WorkloadHeader};
use gemba::unit::Nanos;
use gemba::workload::{Class, Format, RequestSpec, Slo, Workload};

const REQUESTS: u32 = 8;
const PROMPT: u32 = 32;
const OUTPUT: u32 = 48;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match &words[..] {
        ["run", folder] => make(Path::new(folder), 0.0),
        ["run", "--slower", share, folder] => {
            make(Path::new(folder), share.parse().expect("a share is a number"));
        }
        ["prove", gates, file, rest @ ..] => {
            let number = |word: &str| word.parse::<usize>().expect("a number of gates");
            let most = rest.first().map_or(usize::MAX, |word| number(word));
            proof::prove(number(gates), Path::new(file), most);
        }
        ["report", file] => return proof::report(Path::new(file)),
        _ => {
            eprintln!("usage: prove GATES FILE [MOST] | report FILE | run [--slower S] FOLDER");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn shape() -> Shape {
    Shape {
        family: Family::Llama,
        layers: 4,
        hidden: 256,
        ffn: 768,
        heads: 4,
        kv_heads: 4,
        head_dim: 64,
        vocab: 2048,
        context: 256,
        rope: Rope { theta: 1e4, scaling: None },
        norm_eps: 1e-5,
        qkv_bias: false,
        qk_norm: false,
        tied_embeddings: true,
        sliding_window: None,
    }
}

fn workload() -> Workload {
    let spec = |id: u32| RequestSpec::new(Nanos::ZERO, PROMPT + id, OUTPUT);
    Workload {
        name: "at-once".to_owned(),
        format: Format::Synthetic,
        sha256: String::new(),
        seed: 1,
        block_tokens: None,
        classes: vec![Class::named("any")],
        slo: Slo::default(),
        requests: (0..REQUESTS).map(spec).collect(),
        notes: Vec::new(),
        recorded_start_unix_nanos: None,
    }
}

fn options() -> SessionOptions {
    let mut engine = Options::default();
    engine.batching.max_num_seqs = REQUESTS;
    engine.batching.max_num_batched_tokens = 128;
    engine.memory.block_tokens = 16;
    engine.memory.kv_blocks = 128;
    engine.memory.max_sequence_tokens = 128;
    let preparation = Preparation { warm_up: true, observer_pairs: 0 };
    SessionOptions { engine, preparation, ..SessionOptions::default() }
}

/// Declared, not measured: they decide how time is split among causes, not how much there is.
fn ceilings() -> Ceilings {
    Ceilings {
        read_bytes_per_s: 20_000_000_000,
        copy_bytes_per_s: 10_000_000_000,
        cache_bytes_per_s: 100_000_000_000,
        ops_per_s: BTreeMap::from([(Dtype::F32, 100_000_000_000)]),
        launch_floor_ns: Nanos(200),
    }
}

/// Runs the workload into `folder`.
fn make(folder: &Path, slower: f64) {
    let model = Model::random("shape:own", shape(), 1);
    let (options, workload) = (options(), workload());
    let clock = Arc::new(WallClock::start());
    let cpu = CpuOptions {
        precision: Precision::F32,
        kv_precision: Precision::F16,
        limits: limits(&options.engine),
        threads: 1,
    };
    let mut header = Header {
        model: ModelHeader {
            name: model.name().to_owned(),
            sha256: model.fingerprint().sha256.clone(),
            shape: serde_json::to_value(model.shape()).expect("a shape is data"),
            precision: cpu.precision.code().to_owned(),
            kv_precision: cpu.kv_precision.code().to_owned(),
        },
        engine: serde_json::to_value(options.engine).expect("switches are data"),
        reference_batch: REQUESTS,
        workload: WorkloadHeader {
            name: workload.name.clone(),
            seed: workload.seed,
            requests: workload.requests.len() as u64,
            ..WorkloadHeader::default()
        },
        ..Header::begin()
    };
    let stop = Arc::new(AtomicBool::new(false));
    let mut writer = RunWriter::create(folder, &header, Arc::clone(&stop)).expect("a new folder");
    let source = DeviceSource {
        load: Box::new(|| {
            let inner = Cpu::load(&model, cpu, clock.clone())?;
            let clock = *clock;
            Ok(Box::new(Slowed { inner, clock, slower, since: None }) as Box<dyn Backend>)
        }),
        calibrate: None,
    };
    let world = World {
        clock: &*clock,
        recorder: &mut writer,
        scratch: None,
        stop: &stop,
        progress: &mut |_| (),
    };
    let outcome = session::run(&options, &workload, None, source, world).expect("it runs");
    assert_eq!(outcome.status, Status::Complete, "the run ended early");
    header.status = outcome.status;
    header.window = outcome.window;
    header.kv_bytes_per_token = outcome.kv_bytes_per_token;
    header.devices = vec![DeviceHeader {
        id: 0,
        kind: outcome.device.kind.to_owned(),
        name: outcome.device.name.clone(),
        memory_bytes: outcome.device.memory,
        ceilings: ceilings(),
        calibration: Vec::new(),
    }];
    writer.close(&header).expect("the folder is closed");
}

/// A device that takes `slower` longer for everything, host included.
struct Slowed {
    inner: Cpu,
    clock: WallClock,
    slower: f64,
    /// When the step before ended.
    since: Option<Nanos>,
}

impl Backend for Slowed {
    fn description(&self) -> &Description {
        self.inner.description()
    }

    fn shape(&self) -> &Shape {
        self.inner.shape()
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    fn ceilings(&self, _: Option<&Path>) -> Result<Ceilings, DeviceError> {
        Ok(ceilings())
    }

    fn storage(&self) -> &Storage {
        self.inner.storage()
    }

    fn begin_step(&mut self, inputs: &StepInputs<'_>) -> Result<(), DeviceError> {
        self.since.get_or_insert_with(|| self.clock.now());
        self.inner.begin_step(inputs)
    }

    fn launch(&mut self, op: Op) -> Result<(), DeviceError> {
        self.inner.launch(op)
    }

    fn end_step(
        &mut self,
        spans: &mut Vec<Span>,
        sampled: &mut Vec<Sampled>,
    ) -> Result<(), DeviceError> {
        self.inner.end_step(spans, sampled)?;
        let since = self.since.unwrap_or(Nanos::ZERO);
        let now = self.clock.now();
        let more = now.saturating_sub(since).0 as f64 * self.slower;
        let until = now + Nanos(more as u64);
        // A sleep would take longer than so short a time.
        while self.clock.now() < until {
            std::hint::spin_loop();
        }
        if let (Some(last), true) = (spans.last_mut(), self.slower > 0.0) {
            last.end = last.end.max(self.clock.now());
        }
        self.since = Some(self.clock.now());
        Ok(())
    }

    fn logits(&self) -> &[f32] {
        self.inner.logits()
    }
}
